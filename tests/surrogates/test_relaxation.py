"""Samples that Langevin steps lead to the action, whatever the surrogate."""

import math

import numpy as np
import pytest
import torch

import physgen
from physgen.batch import Batch, Schema, Variable
from physgen.errors import InputError, RecipeError
from physgen.generation import generate
from physgen.sampling import hmc, langevin
from physgen.scoring import score_run
from physgen.surrogates.base import Surrogate
from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
from physgen.surrogates.relaxation import ACCEPTANCE, Relaxed
from physgen.systems.scalar import Phi4

SCHEMA = Schema((2,), (Variable("phi"),), (Variable("c"),))


def action(x, condition=None):
    """Normal numbers of deviations 1 and 1/2, the first of them about the condition."""
    about = 0.0 if condition is None else condition[:, 0]
    return 0.5 * (x[:, 0] - about).square() + 2 * x[:, 1].square()


class Wrong(Surrogate):
    """Normal numbers of deviation 1.5, without a density."""

    def __init__(self, scale=1.5):
        super().__init__(SCHEMA)
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def sample(self, n, condition=None, *, generator):
        noise = torch.randn(n, 2, generator=generator)
        return Batch((self.scale * noise).detach(), condition)


def draw(relaxed, n, condition=None):
    return relaxed.sample(n, condition, generator=torch.Generator().manual_seed(3))


def sigmas(values, exact):
    """How many standard errors the mean of independent values is off."""
    values = values.double().numpy()
    return abs(values.mean() - exact) / (values.std() / math.sqrt(len(values)))


def test_moments_become_those_of_the_action_and_conditions_keep_their_own():
    condition = torch.tensor([[0.7], [-2.0]]).repeat(10_000, 1)
    batch = draw(Relaxed(Wrong(), action, 60), 20_000, condition)
    assert batch.chain is None
    assert batch.x.dtype == torch.float32
    for about in (0.7, -2.0):
        x = batch.x[batch.condition[:, 0] == about]
        assert sigmas(x[:, 0], about) < 4
        assert sigmas((x[:, 0] - about) ** 2, 1.0) < 4
        assert sigmas(x[:, 1] ** 2, 0.25) < 4
    early = draw(Relaxed(Wrong(), action, 1), 20_000, condition).x
    assert sigmas(early[:, 1] ** 2, 0.25) > 20, "one step is not enough"


def test_one_dimensional_phi4_has_its_exact_moments():
    """Against the transfer matrix, from an untrained Gaussian whose <phi^2> is too large by 40%."""
    system = Phi4(shape=(8,), m2=-4.0, lam=8.0)
    relaxed = Relaxed(ContinuousLatticeFlow(system.schema, base_width=0.5), system.action, 120)
    x = draw(relaxed, 16_000).x
    assert sigmas(x.square().mean(1), 0.17919492) < 4
    assert sigmas(x.pow(4).mean(1), 0.06098238) < 4
    start = relaxed.original.sample(16_000, generator=torch.Generator().manual_seed(3)).x
    assert sigmas(start.square().mean(1), 0.17919492) > 20


def test_the_target_stays_what_it_is_at_the_acceptance_that_steps_are_tuned_to():
    system = Phi4(shape=(4,), m2=1.0, lam=0.0)
    relaxed = Relaxed(ContinuousLatticeFlow(system.schema), system.action, 1)
    start = torch.Generator().manual_seed(5)
    run = hmc.sample(
        torch.zeros(4000, 4, dtype=torch.float64), system.action, hmc.Schedule(1), generator=start
    )
    state, noise, rates = langevin.init(run.x[:, 0], system.action), start, []
    for _ in range(40):
        size, longest = relaxed.tuned
        state, info = langevin.step(
            state, system.action, step_size=size, generator=noise, longest=longest
        )
        rates.append(info.probability.mean())
    assert torch.stack(rates).mean().item() == pytest.approx(ACCEPTANCE, abs=0.03)
    k = 4 * np.sin(np.pi * np.arange(4) / 4) ** 2
    assert sigmas(state.x.square().mean(1), np.mean(0.5 / (k + 1))) < 4


def test_steps_with_cut_gradients_balance_in_detail():
    """p(x) T(x -> y) a(x -> y) is the same both ways, where gradients are cut and where not."""
    noise = torch.Generator().manual_seed(0)
    at = [
        langevin.init(torch.randn(64, 2, generator=noise).double() * 2, lambda x: action(x))
        for _ in range(2)
    ]
    x, y = (langevin.truncated(state, 2.0) for state in at)
    lengths = at[0].gradient.norm(dim=1)
    assert (lengths > 2).any()
    assert (lengths < 2).any()

    def flow(a, b):
        go, back = (langevin.log_transition(*pair, 0.3) for pair in ((a, b.x), (b, a.x)))
        _, info = hmc.choose(a, b, b.action - a.action + go - back, torch.zeros(64).double())
        return -a.action + go + info.probability.log()

    torch.testing.assert_close(flow(x, y), flow(y, x))


def test_chains_leave_steep_places():
    """Without a cut, steps from there overshoot and are all refused."""
    system = Phi4(shape=(8,), m2=-4.0, lam=8.0)

    class Outliers(ContinuousLatticeFlow):
        def sample(self, n, condition=None, *, generator):
            x = super().sample(n, condition, generator=generator).x
            return Batch(torch.where(torch.arange(n)[:, None] % 50 == 0, 8 * x.sign(), x))

    x = draw(Relaxed(Outliers(system.schema), system.action, 300), 2000).x
    assert x.abs().max() < 2


def test_an_action_that_is_not_finite_is_named():
    relaxed = Relaxed(Wrong(), lambda x, c: (x * math.inf).sum(1), 5)
    with pytest.raises(InputError, match=r"sampling\.correction: mala does not accept"):
        draw(relaxed, 10)


def test_recipes_say_mala(tmp_path):
    changes = {
        "system.shape": [4, 4],
        "engine.steps": 2,
        "sampling": {"n": 500, "correction": "mala", "mala_steps": 20},
        "validation.metrics": [{"kind": "means"}],
    }
    run = physgen.train("phi4-flow", changes, runs=tmp_path, track=False, score=False)
    comparison, card = score_run(run, run.load())
    assert card.provenance["samples"].startswith("corrected by mala")
    assert comparison.corrected
    assert comparison.proposals is None
    assert len(comparison.generated) == 500
    sampler = physgen.load(run)
    assert "corrected by mala" in repr(sampler)
    few, many = sampler.sample(10, seed=1), sampler.sample(20, seed=1)
    assert torch.equal(few.x, many.x[:10])
    own = physgen.load(run, uncorrected=True)
    assert torch.equal(own.sample(10, seed=1).x, generate(run.load(), 10, seed=1).x)
    assert not torch.equal(own.sample(10, seed=1).x, few.x)
    with pytest.raises(RecipeError, match="importance looks at log-weights"):
        physgen.train(
            "phi4-flow",
            {**changes, "validation.metrics": [{"kind": "importance"}]},
            runs=tmp_path,
            track=False,
        )
