"""Samples beside distributions that are known exactly."""

import pytest

from physgen.systems.family import family
from physgen.systems.ising import Ising
from physgen.validation.comparison import Comparison
from physgen.validation.exact_distributions import density, exact_rows, known
from physgen.validation.plots import _histograms
from physgen.validation.scorecard import Scorecard
from physgen.validation.shapes import Histograms


def test_samples_of_the_model_agree_with_its_exact_distribution_and_others_do_not():
    system, n = Ising(shape=(8, 8)), 2000
    right = [system.simulate(n, seed) for seed in (1, 2, 3)]
    (row,) = exact_rows(Comparison(system, *right))
    assert row.name == "KS E/N, exact"
    assert 0 < row.value < 1.6 / n**0.5
    assert 0 < row.floor < 1.6 / n**0.5
    assert row in Histograms().rows(Comparison(system, *right))
    wrong = Ising(shape=(8, 8), temperature=2.4).simulate(n, 4)
    assert exact_rows(Comparison(system, wrong, *right[1:]))[0].value > 0.1


def test_every_temperature_of_a_scan_has_a_row():
    scan = family(Ising, {"shape": (4, 4), "temperature": (2.0, 3.0)})
    samples = [scan.simulate(400, seed) for seed in (1, 2, 3)]
    rows = {row.name: row.value for row in exact_rows(Comparison(scan, *samples))}
    assert len(rows) == 2
    assert rows["KS E/N at temperature=3, exact"] < 2 / 200**0.5


def test_reports_draw_what_is_exact():
    system = Ising(shape=(4, 4))
    samples = [system.simulate(300, seed) for seed in (1, 2, 3)]
    comparison = Comparison(system, *samples)
    ((figure, *_),) = _histograms(comparison, Scorecard(rows=[]))
    legends = [cell.axes[0].get_legend_handles_labels()[1] for cell in figure.subfigs if cell.axes]
    assert sum("exact" in labels for labels in legends) == 1
    exact = comparison.once(known)["E/N"]
    widths, low = 0.5, exact.values[0]
    edges = [low + widths * k for k in range(9)]
    assert widths * density(exact, edges).sum() == pytest.approx(1)
