"""Generators of images: styles, growing networks, two stages, and truncation."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from randomised import generator, randomised
from torch.nn import functional

from physgen.batch import Batch, Schema, Variable
from physgen.components import choose_sampling
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import RecipeError
from physgen.networks.attention import SelfAttention
from physgen.networks.conv import ConvOptions
from physgen.networks.embedding import Modulation
from physgen.networks.growing import GrowingEncoder, GrowingOptions, coarsened, growth
from physgen.networks.mlp import MLPOptions
from physgen.networks.resnet import ResNetDecoder, ResNetEncoder, ResNetOptions
from physgen.networks.stacked import StackedOptions
from physgen.networks.style import StyleDecoder, StyleOptions
from physgen.recipe import read
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.gan.adversarial import Adversarial
from physgen.surrogates.gan.networks import Generator
from physgen.surrogates.gan.points import PointGenerator
from physgen.surrogates.gan.regularisers import (
    decode_mixed,
    mixed,
    mixed_images,
    n_mixed,
    path_lengths,
)
from physgen.transforms.base import Chain
from physgen.transforms.images import OneHot

IMAGE = Schema((8, 8), (Variable("i"),))
LABELLED = replace(IMAGE, condition=(Variable("c", domain="integer", low=0, high=2),))
STYLE = StyleOptions(channels=(4, 6, 8), width=5, depth=2)
GROWING = GrowingOptions(channels=(4, 6, 8))
RESNET = ResNetOptions(channels=(8, 8))
STACKED = StackedOptions(channels=(8,), refining=8, embedding=3)
LEAKY = MLPOptions(hidden=(8,), activation="leaky-relu")
CONV = ConvOptions(channels=(4, 8), activation="leaky-relu")


def made(network, schema=IMAGE, **options):
    torch.manual_seed(0)
    transform = Chain([OneHot(schema)] if schema.condition else [], schema)
    return Generator(schema, transform, latent=4, network=network, **options)


def rows(schema=IMAGE, n=32, seed=1):
    noise = generator(seed)
    label = torch.randint(0, 3, (n, 1), generator=noise).float() if schema.condition else None
    return Batch(torch.randn(n, *schema.shape, generator=noise), label)


# --- styles ---------------------------------------------------------------------------------------


def layers_of(decoder, styles, sites):
    """What each layer gives."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda module, given, out: seen.append(out))
        for layer in decoder.layers
    ]
    with torch.no_grad():
        decoder.synthesise(styles, sites)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("begin", range(1, 6))
def test_mixed_styles_leave_the_layers_before_as_they_are(begin):
    decoder = randomised(StyleDecoder(4, (8, 8), 0, STYLE))
    assert decoder.n_layers == 5
    first, second = torch.randn(2, 3, 5, generator=generator(2))
    sites = torch.randn(3, decoder.n_sites, generator=generator(3))
    plain, both = (
        layers_of(decoder, mixed(first, second, torch.full((3,), b), decoder.n_layers), sites)
        for b in (decoder.n_layers, begin)
    )
    for number, (one, other) in enumerate(zip(plain, both, strict=True)):
        assert torch.equal(one, other) == (number < begin), number


def test_a_modulated_convolution_is_one_of_demodulated_weights():
    """Equations 1 and 3 of arXiv 1912.04958, a convolution of its own for every sample."""
    decoder = randomised(StyleDecoder(4, (8, 8), 0, STYLE)).double()
    layer = decoder.layers[1].convolution
    h = torch.randn(3, 8, 4, 4, generator=generator(1), dtype=torch.float64)
    style = torch.randn(3, 5, generator=generator(2), dtype=torch.float64)
    with torch.no_grad():
        found, scale = layer(h, style), layer.scale(style)
        for i in range(3):
            weight = scale[i][None, :, None, None] * layer.weight * layer.gain
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            expected = functional.conv2d(h[i : i + 1], weight, layer.bias, padding=1)
            torch.testing.assert_close(found[i : i + 1], expected)


