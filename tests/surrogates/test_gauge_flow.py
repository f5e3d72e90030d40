"""Laws of gauge flows: velocity, divergence, log-determinant, symmetries, volumes, exact values."""

import itertools
import math

import numpy as np
import pytest
import torch
from links import differentiated, generators, some
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.sampling.manifold import not_unitary, stored
from physgen.sampling.reweighting import log_partition_function, reweighted_mean
from physgen.surrogates.base import HasDensity
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
from physgen.surrogates.flows.lattice.gauge import GaugeFlow
from physgen.surrogates.flows.lattice.regression import FlowRegression, derivatives
from physgen.surrogates.flows.reverse_kl import ReverseKL
from physgen.systems.gauge import Gauge
from physgen.systems.kernels import gauge_flow as kernel
from physgen.systems.scalar import Phi4
from physgen.transforms.affine import Standardise

GROUPS = {"U(1)": 1, "SU(2)": 2, "SU(3)": 3}
CASES = [
    *itertools.product(("U(1)", "SU(2)"), [(2, 2), (3, 3), (2, 3)]),
    ("SU(3)", (2, 3)),
    ("U(1)", (3, 2, 3)),
    ("SU(2)", (2, 2, 2)),
    ("U(1)", (2, 2, 2, 2)),
]


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def shaken(group, shape, size=0.02, **options):
    """A flow that is not the identity."""
    flow = GaugeFlow(Gauge(group=group, shape=shape).schema, **options).double()
    with torch.no_grad():
        flow.coefficients += size * torch.randn(flow.coefficients.shape, generator=generator(3))
    return flow


def stack(u):
    return np.ascontiguousarray(u.reshape(-1, *u.shape[-2:]).numpy())


