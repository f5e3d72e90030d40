"""Laws of every diffusion model and of what trains it; a new one costs one line."""

import pytest
import torch
from randomised import Repeated, generator, randomised
from safetensors.torch import load_file, save_file
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import DomainError, RecipeError
from physgen.networks.residual import ResidualOptions
from physgen.networks.unet import UNetOptions
from physgen.surrogates.autoencoders.vae import VAE
from physgen.surrogates.base import FromNoise, bound_of, density_of
from physgen.surrogates.diffusion.likelihood import DiffusionFlow
from physgen.surrogates.diffusion.matching import FlowMatching
from physgen.surrogates.diffusion.model import Denoising, Diffusion
from physgen.surrogates.diffusion.variational import DiffusionBound, VariationalDiffusion
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.images import Dequantise, Logit, OneHot, Rescale

TABLE = Schema((3,), tuple(Variable(name) for name in "abc"), (Variable("energy"),))
PLAIN = Schema((2,), (Variable("x"), Variable("y")))
LATTICE = Schema((16, 16), (Variable("phi"),))
SPINS = Schema((4, 4), (Variable("s", domain="spin"),), (Variable("t"),))
LABELLED = Schema(
    (8, 8),
    (Variable("intensity", low=0, high=1),),
    (Variable("label", domain="integer", low=0, high=2),),
)


def drawn(model, **options):
    """A model that draws its samples so."""
    model.use_sampler(SamplerOptions(**options))
    return model


def labelled(cls=Diffusion, *, sampler=None, **options):
    transform = Chain([Rescale(LABELLED), OneHot(LABELLED)])
    model = cls(LABELLED, transform, **{"network": ResidualOptions(hidden=8, depth=1), **options})
    return drawn(model, **{"steps": 3, **(sampler or {})})


def table(cls=Diffusion, *, sampler=None, **options):
    model = cls(TABLE, Standardise(TABLE), network=ResidualOptions(hidden=8, depth=2), **options)
    return model if sampler is None else drawn(model, **sampler)


def dequantised(schema, **options):
    transform = Chain([Dequantise(schema), Logit(schema, alpha=1e-6), Standardise(schema)])
    return DiffusionFlow(
        schema,
        transform,
        network=ResidualOptions(hidden=8, depth=1),
        integration_steps=6,
        **options,
    )


DENOISING = {
    "ddpm": lambda: table(schedule="linear", prediction="epsilon", sampler={"kind": "ancestral"}),
    "x0": lambda: table(prediction="x0", sampler={"kind": "ddim", "steps": 4}),
    "edm": lambda: table(schedule="edm", prediction="edm", sampler={"steps": 4}),
    "v": lambda: table(sampler={"kind": "dpm-solver", "spacing": "noise"}),
    "spins": lambda: drawn(
        Diffusion(SPINS, Rescale(SPINS), network=ResidualOptions(hidden=8, depth=1)), steps=4
    ),
    "guided": lambda: labelled(condition_dropout=0.2, sampler={"guidance": 2.0}),
    "unet": lambda: drawn(Diffusion(LATTICE, network=UNetOptions(channels=(8, 8))), steps=2),
    "periodic unet": lambda: drawn(
        Diffusion(LATTICE, network=UNetOptions(channels=(8, 8), periodic=True)), steps=2
    ),
    "labelled unet": lambda: labelled(network=UNetOptions(channels=(4, 8))),
}
STRAIGHT = {"schedule": "straight", "prediction": "velocity"}
MATCHING = {
    "matching": lambda: table(**STRAIGHT, sampler={"steps": 4}),
    "labelled matching": lambda: labelled(**STRAIGHT),
    "flow": lambda: table(DiffusionFlow, integration_steps=3),
    "estimated flow": lambda: table(DiffusionFlow, integration_steps=3, divergence="hutchinson"),
    "dequantised flow": lambda: dequantised(SPINS, divergence="hutchinson"),
}
BOUNDED = {
    "learned": lambda: table(VariationalDiffusion, schedule="learned", sampler={"steps": 4}),
    "bounded edm": lambda: table(
        VariationalDiffusion, schedule="edm", prediction="edm", sampler={"steps": 4}
    ),
    "bounded labels": lambda: labelled(VariationalDiffusion, sampler={"kind": "ancestral"}),
}
MODELS = {**DENOISING, **MATCHING, **BOUNDED}
METHODS = {
    **dict.fromkeys(DENOISING, Denoising),
    **dict.fromkeys(MATCHING, FlowMatching),
    **dict.fromkeys(BOUNDED, DiffusionBound),
}