def test_the_mean_style_is_what_truncation_ends_at():
    model = randomised(made(STYLE)).eval()
    decoder = model.body
    decoder.mean.fill_(0.3)
    model.truncate(1e-9)
    noise = torch.randn(6, model.latent, generator=generator(1))
    noise[:, decoder.n_in :] = 0
    with torch.no_grad():
        x = model.decode_noise(noise, None)
        middle = decoder.synthesise(decoder.mean.expand(1, 5, -1), noise[:1, decoder.n_in :])
    torch.testing.assert_close(x, middle.reshape(1, 8, 8).expand(6, -1, -1))


def test_the_mean_style_is_learned():
    decoder = randomised(StyleDecoder(4, (8, 8), 0, STYLE))
    noise = torch.randn(4000, 4 + decoder.n_sites, generator=generator(1))
    for _ in range(1500):
        decoder.observe(noise[:200])
    with torch.no_grad():
        expected = decoder.style(noise[:200, :4]).mean(0)
    torch.testing.assert_close(decoder.mean, expected, rtol=0.01, atol=1e-3)


def test_the_share_of_mixed_images_is_what_was_asked_for():
    model = randomised(made(STYLE))
    noise = torch.randn(4000, n_mixed(model.body), generator=generator(1))
    with torch.no_grad():
        plain = decode_mixed(model, noise, None, 0.0)
        some = decode_mixed(model, noise, None, 0.3)
    n = model.latent
    torch.testing.assert_close(plain, model.decode_noise(noise[:, :n], None))
    changed = (plain != some).flatten(1).any(1).float().mean().item()
    assert changed == pytest.approx(0.3, abs=0.03)


def test_a_table_of_mixed_images_has_the_plain_ones_at_its_ends():
    model = randomised(made(STYLE)).eval()
    rows, columns = torch.randn(2, 3, model.latent, generator=generator(1))
    columns[:, 4:] = rows[0, 4:]  # The noise of the sites is that of the rows.
    with torch.no_grad():
        ends = {0: model.from_noise(columns), model.body.n_layers: model.from_noise(rows)}
    torch.testing.assert_close(mixed_images(model, rows, columns, 0)[0], ends[0])
    last = mixed_images(model, rows, columns, model.body.n_layers)
    torch.testing.assert_close(last, ends[5][:, None].expand(-1, 3, -1, -1))
    assert not torch.allclose(mixed_images(model, rows, columns, 2)[0], ends[0])


def test_path_lengths_are_those_of_the_derivative():
    model = randomised(made(STYLE)).double()
    decoder = model.body
    noise = torch.randn(2, model.latent, generator=generator(1), dtype=torch.float64)
    direction = torch.randn(2, 64, generator=generator(2), dtype=torch.float64)
    found = path_lengths(model, noise, None, direction)
    for i in range(2):
        style = decoder.style(noise[i : i + 1, :4]).detach()
        sites = noise[i : i + 1, 4:]
        jacobian = torch.autograd.functional.jacobian(
            lambda w, sites=sites: decoder.synthesise(w, sites)[0], style[:, None].expand(1, 5, -1)
        )
        along = torch.einsum("p,plw->lw", direction[i], jacobian[:, 0])
        expected = (along.square().sum(1).mean() / 64).sqrt()
        assert found[i].item() == pytest.approx(expected.item())


# --- growing --------------------------------------------------------------------------------------


def test_a_level_shows_squares_of_one_grey():
    model = randomised(made(GROWING)).eval()
    noise = torch.randn(3, 4, generator=generator(1))
    images = {}
    for level in (0.0, 0.25, 1.0, 2.0):
        model.body.level.set(level)
        with torch.no_grad():
            images[level] = model.decode_noise(noise, None)
    for level, size in ((0.0, 4), (1.0, 2)):
        squares = images[level].unfold(1, size, size).unfold(2, size, size).flatten(3)
        assert (squares == squares[..., :1]).all()
    assert not torch.equal(images[2.0][:, ::2], images[2.0][:, 1::2])
    torch.testing.assert_close(images[0.25], 0.75 * images[0.0] + 0.25 * images[1.0])


