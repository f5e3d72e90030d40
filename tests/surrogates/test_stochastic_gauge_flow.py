"""Stochastic flows of links: exact weights there and back, and annealing as the limit."""

import copy

import pytest
import torch
from stub import StubContext
from test_gauge_flow import fitted, generator

from physgen.errors import DomainError, RecipeError
from physgen.sampling.annealing import anneal
from physgen.sampling.reweighting import log_partition_function, reweighted_mean
from physgen.surrogates.base import HasDensity, HasLogWeight
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.lattice.regression import FlowRegression
from physgen.surrogates.flows.lattice.stochastic import StochasticGaugeFlow
from physgen.systems.family import family
from physgen.systems.gauge import Gauge
from physgen.systems.kernels.gauge import heatbath
from physgen.systems.scalar import Phi4
from physgen.validation.comparison import Comparison
from physgen.validation.importance import Importance

N = 512
LOSS = {"U(1)": 1.9, "SU(3)": 0.068}
"""Of three steps; twice these where the layers are trained from Haar's measure on."""


def stochastic(system, coefficients=None, **options):
    options = {"layers": 4, "n_times": 3, "integration_steps": 4, **options}
    flow = StochasticGaugeFlow(system.schema, system=system, **options).double()
    if coefficients is not None:
        flow.load_state_dict(coefficients)
    return flow


def trained(group, beta):
    system, flow, _ = fitted(group, (3, 3), beta)
    return system, flow, stochastic(system, flow.state_dict())


@pytest.mark.parametrize(("group", "beta"), [("U(1)", 1.5), ("SU(2)", 2.2), ("SU(3)", 5.0)])
def test_weights_give_the_exact_values_there_and_back(group, beta):
    """The flow is crude, so that without sweeps, weights or the Jacobian it would not."""
    system, _, flow = trained(group, beta)
    corrected, exact = Corrected(flow, system.action, "none"), system.exact()
    batch = corrected.propose(N, generator=generator(4))
    ln_z = log_partition_function(batch.log_weight)
    assert 0 < ln_z.error < 0.1
    assert abs(ln_z.value - exact["ln Z"]) < 4 * ln_z.error
    plaquette = reweighted_mean(system.observables(batch)["plaquette"], batch.log_weight)
    assert abs(plaquette.value - exact["plaquette"]) < 4 * plaquette.error
    truth = system.simulate(N, 1).replace(chain=None)
    back = log_partition_function(-corrected.log_weight(truth, generator=generator(5)))
    assert abs(-back.value - exact["ln Z"]) < 4.5 * back.error


def test_sweeps_raise_the_effective_sample_size():
    system, plain, flow = trained("SU(2)", 3.0)
    weights = {
        name: Corrected(one, system.action, "none").propose(N, generator=generator(4)).log_weight
        for name, one in (("plain", plain), ("stochastic", flow), ("annealed", stochastic(system)))
    }
    spread = {name: float(weight.var()) for name, weight in weights.items()}
    assert spread["stochastic"] < 0.8 * spread["plain"]
    assert spread["stochastic"] < 0.5 * spread["annealed"]


def test_without_layers_it_is_annealed_importance_sampling():
    """To the last bit: the same seeds of the sweeps, the weights of `sampling.annealing`."""
    system = Gauge(group="SU(2)", shape=(3, 4), beta=2.0)
    flow = stochastic(system, layers=5, sweeps=2)
    batch, log_weight = flow.sample_with_log_weight(8, system.action, generator=generator(3))
    same = generator(3)
    start = flow.stored(flow.haar(8, same))
    betas = [2.0 * k / 5 for k in range(6)]

    def log_ratio(x, before, after):
        return -system.action(x) * (after - before) / system.beta

    def move(x, beta, noise):
        if beta == betas[-1]:
            return x
        links = x.numpy().copy()
        heatbath.sweeps(links, beta, 2, 0, int(torch.randint(2**62, (1,), generator=noise)))
        return torch.from_numpy(links)

    end = anneal(start, log_ratio, move, betas, generator=same)
    torch.testing.assert_close(batch.x, end.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_weight, end.log_weight, rtol=0, atol=1e-10)