def samples(schema, n=40):
    source = generator(5)
    x = torch.rand(n, *schema.shape, generator=source)
    condition = None
    if schema.condition:
        condition = torch.randint(3, (n, 1), generator=source).float()
    if schema is SPINS:
        x = 2 * x.round() - 1
    return Batch(x, condition)


def build(name, scale=0.3):
    torch.manual_seed(0)
    model = MODELS[name]()
    data = samples(model.schema)
    model.initialise(data)
    schedule = {k: v.clone() for k, v in model.schedule.state_dict().items()}
    randomised(model, scale)
    model.schedule.load_state_dict(schedule)
    return model, data


@pytest.fixture(params=MODELS)
def case(request):
    """A model with random weights, and data for it."""
    return build(request.param)


def train(name, directory, *totals):
    """Train for so many steps in all, call by call."""
    torch.manual_seed(0)
    model = MODELS[name]()
    data = samples(model.schema)
    model.initialise(data)
    method = METHODS[name](model, learning_rate=0.01)
    for steps in totals:
        engine = Engine(steps=steps, batch_size=40, device="cpu", checkpoint_every=20)
        fit(model, method, {"data": Repeated(data)}, directory, engine)
    return model


# --- laws -----------------------------------------------------------------------------------------


def test_samples_have_their_shape_and_follow_from_the_seed_and_condition(case):
    model, data = case
    condition = data.condition
    first = model.sample(40, condition, generator=generator(1)).x
    assert first.shape == (40, *model.schema.shape)
    assert first.isfinite().all()
    assert torch.equal(first, model.sample(40, condition, generator=generator(1)).x)
    assert not torch.equal(first, model.sample(40, condition, generator=generator(2)).x)
    drawn = model.sample(3, generator=generator(1))
    if condition is None:
        assert drawn.condition is None
        return
    assert drawn.condition.shape == (3, 1)
    other = model.sample(40, (condition + 1) % 3, generator=generator(1)).x
    assert not torch.equal(first, other)
    with pytest.raises(DomainError):
        model.sample(40, condition + 100, generator=generator(1))


def test_many_samples_are_drawn_in_parts_with_their_conditions():
    model, _ = build("guided")
    condition = torch.zeros(Diffusion.at_once + 50, 1)
    condition[Diffusion.at_once + 20 :] = 2
    drawn = model.sample(len(condition), condition, generator=generator(3))
    source = generator(3)
    torch.randn(Diffusion.at_once, 64, generator=source)
    noise = torch.randn(50, 64, generator=source)
    assert torch.equal(drawn.condition, condition)
    torch.testing.assert_close(
        drawn.x[Diffusion.at_once :], model.from_noise(noise, condition[Diffusion.at_once :])
    )


def test_samples_are_pushed_noise(case):
    model, data = case
    assert isinstance(model, FromNoise)
    noise = torch.randn(40, *model.noise_shape, generator=generator(1))
    pushed = model.from_noise(noise, data.condition)
    assert pushed.shape == (40, *model.schema.shape)
    if model.sampler.kind != "ancestral":
        drawn = model.sample(40, data.condition, generator=generator(1)).x
        torch.testing.assert_close(pushed, drawn)


