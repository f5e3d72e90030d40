"""Errors of densities; ratios that lie beyond a panel are marked at its edge."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from physgen.validation.comparison import Measured
from physgen.validation.panels import RATIO, Drawn, density, histogram

EDGES = np.array([0.0, 1.0, 3.0, 4.0])
VALUES = np.random.default_rng(0).choice([0.5, 1.5, 3.5], 600, p=[0.02, 0.08, 0.9])


def errors(values, **columns):
    return density(
        Measured({"x": values}, **{"weight": None, "chain": None, **columns}), "x", EDGES
    )


def test_ratios_beyond_the_panel_are_triangles_at_its_edge():
    errors = np.full(4, 0.01)
    truth = Drawn("truth", (np.ones(4), errors), "black")
    ours = Drawn("generated", (np.array([0.2, 1.0, 1.4, 3.0]), errors), "red")
    figure = Figure()
    histogram(figure.subfigures(), [truth, ours], np.arange(5.0), "x")
    ratio = figure.axes[1] if figure.axes else figure.subfigs[0].axes[1]
    marked = {
        line.get_marker(): (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in ratio.lines
        if line.get_marker() in ("v", "^")
    }
    assert marked == {"v": ([0.5], [RATIO[0]]), "^": ([3.5], [RATIO[1]])}


def test_logarithmic_axes_end_below_the_least_entry():
    """Whatever the error of a single entry is, which may reach zero."""
    bars = np.array([1.0, 1e-3, 2e-3, 1e-3])
    truth = Drawn("truth", (bars, bars), "black")
    ours = Drawn("generated", (bars * [1, 1, 0, 1], bars), "red")
    figure = Figure()
    histogram(figure.subfigures(), [truth, ours], np.arange(5.0), "x")
    axis = figure.axes[0] if figure.axes else figure.subfigs[0].axes[0]
    assert axis.get_yscale() == "log"
    assert 1e-4 < axis.get_ylim()[0] < 1e-3


def test_errors_of_shares_are_those_of_the_binomial_law():
    values, found = errors(VALUES)
    share = values * np.diff(EDGES)
    assert share.sum() == pytest.approx(1.0)
    # Nearly all rows are in the last bin: sqrt(n) would be three times as much.
    assert found * np.diff(EDGES) == pytest.approx(np.sqrt(share * (1 - share) / 600))
    assert errors(np.full(50, 1.5))[1].tolist() == [0.0, 0.0, 0.0]


def test_rows_of_a_group_count_as_one_and_weights_as_often_as_they_say():
    once = errors(VALUES)
    five = errors(np.repeat(VALUES, 5), group=np.repeat(np.arange(600), 5))
    assert np.allclose(once, five, rtol=1e-9)
    # Rows that a negative weight takes away again.
    values = np.concatenate([VALUES, [0.5, 0.5]])
    signed = np.concatenate([np.ones(600), [1.0, -1.0]])
    group = np.append(np.arange(600), [600, 600])
    assert np.allclose(once, errors(values, weight=signed, group=group), rtol=1e-9)


@pytest.mark.parametrize("n", [2000, 12_000], ids=["", "stretches"])
def test_rows_that_a_chain_repeats_tell_nothing_new(n):
    values = np.random.default_rng(1).choice([0.5, 1.5, 3.5], (2, n // 10), p=[0.2, 0.3, 0.5])
    ten = np.repeat(values, 10, axis=1)
    found = errors(ten.ravel(), chain=np.repeat([0, 1], n))[1]
    # Windows are chosen by what is seen.
    assert found == pytest.approx(errors(values.ravel())[1], rel=0.2)
    # However rows of chains take turns.
    assert errors(ten.T.ravel(), chain=np.tile([0, 1], n))[1] == pytest.approx(found)
