"""Generators and critics: laws over a dict of games, and the optima that are known exactly."""

import copy
import math
from functools import partial

import pytest
import torch
from randomised import generator
from safetensors.torch import load_file, save_file
from stub import StubContext
from torch import nn

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import RecipeError
from physgen.networks.conv import ConvOptions
from physgen.networks.mlp import MLPOptions
from physgen.surrogates.base import FromNoise, HasDensity
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.gan.adversarial import Adversarial
from physgen.surrogates.gan.losses import LOSSES, slope_penalty, squared_slope
from physgen.surrogates.gan.monitor import PATIENCE, GANMonitor, coverage, spread
from physgen.surrogates.gan.networks import Critic, Generator
from physgen.transforms.affine import Standardise

IMAGE = Schema((8, 8), (Variable("i"),))
LABELLED = Schema((8, 8), (Variable("i"),), (Variable("c"),))
TABLE = Schema((3,), tuple(Variable(name) for name in "abc"), (Variable("c"),))
LINE = Schema((1,), (Variable("x"),))
SMALL = MLPOptions(hidden=(8,), activation="leaky-relu")
CONV = ConvOptions(channels=(2, 4), activation="leaky-relu")
TORUS = ConvOptions(channels=(2, 4), activation="leaky-relu", periodic=True)
DROPPING = ConvOptions(channels=(2, 4), activation="leaky-relu", dropout=0.3)

GAMES = {
    "minimax": (TABLE, {"network": SMALL, "latent": 4}, {"loss": "minimax"}),
    "non-saturating r1": (TABLE, {"network": SMALL, "latent": 4}, {"r1": 1.0}),
    "convolutional": (IMAGE, {"network": CONV, "latent": 5, "bounded": True}, {"critic": DROPPING}),
    "conditional images": (
        LABELLED,
        {"network": CONV, "latent": 5},
        {"critic": CONV, "r1": 0.1, "n_critic": 2},
    ),
    "hinge": (IMAGE, {"network": SMALL}, {"loss": "hinge", "spectral_norm": True}),
    "clipped": (IMAGE, {"network": SMALL}, {"loss": "wasserstein", "clip": 0.1, "n_critic": 3}),
    "gradient penalty": (
        LABELLED,
        {"network": TORUS, "latent": 5},
        {"critic": TORUS, "loss": "wasserstein", "gradient_penalty": 10.0, "momentum": 0.0},
    ),
}


@pytest.fixture(params=GAMES)
def game(request):
    return build(request.param)


def build(name):
    schema, options, play = GAMES[name]
    torch.manual_seed(0)
    surrogate = Generator(schema, Standardise(schema), **options)
    surrogate.initialise(data(schema))
    return surrogate, Adversarial(surrogate, steps=100, **{"critic": SMALL, **play})


def data(schema, n=64, seed=2):
    noise = generator(seed)
    condition = torch.rand(n, 1, generator=noise) if schema.condition else None
    x = 2 + torch.randn(n, *schema.shape, generator=noise)
    return Batch(x, condition)


class Rows:
    """A stream of batches that follow from their number."""

    def __init__(self, draw):
        self.draw, self.position = draw, 0

    def __next__(self):
        self.position += 1
        return self.draw(self.position)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def train(surrogate, method, directory, draw, **options):
    engine = Engine(**{"device": "cpu", "log_every": 2, **options})
    return fit(surrogate, method, {"data": Rows(draw)}, directory, engine)


def condition_of(surrogate, n, seed=3):
    columns = len(surrogate.schema.condition)
    return torch.rand(n, columns, generator=generator(seed)) if columns else None


def test_seeds_decide_samples_and_saving_keeps_them(game, tmp_path):
    surrogate, _ = game
    condition = condition_of(surrogate, 6)
    if condition is not None:
        surrogate.conditions.fit(torch.tensor([[0.0], [1.0]]))
    assert isinstance(surrogate, FromNoise)
    assert not isinstance(surrogate, HasDensity)
    first = surrogate.sample(6, condition, generator=generator(1)).x
    assert first.shape == (6, *surrogate.schema.shape)
    assert torch.equal(first, surrogate.sample(6, condition, generator=generator(1)).x)
    assert not torch.equal(first, surrogate.sample(6, condition, generator=generator(2)).x)
    save_file(surrogate.state_dict(), tmp_path / "w.safetensors")
    fresh = copy.deepcopy(surrogate)
    for value in fresh.state_dict().values():
        value.zero_()
    fresh.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(first, fresh.sample(6, condition, generator=generator(1)).x)


