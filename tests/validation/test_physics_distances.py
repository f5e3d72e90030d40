"""FPD and KPD against the values of JetNet's tests, and against their definitions written out."""

import numpy as np
import pytest
from scipy import linalg, optimize, stats
from toy import Normal, compare, draw

from physgen.errors import DomainError, InputError, NotMeasurable
from physgen.systems.calorimeter import Calorimeter
from physgen.validation.comparison import Comparison
from physgen.validation.physics_distances import (
    PhysicsDistances,
    by_largest,
    clipped,
    fpd,
    kpd,
    kpd_of_disjoint,
    polynomial_mmd,
)

ZEROS, TWOS = np.zeros((20_000, 2)), np.full((20_000, 2), 2.0)
SMALL = (2000, 5000)


def test_values_of_jetnets_tests():
    # Normalised, 2 and 15; as they are, 8 and 624; no distance of a sample to itself.
    assert fpd(*by_largest(ZEROS, ZEROS)).value == pytest.approx(0, abs=0.01)
    assert fpd(*by_largest(TWOS, ZEROS)).value == pytest.approx(2, rel=0.01)
    assert fpd(TWOS, ZEROS).value == pytest.approx(8, rel=0.01)
    assert fpd(TWOS, ZEROS).error < 1e-3
    zeros, twos = ZEROS[:2000], TWOS[:2000]
    assert kpd(zeros, zeros, batch=1000).value == pytest.approx(0, abs=1e-9)
    result = kpd(*by_largest(twos, zeros), batch=1000)
    assert (result.value, result.error) == pytest.approx((15, 0), abs=1e-6)
    assert kpd(twos, zeros, batch=1000).value == pytest.approx(624)


def test_fpd_is_its_definition():
    a, b = _correlated(4000, 1), 1.02 * _correlated(5000, 2)
    sizes = (1 / np.linspace(1 / SMALL[0], 1 / SMALL[1], 10)).astype("int32")
    generator = np.random.default_rng(42)
    means = []
    for size in sizes:
        values = []
        for _ in range(20):
            x, y = a[generator.choice(4000, size)], b[generator.choice(5000, size)]
            c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
            off = x.mean(0) - y.mean(0)
            root = np.trace(linalg.sqrtm(c @ d).real)
            values.append(off @ off + np.trace(c) + np.trace(d) - 2 * root)
        means.append(np.mean(values))
    fit, covariance = optimize.curve_fit(
        lambda x, first, slope: first + slope * x, 1 / sizes, means, bounds=(0, np.inf)
    )
    ours = fpd(a, b, sizes=SMALL)
    assert ours.value == pytest.approx(fit[0], rel=1e-5)
    assert ours.error == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-4)


def test_kpd_is_its_definition():
    a, b = _correlated(4000, 1), 1.1 * _correlated(5000, 2)
    values = []
    for number in range(10):
        generator = np.random.default_rng(42 + 1000 * number)
        x, y = a[generator.choice(4000, 500)], b[generator.choice(5000, 500)]
        xx, yy, xy = ((p @ q.T / 4 + 1) ** 4 for p, q in ((x, x), (y, y), (x, y)))
        within = [(k.sum() - np.trace(k)) / (500 * 499) for k in (xx, yy)]
        values.append(sum(within) - 2 * xy.mean())
    ours = kpd(a, b, batch=500)
    assert ours.value == pytest.approx(np.median(values), rel=1e-9)
    assert ours.error == pytest.approx(stats.iqr(values, rng=(16.275, 83.725)) / 2, rel=1e-9)


def test_polynomial_mmd_of_three_rows():
    # x = 0 and 1 against 1 and 1, F = 1: k(0,1) = 1, k(1,1) = 16; mean of xy: (1+1+16+16)/4.
    first, second = np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]])
    assert polynomial_mmd(first, second) == pytest.approx(1 + 16 - 2 * 8.5)


