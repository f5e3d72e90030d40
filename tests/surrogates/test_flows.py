"""Laws of every flow, tested over a dict of constructors: a new layer costs one line."""

import math

import normflows
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.surrogates.base import FromNoise, HasBound, HasDensity
from physgen.surrogates.flows.coupling import LOG_SCALE_LIMIT, AffineCoupling, SplineCoupling
from physgen.surrogates.flows.likelihood import MaximumLikelihood
from physgen.surrogates.flows.spline import (
    BIN_LIMIT,
    SLOPE_LIMIT,
    circular_spline,
    soft_bound,
    tail_spline,
)
from physgen.surrogates.flows.stack import CouplingFlow, CouplingStack, DequantisedFlow
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.quantile import Gaussianise

FEATURES, CONDITIONS = 5, 2
BIJECTIONS = {
    "affine coupling": lambda c: AffineCoupling(FEATURES, 2, c, hidden=(8,)),
    "affine coupling of all": lambda c: AffineCoupling(FEATURES, 0, c, hidden=(8,)),
    "spline coupling": lambda c: SplineCoupling(FEATURES, 3, c, hidden=(8,), bound=3.0),
    "affine stack": lambda c: CouplingStack(FEATURES, c, coupling="affine", hidden=(8, 8)),
    "spline stack": lambda c: CouplingStack(FEATURES, c, n_layers=5, hidden=(8,), bins=4),
    "one feature": lambda c: CouplingStack(1, c, n_layers=3, hidden=(8,)),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randomised(module, scale=0.3):
    """New layers are the identity, which would satisfy most laws for the wrong reason."""
    noise = generator(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=noise))
    return module


@pytest.fixture(params=[0, CONDITIONS], ids=["unconditional", "conditional"])
def n_condition(request):
    return request.param


@pytest.fixture(params=BIJECTIONS)
def case(request, n_condition):
    """A bijection with random weights, and float64 inputs for it."""
    flow = randomised(BIJECTIONS[request.param](n_condition).double())
    features = getattr(flow, "features", FEATURES)
    x = torch.randn(20, features, generator=generator(2), dtype=torch.float64)
    c = torch.randn(20, CONDITIONS, generator=generator(3), dtype=torch.float64)
    return flow, x, c if n_condition else None


def test_inverse_undoes_forward_and_log_dets_cancel(case):
    flow, x, c = case
    z, log_det = flow(x, c)
    back, log_det_back = flow.inverse(z, c)
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-7, atol=1e-7)
    assert (z - x).abs().max() > 1e-2


def test_log_det_is_that_of_the_jacobian(case):
    flow, x, c = case
    for row in range(3):
        cond = None if c is None else c[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, u=cond: flow(v[None], u)[0][0], x[row]
        )
        expected = jacobian.slogdet()[1]
        torch.testing.assert_close(flow(x[row : row + 1], cond)[1][0], expected)


def test_condition_is_used(case):
    flow, x, c = case
    if c is None:
        pytest.skip("no condition")
    assert (flow(x, c)[0] - flow(x, c.flip(0))[0]).abs().max() > 1e-3


def test_every_parameter_gets_a_gradient(case):
    flow, x, c = case
    z, log_det = flow(3 * x, c)
    (z.square().sum() - log_det.sum()).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_new_flows_are_the_identity_up_to_order():
    for build in BIJECTIONS.values():
        flow = build(0)
        x = torch.randn(4, getattr(flow, "features", FEATURES), generator=generator())
        z, log_det = flow(x)
        torch.testing.assert_close(z.sort(-1).values, x.sort(-1).values)
        torch.testing.assert_close(log_det, torch.zeros(4), atol=1e-5, rtol=0)


def test_float64_stays_float64(case):
    flow, x, c = case
    assert {t.dtype for t in (*flow(x, c), *flow.inverse(x, c))} == {torch.float64}


# --- splines --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, 1e-4), (10.0, 0.5)])
def test_float32_round_trip_at_random_parameters(scale, tolerance):
    x = 3 * torch.randn(400, 50, generator=generator())
    raw = scale * torch.randn(400, 50, 23, generator=generator(1))
    y, log_slope = tail_spline(x, raw)
    back, log_slope_back = tail_spline(y, raw, inverse=True)
    for value in (y, log_slope, back, log_slope_back):
        assert value.isfinite().all()
    # Where the spline is all but flat x is not determined by y, but y is reached again.
    again, _ = tail_spline(back, raw)
    assert (again - y).abs().max() < 1e-3
    assert (back - x).abs().max() < tolerance


