"""Laws of every autoencoder, tested over a dict of constructors: a new one costs one line."""

import json

import numpy as np
import pytest
import torch
from randomised import generator
from safetensors.torch import load_file, save_file
from stub import StubContext
from torch import nn

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import InputError, RecipeError
from physgen.io.source import ArraySource
from physgen.io.stream import Stream
from physgen.networks.conv import ConvOptions
from physgen.networks.mlp import MLPOptions
from physgen.surrogates.autoencoders.objectives import EvidenceLowerBound
from physgen.surrogates.autoencoders.plain import Autoencoder, Reconstruction
from physgen.surrogates.autoencoders.principal import PCA
from physgen.surrogates.autoencoders.vae import VAE
from physgen.surrogates.base import FromNoise, HasBound, HasDensity
from physgen.surrogates.exploration import traverse
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.flows.likelihood import MaximumLikelihood
from physgen.transforms.affine import Standardise
from physgen.transforms.images import Rescale

LABEL = (Variable("label", domain="integer", low=0, high=9),)
GREYS = Schema((4, 8), (Variable("intensity", low=0.0, high=1.0),))
BITS = Schema((4, 8), (Variable("intensity", domain="binary"),))
TABLE = Schema((4,), tuple(Variable(name) for name in "abcd"))
CONV = {"network": ConvOptions(channels=(4, 8), hidden=(12,)), "latent": 3}
TORUS = {"network": ConvOptions(channels=(4,), periodic=True), "latent": 3}
FAMILIES = {
    "pca": (GREYS, lambda s: PCA(s, Rescale(s), components=5)),
    "pca of a table": (TABLE, lambda s: PCA(s, Standardise(s), components=2)),
    "autoencoder": (
        GREYS,
        lambda s: Autoencoder(s, Rescale(s), latent=3, network=MLPOptions(hidden=(12,))),
    ),
    "conv autoencoder": (GREYS, lambda s: Autoencoder(s, Rescale(s), **CONV)),
    "vae": (GREYS, lambda s: VAE(s, Rescale(s), latent=3, network=MLPOptions(hidden=(12,)))),
    "conv vae": (GREYS, lambda s: VAE(s, Rescale(s), **CONV)),
    "bernoulli vae": (
        BITS,
        lambda s: VAE(s, latent=3, network=MLPOptions(hidden=(12,)), likelihood="bernoulli"),
    ),
    "grey bernoulli": (
        GREYS,
        lambda s: VAE(s, latent=3, network=MLPOptions(hidden=()), likelihood="bernoulli"),
    ),
    "torus": (
        BITS,
        lambda s: VAE(s, **TORUS, likelihood="bernoulli"),
    ),
    "hierarchical": (
        TABLE,
        lambda s: VAE(s, Standardise(s), latent=2, levels=3, network=MLPOptions(hidden=(12,))),
    ),
    "prior": (
        TABLE,
        lambda s: VAE(
            s, Standardise(s), latent=2, prior_couplings=3, network=MLPOptions(hidden=(12,))
        ),
    ),
}


def build(name, conditional):
    schema, make = FAMILIES[name]
    if conditional:
        schema = Schema(schema.shape, schema.variables, LABEL)
    torch.manual_seed(0)
    return make(schema)


def data(schema, n=200):
    noise = generator(2)
    label = torch.randint(0, 10, (n, 1), generator=noise).float()
    x = torch.rand(n, *schema.shape, generator=noise)
    x = (x + label.reshape(-1, *(1,) * len(schema.shape)) / 9) / 2
    x = (x > 0.5).float() if schema.variables[0].domain == "binary" else x
    return Batch(x, label if schema.condition else None)


@pytest.fixture(params=[False, True], ids=["unconditional", "conditional"])
def conditional(request):
    return request.param


@pytest.fixture(params=FAMILIES)
def model(request, conditional):
    """A surrogate that has seen its data, with a little noise on all parameters."""
    model = build(request.param, conditional)
    model.initialise(data(model.schema))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(7)))
    model.build = lambda: build(request.param, conditional)
    return model


