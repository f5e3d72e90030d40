"""Grids are found where values are multiples of a step, and only there."""

import numpy as np
import pytest

from physgen.grids import grid_of

N = 20_000
NUMBERS = np.random.default_rng(0)


def found(column):
    values, counts = np.unique(np.asarray(column, dtype=float), return_counts=True)
    return grid_of(values, counts)


def steps(sigma=300):
    return np.floor(NUMBERS.normal(0, sigma, N))


GRIDS = {
    "integers": (steps(), "integers"),
    "odd": (2 * steps() + 1, "1 plus multiples of 2"),
    "large": (steps() * 1e4, "multiples of 10000"),
    "tenths": (steps(2000) / 10, "multiples of 0.1"),
    "products": (steps() * 0.0123, "multiples of 0.0123"),
    "thirds": (steps() / 3, "multiples of 0.333333"),
    "centres": (steps() + 0.5, "0.5 plus multiples of 1"),
    "clock": (steps(3000) * 25 / 1024, "multiples of 0.0244141"),
    "cells": (NUMBERS.integers(-512, 512, N) * 2 * np.pi / 1024, "multiples of 0.00613592"),
    "charges": (steps() * 1.6e-19, "multiples of 1.6e-19"),
    "codes": (NUMBERS.choice(NUMBERS.integers(-(10**4), 10**4, 400), N) / 10, "multiples of 0.1"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", GRIDS)
def test_multiples_of_a_step_are_found_and_return_to_the_last_bit(kind, dtype):
    column, said = GRIDS[kind]
    column = column.astype(dtype)
    grid = found(column)
    assert str(grid) == said
    noise = 0.49 * grid.spacing * NUMBERS.uniform(-1, 1, N)
    back = grid.nearest(column.astype(float) + noise).astype(dtype)
    # A step that no fraction says is known to the precision of the data alone.
    assert np.array_equal(back, column) or kind == "cells"
    np.testing.assert_allclose(back, column, rtol=3 * np.finfo(dtype).eps, atol=1e-30)


def digits(values, n):
    return np.array([float(f"{value:.{n}g}") for value in values])


NONE = {
    "normal": NUMBERS.normal(size=N),
    "single": NUMBERS.normal(size=10**6).astype("float32"),
    "multiples of 2^-24": NUMBERS.random(10**6, dtype="float32"),
    "times in single precision": NUMBERS.normal(1e9, 1e5, N).astype("float32"),
    "large": NUMBERS.normal(1e7, 1e5, 10**6).astype("float32"),
    "half": NUMBERS.normal(size=N).astype("float16"),
    "half, and integers": NUMBERS.uniform(1000, 8000, N).astype("float16"),
    "three digits": digits(NUMBERS.lognormal(3, 2, N), 3),
    "three digits, and integers": digits(NUMBERS.lognormal(9, 1, N), 3),
    "of an event each": np.repeat(NUMBERS.exponential(30, N // 4), 4),
    "positions": NUMBERS.choice(NUMBERS.normal(size=500), N),
    "few": NUMBERS.choice([0.1, 0.2, 0.3], N),
    "no two alike": np.arange(N) * 0.1,
    "zero": np.zeros(N),
}


@pytest.mark.parametrize("kind", NONE)
def test_what_only_its_type_makes_discrete_is_no_grid(kind):
    assert found(NONE[kind]) is None