def test_extreme_parameters_have_finite_gradients():
    x = torch.randn(100, 10, generator=generator()).requires_grad_()
    raw = (1e4 * torch.randn(100, 10, 23, generator=generator(1))).requires_grad_()
    for inverse in (False, True):
        y, log_slope = tail_spline(x, raw, inverse=inverse)
        gradients = torch.autograd.grad(y.sum() + log_slope.sum(), (x, raw))
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_spline_is_monotonic_and_smooth_at_its_tails():
    raw = 2 * torch.randn(1, 1, 23, generator=generator(), dtype=torch.float64)
    x = torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None]
    y, log_slope = tail_spline(x, raw.expand(len(x), 1, 23), bound=5.0)
    assert (y.diff(dim=0) > 0).all()
    numeric = y.diff(dim=0) / x.diff(dim=0)
    torch.testing.assert_close(numeric, log_slope[1:].exp(), rtol=2e-2, atol=1e-2)
    outside = x.abs() >= 5
    assert torch.equal(y[outside], x[outside])
    assert (log_slope[x.abs() < 5][[0, -1]]).abs().max() < 2e-2


def test_circular_spline_is_a_smooth_bijection_of_the_circle():
    raw = 2 * torch.randn(1, 1, 24, generator=generator(), dtype=torch.float64)
    x = torch.linspace(-math.pi, math.pi, 5001, dtype=torch.float64)[:-1, None]
    y, log_slope = circular_spline(x, raw.expand(5000, 1, 24))
    assert (y.diff(dim=0) > 0).all()
    back, log_back = circular_spline(y, raw.expand(5000, 1, 24), inverse=True)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_back, -log_slope, rtol=1e-6, atol=1e-8)
    seam = torch.tensor([[-math.pi], [math.pi - 1e-9]], dtype=torch.float64)
    left, right = circular_spline(seam, raw.expand(2, 1, 24))[1]
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)
    assert log_slope.exp().mean().item() == pytest.approx(1.0, abs=1e-3)
    turned, _ = circular_spline(x + 2 * math.pi, raw.expand(5000, 1, 24))
    torch.testing.assert_close(turned, y, rtol=1e-9, atol=1e-9)


def test_spline_agrees_with_normflows_for_the_same_knots():
    from normflows.utils.splines import rational_quadratic_spline

    x = 1.5 * torch.randn(200, 3, generator=generator(), dtype=torch.float64)
    raw = torch.randn(200, 3, 23, generator=generator(1), dtype=torch.float64)
    y, log_slope = tail_spline(x, raw, bound=4.0)
    inside = x.abs() < 4
    # Theirs takes a softmax and a softplus of its own; minima near 0 leave them alone.
    slopes = nn.functional.pad(soft_bound(raw[..., 16:], SLOPE_LIMIT), (1, 1)).exp()
    theirs, log_theirs = rational_quadratic_spline(
        inputs=x[inside],
        unnormalized_widths=soft_bound(raw[..., :8], BIN_LIMIT)[inside],
        unnormalized_heights=soft_bound(raw[..., 8:16], BIN_LIMIT)[inside],
        unnormalized_derivatives=slopes.expm1().log()[inside],
        left=-4.0,
        right=4.0,
        bottom=-4.0,
        top=4.0,
        min_bin_width=1e-12,
        min_bin_height=1e-12,
        min_derivative=1e-12,
    )
    torch.testing.assert_close(y[inside], theirs, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_slope[inside], log_theirs, rtol=1e-7, atol=1e-7)


def test_affine_coupling_agrees_with_normflows_for_the_same_network():
    ours = randomised(AffineCoupling(4, 2, hidden=(8,)).double())

    class Interleaved(nn.Module):
        def forward(self, a):
            raw, shift = ours.network(a).chunk(2, -1)
            return torch.stack([shift, soft_bound(raw, LOG_SCALE_LIMIT)], -1).flatten(1)

    theirs = normflows.flows.AffineCoupling(Interleaved())
    x = torch.randn(10, 4, generator=generator(), dtype=torch.float64)
    (passive, active), log_det = theirs([x[:, :2], x[:, 2:]])
    z, our_log_det = ours(x)
    torch.testing.assert_close(z, torch.cat([active, passive], -1))
    torch.testing.assert_close(our_log_det, log_det)