def test_a_critic_at_a_level_sees_no_more_than_that():
    critic = randomised(GrowingEncoder((8, 8), 1, 0, GROWING)).eval()
    x = torch.randn(3, 8, 8, generator=generator(1))
    for level, same in ((0.0, True), (0.5, False), (1.0, False), (2.0, False)):
        critic.level = level
        with torch.no_grad():
            changed = not torch.equal(critic(x), critic(x + torch.randn_like(x)))
            assert changed
            coarse = torch.allclose(critic(x), critic(coarsened(x, 3, 0.0)), atol=1e-5)
            as_shown = torch.allclose(critic(x), critic(coarsened(x, 3, level)), atol=1e-5)
        assert coarse == same
        assert as_shown == (level % 1 == 0)


def test_levels_follow_from_the_step():
    levels = [growth(step / 100, 3, 0.8) for step in range(101)]
    assert levels == sorted(levels)
    assert (levels[0], levels[20], levels[40], levels[50], levels[80]) == (0, 0, 1, 1, 2)
    assert growth(0.0, 3, 0.0) == 2


class Rows:
    def __init__(self, draw):
        self.draw, self.position = draw, 0

    def __next__(self):
        self.position += 1
        return self.draw(seed=self.position)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


GAMES = {
    "style": (IMAGE, STYLE, {"critic": CONV, "mixing": 0.5, "path_length": 0.5, "r1": 1.0}),
    "growing": (IMAGE, GROWING, {"critic": GROWING, "r1": 1.0}),
    "stacked": (LABELLED, STACKED, {"critic": CONV}),
    "resnet": (LABELLED, RESNET, {"critic": RESNET, "orthogonal": 1e-3, "spectral_norm": True}),
}


@pytest.mark.parametrize("name", GAMES)
def test_a_run_in_two_parts_equals_a_run_in_one(name, tmp_path):
    """With a moving average; the stage is that of the step, wherever the run was cut."""
    schema, network, options = GAMES[name]
    weights = []
    for parts in ((12,), (5, 12)):
        for steps in parts:
            surrogate = made(network, schema)
            method = Adversarial(surrogate, steps=12, **options)
            engine = Engine(device="cpu", log_every=2, steps=steps, batch_size=8, ema=0.9)
            streams = {"data": Rows(partial(rows, schema, 8))}
            fit(surrogate, method, streams, tmp_path / str(len(parts)), engine)
        weights.append({**surrogate.state_dict(), **method.critic.state_dict()})
    assert [k for k, v in weights[0].items() if not torch.equal(v, weights[1][k])] == []


def test_the_critic_of_a_young_generator_sees_coarse_data():
    surrogate = made(GROWING)
    method = Adversarial(surrogate, steps=100, critic=GROWING, n_critic=1)
    seen = []
    method.critic.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    batch = rows(n=8)
    noise, mix = torch.randn(8, 4), torch.rand(8, 1)
    for step, level in ((0, 0.0), (20, 0.6), (60, 2.0)):
        method._growing.begin(step)
        seen.clear()
        method.critic_loss(batch, noise, mix)
        torch.testing.assert_close(seen[0], coarsened(batch.x, 3, level))


# --- residual networks of classes -----------------------------------------------------------------


def test_the_class_scales_and_shifts_what_is_normalised():
    """With nothing else to see it by, and nothing but a product with it in the score."""
    decoder = randomised(ResNetDecoder(4, (8, 8), 3, RESNET)).eval()
    encoder = randomised(ResNetEncoder((8, 8), 3, RESNET)).eval()
    z, label = torch.randn(1, 4, generator=generator(1)).expand(3, -1), torch.eye(3)
    with torch.no_grad():
        decoder.first.weight[:, 4:] = 0
        x = decoder(z, label).reshape(3, 8, 8)
        scores = [encoder(x[:1], label[i : i + 1]) for i in range(3)]
        bare = encoder(x[:1], torch.zeros(1, 3))
        for layer in decoder.blocks.modules():
            if isinstance(layer, Modulation):
                layer.linear.weight.zero_()
        same = decoder(z, label)
    assert not torch.allclose(x[0], x[1])
    torch.testing.assert_close(same[0], same[1])
    half = [encoder(x[:1], 0.5 * label[i : i + 1]) for i in range(3)]
    for score, middle in zip(scores, half, strict=True):
        torch.testing.assert_close(middle, (score + bare) / 2)


