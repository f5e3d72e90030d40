"""Flows of normflows as surrogates, and our layers inside containers of normflows."""

import math

import normflows
import pytest
import torch
from safetensors.torch import load_file, save_file
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.surrogates.base import FromNoise, bound_of, density_of
from physgen.surrogates.flows.coupling import AffineCoupling
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.flows.likelihood import MaximumLikelihood
from physgen.surrogates.flows.normflows import (
    NormflowsLayer,
    NormflowsOptions,
)
from physgen.surrogates.flows.stack import CouplingOptions, CouplingStack
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.images import Dequantise, Logit

TABLE = Schema((3,), tuple(Variable(name) for name in "abc"))
IMAGE = Schema((4, 4), (Variable("phi"),))
FAMILIES = {"residual": TABLE, "planar": TABLE, "radial": TABLE, "glow": IMAGE}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(family, dtype=torch.float64):
    torch.manual_seed(0)
    schema = FAMILIES[family]
    flow = Flow(
        schema,
        Standardise(schema),
        bijection=NormflowsOptions(family=family, n_layers=3, hidden=(8, 8)),
    ).to(dtype)
    x = torch.randn(200, *schema.shape, generator=generator(), dtype=dtype)
    flow.initialise(Batch(3 + 2 * x))
    with torch.no_grad():
        for parameter in flow.parameters():
            noise = torch.randn(parameter.shape, generator=generator(1), dtype=dtype)
            parameter.add_(0.2 * noise)
    if family == "residual":
        normflows.utils.update_lipschitz(flow, 50)
    return flow.eval()


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_density_is_that_of_the_samples_by_the_jacobian_of_the_noise(family):
    flow = build(family)
    assert density_of(flow) is flow
    assert isinstance(flow, FromNoise)
    noise = torch.randn(3, *flow.noise_shape, generator=generator(2), dtype=torch.float64)
    for row in noise:
        # Central differences of `from_noise`, since an iterated inverse has no useful derivative.
        eye = 1e-4 * torch.eye(len(row), dtype=torch.float64)
        with torch.no_grad():
            moved = flow.from_noise(torch.cat([row + eye, row - eye])).flatten(1)
            x = flow.from_noise(row[None])
            log_q = flow.log_prob(Batch(x))[0]
        jacobian = (moved[: len(row)] - moved[len(row) :]) / 2e-4
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(row).sum()
        torch.testing.assert_close(log_q, normal - jacobian.slogdet()[1], rtol=1e-4, atol=1e-4)
        assert log_q.dtype == torch.float64


def test_saved_weights_rebuild_the_flow(family, tmp_path):
    flow = build(family, torch.float32)
    state = {name: value.contiguous() for name, value in flow.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.manual_seed(5)
    fresh = Flow(
        FAMILIES[family],
        Standardise(FAMILIES[family]),
        bijection=NormflowsOptions(family=family, n_layers=3, hidden=(8, 8)),
    ).eval()
    fresh.load_state_dict(load_file(tmp_path / "w.safetensors"))
    a, b = (f.sample(10, generator=generator(3)).x for f in (flow, fresh))
    assert torch.equal(a, b)
    assert not torch.equal(a, flow.sample(10, generator=generator(4)).x)


def test_a_family_trains(family):
    torch.manual_seed(0)
    schema, noise = FAMILIES[family], generator(6)
    flow = Flow(
        schema,
        Standardise(schema),
        bijection=NormflowsOptions(family=family, n_layers=3, hidden=(8, 8)),
    )
    x = torch.randn(512, *schema.shape, generator=noise).cumsum(-1).exp().clamp_max(20)
    flow.initialise(Batch(x))
    method = MaximumLikelihood(flow, learning_rate=2e-2)
    batch = method.prepare(Batch(x), noise)
    losses = [method.step({"data": batch}, StubContext())["loss"].item() for _ in range(25)]
    assert losses[-1] < losses[0] - 0.05
    samples, log_q = flow.eval().sample_with_log_prob(20, generator=noise)
    assert samples.x.isfinite().all()
    torch.testing.assert_close(log_q, flow.log_prob(samples), rtol=1e-4, atol=1e-3)


def test_glow_of_dequantised_images_makes_levels_and_knows_a_bound():
    schema = Schema((4, 4), (Variable("intensity", low=0.0, high=1.0),))
    transform = Chain([Dequantise(schema, levels=5), Logit(schema)])
    torch.manual_seed(0)
    flow = Flow(
        schema, transform, bijection=NormflowsOptions(family="glow", n_layers=2, hidden=(8,))
    )
    images = torch.randint(0, 5, (300, 4, 4), generator=generator()) / 4
    flow.initialise(Batch(images))
    assert bound_of(flow) is flow
    assert density_of(flow) is None
    samples = flow.sample(50, generator=generator(1)).x
    assert torch.equal(samples * 4, (samples * 4).round())
    assert samples.unique().numel() > 1
    bits = -flow.elbo(Batch(images), generator=generator(2)).mean() / (16 * math.log(2))
    # A model that knew nothing would need log2 of 5, and these images hold nothing to be known.
    assert math.log2(5) < bits < math.log2(5) + 0.3


def test_conditions_and_odd_images_are_refused():
    with pytest.raises(RecipeError, match="take no conditions"):
        Flow(Schema((2,), TABLE.variables[:2], (Variable("c"),)), bijection=NormflowsOptions())
    with pytest.raises(RecipeError, match="even height"):
        Flow(Schema((3, 4), (Variable("phi"),)), bijection=NormflowsOptions(family="glow"))


def test_our_layers_work_in_their_containers():
    torch.manual_seed(0)
    layers = [
        AffineCoupling(3, 1),
        CouplingStack(3, options=CouplingOptions(n_layers=2, hidden=(8,))),
    ]
    for layer in layers:
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    base = normflows.distributions.DiagGaussian(3, trainable=False)
    model = normflows.NormalizingFlow(base, [NormflowsLayer(layer) for layer in layers])
    z, log_q = model.sample(50)
    torch.testing.assert_close(model.log_prob(z), log_q, rtol=1e-4, atol=1e-4)
    latent, first = layers[1](z)
    latent, second = layers[0](latent)
    ours = torch.distributions.Normal(0.0, 1.0).log_prob(latent).sum(-1) + first + second
    torch.testing.assert_close(log_q, ours, rtol=1e-4, atol=1e-4)


def test_our_conditional_layers_work_in_their_conditional_container():
    torch.manual_seed(0)
    stack = CouplingStack(3, 2, options=CouplingOptions(n_layers=2, hidden=(8,), layer="affine"))
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    base = normflows.distributions.DiagGaussian(3, trainable=False)
    model = normflows.ConditionalNormalizingFlow(base, [NormflowsLayer(stack)])
    context = torch.randn(50, 2)
    z, log_q = model.sample(50, context=context)
    torch.testing.assert_close(stack.log_prob(z, context), log_q, rtol=1e-4, atol=1e-4)
