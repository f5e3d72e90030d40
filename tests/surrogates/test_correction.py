"""Corrected samples are those of the action, whatever the surrogate."""

import math

import h5py
import numpy as np
import pytest
import torch

import physgen
from physgen.batch import Batch, Schema, Variable
from physgen.card import read_card
from physgen.errors import InputError, RecipeError
from physgen.generation import generate
from physgen.sampling import hmc, local
from physgen.sampling.reweighting import log_partition_function
from physgen.surrogates.autoencoders.vae import VAE
from physgen.surrogates.base import Surrogate
from physgen.surrogates.correction import BURN_IN, Corrected
from physgen.systems.gauge import Gauge
from physgen.validation.mixing import disagrees
from physgen.validation.uncertainty import gamma_method

SCHEMA = Schema((2,), (Variable("phi"),))


def action(x, condition=None):
    """Standard normal numbers of Z = (2 pi)^(D / 2), the first of them about 0.5."""
    return 0.5 * (x - x.new_tensor([0.5, 0.0])).square().sum(1)


class Wide(Surrogate):
    """Normal numbers of deviation 1.5, whose density is known."""

    def __init__(self):
        super().__init__(SCHEMA)
        self.width = torch.nn.Parameter(torch.tensor(1.5))

    def log_prob(self, batch):
        z = batch.x / self.width
        return -0.5 * z.square().sum(1) - 2 * (self.width * (2 * torch.pi) ** 0.5).log()

    def sample_with_log_prob(self, n, condition=None, *, generator):
        z = torch.randn(n, 2, generator=generator, dtype=self.dtype)
        batch = Batch(self.width * z, condition)
        return batch, self.log_prob(batch)

    def sample(self, n, condition=None, *, generator):
        return self.sample_with_log_prob(n, condition, generator=generator)[0]


def test_corrected_samples_are_those_of_the_action():
    batch = generate(Corrected(Wide(), action), 40_000, seed=1)
    assert batch.log_weight is None
    assert set(batch.chain.tolist()) == {4096 * block for block in range(10)}, "a chain a block"
    for values, exact in ((batch.x[:, 0], 0.5), (batch.x[:, 1] ** 2, 1.0)):
        found = gamma_method(values.detach().numpy(), chain=batch.chain.numpy())
        assert abs(found.value - exact) < 4 * found.error
        assert found.error < 0.02
    assert abs((generate(Wide(), 40_000, seed=1).x[:, 1] ** 2).mean() - 2.25) < 0.1


class Opaque(Wide):
    """The same, of which the density is not known."""

    log_prob = sample_with_log_prob = None

    def sample(self, n, condition=None, *, generator):
        z = torch.randn(n, 2, generator=generator, dtype=self.dtype)
        return Batch(self.width * z, condition)


@pytest.mark.parametrize(
    ("surrogate", "method"), [(Wide, "independence-metropolis+hmc"), (Opaque, "langevin")]
)
def test_forces_correct_as_well(surrogate, method):
    corrected = Corrected(surrogate(), action, method)
    batch = generate(corrected, 20_000, seed=2)
    assert batch.log_weight is None
    for values, exact in (
        (batch.x[:, 0], 0.5),
        (batch.x[:, 0] ** 2, 1.25),
        (batch.x[:, 1] ** 2, 1.0),
        (batch.x[:, 1] ** 4, 3.0),
    ):
        found = gamma_method(values.double().numpy(), chain=batch.chain.numpy())
        assert abs(found.value - exact) < 4 * found.error
        assert found.error < 0.02 * (1 + exact**2)
        assert found.converged
    few = generate(corrected, 4100, seed=2)
    assert torch.equal(few.x, batch.x[:4100])
    assert torch.equal(few.chain, batch.chain[:4100])


