"""Systems at several couplings: each sample knows its own, exact values stand at every one."""

import math

import numpy as np
import pytest
import torch

from physgen import pipeline
from physgen.against import Against, Criteria
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.io.source import blocks
from physgen.registry import Component, build
from physgen.systems.gauge import Gauge
from physgen.systems.ising import Ising
from physgen.systems.scalar import Phi4
from physgen.validation.comparison import measure
from physgen.validation.uncertainty import gamma_method


def system(kind, **options):
    return build("systems", Component(kind=kind, **options), {})


def means(system, batch):
    values = measure(system, batch)
    for name, value in values.values.items():
        if value.ndim == 1:
            yield name, gamma_method(value, chain=values.chain)


@pytest.mark.parametrize(
    ("family", "n"),
    [
        (system("ising", shape=[4, 6], temperature=[1.5, 2.5, 4.0]), 6000),
        (system("phi4", shape=[4], m2=-1.0, lam=[1.0, 2.0]), 8000),
        (system("phi4", shape=[2, 2], m2=[1.0, 2.0], lam=0.0), 8000),
    ],
)
def test_simulation_agrees_with_the_exact_values_at_every_coupling(family, n):
    exact = family.exact()
    assert len({name.partition(" at ")[2] for name in exact}) == len(family.members)
    seen = 0
    for name, found in means(family, family.simulate(n, 3)):
        if name in exact:
            assert abs(found.value - exact[name]) < 4.5 * found.error, name
            seen += 1
    assert seen >= 2 * len(family.members)


def test_an_action_is_that_of_the_coupling_of_its_row():
    family = system("phi4", shape=[3, 3], m2=-2.0, lam=[1.0, 4.0])
    condition = torch.tensor([[1.0], [4.0], [2.5], [1.0]], dtype=torch.float64)
    x = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    action = family.action(x, condition)
    for row, lam in enumerate(condition[:, 0].tolist()):
        alone = Phi4(shape=(3, 3), m2=-2.0, lam=lam).action(x[row : row + 1])
        assert torch.equal(action[row : row + 1], alone)
    (gradient,) = torch.autograd.grad(action.sum(), x)
    assert gradient.flatten(1).abs().sum(1).gt(0).all()


def test_conditions_are_kept_in_their_rows_and_decide_the_samples():
    family = system("ising", shape=[4, 4], temperature=[1.0, 10.0])
    asked = torch.tensor([[10.0], [1.0], [5.0], [1.0]]).repeat(500, 1)
    batch = family.simulate(len(asked), 1, asked)
    assert torch.equal(batch.condition, asked.double())
    ordered = batch.x.flatten(1).float().mean(1).abs()
    assert ordered[asked[:, 0] == 1].mean() > 0.95
    assert ordered[asked[:, 0] == 10].mean() < 0.3
    assert torch.equal(family.simulate(len(asked), 1, asked).x, batch.x)


@pytest.mark.parametrize(
    "family",
    [
        system("ising", shape=[4, 4], temperature=[2.0, 3.0]),
        system("phi4", shape=[4, 4], lam=[5.0, 8.0]),
        system("gauge", shape=[4, 4], beta=[1.0, 2.0]),
    ],
)
def test_a_batch_without_rows_of_a_coupling_has_no_values(family):
    batch = family.simulate(4, 1)
    whole = family.observables(batch)
    for name, value in family.observables(batch[:0]).items():
        assert value.shape == (0, *whole[name].shape[1:]), name


def test_files_sorted_by_coupling_are_scored_at_every_coupling(tmp_path):
    """Samples of one law: nothing differs, though the first half of each file is at one lambda."""
    family, files = system("phi4", shape=[2, 3], m2=-1.0, lam=[1.0, 3.0]), []
    for seed in (1, 2):
        batch = family.simulate(1600, seed)
        path = tmp_path / f"{seed}.h5"
        with family.writer(path, len(batch)) as append:
            append(batch[batch.condition[:, 0].argsort(stable=True)])
        files.append(path)
    changes = {"system.shape": [2, 3], "system.m2": -1.0, "system.lam": [1.0, 3.0]}
    metrics = {"validation.metrics": [{"kind": "means"}]}
    _, card = Against(
        files[1], Criteria(recipe="phi4-flow", overrides={**changes, **metrics})
    ).score(files[0])
    assert card.verdict == "pass"
    assert all(row.value is not None for row in card.rows)
    assert {row.name for row in card.rows} >= {"phi^2 at lam=1", "phi^2 at lam=3"}


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize(
    "family",
    [
        system("ising", shape=[4, 4], temperature=[2.0, 3.0]),
        system("phi4", shape=[2, 3], m2=[-1.0, -2.0], lam=[3.0, 4.0]),
    ],
)
def test_files_bring_the_couplings_back(tmp_path, family, suffix):
    batch = family.simulate(100, 1)
    path = tmp_path / f"samples{suffix}"
    with family.writer(path, 100) as append:
        append(batch[:60])
        append(batch[60:])
    read = list(blocks(family.open(path)))
    assert torch.equal(torch.cat([part.condition for part in read]), batch.condition)
    assert torch.equal(torch.cat([part.x for part in read]), batch.x)
    assert family.open(path).schema.condition == family.couplings


