"""The statistics of two-sample tests, against closed forms and other libraries."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy import linalg, stats

from physgen.validation import permutation
from physgen.validation.two_sample import kernels, moments, thresholds
from physgen.validation.two_sample.combination import combine
from physgen.validation.two_sample.pool import Pool, without_rounding


def pool_of(first, second, conditions=None):
    """Pool two samples of (n, d) rows."""
    values = np.concatenate([first, second])
    n = len(values)
    given = np.empty((n, 0)) if conditions is None else conditions
    return Pool(
        tuple(f"x{i}" for i in range(values.shape[1])),
        values,
        tuple(f"t{i}" for i in range(given.shape[1])),
        given,
        np.arange(n) < len(first),
        np.ones(n),
        np.arange(n),
    )


def observed(pool, family):
    """Return the statistics by name."""
    truth, ours = pool.relabelling.means(family.sums)
    values = family.statistics((truth - ours)[None])[0]
    return dict(zip(family.names, values, strict=True))


@pytest.fixture
def counts():
    generator = np.random.default_rng(0)
    return generator.poisson(4.0, (500, 1)).clip(1, 8), generator.poisson(4.3, (700, 1)).clip(1, 8)


def test_distribution_functions_are_those_of_scipy(counts):
    a, b = counts
    pool = pool_of(a, b)
    found = observed(pool, thresholds.of_observables(pool))
    assert found["KS"] == pytest.approx(stats.ks_2samp(a[:, 0], b[:, 0]).statistic ** 2)
    levels = np.arange(1, 8)
    below = [(part <= levels).mean(0) for part in (a, b, np.concatenate([a, b]))]
    squares = (below[0] - below[1]) ** 2 / (below[2] * (1 - below[2]))
    assert found["scan"] == pytest.approx(squares.max())
    assert found["Anderson-Darling"] == pytest.approx(squares.mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_held_at_once_changes_no_bit_of_what_comes_out(monkeypatch, weighted):
    generator = np.random.default_rng(2)
    first, second = generator.normal(size=(700, 7)), generator.normal(0.05, 1, (900, 7))
    pool = pool_of(first, second, generator.exponential(size=(1600, 1)))
    weights = generator.normal(1, 0.3, 1600) if weighted else np.ones(1600)
    pool = replace(pool, weights=weights)

    def found():
        family = thresholds.of_observables(pool)
        return family.sums, combine([family], pool.relabelling)

    sums, usual = found()
    assert sums.dtype == (np.float64 if weighted else np.float32)
    monkeypatch.setattr(permutation, "_FEATURES", 10)
    monkeypatch.setattr(thresholds, "CELLS", 3 * sums.shape[1])
    monkeypatch.setattr(permutation.Relabelling, "counts_type", np.float64)
    in_parts, other = found()
    np.testing.assert_array_equal(in_parts, sums)
    assert other == usual


def test_relabelled_thresholds_are_held_once():
    generator = np.random.default_rng(3)
    pool = pool_of(generator.normal(size=(2000, 150)), generator.normal(size=(2000, 150)))
    family = thresholds.of_observables(pool)
    relabelled = 8 * 500 * family.sums.shape[1]
    tracemalloc.start()
    combine([family], pool.relabelling)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The differences of 500 relabellings, and small parts of what is made of them.
    assert peak < 2.4 * relabelled


def test_sliced_distances_of_one_column_are_those_of_the_column(counts):
    a, b = counts
    pool = pool_of(a, b)
    z = pool.standardised.rows
    generator = np.random.default_rng(1)
    found = observed(pool, thresholds.of_projections("s", z, pool, generator))
    distance = stats.wasserstein_distance(a[:, 0], b[:, 0]) / np.concatenate([a, b]).std()
    assert found["sliced W, s"] == pytest.approx(distance**2)
    assert found["sliced KS, s"] == pytest.approx(stats.ks_2samp(a[:, 0], b[:, 0]).statistic ** 2)


def test_what_is_not_defined_lies_above_all_thresholds():
    x = np.random.default_rng(0).normal(size=(2, 400, 1))
    x[1, :40] = np.nan
    pool = pool_of(*x)
    family = thresholds.of_observables(pool)
    truth, ours = pool.relabelling.means(family.sums)
    assert "x0 above" in family.causes(truth, ours)[2]
    # The highest threshold has all that is defined below it.
    assert (truth[-1], ours[-1]) == pytest.approx((1.0, 0.9))


def test_a_threshold_needs_rows_on_both_sides():
    pool = pool_of(np.zeros((300, 1)), np.r_[np.ones(7), np.zeros(293)][:, None])
    assert thresholds.of_observables(pool) is None


def test_values_that_differ_by_rounding_are_one():
    atoms = np.array([2.5, 2.4999999999999996, 2.5000001, 1e-14, 0.0, -1.5, np.nan, 2.50001])
    found = without_rounding(atoms)
    assert found[:6].tolist() == [2.5, 2.5, 2.5, 0.0, 0.0, -1.5]
    assert np.isnan(found[6])
    assert found[7] != 2.5


@pytest.fixture
def normals():
    generator = np.random.default_rng(3)
    root = np.array([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [-0.2, 0.4, 2.0]])
    a = generator.normal(size=(40_000, 3)) @ root.T
    b = generator.normal(size=(40_000, 3)) @ root.T * np.array([1.0, 1.01, 0.99]) + 0.01
    return a, b


def test_moments_are_those_of_the_closed_forms(normals):
    pool = pool_of(*normals)
    z = pool.standardised.rows
    found = observed(pool, moments.of_moments(pool))
    first, second = z[: len(normals[0])], z[len(normals[0]) :]
    d = first.mean(0) - second.mean(0)
    assert found["whitened means"] == pytest.approx(d @ np.linalg.solve(np.cov(z.T), d))
    a, b = np.cov(first.T), np.cov(second.T)
    frechet = d @ d + np.trace(a + b - 2 * np.real(linalg.sqrtm(a @ b)))
    assert found["Frechet"] == pytest.approx(frechet, rel=0.05)
    whitened = np.linalg.solve(np.cov(z.T), a - b)
    assert found["whitened covariance"] == pytest.approx(np.trace(whitened @ whitened), rel=0.05)


def test_a_moment_that_differs_is_named():
    generator = np.random.default_rng(4)
    a, b = generator.normal(size=(2, 4000, 3))
    for change, expected in (
        (lambda x: x + np.array([0, 0.2, 0]), "mean of x1: +"),
        (widen, "variance of x2: +"),
    ):
        pool = pool_of(a, change(b))
        family = moments.of_moments(pool)
        causes = family.causes(*pool.relabelling.means(family.sums))
        assert causes[0].startswith(expected)
    b[:, 0] = 0.9 * b[:, 1] + 0.4 * b[:, 0]
    pool = pool_of(a, b)
    family = moments.of_moments(pool)
    causes = family.causes(*pool.relabelling.means(family.sums))
    assert causes[2].startswith("correlation of x0 and x1: +")


def test_the_one_product_that_changed_is_the_largest():
    """Of ten columns, a correlation of .1 at 2 x 8000 rows: .1 / sqrt(2 / 8000)."""
    a, b = np.random.default_rng(6).normal(size=(2, 8000, 10))
    b[:, 7] = 0.1 * b[:, 3] + np.sqrt(0.99) * b[:, 7]
    pool = pool_of(a, b)
    family = moments.of_products(pool)
    truth, ours = pool.relabelling.means(family.sums)
    wanted = (b[:, 3] * b[:, 7]).mean() - (a[:, 3] * a[:, 7]).mean()
    found = observed(pool, family)["largest moment"]
    assert np.sqrt(found) == pytest.approx(wanted / np.sqrt(2 / 8000), rel=0.05)
    assert family.causes(truth, ours)[0].startswith("correlation of x3 and x7: +")


def widen(x):
    return x * np.array([1.0, 1.0, 1.3])


def test_kernels_are_those_of_all_pairs():
    generator = np.random.default_rng(5)
    a, b = generator.normal(size=(2, 600, 2))
    b = b + 0.5
    pool = pool_of(a, b)
    z = pool.standardised.rows
    families = kernels.of_kernels("s", z, pool, np.random.default_rng(6))
    some = np.random.default_rng(6).choice(len(z), 600, replace=False)
    width = np.median(np.linalg.norm(z[some[:300]] - z[some[300:]], axis=1))
    squares = ((z[:, None] - z[None]) ** 2).sum(-1)
    sign = np.where(pool.labels, 1 / 600, -1 / 600)
    for family, times in zip(families, kernels.WIDTHS, strict=True):
        found = observed(pool, family)
        exact = sign @ np.exp(-squares / (2 * (times * width) ** 2)) @ sign
        # A kernel of F frequencies is known to 1/sqrt(F).
        assert found[family.names[0]] / kernels.FREQUENCIES == pytest.approx(exact, rel=0.3)


def test_the_score_is_that_of_a_linear_model():
    a, b = np.random.default_rng(7).normal(size=(2, 800, 2))
    pool = pool_of(a, b * 1.2)
    z = pool.standardised.rows
    phase = (z @ np.random.default_rng(8).normal(size=(2, 5))).astype(np.float32)
    found = observed(pool, kernels._of_width("s", phase, pool))
    features = np.concatenate([np.cos(phase), np.sin(phase)], 1).astype(float)
    d = features[:800].mean(0) - features[800:].mean(0)
    covariance = np.cov(features.T, bias=True)
    largest = np.linalg.eigvalsh(covariance)[-1]
    for ridge in kernels.RIDGES:
        wanted = d @ np.linalg.solve(covariance + ridge * largest * np.eye(10), d)
        assert found[f"kernel score {ridge:g}, s"] == pytest.approx(wanted, rel=1e-3)


def test_residuals_have_neither_trend_nor_width():
    generator = np.random.default_rng(9)
    t = np.exp(generator.uniform(0, 5, 8000))
    y = t + np.sqrt(t) * generator.normal(size=8000)
    pool = pool_of(y[:4000, None], y[4000:, None], t[:, None])
    r = pool.residuals[:, 0]
    for low in (1.0, 10.0, 50.0):
        part = r[(t >= low) & (t < 2 * low)]
        assert abs(part.mean()) < 4 / np.sqrt(len(part))
        assert part.std() == pytest.approx(1.0, abs=3 / np.sqrt(len(part)))