def test_chains_that_begin_in_steep_places_leave_them():
    """x^4 at x = 30: a step that fits the others overshoots by 10^4."""

    def steep(x):
        return x.pow(4).flatten(1).sum(1)

    generator = torch.Generator().manual_seed(1)
    starts = torch.randn(400, 1, generator=generator, dtype=torch.float64) * 0.5
    starts[::20] = 30.0
    batch = local.langevin(starts, steep, hmc.Schedule(16, 10, 300), generator=generator)
    assert batch.x.abs().max() < 4
    exact = math.gamma(0.75) / math.gamma(0.25)  # <x^2>
    found = gamma_method((batch.x[:, 0] ** 2).numpy(), chain=batch.chain.numpy())
    assert abs(found.value - exact) < 4 * found.error
    with pytest.raises(InputError, match="chains of Langevin steps never move"):
        local.langevin(
            starts,
            lambda x: torch.where(x.abs() < 1e-9, 0.0 * x, x + math.inf).sum(1),
            hmc.Schedule(2, 2, 4),
            generator=generator,
        )


def test_langevin_chains_that_stay_in_two_wells_disagree():
    """Nine of ten samples of the surrogate are in one of two equal wells, far apart."""

    class Lopsided(Opaque):
        def sample(self, n, condition=None, *, generator):
            batch = super().sample(n, condition, generator=generator)
            right = torch.rand(n, generator=generator) < 0.9
            return Batch(0.1 * batch.x + torch.where(right, 6.0, -6.0)[:, None], condition)

    def wells(x, condition):
        return 8 * (x.abs() - 6).square().flatten(1).sum(1)

    batch = generate(Corrected(Lopsided(), wells, "langevin"), 8192, seed=4)
    found = gamma_method(batch.x[:, 0].double().numpy(), chain=batch.chain.numpy())
    assert disagrees(found)


@pytest.mark.parametrize("method", ["independence-metropolis+hmc", "langevin"])
def test_forces_on_groups_keep_haars_measure(method):
    """Of one plaquette of U(1) at beta, <cos> = I_1(beta) / I_0(beta), whatever the surrogate."""
    theory = Gauge(group="U(1)", shape=(2, 2), beta=1.0)

    class Uniform(Surrogate):
        def __init__(self):
            super().__init__(theory.schema)
            self.nothing = torch.nn.Parameter(torch.zeros(()))

        def sample(self, n, condition=None, *, generator):
            return Batch(theory.arbitrary(n, generator), condition)

        def sample_with_log_prob(self, n, condition=None, *, generator):
            batch = self.sample(n, condition, generator=generator)
            return batch, self.log_prob(batch)

        def log_prob(self, batch):
            return torch.zeros(len(batch.x), dtype=torch.float64)

    corrected = Corrected(Uniform(), theory.action, method)
    batch = corrected.sample(8192, generator=torch.Generator().manual_seed(3))
    found = gamma_method(
        theory.observables(Batch(batch.x.double()))["plaquette"].numpy(), chain=batch.chain.numpy()
    )
    assert abs(found.value - theory.exact()["plaquette"]) < 4 * found.error
    assert batch.x.abs().max() <= torch.pi + 1e-6


def test_each_condition_has_chains_of_its_own():
    """Rows stand where their conditions are, and chains of different blocks do not share a name."""
    schema = Schema((1,), (Variable("x"),), condition=(Variable("width"),))

    def scaled(x, condition):
        return 0.5 * (x / condition).square().sum(1)

    class Normal(Surrogate):
        def __init__(self):
            super().__init__(schema)
            self.nothing = torch.nn.Parameter(torch.zeros(()))

        def sample(self, n, condition=None, *, generator):
            return Batch(torch.randn(n, 1, generator=generator, dtype=self.dtype), condition)

    surrogate = Normal()
    surrogate.conditions.fit(torch.tensor([[0.5], [2.0]]))
    condition = torch.tensor([[0.5], [2.0]]).repeat(3000, 1)
    batch = generate(
        Corrected(surrogate, scaled, "langevin"), 6000, seed=1, condition=condition.numpy()
    )
    torch.testing.assert_close(batch.condition, condition, check_dtype=False)
    for width in (0.5, 2.0):
        x = batch.x[condition[:, 0] == width]
        assert abs(x.std() / width - 1) < 0.1
    first, second = batch.chain[:4096], batch.chain[4096:]
    assert not set(first.tolist()) & set(second.tolist())
    for label in first.unique():
        assert len(batch.condition[batch.chain == label].unique()) == 1