def labels(model, n, value=3.0):
    return torch.full((n, 1), value) if model.schema.condition else None


def test_shapes_seeds_and_domain(model):
    first = model.sample(20, generator=generator(1))
    assert first.x.shape == (20, *model.schema.shape)
    assert torch.equal(first.x, model.sample(20, generator=generator(1)).x)
    assert not torch.equal(first.x, model.sample(20, generator=generator(2)).x)
    low, high = first.x.min(), first.x.max()
    if model.schema.variables[0].domain == "binary":
        assert set(first.x.unique().tolist()) == {0.0, 1.0}
    elif model.schema.variables[0].low is not None:
        assert low >= 0
        assert high <= 1


def test_condition_is_used(model):
    if not model.schema.condition:
        pytest.skip("no condition")
    samples = [model.sample(50, labels(model, 50, v), generator=generator()).x for v in (0.0, 9.0)]
    assert not torch.equal(*samples)
    with pytest.raises(InputError, match="label"):
        model.sample(2, labels(model, 2, 11.0), generator=generator())


def test_saved_weights_give_the_same_samples(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    fresh = model.build()
    fresh.load_state_dict(load_file(tmp_path / "w.safetensors"))
    a, b = (m.sample(10, labels(m, 10), generator=generator(3)).x for m in (model, fresh))
    assert torch.equal(a, b)


def test_protocols_and_double_precision(model):
    assert isinstance(model, FromNoise)
    assert isinstance(model, HasBound) != isinstance(model, Autoencoder)
    assert not isinstance(model, HasDensity)
    model = model.double()
    batch = data(model.schema, 30).to(dtype=torch.float64)
    assert model.sample(5, generator=generator()).x.dtype == torch.float64
    if isinstance(model, HasBound):
        bound = model.elbo(batch, generator=generator())
        assert bound.dtype == torch.float64
        assert bound.shape == (30,)
        assert bound.isfinite().all()


def test_every_parameter_gets_a_gradient(model):
    batch = data(model.schema, 50)
    if isinstance(model, Autoencoder):
        method = Reconstruction(model)
        prepared = method.prepare(batch, generator())
        loss = method.loss(prepared, torch.zeros_like(batch.x))
    else:
        loss = -model.elbo(batch, generator=generator())
    assert loss.shape == (50,)
    loss.sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "hierarchical" else pytest.mark.slow) for n in FAMILIES],
)
def test_exports_with_a_dynamic_batch(name):
    model = build(name, conditional=True)

    class Push(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model.eval()

        def forward(self, noise, condition):
            return self.model.from_noise(noise, condition)

    noise, condition = torch.randn(7, *model.noise_shape, generator=generator()), labels(model, 7)
    batch = torch.export.Dim("batch", min=2, max=4096)
    shapes = {"noise": {0: batch}, "condition": {0: batch}}
    exported = torch.export.export(Push(), (noise[:3], condition[:3]), dynamic_shapes=shapes)
    torch.testing.assert_close(
        exported.module()(noise, condition), model.from_noise(noise, condition)
    )


def test_traversals_move_one_entry_of_the_noise(model):
    condition = torch.tensor([3.0]) if model.schema.condition else None
    rows = traverse(model, [0, 1], steps=5, condition=condition)
    assert rows.shape == (2, 5, *model.schema.shape)
    assert torch.equal(rows[0, 2], rows[1, 2]), "both rows pass through the middle"
    noise = torch.zeros(1, *model.noise_shape)
    noise[0, 1] = 2.5
    torch.testing.assert_close(rows[1, 4], model.from_noise(noise, labels(model, 1))[0])
    with pytest.raises(InputError, match="entry 99999"):
        traverse(model, [99999])


METHODS = {
    "pca": MaximumLikelihood,
    "conv autoencoder": lambda m: Reconstruction(m, corruption=0.3),
    "hierarchical": EvidenceLowerBound,
    "bernoulli vae": lambda m: EvidenceLowerBound(m, draws=3),
}


def fitted(name, directory, steps, **options):
    model = build(name, conditional=True)
    batch = data(model.schema)
    model.initialise(batch)
    engine = Engine(steps=steps, batch_size=16, device="cpu", log_every=1, **options)
    stream = Stream(ArraySource(batch, model.schema), batch_size=16)
    fit(model, METHODS[name](model), {"data": stream}, directory, engine)
    lines = (directory / "journal.jsonl").read_text().splitlines()
    return model, [entry["metrics"] for entry in map(json.loads, lines) if "metrics" in entry]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_in_two_parts_equals_a_run_in_one(name, tmp_path):
    options = {"accumulate": 2, "ema": 0.9}
    whole, _ = fitted(name, tmp_path / "whole", 6, **options)
    fitted(name, tmp_path / "parts", 3, **options)
    resumed, _ = fitted(name, tmp_path / "parts", 6, **options)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_the_journal_splits_the_bound_whatever_the_micro_batches(tmp_path):
    one, two = (fitted("hierarchical", tmp_path / str(k), 1, accumulate=k)[1] for k in (1, 2))
    names = ("reconstruction", "consistency", "prior_matching", "loss")
    assert set(names) <= set(one[0])
    for name in names:
        assert one[0][name] == pytest.approx(two[0][name], rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["conv autoencoder", "hierarchical"])
def test_compiled_training_takes_the_same_steps(name, tmp_path):
    plain, compiled = (
        fitted(name, tmp_path / str(compile), 3, compile=compile) for compile in (False, True)
    )
    for one, other in zip(plain[1], compiled[1], strict=True):
        for key, value in one.items():
            assert other[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


# --- principal components -------------------------------------------------------------------------


def correlated(n=400, features=6, seed=0):
    mixing = torch.randn(features, features, generator=generator(seed), dtype=torch.float64)
    x = torch.randn(n, features, generator=generator(seed + 1), dtype=torch.float64)
    return 3 + x @ (mixing * torch.linspace(2, 0.1, features, dtype=torch.float64))


def principal(components, x, condition=None):
    variables = tuple(Variable(f"x{i}") for i in range(x.shape[1]))
    schema = Schema((x.shape[1],), variables, LABEL if condition is not None else ())
    model = PCA(schema, components=components).double()
    model.initialise(Batch(x, condition))
    return model


def test_principal_components_against_a_singular_value_decomposition():
    x = correlated()
    model = principal(2, x)
    centred = x.numpy() - x.numpy().mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    variances = values**2 / len(x)
    assert model.centre.tolist() == pytest.approx(x.mean(0).tolist())
    assert (2 * model.log_deviation).exp().item() == pytest.approx(variances[2:].mean())
    ours = model.loading.detach().numpy()
    expected = np.sqrt(variances[:2] - variances[2:].mean()) * directions[:2].T
    signs = np.sign((ours * expected).sum(0))
    np.testing.assert_allclose(ours * signs, expected, rtol=1e-8)


def test_principal_components_are_the_maximum_of_the_likelihood():
    x = correlated()
    model = principal(2, x)
    log_p = model.latent_log_prob(Batch(x))
    covariance = model.loading @ model.loading.T + (2 * model.log_deviation).exp() * torch.eye(6)
    law = torch.distributions.MultivariateNormal(model.centre, covariance)
    torch.testing.assert_close(log_p, law.log_prob(x))
    log_p.mean().backward()
    for name, parameter in model.named_parameters():
        assert not parameter.numel() or parameter.grad.abs().max() < 1e-8, name


def test_all_but_one_component_is_the_normal_distribution_of_the_data():
    x = correlated()
    model = principal(5, x)
    samples = model.sample(100_000, generator=generator()).x
    torch.testing.assert_close(samples.T.cov(), x.T.cov(correction=0), atol=0.2, rtol=0.05)
    law = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov(correction=0))
    torch.testing.assert_close(model.elbo(Batch(x), generator=generator()), law.log_prob(x))


def test_mean_of_principal_components_follows_the_condition():
    label = torch.randint(0, 10, (400, 1), generator=generator(4)).double()
    slope = torch.arange(6, dtype=torch.float64)
    model = principal(2, correlated() + label * slope, label)
    torch.testing.assert_close(model.slope[:, 0].detach(), slope, atol=0.2, rtol=0.1)
    samples = model.sample(20_000, torch.full((20_000, 1), 9.0).double(), generator=generator()).x
    torch.testing.assert_close(samples.mean(0), 3 + 9 * slope, atol=1.5, rtol=0.05)


def test_principal_components_are_what_maximum_likelihood_takes_and_leaves():
    x = correlated()
    model = principal(2, x)
    method = MaximumLikelihood(model)
    loss = method.loss(method.prepare(Batch(x), generator())).mean()
    assert loss.item() == pytest.approx(-model.latent_log_prob(Batch(x)).mean().item())
    with pytest.raises(RecipeError, match="from 1 to 5 principal"):
        principal(6, x)


# --- autoencoders without a likelihood ------------------------------------------------------------


def trained(x, steps=600, corruption=0.0, **options):
    torch.manual_seed(0)
    schema = Schema((x.shape[1],), tuple(Variable(f"x{i}") for i in range(x.shape[1])))
    model = Autoencoder(schema, **options)
    model.initialise(Batch(x))
    method = Reconstruction(model, learning_rate=2e-2, corruption=corruption)
    context = StubContext(len(x))
    for step in range(steps):
        context.step = step
        method.optimisers["autoencoder"].param_groups[0]["lr"] = 2e-2 * (1 - step / steps)
        loss = method.step({"data": Batch(x)}, context)["loss"]
    return model, loss.item()


def test_linear_autoencoder_finds_the_principal_subspace():
    x = correlated().float()
    model, loss = trained(x, network=MLPOptions(hidden=()), latent=2)
    values = torch.linalg.eigvalsh(x.double().T.cov(correction=0))
    assert loss == pytest.approx(values[:-2].sum().item() / 6, rel=0.01)
    directions = principal(2, x.double()).loading.float()
    basis, _ = torch.linalg.qr(directions)
    weight = model.decoder.dense.layers[0].weight
    torch.testing.assert_close(basis @ (basis.T @ weight), weight, atol=0.05, rtol=0.05)
    # A linear map of normal data has normal latents: here the fitted distribution is right.
    samples = model.sample(40_000, generator=generator()).x
    reconstructed = model.decode(model.encode(Batch(x)), None).detach()
    torch.testing.assert_close(samples.T.cov(), reconstructed.T.cov(), atol=0.4, rtol=0.1)
    torch.testing.assert_close(samples.mean(0), x.mean(0), atol=0.1, rtol=0)


def test_denoising_shrinks_directions_that_noise_drowns():
    """The best linear denoiser of a direction with variance v is v / (v + corruption^2)."""
    deviations = torch.tensor([2.0, 1.0, 0.5])
    x = deviations * torch.randn(1000, 3, generator=generator())
    model, _ = trained(x, network=MLPOptions(hidden=()), latent=3, corruption=1.0)
    matrix = model.decoder.dense.layers[0].weight @ model.encoder.dense.layers[0].weight
    expected = torch.diag(deviations.square() / (deviations.square() + 1))
    torch.testing.assert_close(matrix.detach(), expected, atol=0.06, rtol=0)


def test_latent_distribution_survives_a_dead_entry():
    model = Autoencoder(TABLE, latent=3)
    z = torch.randn(100, 3, generator=generator()) * torch.tensor([1.0, 2.0, 0.0])
    model.update_latent_stats(z, 1.0)
    assert model.latent_factor.isfinite().all()
    covariance = model.latent_factor @ model.latent_factor.T
    torch.testing.assert_close(covariance, z.T.cov(correction=0), atol=1e-4, rtol=1e-3)


def test_reconstruction_refuses_what_it_cannot_train():
    with pytest.raises(RecipeError, match="trains an autoencoder, not Flow"):
        Reconstruction(Flow(TABLE))
    with pytest.raises(RecipeError, match="not negative"):
        Reconstruction(Autoencoder(TABLE), corruption=-1.0)
    with pytest.raises(RecipeError, match="cannot be halved 3 times"):
        Autoencoder(GREYS, network=ConvOptions(channels=(4, 4, 4)))
