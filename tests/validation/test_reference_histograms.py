"""Histograms of the reference evaluation, against np.histogram and closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats
from toy import compare, draw

from physgen.batch import Batch
from physgen.errors import NotMeasurable
from physgen.systems.calorimeter import Calorimeter
from physgen.validation.comparison import Comparison
from physgen.validation.coverage import Coverage
from physgen.validation.reference_histograms import (
    ReferenceHistograms,
    chi_square,
    chi_square_of_spectra,
    separation,
)

SYSTEM = Calorimeter()


@pytest.fixture(scope="module")
def comparison():
    return Comparison(SYSTEM, *(_showers(seed) for seed in (1, 2, 3)))


@pytest.fixture(scope="module")
def rows(comparison):
    return {row.name: row for row in ReferenceHistograms().rows(comparison)}


def test_every_histogram_of_set_1_is_there(rows):
    # 1 + 5 layers + 2 x 4 moments in eta and phi + 5 x 2 in r + 5 sparsities, of 2 energies 2 more,
    # the voxels, and those near the threshold of 5 layers.
    assert len(rows) == 3 * (1 + 5 + 8 + 10 + 5 + 2 + 1 + 5) + 1
    assert all(row.floor is not None and row.error is not None for row in rows.values())


@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("E_tot/E_inc", np.linspace(0.5, 1.5, 101)),
        ("E_layer_2", None),
        ("centre_eta_1", np.linspace(-100, 100, 101)),
        ("width_phi_2", np.linspace(0, 100, 101)),
        ("sparsity_0", np.linspace(0, 1, 21)),
    ],
)
def test_separation_is_that_of_the_reference(comparison, rows, name, edges):
    values = [
        SYSTEM.reference_quantities(batch, "zero")[name].numpy()
        for batch in (comparison.truth, comparison.generated)
    ]
    if edges is None:
        edges = _logarithmic(values[0].max(), 40)
    p, q = (np.histogram(v, edges, density=True)[0] * np.diff(edges) for v in values)
    expected = 0.5 * ((p - q) ** 2 / (p + q + 1e-16)).sum()
    assert rows[f"separation {name}, reference bins"].value == pytest.approx(expected, rel=1e-9)


def test_voxels_below_the_threshold_are_not_counted(comparison, rows):
    truth, ours = (_thresholded(b.x.numpy()) for b in (comparison.truth, comparison.generated))
    edges = _logarithmic(truth.max(), 50)
    p, q = (np.histogram(x, edges)[0] for x in (truth, ours))
    expected = separation(p.astype(float), q.astype(float))
    assert rows["separation voxels, reference bins"].value == pytest.approx(expected)
    first = slice(*SYSTEM.geometry.offsets[:2])
    near = np.logspace(0, 1, 21)
    p, q = (np.histogram(x[:, first], near)[0] for x in (truth, ours))
    row = rows["separation voxels near the threshold, layer 0, reference bins"]
    assert row.value == pytest.approx(separation(p.astype(float), q.astype(float)))


def test_empty_layers_count_as_0_or_are_excluded(comparison, rows):
    empty = comparison.truth.x.clone()
    empty[:300, slice(*SYSTEM.geometry.offsets[4:6])] = 0.0
    sample = comparison.truth.replace(x=empty)
    both = Comparison(SYSTEM, sample, comparison.truth, comparison.floor)
    zero, excluded = (
        {row.name: row for row in ReferenceHistograms(empty=kind).rows(both)}
        for kind in ("zero", "excluded")
    )
    name, edges = "separation centre_r_12, reference bins", np.linspace(0, 1500, 101)
    values = SYSTEM.reference_quantities(comparison.truth, "zero")["centre_r_12"].numpy()
    counted = np.append(np.zeros(300), values[300:]), values
    expected = [
        separation(*(np.histogram(v[v >= least], edges)[0].astype(float) for v in counted))
        for least in (0.0, 1e-9)
    ]
    assert expected[0] > 3 * expected[1]
    assert (zero[name].value, excluded[name].value) == pytest.approx(expected)
    assert "empty layers: zero" in zero[name].note
    assert "empty layers: excluded" in excluded[name].note


def test_w1_of_a_shift_by_two_bins(comparison):
    # Sparsity of layer 0 (8 voxels) from 1/2 to 1/4: five bins of 1/20.
    x = torch.zeros((200, 368))
    x[:, :4] = 10.0
    more = x.clone()
    more[:, :6] = 10.0
    energy = torch.full((200, 1), 100.0)
    same = Batch(x, condition=energy)
    pair = Comparison(SYSTEM, Batch(more, condition=energy), same, same)
    rows = {row.name: row for row in ReferenceHistograms().rows(pair)}
    row = rows["W1 sparsity_0, reference bins"]
    assert (row.value, row.error, row.floor) == pytest.approx((0.25, 0.0, 0.0))
    assert rows["separation sparsity_0, reference bins"].value == 1.0


def test_chi_square_of_equal_distributions_follows_its_law():
    generator = np.random.default_rng(0)
    share = np.full(20, 1 / 20)
    found = [
        chi_square(*(generator.multinomial(n, share).astype(float) for n in (4000, 6000)))
        for _ in range(400)
    ]
    values = np.array([one.value for one in found]) * 19
    assert stats.kstest(values, stats.chi2(19).cdf).pvalue > 1e-3
    assert np.mean([one.error for one in found]) == pytest.approx(np.std(values) / 19, rel=0.25)


def test_entries_of_one_row_are_not_independent():
    """Three entries a row that are always alike: chi^2 is three times as large by chance."""
    generator = np.random.default_rng(2)
    share = generator.dirichlet(np.full(12, 3.0))
    a, b = (generator.multinomial(1, share, n) for n in (3000, 2000))
    units = list(np.split(np.arange(5000), [3000]))
    (one, by_chance), (three, thrice) = (chi_square_of_spectra(k * a, k * b, units) for k in (1, 3))
    plain = chi_square(a.sum(0).astype(float), b.sum(0).astype(float))
    assert (one.value, by_chance) == pytest.approx((plain.value, 1.0), rel=0.01)
    assert one.error == pytest.approx(plain.error, rel=0.1)
    assert (three.value, three.error) == pytest.approx((3 * one.value, 3 * one.error))
    assert thrice == pytest.approx(3 * by_chance)
    # As rows of three of one unit each.
    rows, unit = (np.repeat(a, 3, 0), np.repeat(b, 3, 0)), [np.repeat(u, 3) for u in units]
    found, chance = chi_square_of_spectra(*rows, unit)
    assert (found.value, found.error, chance) == pytest.approx((three.value, three.error, thrice))


def test_chi_square_of_voxels_says_what_it_is_by_chance(rows):
    row = rows["chi^2/bin voxels, reference bins"]
    said = float(row.note.split("; ")[-1].split()[0])
    assert said > 1
    assert abs(row.value - said) < 4 * row.error
    assert "by chance" not in rows["chi^2/bin E_layer_2, reference bins"].note


def test_values_outside_of_the_bins_get_bins_of_their_own(comparison):
    low = comparison.truth.replace(condition=10 * comparison.truth.condition)
    pair = Comparison(SYSTEM, low, low, low)
    rows = {row.name: row for row in ReferenceHistograms().rows(pair)}
    assert "100% of the truth outside" in rows["separation E_tot/E_inc, reference bins"].note


def test_systems_without_a_reference_evaluation_say_so():
    with pytest.raises(NotMeasurable, match="calorimeter showers only"):
        ReferenceHistograms().rows(compare(draw(100, 3)))


def test_precision_and_recall_of_voxels_stand_beside_their_floor(comparison):
    rows = {row.name: row for row in Coverage(level="voxels", n=200).rows(comparison)}
    assert list(rows) == [f"{kind} of voxels" for kind in _KINDS]
    for row in rows.values():
        assert row.value == pytest.approx(row.floor, abs=5 * row.floor_error + 1e-9)


_KINDS = ("coverage", "density", "precision", "recall")


def _logarithmic(largest, n):
    """Edges as of the reference, but that rounding does not leave out the largest value."""
    edges = np.logspace(0, np.log10(largest), n)
    edges[-1] = largest
    return edges


def _thresholded(x):
    return np.where(x < 1, 0, x).astype(float)


def _showers(seed):
    generator = np.random.default_rng(seed)
    x = generator.exponential(30.0, (600, 368)) * (generator.random((600, 368)) < 0.5)
    x *= np.exp(-SYSTEM.geometry.radius / 40)
    energy = generator.choice([1000.0, 2000.0], (600, 1))
    x *= energy * generator.normal(0.95, 0.1, (600, 1)) / x.sum(1, keepdims=True)
    return Batch(torch.from_numpy(x).float(), condition=torch.from_numpy(energy))