def test_a_file_of_one_coupling_has_it_in_every_row(tmp_path):
    one, family = (
        Ising(shape=(4, 4), temperature=3.0),
        system("ising", shape=[4, 4], temperature=[2.0, 3.0]),
    )
    with one.writer(tmp_path / "one.h5", 10) as append:
        append(one.simulate(10, 1))
    assert family.open(tmp_path / "one.h5").read(0, 10).condition.tolist() == [[3.0]] * 10


def test_a_file_that_says_no_coupling_is_refused(tmp_path):
    path = tmp_path / "spins.npz"
    np.savez(path, samples=np.ones((5, 16), "i1"))
    family = system("ising", shape=[4, 4], temperature=[2.0, 3.0])
    with pytest.raises(FormatError, match=r"temperature.*array 'temperature' of shape \(5,\)"):
        family.open(path)
    np.savez(path, samples=np.ones((5, 16), "i1"), temperature=np.arange(1.0, 4.0))
    with pytest.raises(FormatError, match="neither once nor for each of its 5 rows"):
        family.open(path)


@pytest.mark.parametrize(
    "made",
    [
        Ising(shape=(4, 4)),
        Phi4(shape=(4, 4)),
    ],
)
def test_a_system_at_one_coupling_refuses_conditions(made):
    with pytest.raises(DomainError, match="takes no condition; make system"):
        made.simulate(2, 1, torch.ones(2, 1))
    with pytest.raises(DomainError, match="takes no condition"):
        made.action(torch.ones(2, 4, 4), torch.ones(2, 1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": [2.0, 2.0]}, "2 points of which 1 differ"),
        ({"temperature": []}, "0 points"),
        ({"temperature": [2.0, -1.0]}, "temperature -1"),
        (
            {"temperature": [2.0, 3.0], "field": [1.0]},
            "system.temperature has 2, system.field has 1",
        ),
    ],
)
def test_points_that_make_no_sense_are_refused(options, said):
    with pytest.raises(DomainError, match=said):
        system("ising", **options)


def test_wrong_conditions_are_refused():
    family = system("ising", shape=[4, 4], temperature=[2.0, 3.0])
    for wrong in (torch.ones(3, 1), torch.ones(2, 2)):
        with pytest.raises(DomainError, match=r"expected \(2, 1\), the columns being temperature"):
            family.simulate(2, 1, wrong)
    with pytest.raises(DomainError, match="more than 1024 different values"):
        family.simulate(1100, 1, torch.linspace(1, 2, 1100)[:, None])


def test_chains_at_other_couplings_do_not_dilute_the_error():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(4, 2000))
    for t in range(1, 2000):
        noise[:, t] = 0.8 * noise[:, t - 1] + 0.6 * noise[:, t]
    chain = np.repeat(np.arange(4), 2000)
    values = noise.ravel()
    alone = gamma_method(values[chain < 2], chain=chain[chain < 2])
    among = gamma_method(np.where(chain < 2, values, math.nan), chain=chain)
    assert among.value == pytest.approx(alone.value)
    assert among.error == pytest.approx(alone.error)
    assert among.tau_int == pytest.approx(alone.tau_int)


def test_a_conditional_run_is_scored_against_the_exact_values_of_each_temperature(tmp_path):
    changes = {
        "system.shape": [4, 4],
        "system.temperature": [2.0, 4.0],
        "data.n": 2000,
        "engine.steps": 30,
        "sampling.n": 1000,
        "validation.metrics": [{"kind": "means"}, {"kind": "response"}],
    }
    run = pipeline.train("ising-vae", changes, runs=tmp_path, track=False)
    rows = {row.name: row for row in run.scorecard.rows}
    for temperature in (2.0, 4.0):
        row = rows[f"E/N at temperature={temperature:g}"]
        exact = Ising(shape=(4, 4), temperature=temperature).exact()["E/N"]
        assert row.exact == exact
        assert row.exact_source == "exact"
    assert any(row.metric == "response" for row in run.scorecard.rows)
    batch = pipeline.load(run.path).sample(7, condition={"temperature": 3.0})
    assert batch.condition.tolist() == [[3.0]] * 7
    with pytest.raises(DomainError, match=r"outside the trained domain"):
        pipeline.load(run.path).sample(7, condition={"temperature": 9.0})


def test_a_surrogate_without_conditions_learns_no_family(tmp_path):
    changes = {"system.lam": [5.0, 8.0], "system.shape": [4, 4]}
    with pytest.raises(RecipeError, match=r"without conditions, and these have lam"):
        pipeline.train("phi4-coupling", changes, runs=tmp_path, track=False)


@pytest.mark.parametrize(
    ("system", "options"),
    [(Ising, {"temperature": [2.0, 2.5]}), (Phi4, {"lam": (6.0, 8.0)}), (Gauge, {"beta": [1.0]})],
)
def test_lists_make_families_and_are_refused_of_one_theory(system, options):
    with pytest.raises(DomainError, match=r"is one number; several make a family"):
        system(**options)
