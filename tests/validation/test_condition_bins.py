"""Response, resolution and AUC in bins of the condition, where they are known."""

import json
from types import MappingProxyType

import numpy as np
import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import NotMeasurable, RecipeError
from physgen.validation.comparison import Comparison
from physgen.validation.condition_bins import ConditionBins
from physgen.validation.judging import judge
from physgen.validation.plots import draw


class Response:
    """One number y, measured at an energy."""

    schema = Schema((1,), (Variable("y"),), (Variable("energy", "GeV"),))
    derived = MappingProxyType({})

    def observables(self, batch):
        return {"y": batch.x[:, 0]}

    def features(self, batch, level):
        return torch.cat([batch.x, batch.condition], 1)


def sample(seed, n=4000, shift=lambda e: 0 * e, width=0.1, energies=None):
    """y ~ N(1 + shift(e), width), e log-uniform from 1 to 16 GeV."""
    generator = np.random.default_rng(seed)
    if energies is None:
        energies = np.exp(generator.uniform(0, np.log(16), n))
    y = 1 + shift(energies) + width * generator.normal(size=len(energies))
    return Batch(torch.from_numpy(y)[:, None], condition=torch.from_numpy(energies)[:, None])


def rows_of(generated, **options):
    comparison = Comparison(Response(), generated, sample(1), sample(2))
    return {row.name: row for row in ConditionBins(**options).rows(comparison)}, comparison


def test_means_and_widths_of_each_bin():
    rows, comparison = rows_of(sample(3, shift=lambda e: 0.02 * (e > 4)), bins=4, classify=False)
    assert len(rows) == 8
    t = comparison.truth.condition[:, 0].numpy()
    edges = np.quantile(t, np.linspace(0, 1, 5))
    for number, (name, row) in enumerate(list(rows.items())[:4]):
        low, high = edges[number], edges[number + 1]
        y = comparison.generated.x[:, 0].numpy()
        e = comparison.generated.condition[:, 0].numpy()
        inside = y[(e >= low) & (e < high)]
        assert name == f"response at energy {low:.4g} to {high:.4g} GeV"
        assert row.value == pytest.approx(inside.mean(), rel=1e-9)
        assert row.error == pytest.approx(0.1 / np.sqrt(len(inside)), rel=0.4)
        assert row.floor == pytest.approx(0, abs=4 * row.floor_error)
    pulls = [row.pull for row in rows.values()]
    assert max(map(abs, pulls[:2])) < 3.5
    assert min(pulls[2:4]) > 3


def test_a_resolution_that_is_too_wide():
    rows, _ = rows_of(sample(3, width=0.13), bins=2, classify=False)
    for row in list(rows.values())[2:]:
        assert row.value == pytest.approx(0.13, rel=0.05)
        assert row.exact == pytest.approx(0.1, rel=0.05)
        assert row.pull > 5


def test_pairs_resolve_what_they_share():
    # The floor's noise is the truth's but for a thousandth: errors of differences see it.
    truth = sample(1)
    near = truth.replace(x=truth.x + 1e-3 * torch.randn_like(truth.x) + 1e-3)
    comparison = Comparison(Response(), near, truth, sample(2), paired=frozenset({"generated"}))
    rows = ConditionBins(bins=2, classify=False).rows(comparison)
    assert min(row.pull for row in rows[:2]) > 10


def test_few_values_have_a_bin_each():
    energies = np.repeat([1.0, 2.0, 8.0], 500)
    batches = [sample(seed, energies=energies) for seed in (1, 2, 3)]
    rows = ConditionBins(classify=False).rows(Comparison(Response(), *batches))
    assert [row.name for row in rows[:3]] == [f"response at energy {e} GeV" for e in (1, 2, 8)]
    assert rows[0].value == pytest.approx(batches[0].x[:500].mean().item())


def test_a_range_that_was_left_out_is_a_bin_and_its_auc_stands_against_the_rest():
    poor = sample(3, n=3000, shift=lambda e: 0.3 * ((e >= 3) & (e < 6)))
    comparison = Comparison(Response(), poor, sample(1, n=3000), sample(2, n=3000))
    metric = ConditionBins(bins=4, left_out=(3.0, 6.0))
    rows = {row.name: row for row in metric.rows(comparison)}
    inside = rows["AUC at energy 3 to 6 GeV, left out of training"]
    # Two normals 3 standard deviations apart: Phi(3 / sqrt 2) = .983.
    assert inside.value == pytest.approx(0.983, abs=0.02)
    assert inside.floor == pytest.approx(0.5, abs=4 * inside.floor_error)
    difference = rows["AUC, left out of training less elsewhere"]
    assert difference.value > 0.4
    assert difference.value > 10 * difference.error
    with pytest.raises(NotMeasurable, match="no true sample between 20 and 30"):
        ConditionBins(left_out=(20.0, 30.0)).rows(comparison)


def test_the_plot_shows_linearity_resolution_and_auc(tmp_path):
    comparison = Comparison(Response(), sample(3, 600), sample(1, 600), sample(2, 600))
    card = judge(comparison, [ConditionBins(bins=3, left_out=(3.0, 6.0))])
    draw(comparison, card, tmp_path)
    titles = [plot["title"] for plot in json.loads((tmp_path / "index.json").read_text())]
    assert "Response against energy" in titles


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(RecipeError, match=r"left_out must be \[low, high\]"):
        ConditionBins(left_out=(2.0, 1.0))
    with pytest.raises(RecipeError, match="there is y"):
        rows_of(sample(3), observable="z")


def test_samples_without_conditions_have_no_rows():
    bare = [sample(seed).replace(condition=None) for seed in (1, 2, 3)]
    assert ConditionBins().rows(Comparison(Response(), *bare)) == []