def test_corrected_samples_depend_on_the_seed_alone():
    corrected = Corrected(Wide(), action)
    many, few = (generate(corrected, n, seed=3) for n in (9000, 4100))
    assert torch.equal(many.x[:4100], few.x)
    assert torch.equal(many.chain[:4100], few.chain)
    assert many.x.dtype == torch.float32


def test_proposals_have_their_log_weights():
    proposals = generate(Corrected(Wide(), action, "none"), 20_000, seed=1)
    assert proposals.chain is None
    found = log_partition_function(proposals.log_weight)
    assert abs(found.value - np.log(2 * np.pi)) < 4 * found.error
    assert abs((proposals.x[:, 1] ** 2).mean() - 2.25) < 0.1


def test_the_beginning_of_a_chain_is_left_out():
    corrected = Corrected(Wide(), action)
    proposals = corrected.propose(BURN_IN + 100, generator=torch.Generator().manual_seed(0))
    chain = corrected.correct(proposals, generator=torch.Generator().manual_seed(1))
    assert len(chain) == 100
    rows = (chain.x[:, None] == proposals.x).all(2).nonzero()[:, 1]
    assert rows.min() > BURN_IN - 100, "long after the first"


def test_what_has_no_density_is_not_corrected():
    with pytest.raises(RecipeError, match="VAE does not know its density"):
        Corrected(VAE(SCHEMA), action)
    Corrected(VAE(SCHEMA), action, "langevin")
    spins = Schema((2,), (Variable("s", domain="spin"),))
    with pytest.raises(RecipeError, match=r"langevin moves fields along the force.*'spin'"):
        Corrected(VAE(spins), action, "langevin")


@pytest.mark.parametrize("kind", ["continuous-lattice-flow", "flow"])
def test_generate_follows_the_recipe(tmp_path, kind):
    """Any flow with a density is corrected, and the file says so."""
    changes = {"system.shape": [4, 4], "engine.steps": 4, "surrogate": {"kind": kind}}
    run = physgen.train("phi4-flow", changes, runs=tmp_path, track=False, score=False)
    exact = physgen.generate(run, 100, seed=1)
    assert exact.chain.tolist() == [0] * 100
    assert exact.log_weight is None
    sampler = physgen.load(run)
    assert "corrected by independence-metropolis" in repr(sampler)
    assert torch.equal(sampler.sample(100, seed=1).x, exact.x)
    own = physgen.load(run, uncorrected=True).sample(100, seed=1)
    assert own.chain is None
    assert own.log_weight.shape == (100,)
    for uncorrected, columns in ((False, {"x", "chain"}), (True, {"x", "log_weight"})):
        path = tmp_path / f"{uncorrected}.h5"
        physgen.load(run, uncorrected=uncorrected).write(path, 100)
        with h5py.File(path) as file:
            names = {"x" if name == "configurations" else name for name in file}
            assert columns <= names
            said = "none" if uncorrected else "independence-metropolis"
            assert f'"correction": "{said}"' in file.attrs["physgen_provenance"]


@pytest.mark.parametrize(
    ("correction", "said"),
    [("none", "as the surrogate draws them"), ("independence-metropolis", "corrected by ind")],
)
def test_cards_say_which_samples_were_judged(tmp_path, correction, said):
    changes = {
        "system.shape": [4, 4],
        "engine.steps": 4,
        "sampling": {"n": 1000, "correction": correction},
        "validation.metrics": [{"kind": "means"}],
    }
    run = physgen.train("phi4-flow", changes, runs=tmp_path, track=False)
    assert run.scorecard.provenance["samples"].startswith(said)
    assert read_card(run.path / "surrogate")["verdict_of"].startswith(f"samples {said}")
    page = (run.path / "report.html").read_text()
    assert f"The verdict is about samples {said}" in page


def test_what_is_not_corrected_has_no_proposals(tmp_path):
    changes = {"system.shape": [4, 4], "engine.steps": 2, "sampling.correction": "none"}
    changes["validation.metrics"] = [{"kind": "means"}]
    run = physgen.train("phi4-flow", changes, runs=tmp_path, track=False, score=False)
    with pytest.raises(InputError, match="nothing corrects these samples"):
        physgen.load(run, uncorrected=True)
    assert physgen.generate(run, 10).chain is None