def test_one_outlier_rescales_the_reference_and_not_the_robust_form():
    a, b = _correlated(20_000, 1), _correlated(20_000, 2) + 0.3
    far = a.copy()
    far[0] = 1000.0
    plain, spoilt = (fpd(*by_largest(x, b), sizes=SMALL).value for x in (a, far))
    assert spoilt < 0.01 * plain
    assert np.allclose(clipped(a, b)[1], clipped(far, b)[1], rtol=0.05, atol=0.01)
    assert clipped(far, b)[0].max() == 1.0


def test_disjoint_batches_have_no_bias_and_their_error():
    values, errors = [], []
    for seed in range(40):
        a, b = np.random.default_rng(seed).normal(size=(2, 1000, 3)) / 3
        found = kpd_of_disjoint(a, b, batch=100, seed=seed)
        values.append(found.value)
        errors.append(found.error)
    spread = np.std(values, ddof=1)
    assert abs(np.mean(values)) < 4 * spread / np.sqrt(40)
    assert np.mean(errors) == pytest.approx(spread, rel=0.35)


def test_rows_say_their_sizes_and_have_a_floor():
    metric = PhysicsDistances(smallest=400, largest=2000, batch=500)
    rows = {row.name: row for row in metric.rows(compare(draw(1000, 3, shift=0.5)))}
    assert list(rows) == ["FPD", "FPD, robust", "KPD", "KPD, robust"]
    assert "sizes 200 to 1000, not 400 to 2000: there are 1000 rows" in rows["FPD"].note
    assert all(row.floor is not None and row.error is not None for row in rows.values())
    assert rows["FPD, robust"].value > rows["FPD, robust"].floor + 5 * rows["FPD, robust"].error


def test_rows_are_distances_of_features_divided_by_the_largest_of_the_truth():
    truth, ours = draw(1000, 1, shift=-6.0), draw(1000, 3, shift=-5.5)
    metric = PhysicsDistances(smallest=400, largest=1000, batch=300)
    rows = {row.name: row for row in metric.rows(Comparison(Normal(), ours, truth))}
    largest = np.array([max(abs(value) for value in column) for column in truth.x.T.tolist()])
    a, b = (batch.x.numpy() / largest for batch in (truth, ours))
    wanted = fpd(a, b, sizes=(400, 1000))
    assert (rows["FPD"].value, rows["FPD"].error) == pytest.approx((wanted.value, wanted.error))
    kernel = kpd(a, b, batch=300)
    assert (rows["KPD"].value, rows["KPD"].error) == pytest.approx((kernel.value, kernel.error))
    assert rows["KPD"].note.endswith("batches of 300")


def test_features_below_zero_are_divided_by_their_largest_size():
    truth, ours = by_largest(np.array([[-8.0, 0.0], [2.0, 0.0]]), np.array([[4.0, 3.0]]))
    assert truth.tolist() == [[-1.0, 0.0], [0.25, 0.0]]
    assert ours.tolist() == [[0.5, 3.0]]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DomainError, match=r"\(N, F\) and \(M, F\)"):
        fpd(np.zeros((10, 2)), np.zeros((10, 3)))
    with pytest.raises(NotMeasurable, match="1 rows of the generated features are not finite"):
        kpd(np.zeros((10, 2)), np.array([[np.nan, 0.0]] + [[0.0, 0.0]] * 9))
    weighted = draw(100, 3)
    weighted = weighted.replace(weight=weighted.x[:, 0].abs() + 1)
    with pytest.raises(InputError, match="know no weights"):
        PhysicsDistances().rows(compare(weighted))


def _correlated(n, seed):
    z = np.random.default_rng(seed).normal(size=(n, 4))
    z[:, 1] += z[:, 0]
    return z / 4


def test_singular_covariances_of_halves_are_a_warning():
    system = Calorimeter()
    few = Comparison(system, *(system.simulate(60, seed=i) for i in range(3)))
    width = system.reference_features(few.truth, "high").shape[1]
    warned = {row.name: row.warning for row in PhysicsDistances().rows(few)}
    assert f"judge {2 * width + 2} rows" in warned["FPD, robust"]
    enough = Comparison(system, *(system.simulate(2 * width + 2, seed=i) for i in range(3)))
    assert not any(row.warning for row in PhysicsDistances().rows(enough))