# --- surrogates -----------------------------------------------------------------------------------

SCHEMA = Schema(
    (3,),
    (Variable("a", "GeV", low=0.0), Variable("b"), Variable("n", domain="integer")),
    (Variable("energy", "GeV"),),
)
REAL = Schema((3,), (*SCHEMA.variables[:2], Variable("d")), SCHEMA.condition)


def data(n=2000):
    noise = generator(4)
    energy = 1 + 9 * torch.rand(n, 1, generator=noise)
    a = energy[:, 0] * torch.empty(n).exponential_(generator=noise)
    b = torch.randn(n, generator=noise) + energy[:, 0]
    count = torch.poisson(energy[:, 0] / 3, generator=noise)
    return Batch(torch.stack([a, b, count], -1), energy)


def smooth():
    batch = data()
    return batch.replace(x=torch.cat([batch.x[:, :2], batch.x[:, :1] + batch.x[:, 1:2]], -1))


SURROGATES = {
    "bare": lambda: (CouplingFlow(REAL, n_layers=4, hidden=(8,)), smooth()),
    "standardised": lambda: (
        CouplingFlow(
            REAL, Chain([Standardise(REAL, log=("a", "energy"))]), n_layers=4, coupling="affine"
        ),
        smooth(),
    ),
    "gaussianised": lambda: (
        CouplingFlow(REAL, Chain([Gaussianise(REAL, atoms=0), Standardise(REAL)]), n_layers=4),
        smooth(),
    ),
    "dequantised": lambda: (
        DequantisedFlow(SCHEMA, Chain([Gaussianise(SCHEMA), Standardise(SCHEMA)]), n_layers=4),
        data(),
    ),
}


@pytest.fixture(params=SURROGATES)
def surrogate(request):
    model, batch = SURROGATES[request.param]()
    randomised(model, 0.2)
    model.initialise(batch)
    return model, batch, SURROGATES[request.param]


def test_protocols_say_what_a_flow_knows(surrogate):
    model, _, _ = surrogate
    assert isinstance(model, FromNoise)
    assert isinstance(model, HasDensity) == isinstance(model, CouplingFlow)
    assert isinstance(model, HasBound) == isinstance(model, DequantisedFlow)


def test_seeds_decide_the_samples_and_conditions_come_from_the_prior(surrogate):
    model, batch, _ = surrogate
    first = model.sample(50, generator=generator(7))
    again = model.sample(50, generator=generator(7))
    other = model.sample(50, generator=generator(8))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert torch.isin(first.condition, batch.condition).all()
    pushed = model.push(torch.zeros(1, *model.noise_shape), batch.condition[:1])
    assert pushed.shape == (1, 3)


def test_saved_and_loaded_weights_give_the_same_samples(surrogate, tmp_path):
    model, _, build = surrogate
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    fresh, _ = build()
    fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    a, b = (m.sample(20, generator=generator(1)).x for m in (model, fresh))
    assert torch.equal(a, b)


def test_density_of_samples_agrees_and_integrates_to_one():
    schema = Schema((1,), (Variable("a", low=0.0),), (Variable("energy"),))
    model = randomised(
        CouplingFlow(schema, Chain([Standardise(schema, log=("a",))]), n_layers=3, hidden=(8,))
    ).double()
    batch = Batch(smooth().x[:, :1], smooth().condition).to(dtype=torch.float64)
    model.initialise(batch)
    condition = torch.full((400, 1), 5.0, dtype=torch.float64)
    samples, log_q = model.sample_with_log_prob(400, condition, generator=generator())
    torch.testing.assert_close(model.log_prob(samples), log_q, rtol=1e-6, atol=1e-6)
    grid = torch.linspace(-12, 12, 40_001, dtype=torch.float64).exp()[:, None]
    with torch.no_grad():
        density = model.log_prob(Batch(grid, condition[:1].expand(len(grid), 1))).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-4)