def test_the_condition_is_used_by_both(game):
    surrogate, method = game
    condition = condition_of(surrogate, 6)
    if condition is None:
        pytest.skip("no condition")
    noise = torch.randn(6, surrogate.latent, generator=generator(4))
    x = surrogate.decode_noise(noise, condition)
    assert (x - surrogate.decode_noise(noise, 1 - condition)).abs().max() > 1e-3
    method.critic.eval()
    assert (method.critic(x, condition) - method.critic(x, 1 - condition)).abs().max() > 1e-3


def test_every_parameter_gets_a_gradient_from_its_own_loss_only(game):
    surrogate, method = game
    batch = method.prepare(data(surrogate.schema), generator())
    noise = torch.randn(64, surrogate.latent, generator=generator(5))
    mix = torch.rand(64, 1, generator=generator(6))
    losses = {
        "critic": method.critic_loss(batch, noise, mix),
        "generator": method.generator_loss(batch, noise),
    }
    for name, network in (("critic", method.critic), ("generator", surrogate)):
        assert losses[name].shape == (64,)
        found = list(network.named_parameters())
        gradients = torch.autograd.grad(losses[name].sum(), [p for _, p in found])
        for (parameter, _), gradient in zip(found, gradients, strict=True):
            # A constant cancels in a difference of scores.
            cancels = name == "critic" and not method.loss.saturates and "bias" in parameter
            assert gradient.isfinite().all(), parameter
            assert cancels or gradient.abs().max() > 0, parameter
    assert not any(p.requires_grad and p.grad is not None for p in surrogate.parameters())


def test_export_with_a_dynamic_batch(game):
    surrogate, _ = game
    surrogate.eval()

    class Push(nn.Module):
        def __init__(self):
            super().__init__()
            self.surrogate = surrogate

        def forward(self, noise, condition=None):
            return self.surrogate.from_noise(noise, condition)

    noise = torch.randn(7, surrogate.latent, generator=generator())
    batch = torch.export.Dim("batch", min=2, max=4096)
    condition = condition_of(surrogate, 7)
    arguments = {"noise": noise} if condition is None else {"noise": noise, "condition": condition}
    exported = torch.export.export(
        Push(),
        tuple(value[:3] for value in arguments.values()),
        dynamic_shapes={name: {0: batch} for name in arguments},
    ).module()
    arguments = tuple(arguments.values())
    torch.testing.assert_close(exported(*arguments), surrogate.from_noise(*arguments))


@pytest.mark.parametrize("name", GAMES)
def test_a_run_in_two_parts_equals_a_run_in_one(name, tmp_path):
    weights = []
    for parts in ((6,), (3, 6)):
        for steps in parts:
            surrogate, method = build(name)
            train(
                surrogate,
                method,
                tmp_path / str(len(parts)),
                partial(data, surrogate.schema, 16),
                steps=steps,
                batch_size=16,
                accumulate=2,
                ema=0.9,
            )
        weights.append((surrogate.state_dict(), method.critic.state_dict()))
    for whole, resumed in zip(*weights, strict=True):
        assert [k for k in whole if not torch.equal(whole[k], resumed[k])] == []


@pytest.mark.parametrize("name", ["non-saturating r1", "gradient penalty"])
def test_micro_batches_give_the_same_steps_in_double_precision(name, tmp_path):
    made = []
    for accumulate in (1, 3):
        surrogate, method = build(name)
        train(
            surrogate,
            method,
            tmp_path / str(accumulate),
            partial(data, surrogate.schema, 12),
            steps=4,
            batch_size=12,
            accumulate=accumulate,
            precision="float64",
        )
        noise = torch.randn(5, surrogate.latent, generator=generator(), dtype=torch.float64)
        condition = condition_of(surrogate, 5).double()
        made.append(surrogate.from_noise(noise, condition))
    assert made[0].dtype == torch.float64
    torch.testing.assert_close(*made, rtol=1e-7, atol=1e-7)


# --- slopes ---------------------------------------------------------------------------------------


