"""Gauge flows of which beta is a condition: one training for all couplings up to the largest."""

import numpy as np
import pytest
import torch
from stub import StubContext
from test_gauge_flow import fitted, generator, shaken

import physgen
from physgen.batch import Batch
from physgen.errors import DomainError, RecipeError
from physgen.sampling.reweighting import log_partition_function, reweighted_mean
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.lattice.gauge import GaugeFlow
from physgen.surrogates.flows.lattice.regression import FlowRegression
from physgen.surrogates.flows.lattice.stochastic import StochasticGaugeFlow
from physgen.systems.family import family
from physgen.systems.gauge import Gauge
from physgen.systems.scalar import Phi4
from physgen.systems.schwinger import Schwinger

KINDS = ("gauge-flow", "stochastic-gauge-flow")
N = 128


def theories(group, beta, shape=(3, 3)):
    return family(Gauge, {"group": group, "shape": shape, "beta": beta})


def flow_of(kind, system):
    options = {"n_times": 3, "integration_steps": 4}
    if kind == "gauge-flow":
        flow = GaugeFlow(system.schema, **options)
    else:
        flow = StochasticGaugeFlow(system.schema, system=system, layers=4, **options)
    return flow.double()


def trained(kind, system, steps=2, batch=24):
    flow = flow_of(kind, system)
    method, context = (
        FlowRegression(flow, system, slabs=5),
        StubContext(batch, seed=1, dtype=torch.float64),
    )
    for _ in range(steps):
        method.step({}, context)
    return flow


def at(beta, n):
    return torch.full((n, 1), beta, dtype=torch.float64)


def share_of(log_weight):
    """ESS a sample."""
    w = (log_weight - log_weight.max()).exp()
    return float(w.sum() ** 2 / (len(w) * (w * w).sum()))


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_largest_coupling_it_is_the_flow_trained_to_it(kind):
    """To the last bit, the coefficients included; the order of the list does not matter."""
    many, one = theories("SU(2)", (2.0, 1.0)), Gauge(group="SU(2)", shape=(3, 3), beta=2.0)
    flow, single = trained(kind, many), trained(kind, one)
    assert bool((flow.coefficients != 0).any())
    torch.testing.assert_close(flow.coefficients, single.coefficients, rtol=0, atol=0)
    found = Corrected(flow, many.action, "none").propose(8, at(2.0, 8), generator=generator())
    wanted = Corrected(single, one.action, "none").propose(8, generator=generator())
    torch.testing.assert_close(found.x, wanted.x, rtol=0, atol=0)
    torch.testing.assert_close(found.log_weight, wanted.log_weight, rtol=0, atol=1e-12)


def test_rows_of_several_couplings_stop_at_their_times():
    many = theories("SU(2)", (0.0, 2.0))
    flow, plain = flow_of("gauge-flow", many), shaken("SU(2)", (3, 3), n_times=3)
    flow.conditions.span(*many.bounds)
    with torch.no_grad():
        flow.coefficients.copy_(plain.coefficients)
    condition = torch.tensor([[2.0], [0.5], [0.0], [0.5]], dtype=torch.float64)
    batch, log_prob = flow.sample_with_log_prob(4, condition, generator=generator())
    start = flow.haar(4, generator())
    for row, time in enumerate((1.0, 0.25, 0.0, 0.25)):
        links = start[row : row + 1].copy()
        change = flow.flow(links, 0.0, time)
        np.testing.assert_allclose(flow.matrices(batch.x[row : row + 1]), links, atol=1e-12)
        assert float(log_prob[row]) == pytest.approx(-change[0], abs=1e-12)
    torch.testing.assert_close(batch.condition, condition)
    assert log_prob[2] == 0
    flow.integration_steps = 64
    batch, log_prob = flow.sample_with_log_prob(4, condition, generator=generator())
    torch.testing.assert_close(flow.log_prob(batch), log_prob, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "group", "beta"),
    [
        ("gauge-flow", "SU(3)", 5.0),
        ("stochastic-gauge-flow", "SU(2)", 2.4),
        ("stochastic-gauge-flow", "U(1)", 1.5),
    ],
)
def test_one_training_has_the_exact_values_of_all_couplings(kind, group, beta):
    betas = (0.4 * beta, 0.7 * beta, beta)
    many = theories(group, betas)
    corrected = Corrected(trained(kind, many), many.action, "none")
    for number, coupling in enumerate(betas[:2]):
        one = Gauge(group=group, shape=(3, 3), beta=coupling)
        batch = corrected.propose(N, at(coupling, N), generator=generator(4 + number))
        ln_z = log_partition_function(batch.log_weight)
        assert 0 < ln_z.error < 0.1
        assert abs(ln_z.value - one.exact()["ln Z"]) < 4 * ln_z.error + 1e-3
        measured = one.observables(Batch(batch.x))["plaquette"]
        plaquette = reweighted_mean(measured, batch.log_weight)
        assert abs(plaquette.value - one.exact()["plaquette"]) < 4 * plaquette.error
        truth = one.simulate(N, 1).replace(chain=None, condition=at(coupling, N))
        back = log_partition_function(-corrected.log_weight(truth, generator=generator(9)))
        assert abs(-back.value - one.exact()["ln Z"]) < 4.5 * back.error + 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_below_the_largest_coupling_it_is_as_good_as_a_flow_trained_to_it(kind):
    many, beta = theories("SU(3)", (3.0, 4.2, 6.0), (4, 4)), 4.2
    one = Gauge(group="SU(3)", shape=(4, 4), beta=beta)
    share = {}
    for name, system, condition in (("many", many, at(beta, 1024)), ("one", one, None)):
        flow = trained(kind, system, steps=4, batch=48)
        corrected = Corrected(flow, system.action, "none")
        batch = corrected.propose(1024, condition, generator=generator())
        share[name] = share_of(batch.log_weight)
    assert share["one"] > 0.8
    assert share["many"] > share["one"] - 0.02


