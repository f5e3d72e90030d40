"""What is drawn from files of truth and of generated samples."""

import math

import numpy as np
import pytest
import torch
from test_independence import Independent, autoregressive, normal

from physgen.batch import Batch, Schema, Variable
from physgen.errors import InputError
from physgen.io.source import ArraySource
from physgen.validation.comparison import Comparison
from physgen.validation.matching import nearest_rows
from physgen.validation.means import Means
from physgen.validation.sources import TrueFile, chain_labels, two_samples

SYSTEM = Independent(dimension=1)
SCHEMA = Schema((1,), (Variable("x"),))
CONDITIONED = Schema((1,), (Variable("x"),), (Variable("energy"),))


def numbered(n, **fields):
    return ArraySource(Batch(torch.arange(n)[:, None].double(), **fields), SCHEMA, block=16)


def test_whole_groups_and_their_keys():
    keys = np.random.default_rng(9).permutation(np.repeat(np.arange(70), 3))
    source = ArraySource(
        Batch(torch.from_numpy(keys[:, None].astype(float))), SCHEMA, keys=keys, block=16
    )
    _, samples = TrueFile(SYSTEM, source).compared(source, 60)
    assert len(samples.truth) == len(samples.floor) == 60
    for role, batch in (("truth", samples.truth), ("floor", samples.floor)):
        np.testing.assert_array_equal(batch.x[:, 0].numpy(), samples.groups[role])
    assert not set(samples.groups["truth"]) & set(samples.groups["floor"])
    with pytest.raises(InputError, match="too few for two samples"):
        two_samples(source, np.arange(100), np.arange(100, 101), 60)


def test_truth_is_cut_by_chains():
    source = numbered(100, chain=torch.arange(5).repeat_interleave(20))
    made, samples = TrueFile(SYSTEM, source).compared(source, 1000)
    assert set(samples.truth.chain.tolist()) == {0, 1}
    assert set(samples.floor.chain.tolist()) == {2, 3, 4}
    assert len(made) == len(samples.truth) == len(samples.floor) == 40