def test_slopes_and_their_penalties_of_a_linear_critic():
    torch.manual_seed(0)
    critic = Critic((3,), 0, MLPOptions(hidden=(), activation="leaky-relu")).double()
    weight = critic.body.dense.layers[0].weight
    norm = weight.detach().norm()
    x, y = torch.randn(2, 5, 3, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(squared_slope(critic, x, None), norm.square().expand(5))
    penalty = slope_penalty(critic, x, y, torch.rand(5, 1).double(), None)
    torch.testing.assert_close(penalty, (norm - 1).square().expand(5))
    (gradient,) = torch.autograd.grad(penalty.mean(), weight)
    torch.testing.assert_close(gradient, 2 * (norm - 1) * weight.detach() / norm)


def test_slopes_are_taken_between_data_and_samples():
    class Cubic(nn.Module):
        def forward(self, x, condition):
            return x[:, 0] ** 3

    x, y, mix = (
        torch.tensor([[2.0], [1.0]]),
        torch.tensor([[0.0], [1.0]]),
        torch.tensor([[0.25], [0.5]]),
    )
    expected = torch.tensor([3 * 0.5**2 - 1, 3 - 1.0]).square()
    torch.testing.assert_close(slope_penalty(Cubic(), x, y, mix, None), expected)


def test_spectral_norm_bounds_slopes_by_one():
    torch.manual_seed(0)
    x = torch.randn(200, 8, 8, generator=generator())
    critic = Critic(
        (8, 8), 0, MLPOptions(hidden=(32, 32), activation="leaky-relu"), spectral_norm=True
    )
    for _ in range(50):
        critic(x)
    slope = squared_slope(critic, x, None).sqrt()
    assert slope.max() <= 1 + 1e-3
    free = Critic((8, 8), 0, MLPOptions(hidden=(32, 32), activation="leaky-relu"))
    with torch.no_grad():
        for parameter in free.parameters():
            parameter.mul_(10)
    assert squared_slope(free, x, None).sqrt().min() > 1


# --- optima ---------------------------------------------------------------------------------------


def two_gaussians():
    """Grid, p = N(0, 1), q = N(1, 0.6^2), and their exact Jensen-Shannon divergence."""
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    p, q = (torch.distributions.Normal(m, s).log_prob(x) for m, s in ((0.0, 1.0), (1.0, 0.6)))
    middle = torch.logaddexp(p, q) - math.log(2)
    divergence = 0.5 * torch.trapezoid(p.exp() * (p - middle) + q.exp() * (q - middle), x)
    return x, p, q, divergence


@pytest.mark.parametrize("name", ["minimax", "non-saturating"])
def test_best_discriminator_has_the_value_of_the_divergence(name):
    x, p, q, divergence = two_gaussians()
    loss = LOSSES[name]

    def value(score):
        return -torch.trapezoid(p.exp() * loss.real(score) + q.exp() * loss.fake(score), x)

    best = p - q
    torch.testing.assert_close(value(best), 2 * divergence - 2 * math.log(2))
    torch.testing.assert_close(loss.shown(best), (p.exp() / (p.exp() + q.exp())))
    for change in (0.1 * torch.ones_like(x), 0.1 * x, 0.05 * x.sin()):
        assert value(best + change) < value(best)
        assert value(best - change) < value(best)


def linear_generator(mean, deviation):
    surrogate = Generator(LINE, latent=1, network=MLPOptions(hidden=(), activation="leaky-relu"))
    with torch.no_grad():
        surrogate.body.dense.layers[0].weight.fill_(deviation)
        surrogate.body.dense.layers[0].bias.fill_(mean)
    return surrogate


def fit_critic(surrogate, steps, **options):
    """Train the critic alone on N(0, 1); return the means of its journal over the last steps."""
    torch.manual_seed(0)
    method = Adversarial(
        surrogate,
        steps=1,
        critic=MLPOptions(hidden=(32, 32), activation="leaky-relu"),
        r1=0.0,
        **options,
    )
    optimiser, context = method.optimisers["critic"], StubContext(512)
    penalty = method.gradient_penalty
    for step in range(steps):
        # Slopes of the wrong sign are stuck behind a high penalty on those between -1 and 1.
        method.gradient_penalty = penalty if step > steps / 3 else penalty / 100
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        noise, mix = context.randn(1), context.rand(1)
        context.minimise(method.critic_loss, optimiser, context.next(), noise, mix)
    return torch.stack(method._curves)[-steps // 4 :].mean(0), method.critic


def test_a_trained_discriminator_finds_the_divergence():
    torch.manual_seed(0)
    x, p, q, divergence = two_gaussians()
    (real, fake, loss), critic = fit_critic(linear_generator(1.0, 0.6), 400)
    assert -loss.item() == pytest.approx(2 * divergence.item() - 2 * math.log(2), abs=0.02)
    with torch.no_grad():
        found = critic(x[:, None].float()).sigmoid().double()
    best = (p - q).sigmoid()
    assert torch.trapezoid((found - best).abs() * (p.exp() + q.exp()) / 2, x) < 0.03
    assert real.item() == pytest.approx(torch.trapezoid(best * p.exp(), x).item(), abs=0.02)
    assert fake.item() == pytest.approx(torch.trapezoid(best * q.exp(), x).item(), abs=0.02)


def test_a_discriminator_is_at_a_half_when_generated_samples_are_true():
    (real, fake, loss), _ = fit_critic(linear_generator(0.0, 1.0), 200)
    assert real.item() == pytest.approx(0.5, abs=0.01)
    assert fake.item() == pytest.approx(0.5, abs=0.01)
    assert loss.item() == pytest.approx(2 * math.log(2), abs=0.01)


def exact_w1(mean, deviation, shift):
    """W1 of N(mean, deviation^2) and N(shift, 1) by their quantiles."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    z = torch.special.ndtri(u)
    return (mean + deviation * z - shift - z).abs().mean().item()


def test_wasserstein_critic_with_gradient_penalty_finds_w1():
    exact = exact_w1(0.3, 0.5, 0.0)
    options = {"loss": "wasserstein", "gradient_penalty": 10.0}
    (real, fake, _), _ = fit_critic(linear_generator(0.3, 0.5), 600, **options)
    # The penalty lets slopes exceed 1 by about W1 / (2 lambda), 2 %.
    assert (real - fake).item() == pytest.approx(exact, rel=0.06)


def test_clipped_linear_critic_finds_w1_in_its_own_units():
    torch.manual_seed(0)
    surrogate = linear_generator(2.0, 1.0)
    method = Adversarial(
        surrogate,
        steps=1,
        critic=MLPOptions(hidden=(), activation="leaky-relu"),
        loss="wasserstein",
        clip=0.1,
        learning_rate=0.01,
        n_critic=40,
    )
    context = StubContext(4096)
    metrics = method.step({"data": context.next()}, context)
    metrics = method.step({"data": context.next()}, context)
    slope = (metrics["score_real"] - metrics["score_fake"]).item() / 0.1
    assert abs(slope) == pytest.approx(exact_w1(2.0, 1.0, 0.0), rel=0.05)


# --- training -------------------------------------------------------------------------------------


def test_training_follows_the_weights_of_the_data(tmp_path):
    """Rows at -3 do not count."""

    def draw(i):
        sign = torch.randint(0, 2, (128, 1), generator=generator(i)) * 2.0 - 1
        x = 3 * sign + 0.5 * torch.randn(128, 1, generator=generator(10_000 + i))
        return Batch(x, weight=(1 + sign[:, 0]) / 2)

    surrogate = linear_generator(0.0, 1.0)
    torch.manual_seed(0)
    method = Adversarial(
        surrogate,
        steps=400,
        critic=MLPOptions(hidden=(16,), activation="leaky-relu"),
        r1=0.3,
        learning_rate=0.02,
    )
    train(
        surrogate,
        method,
        tmp_path,
        draw,
        steps=400,
        batch_size=128,
        ema=0.98,
        schedule="cosine",
        log_every=100,
    )
    x = surrogate.sample(4000, generator=generator()).x
    assert x.mean().item() == pytest.approx(3.0, abs=0.3)


def test_the_journal_says_what_the_critic_thinks(tmp_path):
    surrogate, method = build("convolutional")
    draw = partial(data, surrogate.schema, 16)
    train(surrogate, method, tmp_path, draw, steps=4, batch_size=16)
    text = (tmp_path / "journal.jsonl").read_text()
    assert all(name in text for name in ("D_real", "D_fake", "critic_loss", "coverage"))


# --- what goes wrong ------------------------------------------------------------------------------


def test_coverage_of_the_same_of_half_and_of_nothing():
    first, second = torch.randn(2, 500, 4, generator=generator())
    assert coverage(first, second).item() == pytest.approx(1 - 2**-5, abs=0.03)
    sign = torch.ones(500, 4)
    sign[::2] = -1
    assert coverage(first + 5 * sign, second + 5).item() == pytest.approx(0.48, abs=0.03)
    assert coverage(first, second + 50) == 0


def test_an_average_of_the_data_covers_them_but_is_alone():
    real, same = torch.randn(2, 200, 8, 8, generator=generator())
    alone = torch.zeros(200, 8, 8) + 0.01 * same
    assert coverage(real, alone) == 1
    assert spread(real, alone) < 0.02
    assert spread(real, same).item() == pytest.approx(1, abs=0.02)


def test_a_critic_that_has_won_is_said_once():
    watch = GANMonitor(saturates=True, late=1000)
    won = {"critic_loss": 0.001, "D_real": 0.9996, "D_fake": 0.0004}
    said = [watch.warnings(50 * i, won) for i in range(3 * PATIENCE)]
    assert [bool(sentences) for sentences in said].index(True) == PATIENCE - 1
    assert sum(map(len, said)) == 1
    assert "the critic has won" in said[PATIENCE - 1][0]
    assert "method.r1=1" in said[PATIENCE - 1][0]
    assert not any(GANMonitor(saturates=False, late=1000).warnings(i, won) for i in range(20))


def test_a_game_says_what_it_sees():
    for loss, name in (("non-saturating", "D"), ("hinge", "score")):
        method = Adversarial(
            linear_generator(0.0, 1.0),
            steps=100,
            critic=MLPOptions(hidden=(4,), activation="leaky-relu"),
            loss=loss,
        )
        won = {"critic_loss": 0.001, f"{name}_real": 0.75, f"{name}_fake": 0.25}
        said = [sentence for i in range(20) for sentence in method.warnings(i, won)]
        assert len(said) == 1
        assert "0.75 for data and 0.25 for" in said[0]
        few = {"critic_loss": 1.0, "coverage": 0.1}
        assert len([s for i in range(90, 99) for s in method.warnings(i, few)]) == 1


def test_r1_is_on_the_slope_at_the_data():
    torch.manual_seed(0)
    method = Adversarial(
        linear_generator(0.0, 1.0),
        steps=1,
        critic=MLPOptions(hidden=(8,), activation="leaky-relu"),
        r1=0.7,
    )
    x = Batch(3 + torch.randn(50, 1, generator=generator()))
    noise, mix = torch.randn(50, 1, generator=generator(1)), torch.rand(50, 1)
    with_it = method.critic_loss(x, noise, mix)
    method.r1 = 0.0
    at = x.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(method.critic(at, None).sum(), at)
    expected = method.critic_loss(x, noise, mix) + 0.35 * slope.square().sum(1)
    torch.testing.assert_close(with_it, expected)


def test_lost_modes_are_said_late_only():
    watch = GANMonitor(saturates=True, late=100)
    said = [watch.warnings(i, {"critic_loss": 1.0, "coverage": 0.1}) for i in range(200)]
    assert [i for i, sentences in enumerate(said) if sentences] == [100 + PATIENCE]
    assert "near 10 % of the data, at 1.00" in said[100 + PATIENCE][0]
    watch = GANMonitor(saturates=True, late=0)
    assert any(watch.warnings(i, {"coverage": 1.0, "spread": 0.1}) for i in range(1, 9))
    # One look that is better starts the count anew.
    watch = GANMonitor(saturates=True, late=0)
    assert not any(watch.warnings(i, {"coverage": 0.1 + 0.5 * (i % 2)}) for i in range(1, 40))


def test_a_generator_of_one_mode_is_noticed_within_a_step():
    surrogate = linear_generator(0.0, 0.01)
    method = Adversarial(
        surrogate, steps=1, critic=MLPOptions(hidden=(4,), activation="leaky-relu")
    )
    modes = torch.arange(64.0).remainder(8)[:, None]
    batch = Batch(5 * modes + 0.1 * torch.randn(64, 1, generator=generator()))
    metrics = method.step({"data": batch}, StubContext(64, step=0))
    assert 0 < metrics["coverage"] < 0.2
    assert "coverage" not in method.step({"data": batch}, StubContext(64, step=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "wasserstein"}, "bounded slope: set gradient_penalty=10"),
        ({"clip": 0.1, "spectral_norm": True}, "stand alone"),
        ({"n_critic": 0}, "at least 1"),
        ({"critic": CONV}, "^method.critic: convolutions need samples of rows and columns"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        Adversarial(Generator(LINE), steps=1, **options)


def test_other_surrogates_and_odd_images_are_refused():
    with pytest.raises(RecipeError, match="trains a generator, not Flow"):
        Adversarial(Flow(LINE), steps=1)
    with pytest.raises(RecipeError, match=r"^surrogate.network: images of 6x6"):
        Generator(Schema((6, 6), (Variable("i"),)), network=ConvOptions(activation="leaky-relu"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["non-saturating r1", "gradient penalty"])
def test_penalties_on_slopes_train_where_losses_are_compiled(name, tmp_path):
    surrogate, method = build(name)
    before = copy.deepcopy(method.critic.state_dict())
    draw = partial(data, surrogate.schema, 16)
    train(surrogate, method, tmp_path, draw, steps=2, batch_size=16, compile=True)
    moved = method.critic.state_dict()
    assert any(not torch.equal(before[name], moved[name]) for name in before)