def test_other_couplings_are_refused():
    many = theories("U(1)", (1.0, 2.0))
    weigh = {
        "gauge-flow": lambda flow, batch: flow.log_prob(batch),
        "stochastic-gauge-flow": lambda flow, batch: flow.log_weight(
            batch, many.action, generator=generator()
        ),
    }
    for kind in KINDS:
        flow = trained(kind, many, steps=1, batch=4)
        corrected = Corrected(flow, many.action, "none")
        x = flow.sample(3, at(1.5, 3), seed=1).x
        for wrong in (0.5, 2.1):
            with pytest.raises(DomainError, match=r"beta = .*\[1, 2\]"):
                corrected.propose(3, at(wrong, 3), generator=generator())
            with pytest.raises(DomainError, match=r"beta = .*\[1, 2\]"):
                corrected.log_weight(Batch(x, at(wrong, 3)), generator=generator())
        with pytest.raises(DomainError, match="expected one beta a sample"):
            weigh[kind](flow, Batch(x))
        drawn = flow.sample(50, seed=1).condition
        assert drawn.min() >= 1
        assert drawn.max() <= 2
        assert drawn.std() > 0.1
    _, single, _ = fitted("U(1)", (3, 3), 2.0, steps=1, batch=4)
    with pytest.raises(DomainError, match="expected none"):
        single.log_prob(Batch(x, at(1.5, 3)))
    with pytest.raises(DomainError, match="do not pass any"):
        single.sample(3, at(1.5, 3), seed=1)


def test_what_is_no_family_of_gauge_theories_is_refused():
    flow = flow_of("gauge-flow", theories("U(1)", (1.0, 2.0)))
    scalar = family(Phi4, {"shape": (4, 4), "lam": (4.0, 5.0)})
    with pytest.raises(RecipeError, match=r"system\.kind=gauge"):
        FlowRegression(flow, scalar)
    with pytest.raises(RecipeError, match=r"system\.kind=gauge"):
        StochasticGaugeFlow(flow.schema, system=scalar)
    fermions = family(Schwinger, {"shape": (4, 4), "beta": 2.0, "kappa": (0.1, 0.2)})
    with pytest.raises(RecipeError, match="at conditions kappa"):
        GaugeFlow(fermions.schema)


@pytest.mark.slow
def test_a_run_is_judged_and_corrected_at_each_coupling(tmp_path):
    changes = {
        "system.group": "U(1)",
        "system.shape": [3, 3],
        "system.beta": [0.5, 1.0],
        "surrogate.layers": 2,
        "surrogate.integration_steps": 2,
        "engine.steps": 1,
        "sampling.n": 600,
    }
    run = physgen.train("su3-2d-range", changes, runs=tmp_path, track=False)
    rows = {row.name: row for row in run.scorecard.rows}
    for beta in (0.5, 1.0):
        assert rows[f"ESS at beta={beta:g}"].value > 0.8
        assert rows[f"ESS on truth at beta={beta:g}"].value > 0.8
        assert rows[f"ln Z at beta={beta:g}"].exact_source == "exact"
        assert abs(rows[f"ln Z at beta={beta:g}"].pull) < 4.5
        assert abs(rows[f"plaquette at beta={beta:g}"].pull) < 4.5
    sampler = physgen.load(run)
    batch = sampler.sample(6, seed=1, condition={"beta": [0.8, 0.6] * 3})
    assert batch.condition[:, 0].tolist() == [0.8, 0.6] * 3
    with pytest.raises(DomainError, match=r"outside the trained domain \[0.5, 1\]"):
        sampler.sample(6, seed=1, condition={"beta": 1.2})