def test_sites_attend_to_all_others():
    layer = randomised(SelfAttention(8))
    h = torch.randn(1, 8, 4, 4, generator=generator(1))
    changed = h.clone()
    changed[..., 0, 0] += 1
    with torch.no_grad():
        moved = (layer(changed) - layer(h))[..., 3, 3].abs().max()
    assert moved > 1e-3


# --- two stages -----------------------------------------------------------------------------------


def test_the_second_stage_refines_what_the_first_has_drawn():
    model = randomised(made(STACKED, LABELLED)).eval()
    noise = torch.randn(3, model.latent, generator=generator(1))
    label = torch.eye(3)
    with torch.no_grad():
        both = model.decode_noise(noise, label)
        model.body.level.set(0.0)
        coarse = model.decode_noise(noise, label)
        model.body.level.set(1.0)
        for parameter in model.body.second.parameters():
            parameter.zero_()
        unrefined = model.decode_noise(noise, label)
    squares = coarse.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    assert (squares == squares[..., :1]).all()
    assert not torch.equal(both, coarse)
    assert torch.equal(unrefined, coarse)


def test_embeddings_are_drawn_and_held_near_normal_ones():
    model = made(STACKED, LABELLED)
    with torch.no_grad():
        model.body.embedding.weight.zero_()
        model.body.embedding.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, math.log(2)]))
    # The mean of KL(N(1, 1) || N(0, 1)), 0 and KL(N(0, 4) || N(0, 1)): a sum drowns the classes.
    expected = (0.5 + 0.5 * (4 - 1 - 2 * math.log(2))) / 3
    assert model.surprise(torch.eye(3)).tolist() == pytest.approx([expected] * 3)
    noise = torch.zeros(2, model.latent)
    noise[1, -1] = 1.0
    with torch.no_grad():
        first, second = model.decode_noise(noise, torch.eye(3)[:1].expand(2, -1))
    assert not torch.equal(first, second)


# --- truncation -----------------------------------------------------------------------------------


def test_truncated_noise_is_normal_within_its_bound():
    one = Schema((1,), (Variable("x"),))
    network = MLPOptions(hidden=(), activation="leaky-relu")
    model = Generator(one, latent=1, network=network)
    with torch.no_grad():
        model.body.dense.layers[0].weight.fill_(1.0)
        model.body.dense.layers[0].bias.fill_(0.0)
    model.truncate(1.0)
    x = model.sample(20_000, seed=1).x[:, 0].double()
    assert x.abs().max() <= 1
    # The variance of the truncated normal distribution, 1 - 2 phi(1) / (2 Phi(1) - 1).
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    assert x.var().item() == pytest.approx(1 - 2 * density / math.erf(math.sqrt(0.5)), abs=0.01)


def test_a_recipe_truncates_generators_alone():
    cut = read("digits-style-gan", {"sampling.truncation": 0.7})
    model = made(STYLE)
    choose_sampling(cut, model)
    assert model.body.psi == 0.7
    with pytest.raises(RecipeError, match=r"sampling\.truncation: Flow is no generator"):
        choose_sampling(cut, Flow(Schema((2,), (Variable("x"), Variable("y")))))


def test_what_does_not_fit_is_refused():
    points = Schema((5, 2), (Variable("pt"), Variable("eta")), masked=True)
    with pytest.raises(RecipeError, match=r"sampling\.truncation: sets of points"):
        PointGenerator(points).truncate(0.5)
    with pytest.raises(RecipeError, match=r"surrogate\.network\.kind=style"):
        Adversarial(made(LEAKY), steps=1, mixing=0.5)
    with pytest.raises(RecipeError, match="grows over 2 levels, and the generator over 3"):
        Adversarial(made(GROWING), steps=1, critic=GrowingOptions(channels=(4, 8)))
    for network in (STYLE, GROWING, STACKED):
        with pytest.raises(RecipeError, match=r"^surrogate\.network: convolutions need"):
            Generator(Schema((3,), tuple(map(Variable, "abc"))), network=network)
