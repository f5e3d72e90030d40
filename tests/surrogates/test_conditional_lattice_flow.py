"""One lattice flow for a range of couplings: density, score, training, refusals."""

import math

import numpy as np
import pytest
import torch
from stub import StubContext

import physgen
from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.sampling.reweighting import log_partition_function
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.couplings import A_STEP, Annealed, Couplings
from physgen.surrogates.flows.lattice import velocity
from physgen.surrogates.flows.lattice.checkerboard import CheckerboardFlow
from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
from physgen.surrogates.flows.lattice.polynomials import exponents, products
from physgen.surrogates.flows.reverse_kl import ReverseKL
from physgen.systems.family import family
from physgen.systems.scalar import Phi4

COUPLINGS = (Variable("m2", dtype="float64"), Variable("lam", "1", "non-negative", "float64"))
LOW, HIGH = torch.tensor([-4.0, 5.0]), torch.tensor([-2.0, 9.0])


def conditional(shape=(4, 4), **options):
    """A flow with random parameters, in float64, finely integrated."""
    schema = Schema(shape, (Variable("phi", dtype="float64"),), COUPLINGS)
    options = {"integration_steps": 32, "duration": 1.0, "degree": 2, **options}
    flow = ContinuousLatticeFlow(schema, **options)
    flow.conditions.span(LOW, HIGH)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return flow.double()


def noise(n, shape=(4, 4)):
    generator = torch.Generator().manual_seed(5)
    return torch.randn((n, *shape), generator=generator, dtype=torch.float64)


def couplings(n):
    generator = torch.Generator().manual_seed(6)
    return LOW + (HIGH - LOW) * torch.rand(n, 2, generator=generator, dtype=torch.float64)


@pytest.fixture(params=[velocity.DENSE_SITES, 0], ids=["dense", "spectral"])
def flow(request, monkeypatch):
    monkeypatch.setattr(velocity, "DENSE_SITES", request.param)
    return conditional()


def test_density_is_that_of_the_map_at_each_condition(flow):
    z, given = noise(3), couplings(3)
    x, log_prob = flow.from_noise_with_log_prob(z, given)
    for row in range(3):
        one = given[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda y, one=one: flow.from_noise(y, one)[0], z[row : row + 1]
        )
        expected = -0.5 * z[row].square().sum() - 8 * math.log(2 * math.pi)
        expected = expected - torch.linalg.slogdet(jacobian.reshape(16, 16))[1]
        torch.testing.assert_close(log_prob[row], expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(flow.log_prob(Batch(x, given)), log_prob, rtol=0, atol=2e-5)
    assert log_prob.std() > 0.1
    other = flow.from_noise_with_log_prob(z, given.flip(0))[0]
    assert (x - other).abs().amax() > 1e-3, "the condition matters"


def test_score_is_the_gradient_of_the_density_at_each_condition(flow):
    z, given = noise(3), couplings(3)
    x, log_prob, score = flow.from_noise_with_score(z, given)
    fixed = x.detach().requires_grad_()
    (expected,) = torch.autograd.grad(flow.log_prob(Batch(fixed, given)).sum(), fixed)
    torch.testing.assert_close(score, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_prob, flow.from_noise_with_log_prob(z, given)[1])


def test_rows_of_one_condition_are_those_among_others(flow):
    """The kernels that all rows share are the sum of their terms."""
    z, given = noise(4), couplings(4)
    given[1] = given[0]
    among = flow.from_noise_with_score(z, given)
    alone = flow.from_noise_with_score(z[:2], given[:2])
    for many, few in zip(among, alone, strict=True):
        torch.testing.assert_close(many[:2], few)


def test_polynomials_are_orthogonal_products():
    degrees = exponents(2, 3)
    assert len(degrees) == 10
    assert degrees[0] == (0, 0)
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(6))
    u = torch.cartesian_prod(nodes, nodes)
    values = products(u, degrees)
    gram = values.T @ (torch.outer(weights, weights).flatten()[:, None] * values)
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()))
    expected = [4.0 / ((2 * a + 1) * (2 * b + 1)) for a, b in degrees]
    torch.testing.assert_close(gram.diagonal(), torch.tensor(expected, dtype=torch.float64))


def test_couplings_fill_the_box_evenly_but_for_what_is_left_out():
    drawn = Couplings(LOW, HIGH, (-3.5, -2.5))
    context = StubContext(64)
    points = torch.cat([drawn.draw(context) for _ in range(400)])
    assert len(torch.unique(points[:64], dim=0)) == A_STEP
    first = points[:, 0]
    assert ((first < -3.5) | (first >= -2.5)).all()
    assert abs((first < -3.5).double().mean() - 0.5) < 0.03
    for column, (low, high) in ((0, (-4.0, -2.0)), (1, (5.0, 9.0))):
        assert points[:, column].min() < low + 0.05
        assert points[:, column].max() > high - 0.05
    assert abs(points[:, 1].mean() - 7.0) < 0.05
    for wrong in ((-5.0, -3.0), (-2.5, -3.0)):
        with pytest.raises(RecipeError, match="within the first coupling's, -4 to -2"):
            Couplings(LOW, HIGH, wrong)