@pytest.mark.parametrize("name", ["ddpm", "guided", "flow"])
def test_export_with_a_dynamic_batch(name):
    model, data = build(name)
    if name != "flow":
        model.use_sampler(model.sampler.model_copy(update={"steps": 2}))

    class Push(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, noise, condition):
            return self.model.from_noise(noise, condition)

    noise = torch.randn(40, *model.noise_shape, generator=generator(1))
    batch = torch.export.Dim("batch", min=2, max=4096)
    shapes = {"noise": {0: batch}, "condition": None if data.condition is None else {0: batch}}
    few = None if data.condition is None else data.condition[:7]
    exported = torch.export.export(Push().eval(), (noise[:7], few), dynamic_shapes=shapes)
    found, expected = (
        exported.module()(noise, data.condition),
        model.from_noise(noise, data.condition),
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_float64_stays_float64(case):
    model, data = case
    model.double()
    condition = None if data.condition is None else data.condition.double()
    assert model.sample(4, generator=generator()).x.dtype == torch.float64
    batch = Batch(data.x.double(), condition)
    if density_of(model):
        assert model.log_prob(batch).dtype == torch.float64
    if bound_of(model):
        assert model.elbo(batch, generator=generator()).dtype == torch.float64


@pytest.mark.parametrize("name", MODELS)
def test_saved_models_give_the_same_samples(name, tmp_path):
    model, data = build(name)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    fresh = MODELS[name]()
    fresh.load_state_dict(load_file(tmp_path / "w.safetensors"))
    first, second = (
        m.sample(
            5, data.condition[:5] if data.condition is not None else None, generator=generator(1)
        ).x
        for m in (model, fresh)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    model, data = build(name)
    method = METHODS[name](model)
    metrics = method.step({"data": method.prepare(data, generator())}, StubContext(40))
    assert metrics["loss"].isfinite()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", MODELS)
def test_training_resumes_exactly(name, tmp_path):
    whole = train(name, tmp_path / "whole", 9)
    cut = train(name, tmp_path / "cut", 5, 9)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, cut.state_dict()[key]), key


# --- densities ------------------------------------------------------------------------------------


def test_the_density_of_a_sample_is_that_it_was_drawn_with():
    model, _ = build("flow", 0.1)
    model.double()
    model.integration_steps = 20
    condition = torch.rand(6, 1, generator=generator(), dtype=torch.float64) * 2
    drawn, log_prob = model.sample_with_log_prob(6, condition, generator=generator(4))
    torch.testing.assert_close(model.log_prob(drawn), log_prob, rtol=1e-4, atol=1e-4)
    assert torch.equal(drawn.condition, condition)
    again = model.sample(6, condition, generator=generator(4)).x
    torch.testing.assert_close(again, drawn.x)


def test_the_density_is_normalised_in_physical_units():
    torch.manual_seed(0)
    schema = Schema((1,), (Variable("x"),))
    model = DiffusionFlow(
        schema, Standardise(schema), network=ResidualOptions(hidden=8, depth=1), integration_steps=8
    )
    model.initialise(Batch(5 + 3 * torch.randn(500, 1, generator=generator())))
    randomised(model, 0.3).double()
    x = torch.linspace(-60, 70, 2001, dtype=torch.float64)
    with torch.no_grad():
        density = model.log_prob(Batch(x[:, None])).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=0.01)


def test_bounds_of_spins_are_logarithms_of_estimates_of_their_probabilities():
    """The mean of exp(bound) over the dequantising noise is the probability of a configuration."""
    torch.manual_seed(0)
    schema = Schema((2, 1), (Variable("s", domain="spin"),))
    model = dequantised(schema)
    spins = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])[:, :, None]
    model.initialise(Batch(spins.repeat(50, 1, 1)))
    randomised(model, 0.3).double()
    n = 2000
    with torch.no_grad():
        bounds = model.elbo(Batch(spins.double().repeat(n, 1, 1)), generator=generator())
        drawn = model.sample(20_000, generator=generator(1)).x.reshape(-1, 2)
    estimates = bounds.exp().reshape(n, 4)
    found = (drawn[:, None] == spins.reshape(4, 2)).all(-1).double().mean(0)
    error = (estimates.var(0) / n + found * (1 - found) / 20_000).sqrt()
    assert ((estimates.mean(0) - found).abs() < 4 * error).all()
    assert (bounds.reshape(n, 4).mean(0) < found.log()).all()


def test_densities_and_bounds_are_differentiable():
    for name in ("flow", "estimated flow", "dequantised flow", "learned"):
        model, data = build(name)
        if density_of(model):
            value = model.log_prob(data)
        else:
            value = model.elbo(data, generator=generator())
        value.sum().backward()
        for key, parameter in model.named_parameters():
            # The bound's value does not depend on a learned schedule's inner shape on average,
            # but each draw of it does.
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


# --- what does not fit ----------------------------------------------------------------------------


def rows():
    return Batch(torch.ones(3, 4, 4), torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Diffusion(PLAIN, network=UNetOptions()), "rows and columns, not of shape"),
        (lambda: drawn(Diffusion(PLAIN), guidance=2.0), "condition_dropout=0.1"),
        (lambda: Diffusion(PLAIN, condition_dropout=0.1), "hides conditions"),
        (lambda: drawn(Diffusion(PLAIN, **STRAIGHT), kind="ancestral"), "no noise to add"),
        (lambda: drawn(DiffusionFlow(TABLE, Standardise(TABLE)), steps=3), "integration_steps"),
        (lambda: DiffusionFlow(SPINS, Rescale(SPINS)).log_prob(rows()), "no exact density"),
        (lambda: DiffusionFlow(PLAIN, integration_steps=1), "integration_steps is 1: .* least 2"),
        (
            lambda: Denoising(VAE(TABLE)),
            "denoising and flow-matching train a diffusion model, not VAE",
        ),
        (lambda: Denoising(Diffusion(PLAIN, schedule="learned")), "learned is for"),
        (lambda: FlowMatching(Diffusion(PLAIN)), "schedule=straight"),
        (lambda: DiffusionBound(Diffusion(PLAIN)), "trains a variational-diffusion"),
        (
            lambda: DiffusionBound(VariationalDiffusion(TABLE, condition_dropout=0.1)),
            "hides no conditions",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(RecipeError, match=message):
        build()
