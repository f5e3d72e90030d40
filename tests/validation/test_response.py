"""The response in bins of the condition: small scales and smearing are seen, nothing else is."""

import numpy as np
import pytest
import torch
from scipy import stats
from toy import Normal, compare, draw

from physgen.against import Against, Criteria
from physgen.batch import Batch, Schema, Variable
from physgen.errors import NotMeasurable
from physgen.systems.calorimeter import Calorimeter
from physgen.validation.comparison import Comparison
from physgen.validation.metrics import Response


class Deposits(Normal):
    """Energies over three decades, measured to 3%; a second observable that may be undefined."""

    @property
    def schema(self):
        return Schema((1,), (Variable("E"),), (Variable("E_inc"),))

    def observables(self, batch):
        response = batch.x[:, 0] / batch.condition[:, 0]
        return {"E": batch.x[:, 0], "late": torch.where(response > 1, response, torch.nan)}


def deposits(seed, n=4000, scale=1.0, smear=0.0, kinds=None):
    generator = np.random.default_rng(seed)
    energy = np.exp(generator.uniform(0, 7, n))
    if kinds is not None:
        energy = generator.choice(kinds, n)
    resolution = 0.03 * np.sqrt(1 + smear)
    found = energy * scale * (1 + resolution * generator.standard_normal(n))
    x, condition = (torch.from_numpy(values)[:, None] for values in (found, energy))
    return Batch(x, condition=condition)


def row(ours, truth):
    return Response().rows(Comparison(Deposits(), ours, truth))[0]


def test_a_scale_and_a_smearing_are_found_and_named():
    truth = deposits(1)
    off = row(deposits(2, scale=1.005), truth)
    assert off.p_value < 1e-4
    assert off.note.startswith("mean of E")
    wide = row(deposits(2, smear=0.3), truth)
    assert wide.p_value < 1e-4
    # The mean of what is above 1 is a width as well.
    assert wide.note.startswith(("width of E", "mean of late"))
    assert row(deposits(2), truth).p_value > 1e-3
    only = deposits(2)
    high = only.condition[:, 0] > 400
    only.x[high] *= 1.01
    assert "at E_inc" in row(only, truth).note


def test_samples_do_not_differ_from_themselves_by_rounding():
    truth = deposits(1, n=4001)  # A number that vector units do not divide.
    found = Comparison(Deposits(), truth, truth, paired=frozenset({"generated"}))
    same = Response().rows(found)[0]
    assert (same.value, same.p_value) == (0.0, 1.0)


def test_conditions_of_a_few_values_are_bins():
    kinds = [1.0, 10.0, 100.0]
    truth, ours = deposits(1, kinds=kinds), deposits(2, kinds=kinds)
    assert row(ours, truth).p_value > 1e-3
    ours.x[ours.condition == 10.0] *= 1.02
    found = row(ours, truth)
    assert (found.p_value < 1e-4, "at E_inc = 10" in found.note) == (True, True)


def test_without_conditions_there_is_nothing_to_say():
    assert Response().rows(compare(draw(100, 3))) == []


def test_false_alarms_are_as_rare_as_stated():
    found = [row(deposits(2 * s, 300), deposits(2 * s + 1, 400)).p_value for s in range(60)]
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_deviations_of_weighted_samples_are_in_standard_deviations():
    """The largest of a few dozen: beyond 5 in 1e-5 of cases."""
    for seed in range(10):
        weights = np.random.default_rng(seed).lognormal(0, 1.2, (2, 1500))
        ours, truth = (
            deposits(2 * seed + i, 1500).replace(weight=torch.from_numpy(weights[i]))
            for i in range(2)
        )
        assert row(ours, truth).value < 5


def weighted(seed, n):
    """Log-normal weights, a sixth of them negative."""
    generator = np.random.default_rng([seed, 9])
    weight = generator.lognormal(0, 0.5, n) * np.where(generator.random(n) < 1 / 6, -1, 1)
    return deposits(seed, n).replace(weight=torch.from_numpy(weight))


def test_false_alarms_of_weighted_samples_are_as_rare_as_stated():
    """A truth worth 270 rows; bins of a fifth of them once gave .1 at .05."""
    found = np.array(
        [row(deposits(2 * s, 4000), weighted(2 * s + 1, 800)).p_value for s in range(120)]
    )
    for level in (0.01, 0.05, 0.2):
        assert np.sum(found <= level) <= stats.binom.isf(1e-3, len(found), level)


def test_weights_that_leave_too_few_rows_are_refused():
    with pytest.raises(NotMeasurable, match=r"worth 1\d\d independent ones are too few for a test"):
        row(deposits(2, 4000), weighted(1, 400))


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "smear"), [(1.0, 0.0), (1.003, 0.0), (0.997, 0.0), (1.0, 0.005)])
def test_files_of_showers_off_by_little(tmp_path, scale, smear):
    system, n = Calorimeter(), 20_000
    noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    for name, seed, factor in (("truth", 1, 1.0), ("made", 2, scale * (1 + smear * noise))):
        batch = system.simulate(n, seed)
        with system.writer(tmp_path / f"{name}.hdf5", n) as append:
            append(batch.replace(x=batch.x * factor))
    only = {"validation.metrics": [{"kind": "response"}]}
    _, card = Against(tmp_path / "truth.hdf5", Criteria(recipe="calo-flow", overrides=only)).score(
        tmp_path / "made.hdf5"
    )
    assert "20000 rows against 20000" in card["response in bins of the condition"].note
    assert card.verdict == ("pass" if (scale, smear) == (1.0, 0.0) else "fail")