@pytest.mark.parametrize("group", ["U(1)", "SU(3)"])
def test_a_thermalised_start_gives_ratios_of_partition_functions(group):
    """From one coupling to another; the layers are trained from the one on."""
    low, high = {"U(1)": (2.0, 3.0), "SU(3)": (4.0, 5.0)}[group]
    system, start = (Gauge(group=group, shape=(3, 3), beta=beta) for beta in (high, low))
    flow = stochastic(system, start_beta=low)
    untrained = copy.deepcopy(flow)
    method = FlowRegression(flow, system, slabs=4)
    context = StubContext(32, seed=1, dtype=torch.float64)
    losses = [float(method.step({}, context)["loss"]) for _ in range(3)]
    assert sum(losses) < LOSS[group]
    exact = system.exact()["ln Z"] - start.exact()["ln Z"]
    spread = []
    truth = system.simulate(N, 1).replace(chain=None)
    for one in (flow, untrained):
        corrected = Corrected(one, system.action, "none")
        batch = corrected.propose(N, generator=generator(2))
        back = corrected.log_weight(truth, generator=generator(5))
        ratio, other = log_partition_function(batch.log_weight), log_partition_function(-back)
        assert 0 < ratio.error < 0.1
        assert abs(ratio.value - exact) < 4 * ratio.error
        assert abs(-other.value - exact) < 4.5 * other.error
        spread.append(float(batch.log_weight.var()))
    assert spread[0] < 0.3 * spread[1]


@pytest.mark.parametrize("beta", [2.0, 0.0])
def test_a_start_above_the_target_is_refused(beta):
    system = Gauge(group="U(1)", shape=(3, 3), beta=beta)
    with pytest.raises(RecipeError, match=r"surrogate\.start_beta = 2: the flow goes upwards"):
        stochastic(system, start_beta=2.0)


def test_a_start_above_the_least_of_several_couplings_is_refused():
    system = family(Gauge, {"group": "U(1)", "shape": (3, 3), "beta": (0.0, 5.0)})
    with pytest.raises(RecipeError, match="to beta = 0 first"):
        stochastic(system, start_beta=3.0)


def test_a_start_that_does_not_thermalise_is_refused():
    """The topological charge of random links is frozen in; that of unit links is 0."""
    system = Gauge(group="U(1)", shape=(8, 8), beta=8.0)
    with pytest.raises(DomainError, match=r"surrogate\.start_beta = 7: after 100 sweeps"):
        stochastic(system, start_beta=7.0).initialise(None)
    stochastic(Gauge(group="U(1)", shape=(8, 8), beta=3.0), start_beta=2.0).initialise(None)


@pytest.mark.parametrize("missing", [False, True])
def test_the_ratio_stands_beside_its_exact_value_by_its_name(missing):
    system = Gauge(group="U(1)", shape=(3, 3), beta=3.0)
    start = Gauge(group="U(1)", shape=(3, 3), beta=2.0)
    corrected = Corrected(stochastic(system, start_beta=2.0), system.action, "none")
    batch = corrected.propose(N, generator=generator(2))
    back = system.simulate(N, 1)
    weight = corrected.log_weight(back, generator=generator(3))
    truth = back.replace(log_weight=weight - 20 * missing * torch.arange(N) / N)
    comparison = Comparison(
        system=system, generated=batch, truth=truth, proposals=batch, reference=corrected.reference
    )
    rows = {row.name: row for row in Importance().rows(comparison)}
    row = rows["ln Z/Z(beta=2)"]
    assert "ln Z" not in rows
    if missing:
        assert row.value is None
        return
    assert row.exact == pytest.approx(system.exact()["ln Z"] - start.exact()["ln Z"])
    assert abs(row.pull) < 4


def test_contracts():
    system = Gauge(group="U(1)", shape=(3, 3))
    flow = stochastic(system)
    assert isinstance(flow, HasLogWeight)
    assert not isinstance(flow, HasDensity)
    assert Corrected(flow, system.action, "none").sample(3, generator=generator()).log_weight.dtype
    with pytest.raises(RecipeError, match=r"system\.kind=gauge"):
        StochasticGaugeFlow(system.schema, system=Phi4(shape=(4, 4)))