@pytest.mark.parametrize(("group", "shape"), CASES)
def test_velocity_and_divergence_are_those_of_the_potential(group, shape):
    u, n = some(group, shape)[0], GROUPS[group]
    c = torch.randn(len(kernel.TERMS), generator=generator(7)).double()
    if n < 3:
        c[[3, 4]] = 0.0
    gradient, laplacian = differentiated(u, c.tolist())
    work, who = kernel.workspace(len(shape), n)
    velocity = np.empty_like(stack(u))
    found = kernel.slope(stack(u), kernel.lattice(shape), c.numpy(), work, who, velocity)
    assert found == pytest.approx(float(laplacian), rel=1e-10, abs=1e-9)
    expected = torch.einsum("ea,aij->eij", gradient.to(torch.complex128), generators(n))
    np.testing.assert_allclose(velocity, expected.numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("group", GROUPS)
def test_the_density_is_that_of_the_map(group):
    """ln q falls by ln |det|, the Jacobian taken link by link in the algebra."""
    flow = shaken(group, (2, 2), size=0.004, n_times=2, integration_steps=64)
    n, basis = GROUPS[group], generators(GROUPS[group]).numpy()
    start = stack(some(group, (2, 2))[0])[None]
    end = start.copy()
    change = flow.flow(end, 0.0, 1.0)[0]
    columns = []
    for link, t in itertools.product(range(len(start[0])), basis):
        column = 0.0
        # Differences of fourth order.
        for step, weight in ((1e-3, 8.0), (-1e-3, -8.0), (2e-3, -1.0), (-2e-3, 1.0)):
            moved = start.copy()
            algebra = torch.from_numpy(step * t)
            moved[0, link] = torch.linalg.matrix_exp(algebra).numpy() @ moved[0, link]
            flow.flow(moved, 0.0, 1.0)
            turned = (moved[0] - end[0]) @ end[0].conj().transpose(0, 2, 1)
            parts = np.einsum("aij,eij->ea", basis.conj(), turned).real * (1 if n == 1 else 2)
            column = column + weight * parts.ravel() / 12e-3
        columns.append(column)
    sign, log_det = np.linalg.slogdet(np.array(columns))
    assert sign == 1
    assert abs(change) > 0.0005
    assert log_det == pytest.approx(change, abs=1e-8)


@pytest.mark.parametrize(("group", "shape"), [*CASES, ("SU(3)", (2, 3, 2, 2))])
def test_the_map_keeps_the_symmetries_of_the_lattice(group, shape):
    flow = shaken(group, shape, integration_steps=2)
    system, d = Gauge(group=group, shape=shape), len(shape)
    x = flow.stored(flow.haar(2, generator()))

    def flowed(y):
        links = flow.matrices(y)
        change = flow.flow(links, 0.0, 1.0)
        return torch.from_numpy(links), torch.from_numpy(change)

    images = dict(system.moves())

    def links_of(y):
        return torch.from_numpy(flow.matrices(y)).reshape(2, d, *shape, flow.n, flow.n)

    def mirrored(y):
        """x_0 -> -x_0."""
        u = links_of(y)
        flipped = torch.flip(u, (2,))
        flipped[:, 0] = torch.roll(flipped[:, 0].mH, -1, 1)
        yield flow.stored(stack(flipped).reshape(2, -1, flow.n, flow.n))

    def exchanged(y):
        """The first two axes."""
        if shape[0] == shape[1]:
            u = links_of(y).transpose(2, 3)[:, [1, 0, *range(2, d)]]
            yield flow.stored(stack(u).reshape(2, -1, flow.n, flow.n))

    images |= {"reflection": mirrored, "rotation": exchanged}
    end, change = flowed(x)
    assert (end - torch.from_numpy(flow.matrices(x))).abs().max() > 1e-3
    for name, move in images.items():
        pairs = zip(move(x), move(flow.stored(end.numpy())), strict=True)
        for before, expected in pairs:
            found, other = flowed(before)
            target = torch.from_numpy(flow.matrices(expected))
            torch.testing.assert_close(found, target, rtol=0, atol=1e-10, msg=name)
            torch.testing.assert_close(other, change, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("group", "shape"), [("U(1)", (3, 3)), ("SU(2)", (3, 3)), ("SU(3)", (3, 3))]
)
def test_the_way_back_gives_the_density_of_the_way_there(group, shape):
    flow = shaken(group, shape, size=0.004, n_times=2, integration_steps=32)
    batch, log_prob = flow.sample_with_log_prob(3, generator=generator())
    assert log_prob.abs().min() > 1e-4
    torch.testing.assert_close(flow.log_prob(batch), log_prob, rtol=0, atol=1e-6)
    if group != "U(1)":
        assert not_unitary(batch.x).max() < 1e-12
    precise = flow.high_precision()
    assert precise.integration_steps == 64


def test_the_error_of_the_steps_falls_with_their_third_power():
    flow, ends = shaken("SU(2)", (3, 3)), {}
    start = flow.haar(1, generator())
    for steps in (8, 16, 64):
        flow.integration_steps, links = steps, start.copy()
        ends[steps] = flow.flow(links, 0.0, 1.0)[0]
    ratio = abs(ends[8] - ends[64]) / abs(ends[16] - ends[64])
    assert 6.5 < ratio < 9.5


@pytest.mark.parametrize("group", GROUPS)
def test_the_density_integrates_to_one_over_haar_measure(group):
    flow = shaken(group, (2, 3), size=0.015, integration_steps=4)
    x = flow.stored(flow.haar(1000, generator(2)))
    density = flow.log_prob(Batch(x)).exp()
    error = float(density.std()) / math.sqrt(len(density))
    assert 0.001 < error < 0.1
    assert abs(float(density.mean()) - 1) < 4 * error


def fitted(group, shape, beta, steps=2, batch=24):
    system = Gauge(group=group, shape=shape, beta=beta)
    flow = GaugeFlow(system.schema, n_times=3).double()
    method = FlowRegression(flow, system, slabs=5)
    context = StubContext(batch, seed=1, dtype=torch.float64)
    losses = [float(method.step({}, context)["loss"]) for _ in range(steps)]
    return system, flow, losses


@pytest.mark.parametrize(("group", "beta"), [("U(1)", 1.0), ("SU(2)", 2.2), ("SU(3)", 4.0)])
def test_regression_finds_the_partition_function_and_transfers_to_another_volume(group, beta):
    _, flow, losses = fitted(group, (3, 3), beta)
    assert losses[-1] < 0.5
    for shape in ((3, 3), (3, 5)):
        system = Gauge(group=group, shape=shape, beta=beta)
        other = GaugeFlow(system.schema, n_times=3, integration_steps=4)
        other.load_state_dict(flow.state_dict())
        batch = Corrected(other, system.action, "none").propose(300, generator=generator())
        found, exact = log_partition_function(batch.log_weight), system.exact()
        spread = float(batch.log_weight.std())
        untrained = system.action(other.double().stored(other.haar(300, generator()))).std()
        assert spread < 0.25 * float(untrained)
        assert abs(found.value - exact["ln Z"]) < 4 * found.error + 1e-3
        measured = system.observables(batch)["plaquette"]
        plaquette = reweighted_mean(measured, batch.log_weight)
        assert abs(plaquette.value - exact["plaquette"]) < 4 * plaquette.error


def test_derivatives_along_the_action_are_differences():
    """<grad W_i, grad W> is the rate of W_i where links move along grad W."""
    flow = GaugeFlow(Gauge(group="SU(3)", shape=(3, 3)).schema).double()
    x = flow.stored(flow.haar(2, generator()))
    _, along, total = derivatives(flow, x)
    moved, eps = flow.matrices(x), 1e-5
    with torch.no_grad():
        flow.coefficients.zero_()
        flow.coefficients[0, 0] = 1.0  # Phi = W
    flow.integration_steps = 1
    flow.flow(moved, 0.0, eps)
    after = derivatives(flow, flow.stored(moved))[2]
    np.testing.assert_allclose((after - total) / eps, along[:, 0], rtol=1e-3)
    assert flow.terms[0] == kernel.TERMS.index("u")


def test_contracts_and_what_cannot_be_built():
    system = Gauge(group="SU(2)", shape=(3, 3))
    flow = GaugeFlow(system.schema)
    assert isinstance(flow, HasDensity)
    assert flow.sample(3, seed=1).x.dtype == torch.float32
    with pytest.raises(RecipeError, match="leave 'transform' empty"):
        GaugeFlow(system.schema, Standardise(Schema((4,), (Variable("x"),))))
    with pytest.raises(RecipeError, match="links"):
        GaugeFlow(Phi4(shape=(4, 4)).schema)
    with pytest.raises(RecipeError, match=r"system\.kind=gauge"):
        FlowRegression(flow, Phi4(shape=(4, 4)))
    with pytest.raises(RecipeError, match="gauge flows"):
        FlowRegression(ContinuousLatticeFlow(Phi4(shape=(4, 4)).schema), system)
    with pytest.raises(RecipeError):
        ReverseKL(flow, system)
    assert stored(torch.eye(2, dtype=torch.complex128)).shape == (2, 2, 2)