def test_the_domain_is_the_range_that_couplings_are_drawn_from():
    system = family(Phi4, {"shape": (4,), "lam": (6.0, 5.0, 9.0)})
    flow = ContinuousLatticeFlow(system.schema)
    ReverseKL(flow, system)
    drawn = flow.sample(2000, seed=1).condition
    assert 5.0 <= drawn.min() < 5.02
    assert 8.98 < drawn.max() <= 9.0
    assert abs(drawn.mean() - 7.0) < 0.1
    for lam in (4.99, 9.01):
        with pytest.raises(DomainError, match=r"lam = .* is outside the trained domain \[5, 9\]"):
            flow.sample(2, torch.full((2, 1), lam), seed=1)
        with pytest.raises(DomainError, match="outside the trained domain"):
            flow.log_prob(Batch(torch.zeros(2, 4), torch.full((2, 1), lam)))
    with pytest.raises(DomainError, match="expected lam"):
        flow.from_noise(torch.zeros(2, 4))


def test_one_training_finds_the_partition_functions_of_all_rings():
    """ln Z at couplings that are left out of the training, known by the transfer matrix."""
    system = family(Phi4, {"shape": (4,), "m2": -1.0, "lam": (1.0, 4.0)})
    torch.manual_seed(0)
    flow = ContinuousLatticeFlow(system.schema, integration_steps=4, degree=2)
    method = ReverseKL(flow, system, learning_rate=2e-3, left_out=(2.0, 3.0))
    context = StubContext(128, seed=1)
    for _ in range(100):
        method.step({}, context)
    corrected = Corrected(flow, system.action, "none")
    for lam in (1.0, 2.5, 4.0):
        given = torch.full((4096, 1), lam)
        batch = corrected.sample(4096, given, generator=torch.Generator().manual_seed(2))
        found = log_partition_function(batch.log_weight)
        exact = Phi4(shape=(4,), m2=-1.0, lam=lam).exact()["ln Z"]
        assert abs(found.value - exact) < 4.5 * found.error + 1e-3
        assert found.error < 0.01


def test_what_cannot_be_learned():
    system = Phi4(shape=(4, 4))
    with pytest.raises(RecipeError, match="has no couplings m2, lam"):
        ReverseKL(conditional(), system)
    with pytest.raises(RecipeError, match="there is one coupling, and nothing to leave out"):
        ReverseKL(ContinuousLatticeFlow(system.schema), system, left_out=(1.0, 2.0))
    several = family(Phi4, {"shape": (4, 4), "lam": (5.0, 8.0)})
    with pytest.raises(RecipeError, match="continuous-lattice-flow takes couplings"):
        CheckerboardFlow(several.schema)


def test_annealing_ends_at_the_system():
    system, x = Phi4(shape=(4,), m2=-3.0, lam=2.0), noise(5, (4,))
    annealed = Annealed(system, {"m2": 1.0}, 10)
    for step, m2 in ((0, 1.0), (5, -1.0), (10, -3.0), (99, -3.0)):
        expected = Phi4(shape=(4,), m2=m2, lam=2.0).action(x)
        torch.testing.assert_close(annealed.at(step)(x, None), expected)
    with pytest.raises(RecipeError, match=r"method.anneal.mass: Phi4 has no such coupling"):
        Annealed(system, {"mass": 1.0}, 10)
    with pytest.raises(DomainError, match="no lowest action"):
        Annealed(system, {"lam": -1.0}, 10)


@pytest.mark.slow
def test_a_run_is_judged_and_corrected_at_each_coupling(tmp_path):
    changes = {
        "system": {"shape": [4], "m2": -1.0, "lam": [1.0, 2.5, 4.0]},
        "surrogate": {"kind": "continuous-lattice-flow", "integration_steps": 4},
        "method": {"left_out": [2.0, 3.0], "learning_rate": 0.002},
        "engine": {"steps": 150, "batch_size": 128, "warmup": 20},
        "sampling.n": 6000,
        "validation.metrics": [{"kind": "means"}, {"kind": "importance", "minimum_ess": 0.8}],
    }
    changes = {
        f"{key}.{name}" if isinstance(value, dict) else key: part
        for key, value in changes.items()
        for name, part in (value.items() if isinstance(value, dict) else [("", value)])
    }
    run = physgen.train("phi4-conditional", changes, runs=tmp_path, track=False)
    rows = {row.name: row for row in run.scorecard.rows}
    for lam in (1.0, 2.5, 4.0):
        assert rows[f"ESS at lam={lam:g}"].value > 0.8
        assert rows[f"ESS on truth at lam={lam:g}"].value > 0.8
        assert rows[f"ln Z at lam={lam:g}"].exact_source == "exact"
        assert abs(rows[f"ln Z at lam={lam:g}"].pull) < 4.5
        assert abs(rows[f"phi^2 at lam={lam:g}"].pull) < 4.5
    sampler = physgen.load(run)
    given = torch.tensor([2.5, 1.0] * 30)
    batch = sampler.sample(60, seed=1, condition={"lam": given})
    assert batch.condition[:, 0].tolist() == given.tolist()
    assert set(batch.chain.tolist()) == {0, 1}
    with pytest.raises(DomainError, match="a chain of each target, and the target depends on lam"):
        sampler.sample(10, seed=1)
    with pytest.raises(DomainError, match=r"outside the trained domain \[1, 4\]"):
        sampler.sample(10, seed=1, condition={"lam": 4.5})
    with pytest.raises(DomainError, match="100 different conditions"):
        sampler.sample(100, seed=1, condition={"lam": torch.linspace(1, 4, 100)})
    proposals = physgen.load(run, uncorrected=True).sample(100, seed=1)
    assert proposals.log_weight.shape == (100,)