def at_two_couplings(n=400, n_chains=8):
    """Chains of which the later half is at another coupling."""
    chain = torch.arange(n_chains).repeat_interleave(n // n_chains)
    condition = (chain >= n_chains // 2).double()[:, None]
    x = torch.arange(n)[:, None].double()
    return ArraySource(Batch(x, condition=condition, chain=chain), CONDITIONED, block=16)


def test_chains_of_every_coupling_are_in_both_samples_and_are_no_pairs():
    source = at_two_couplings()
    made, samples = TrueFile(SYSTEM, source).compared(source, 1000)
    assert samples.paired == frozenset()
    assert set(samples.truth.chain.tolist()) == {0, 1, 4, 5}
    assert set(samples.floor.chain.tolist()) == {2, 3, 6, 7}
    for batch in (made, samples.truth, samples.floor):
        assert batch.condition.mean() == 0.5
        assert len(batch) == 200


@pytest.mark.parametrize("labelled", [True, False])
def test_more_truth_of_chains_is_at_the_same_couplings_in_the_order_of_time(labelled):
    source, chain = at_two_couplings(), None
    if not labelled:
        batch = source.read(0, 400)
        chain = batch.chain.numpy()
        source = ArraySource(batch.replace(chain=None), CONDITIONED, block=16)
    truth, floor = np.r_[20:80, 300:320], np.r_[100:200, 200:300, 320:400]
    samples = two_samples(source, truth, floor, 1000, matched=True, chain=chain)
    assert samples.paired == frozenset()
    assert samples.floor.condition.sum() == samples.truth.condition.sum() == 20
    assert samples.floor.x.diff(dim=0).min() > 0
    assert samples.floor.chain.tolist() == (samples.floor.x[:, 0] // 50).tolist()


def test_pulls_of_chains_at_the_same_couplings_have_unit_width():
    """Two files of slow chains, tau_int = 9.5: paired row by row, pulls are several times wider."""
    pulls = []
    for seed in range(60):
        files = []
        for part in (0, 1):
            batch = autoregressive(500, 0.9, seed=2 * seed + part, n_chains=8)
            condition = (batch.chain % 2).double()[:, None]
            files.append(ArraySource(batch.replace(condition=condition), CONDITIONED, block=256))
        true, made = files
        generated, samples = TrueFile(SYSTEM, true).compared(made, 4000)
        found = Comparison(SYSTEM, generated, samples.truth, paired=samples.paired)
        pulls += [row.pull for row in Means().rows(found) if row.pull is not None]
    assert len(pulls) == 60
    assert 0.7 < np.std(pulls) < 1.4


@pytest.mark.parametrize("labelled", [True, False])
def test_one_chain_is_cut_into_its_two_ends(labelled):
    n = 600  # numbers in order are as autocorrelated as can be
    source = numbered(n, chain=torch.zeros(n, dtype=torch.long) if labelled else None)
    made, samples = TrueFile(SYSTEM, source).compared(source, 1000)
    assert samples.truth.x.max() < samples.floor.x.min()
    for batch in (made, samples.truth, samples.floor):
        assert batch.chain.tolist() == [0] * (n // 2)


def test_rows_without_labels_are_a_chain_if_they_follow_one_another():
    found = []
    for seed in range(40):
        batch = normal(2000, torch.Generator().manual_seed(seed), 2)
        found.append(chain_labels(Independent(2), ArraySource(batch, SCHEMA)) is not None)
    assert sum(found) == 0
    batch = autoregressive(2000, 0.5, seed=0).replace(chain=None)
    assert chain_labels(Independent(2), ArraySource(batch, SCHEMA)).tolist() == [0] * 2000
    ordered = batch.replace(x=batch.x.sort(0).values, condition=torch.zeros(2000, 1))
    assert chain_labels(Independent(2), ArraySource(ordered, CONDITIONED)) is None


def test_rows_of_groups_that_are_known_are_no_chain():
    keys = np.repeat(np.arange(400), 4)
    of_group = normal(400, torch.Generator().manual_seed(0), 2).x.numpy()[keys]
    batch = Batch(torch.from_numpy(of_group))
    assert chain_labels(Independent(2), ArraySource(batch, SCHEMA)) is not None
    assert chain_labels(Independent(2), ArraySource(batch, SCHEMA, keys=keys)) is None
    groups = autoregressive(400, 0.8, seed=0).x[torch.from_numpy(keys)]
    source = ArraySource(Batch(groups), SCHEMA, keys=keys)
    assert chain_labels(Independent(2), source) is not None


def test_chains_that_take_turns_are_told_apart():
    """Rows of 20 chains in turns: the next row knows nothing of a row, the 20th one does."""
    rows = np.stack([autoregressive(200, 0.9, seed=s).x[:, :1].numpy() for s in range(20)], axis=1)
    source = ArraySource(Batch(torch.from_numpy(rows.reshape(4000, 1))), SCHEMA)
    assert chain_labels(SYSTEM, source).tolist() == list(range(20)) * 200


def test_slow_modes_below_noise_make_a_chain():
    """A share of 7% that takes 500 rows to change makes errors six times as large."""
    slow = autoregressive(20000, 0.998, seed=0).x[:, :1]
    noise = torch.randn(20000, 1, generator=torch.Generator().manual_seed(0), dtype=slow.dtype)
    values = math.sqrt(0.93) * noise + math.sqrt(0.07) * slow
    source = ArraySource(Batch(values), SCHEMA)
    assert chain_labels(SYSTEM, source).tolist() == [0] * 20000


def test_pulls_of_chains_without_labels():
    pulls = []
    for seed in range(30):
        sources = [
            ArraySource(autoregressive(1500, 0.8, seed=2 * seed + i).replace(chain=None), SCHEMA)
            for i in range(2)
        ]
        system = Independent(2)
        made, samples = TrueFile(system, sources[0]).compared(sources[1], 10_000)
        comparison = Comparison(system, made, samples.truth, samples.floor)
        pulls += [row.pull for row in Means().rows(comparison) if row.name.startswith("x")]
    rms = np.sqrt(np.mean(np.square(pulls)))
    # As of independent rows it would be 3. Errors of short chains are known to 15% at best.
    assert rms == pytest.approx(1.0, abs=0.4)


@pytest.mark.parametrize(("n", "near"), [(400, set()), (40_000, {"floor"})])
def test_files_at_the_same_conditions_are_paired(n, near):
    """Their second half too, where there are enough rows for the conditions to be near."""
    generator = torch.Generator().manual_seed(0)
    energy = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    true, made = (
        ArraySource(Batch(100 * energy + noise, condition=energy), CONDITIONED)
        for noise in (0.0, 0.1)
    )
    generated, samples = TrueFile(SYSTEM, true).compared(made, n)
    assert samples.paired == {"generated"} | near
    torch.testing.assert_close(generated.condition, samples.truth.condition)
    torch.testing.assert_close(generated.x - 0.1, samples.truth.x)
    gap = (samples.floor.condition - samples.truth.condition).abs().mean()
    assert gap < 0.1  # unmatched, it would be a third
    assert not set(samples.floor.x.flatten().tolist()) & set(samples.truth.x.flatten().tolist())

    other = ArraySource(Batch(made.batch.x, condition=energy.flip(0)), CONDITIONED)
    assert TrueFile(SYSTEM, true).compared(other, n)[1].paired == frozenset()


def test_the_nearest_conditions_are_chosen_once_each():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 5, (400, 1)).astype(float)
    wanted = np.repeat(np.arange(5.0), 20)[:, None]
    rows = nearest_rows(labels, wanted, seed=1)
    assert len(set(rows.tolist())) == 100
    np.testing.assert_array_equal(labels[rows], wanted)
    assert rows.tolist() != nearest_rows(labels, wanted, seed=2).tolist()
    pool, wanted = generator.uniform(size=(5000, 2)), generator.uniform(size=(100, 2))
    gap = np.linalg.norm(pool[nearest_rows(pool, wanted, seed=1)] - wanted, axis=1)
    assert gap.mean() < 1.5 * 0.5 / np.sqrt(5000)


def test_pairs_may_have_weights_of_their_own():
    """A file that states none has those of the truth at the same conditions."""
    n = 300
    generator = torch.Generator().manual_seed(0)
    energy = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    true, made, other = (
        ArraySource(Batch(energy + noise, condition=energy, weight=weight), CONDITIONED)
        for noise, weight in ((0.0, energy[:, 0]), (0.1, None), (0.1, 1 - energy[:, 0]))
    )
    generated, samples = TrueFile(SYSTEM, true).compared(made, n)
    assert "generated" in samples.paired
    torch.testing.assert_close(generated.weight, samples.truth.weight)
    generated, samples = TrueFile(SYSTEM, true).compared(other, n)
    assert "generated" in samples.paired
    torch.testing.assert_close(generated.weight, 1.1 - generated.x[:, 0])
    whole = TrueFile(SYSTEM, true).whole(other, n, paired=True)
    np.testing.assert_allclose(whole["truth"].weight, whole["truth"].scalars["x0"])
    np.testing.assert_allclose(whole["generated"].weight, 1.1 - whole["generated"].scalars["x0"])


def test_groups_of_the_generated_file_are_kept():
    keys = np.random.default_rng(9).permutation(np.repeat(np.arange(70), 3))
    source = ArraySource(Batch(torch.from_numpy(keys[:, None].astype(float))), SCHEMA, keys=keys)
    made, samples = TrueFile(SYSTEM, source).compared(source, 60)
    np.testing.assert_array_equal(made.x[:, 0].numpy(), samples.groups["generated"])


def test_all_rows_of_files_are_measured():
    energy = torch.arange(100.0)[:, None]
    true, made = (
        ArraySource(Batch(x.double(), condition=energy, weight=w), CONDITIONED, block=16)
        for x, w in ((energy, torch.arange(100.0)), (2 * energy, None))
    )
    whole = TrueFile(SYSTEM, true).whole(made, 1000, paired=True)
    for role, factor in (("truth", 1), ("generated", 2)):
        np.testing.assert_array_equal(whole[role].condition, energy)
        np.testing.assert_array_equal(whole[role].weight, energy[:, 0])
        np.testing.assert_array_equal(whole[role].scalars["x0"], factor * energy[:, 0])
    some = TrueFile(SYSTEM, true).whole(made, 30, paired=True)
    np.testing.assert_array_equal(some["truth"].condition, some["generated"].condition)
    assert len(some["truth"].condition) == 30
    assert TrueFile(SYSTEM, true).whole(made, 30, paired=False)["generated"].weight is None


@pytest.mark.parametrize("what", ["weights", "groups"])
def test_of_rows_that_are_not_alone_as_many_of_both_are_measured(what):
    """p-values by random signs are 20 times too small for 4000 such rows against 300."""
    sources = []
    for n in (400, 30):
        x = torch.arange(float(n))[:, None]
        weight = torch.ones(n) if what == "weights" else None
        keys = np.arange(n) // 2 if what == "groups" else None
        batch = Batch(x.double(), condition=x, weight=weight)
        sources.append(ArraySource(batch, CONDITIONED, keys=keys, block=16))
    whole = TrueFile(SYSTEM, sources[0]).whole(sources[1], 1000, paired=False)
    assert [whole[role].n for role in ("truth", "generated")] == [30, 30]
    assert (whole["truth"].group is None) == (what == "weights")


def test_a_floor_is_paired_only_where_conditions_are_near():
    """Of one column the nearest rows are near; of three columns 2000 rows are far apart."""
    rng = np.random.default_rng(2)
    for columns, near in ((1, True), (3, False)):
        condition = torch.from_numpy(rng.normal(size=(4000, columns)))
        names = tuple(Variable(f"c{i}") for i in range(columns))
        batch = Batch(condition[:, :1].clone(), condition)
        rows = np.arange(4000)
        keys = rng.permutation(4000)  # Every row an event of its own.
        for key in (None, keys):
            source = ArraySource(batch, Schema((1,), (Variable("x"),), names), keys=key)
            samples = two_samples(source, rows[:500], rows[500:], 500, matched=True)
            assert ("floor" in samples.paired) == near
            assert samples.groups == {}


def test_several_files_are_set_beside_the_same_truth_which_is_measured_once():
    counted = []

    class Counting(Independent):
        def observables(self, batch):
            counted.append(len(batch))
            return super().observables(batch)

    rng = np.random.default_rng(3)
    true, *made = (
        ArraySource(Batch(torch.from_numpy(rng.normal(size=(n, 1)))), SCHEMA) for n in (90, 40, 50)
    )
    truth = TrueFile(Counting(dimension=1), true)
    samples = [truth.compared(source, 40)[1] for source in made]
    assert samples[0].truth is samples[1].truth
    assert samples[0].measured is samples[1].measured
    # To see whether they are chains, all rows of the three files; then the two samples of truth.
    assert sorted(counted) == [40, 40, 40, 50, 90]
    before = len(counted)
    for source in made:
        assert truth.whole(source, 1000, paired=False)["truth"].n == 90
    assert sorted(counted[before:]) == [40, 50, 90]
    known = Comparison(SYSTEM, made[0].batch, samples[0].truth, given=samples[0].measured)
    assert known.measured["truth"] is samples[0].measured["truth"]