def test_bound_lies_below_the_exact_log_probability():
    """One integer column: P(n) is the latent mass of its interval, by quadrature."""
    schema = Schema((1,), (Variable("n", domain="integer"),))
    x = torch.poisson(torch.full((3000, 1), 2.0), generator=generator()).double()
    model = randomised(DequantisedFlow(schema, Gaussianise(schema), n_layers=2, hidden=(8,)))
    model = model.double()
    model.initialise(Batch(x))
    value = torch.full((4000, 1), 2.0, dtype=torch.float64)
    with torch.no_grad():
        bound = model.elbo(Batch(value), generator=generator()).mean()
        z = torch.linspace(-8, 8, 200_001, dtype=torch.float64)[:, None]
        density = model.latent_log_prob(Batch(z)).exp()
        inside = model.transform.inverse(Batch(z)).x[:, 0] == 2
        exact = (density * inside).sum().mul(z[1, 0] - z[0, 0]).log()
    assert exact - 0.5 < bound < exact


def test_an_inexact_transform_needs_the_dequantised_flow():
    with pytest.raises(RecipeError, match="dequantised-flow"):
        CouplingFlow(SCHEMA, Gaussianise(SCHEMA))


class Context:
    """The engine's part of a step, without the engine."""

    step, batch_size = 0, 64

    def __init__(self):
        self.generator = generator(9)

    def randn(self, *shape):
        return torch.randn(self.batch_size, *shape, generator=self.generator)

    def minimise(self, loss, optimiser, *arguments):
        losses = loss(*arguments)
        weight = next((a.weight for a in arguments if isinstance(a, Batch)), None)
        weight = torch.ones_like(losses) if weight is None else weight
        mean = (weight * losses).sum() / weight.sum()
        optimiser.zero_grad()
        mean.backward()
        optimiser.step()
        return mean.detach()


def test_maximum_likelihood_learns_a_conditional_mean_with_weights():
    torch.manual_seed(0)
    schema = Schema((2,), (Variable("x"), Variable("y")), (Variable("c"),))
    noise = generator(5)
    c = torch.rand(4096, 1, generator=noise) * 2 - 1
    x = torch.cat([2 * c, -c], -1) + 0.3 * torch.randn(4096, 2, generator=noise)
    # Rows of weight 0 would teach the opposite.
    batch = Batch(
        torch.cat([x, -x]), torch.cat([c, c]), torch.cat([torch.ones(4096), torch.zeros(4096)])
    )
    model = CouplingFlow(schema, Standardise(schema), n_layers=4, hidden=(16,), coupling="affine")
    model.initialise(batch)
    method = MaximumLikelihood(model, learning_rate=1e-2)
    prepared = method.prepare(batch, noise)
    for _ in range(120):
        rows = torch.randint(len(batch), (512,), generator=noise)
        loss = method.step({"data": prepared[rows]}, Context())["loss"]
    assert not loss.requires_grad
    condition = torch.full((2000, 1), 0.8)
    samples = model.sample(2000, condition, generator=generator()).x
    assert (samples.mean(0) - torch.tensor([1.6, -0.8])).abs().max() < 0.15
    assert (samples.std(0) - 0.3).abs().max() < 0.12


def test_maximum_likelihood_refuses_what_has_no_density():
    from physgen.surrogates.autoencoders.vae import VAE

    with pytest.raises(RecipeError, match="VAE has not"):
        MaximumLikelihood(VAE(REAL))


def test_export_with_a_dynamic_batch():
    model = randomised(CouplingStack(4, 1, n_layers=3, hidden=(8,), bins=4)).eval()

    class Inverse(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = model

        def forward(self, z, c):
            return self.stack.inverse(z, c)[0]

    z, c = torch.randn(7, 4, generator=generator()), torch.randn(7, 1, generator=generator(1))
    batch = torch.export.Dim("batch", min=2, max=4096)
    exported = torch.export.export(
        Inverse(), (z[:3], c[:3]), dynamic_shapes={"z": {0: batch}, "c": {0: batch}}
    )
    torch.testing.assert_close(exported.module()(z, c), model.inverse(z, c)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_compiles_without_graph_breaks(coupling):
    model = randomised(CouplingStack(4, 1, n_layers=3, hidden=(8,), bins=4, coupling=coupling))
    x, c = torch.randn(16, 4, generator=generator()), torch.randn(16, 1, generator=generator(1))
    for function in (model.log_prob, lambda x, c: model.inverse(x, c)[0]):
        compiled = torch.compile(function, fullgraph=True)
        torch.testing.assert_close(compiled(x, c), function(x, c), rtol=1e-4, atol=1e-4)
