"""Laws of every flow, tested over a dict of constructors: a new layer costs one line."""

import math

import normflows
import pytest
import torch
from randomised import generator, randomised
from torch import nn

from physgen.surrogates.flows.autoregressive import (
    AutoregressiveLayer,
    AutoregressiveOptions,
    AutoregressiveStack,
)
from physgen.surrogates.flows.continuous import ContinuousBijection, ContinuousOptions
from physgen.surrogates.flows.coupling import LOG_SCALE_LIMIT, AffineCoupling, Knots, SplineCoupling
from physgen.surrogates.flows.spline import (
    BIN_LIMIT,
    SLOPE_LIMIT,
    circular_spline,
    softclip,
    tail_spline,
)
from physgen.surrogates.flows.stack import CouplingOptions, CouplingStack

FEATURES, CONDITIONS = 5, 2
BIJECTIONS = {
    "affine coupling": lambda c: AffineCoupling(FEATURES, 2, c, hidden=(8,)),
    "affine coupling of all": lambda c: AffineCoupling(FEATURES, 0, c, hidden=(8,)),
    "spline coupling": lambda c: SplineCoupling(
        FEATURES, 3, c, hidden=(8,), knots=Knots(bound=3.0)
    ),
    "affine stack": lambda c: CouplingStack(
        FEATURES, c, options=CouplingOptions(layer="affine", hidden=(8, 8))
    ),
    "spline stack": lambda c: CouplingStack(
        FEATURES, c, options=CouplingOptions(n_layers=5, hidden=(8,), bins=4)
    ),
    "one feature": lambda c: CouplingStack(1, c, options=CouplingOptions(n_layers=3, hidden=(8,))),
    "autoregressive layer": lambda c: AutoregressiveLayer(
        FEATURES, c, options=AutoregressiveOptions(hidden=16)
    ),
    "masked autoregressive": lambda c: AutoregressiveStack(
        FEATURES, c, options=AutoregressiveOptions(hidden=16)
    ),
    "masked autoregressive spline": lambda c: AutoregressiveStack(
        FEATURES, c, options=AutoregressiveOptions(n_layers=2, hidden=16, layer="spline", bins=4)
    ),
    "inverse autoregressive": lambda c: AutoregressiveStack(
        FEATURES, c, options=AutoregressiveOptions(n_layers=3, hidden=16, fast="sampling")
    ),
    "inverse autoregressive spline": lambda c: AutoregressiveStack(
        FEATURES,
        c,
        options=AutoregressiveOptions(
            n_layers=2, hidden=16, layer="spline", bins=4, fast="sampling"
        ),
    ),
    "continuous": lambda c: ContinuousBijection(
        FEATURES, c, options=ContinuousOptions(hidden=16, integration_steps=40)
    ),
}


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
    slopes = nn.functional.pad(softclip(raw[..., 16:], SLOPE_LIMIT), (1, 1)).exp()
    theirs, log_theirs = rational_quadratic_spline(
        inputs=x[inside],
        unnormalized_widths=softclip(raw[..., :8], BIN_LIMIT)[inside],
        unnormalized_heights=softclip(raw[..., 8:16], BIN_LIMIT)[inside],
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
            return torch.stack([shift, softclip(raw, LOG_SCALE_LIMIT)], -1).flatten(1)

    theirs = normflows.flows.AffineCoupling(Interleaved())
    x = torch.randn(10, 4, generator=generator(), dtype=torch.float64)
    (passive, active), log_det = theirs([x[:, :2], x[:, 2:]])
    z, our_log_det = ours(x)
    torch.testing.assert_close(z, torch.cat([active, passive], -1))
    torch.testing.assert_close(our_log_det, log_det)


EXPORTED = {
    "spline stack": lambda: CouplingStack(
        4, 1, options=CouplingOptions(n_layers=3, hidden=(8,), bins=4)
    ),
    "masked autoregressive": lambda: AutoregressiveStack(
        4, 1, options=AutoregressiveOptions(n_layers=2, hidden=8)
    ),
    "inverse autoregressive": lambda: AutoregressiveStack(
        4,
        1,
        options=AutoregressiveOptions(
            n_layers=2, hidden=8, layer="spline", bins=4, fast="sampling"
        ),
    ),
    "continuous": lambda: ContinuousBijection(
        4, 1, options=ContinuousOptions(hidden=8, integration_steps=2)
    ),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_export_with_a_dynamic_batch(name):
    model = randomised(EXPORTED[name]()).eval()

    class Push(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = model

        def forward(self, z, c):
            return self.flow.from_noise(z, c)

    z, c = torch.randn(7, 4, generator=generator()), torch.randn(7, 1, generator=generator(1))
    batch = torch.export.Dim("batch", min=2, max=4096)
    exported = torch.export.export(
        Push(), (z[:3], c[:3]), dynamic_shapes={"z": {0: batch}, "c": {0: batch}}
    )
    torch.testing.assert_close(exported.module()(z, c), model.inverse(z, c)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("coupling", ["affine", "spline"])
def test_compiles_without_graph_breaks(coupling):
    model = randomised(
        CouplingStack(
            4, 1, options=CouplingOptions(n_layers=3, hidden=(8,), bins=4, layer=coupling)
        )
    )
    x, c = torch.randn(16, 4, generator=generator()), torch.randn(16, 1, generator=generator(1))
    for function in (model.log_prob, lambda x, c: model.inverse(x, c)[0]):
        compiled = torch.compile(function, fullgraph=True)
        torch.testing.assert_close(compiled(x, c), function(x, c), rtol=1e-4, atol=1e-4)
