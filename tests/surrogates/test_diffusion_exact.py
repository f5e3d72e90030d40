"""Schedules, denoisers, samplers and likelihoods against what is known in closed form."""

import math

import pytest
import torch
from mixtures import Mixture, schedule_of
from randomised import generator
from torch import nn

from physgen.surrogates.diffusion.denoiser import Denoiser
from physgen.surrogates.diffusion.guidance import guided
from physgen.surrogates.diffusion.likelihood import integrate, probability_flow
from physgen.surrogates.diffusion.sampler import DETERMINISTIC, ancestral
from physgen.surrogates.diffusion.schedule import SCHEDULES, Grid, Karras

PREDICTIONS = ("epsilon", "x0", "v", "velocity", "edm")
F64 = torch.float64


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return schedule_of(request.param)


# --- schedules ------------------------------------------------------------------------------------


def test_noise_rises_and_amplitudes_keep_their_identities(schedule):
    time = torch.linspace(0, 1, 301, dtype=F64)
    log_snr = schedule.log_snr(time)
    assert log_snr.isfinite().all()
    assert (log_snr.diff() < 0).all()
    alpha, sigma = schedule.amplitudes(log_snr)
    torch.testing.assert_close(2 * (alpha / sigma).log(), log_snr)
    ones = {
        "preserving": alpha.square() + sigma.square(),
        "exploding": alpha,
        "straight": alpha + sigma,
    }
    torch.testing.assert_close(ones[schedule.scaling], torch.ones_like(time))


@pytest.mark.parametrize("spacing", ["time", "noise"])
def test_grids_fall_from_noise_to_a_clean_sample(schedule, spacing):
    grid = schedule.grid(7, spacing, torch.zeros((), dtype=F64))
    ends = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=F64))
    torch.testing.assert_close(grid.log_snr[[0, -2]], ends)
    assert (grid.log_snr.diff() > 0).all()
    assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)
    assert len(grid.log_snr) == 8


def test_linear_schedule_in_a_thousand_steps_is_ddpm():
    grid = schedule_of("linear").grid(1000, "time", torch.zeros((), dtype=F64))
    square = torch.cat([grid.alpha.square().flip(0)])
    beta = 1 - square[1:] / square[:-1]
    expected = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    assert (beta - expected).abs().max() < 2.5e-4
    # The lecture's alpha-bar at the end.
    product = (1 - expected).log().sum()
    assert square[-1].log().item() == pytest.approx(product.item(), rel=0.01)


def test_cosine_schedule_is_that_of_nichol_and_dhariwal():
    grid = schedule_of("cosine").grid(1001, "time", torch.zeros((), dtype=F64))
    time = torch.linspace(1, 0, 1001, dtype=F64)
    expected = ((time + 0.008) / 1.008 * math.pi / 2).cos()
    assert (grid.alpha[:-1] - expected).abs().max() < 0.01


def test_edm_grid_is_that_of_karras():
    steps = torch.arange(18, dtype=F64)
    expected = (80 ** (1 / 7) + steps / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    for spacing in ("time", "noise"):
        grid = Karras().grid(18, spacing, steps)
        torch.testing.assert_close(grid.sigma[:-1], expected)
    # Other schedules, spaced so, have the same levels between their ends.
    grid = schedule_of("linear").grid(5, "noise", steps)
    root = (grid.sigma / grid.alpha)[:-1] ** (1 / 7)
    torch.testing.assert_close(root.diff(), root.diff()[:1].expand(4))


# --- denoisers ------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """A network that has learned its target for one known pair of sample and noise."""

    def __init__(self):
        super().__init__()
        self.answer = None
        self.seen = None

    def forward(self, x, time, condition):
        self.seen = x
        return self.answer


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_the_network_learns_gives_back_the_sample(schedule, prediction):
    noise, x = torch.randn(2, 9, 3, generator=generator(), dtype=F64)
    log_snr = torch.linspace(8, -8, 9, dtype=F64)
    alpha, sigma = schedule.amplitudes(log_snr[:, None])
    denoiser = Denoiser(schedule, Oracle(), (3,), prediction).double()
    denoiser.scale.fill_(0.7)
    learns = {
        "epsilon": noise,
        "x0": x,
        "v": alpha * noise - sigma * x,
        "velocity": noise - x,
        "edm": (sigma.square() * x - alpha * sigma * 0.49 * noise)
        / (0.7 * sigma * ((0.7 * alpha).square() + sigma.square()).sqrt()),
    }
    denoiser.body.answer = learns[prediction]
    z = alpha * x + sigma * noise
    torch.testing.assert_close(denoiser(z, log_snr), x, rtol=1e-6, atol=1e-6)
    zero = torch.zeros(9, dtype=F64)
    torch.testing.assert_close(denoiser.loss(x, noise, log_snr), zero, atol=1e-10, rtol=0)
    rms = ((0.7 * alpha).square() + sigma.square()).sqrt()
    torch.testing.assert_close(denoiser.body.seen, z / rms)


def test_edm_loss_is_the_weighted_error_of_its_paper():
    denoiser = Denoiser(Karras(), Oracle(), (3,), "edm").double()
    denoiser.scale.fill_(0.5)
    noise, x, denoiser.body.answer = torch.randn(3, 5, 3, generator=generator(), dtype=F64)
    sigma = torch.tensor([0.01, 0.1, 1.0, 5.0, 40.0], dtype=F64)
    log_snr = -2 * sigma.log()
    error = (denoiser(x + sigma[:, None] * noise, log_snr) - x).square().mean(1)
    weight = (sigma.square() + 0.25) / (sigma * 0.5).square()
    torch.testing.assert_close(denoiser.loss(x, noise, log_snr), weight * error)


# --- samplers -------------------------------------------------------------------------------------


def grid_between(schedule, first, last, steps):
    log_snr = schedule.log_snr(torch.linspace(first, last, steps + 1, dtype=F64))
    return Grid(log_snr, *schedule.amplitudes(log_snr))


def followed(schedule, denoise, z, grid):
    """The same ordinary differential equation by fine Runge-Kutta steps on the straight path."""

    def flow(u, tau):
        log_snr = -2 * tau.logit()
        alpha, sigma = schedule.amplitudes(log_snr)
        return (u - denoise(u * (alpha + sigma), log_snr)) / tau, torch.zeros(len(u), dtype=F64)

    size = grid.alpha + grid.sigma
    u, _ = integrate(flow, z / size[0], (-grid.log_snr / 2).sigmoid())
    return u * size[-1]


@pytest.mark.parametrize("name", ["cosine", "straight", "edm"])
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 2), ("dpm-solver", 2)])
def test_samplers_converge_at_their_orders(name, sampler, order):
    schedule = schedule_of(name)
    denoise = Mixture().denoiser(schedule)
    first, last = (0.55, 0.2) if name == "edm" else (0.9, 0.1)
    start = grid_between(schedule, first, last, 60)
    z = 1.5 * start.sigma[0] * torch.randn(20, 2, generator=generator(), dtype=F64)
    exact = followed(schedule, denoise, z, start)
    errors = []
    for steps in (100, 200):
        grid = grid_between(schedule, first, last, steps)
        found = DETERMINISTIC[sampler](denoise, z, grid)
        errors.append((found - exact).square().mean().sqrt().log2().item())
    assert errors[-1] < -5
    assert errors[0] - errors[1] == pytest.approx(order, abs=0.2)


def test_every_sampler_draws_the_mixture():
    mixture, truth = Mixture(), Mixture().sample(1500, generator(1))
    for name, sampler, steps in (
        ("linear", ancestral, 80),
        ("cosine", ancestral, 80),
        ("straight", ancestral, 80),
        ("linear", DETERMINISTIC["ddim"], 60),
        ("edm", DETERMINISTIC["heun"], 18),
        ("cosine", DETERMINISTIC["dpm-solver"], 40),
        ("straight", DETERMINISTIC["heun"], 15),
    ):
        schedule, source = schedule_of(name), generator(2)

        def noise(_, source=source):
            return torch.randn(1500, 2, generator=source, dtype=F64)

        spacing = "time" if sampler is ancestral or name == "straight" else "noise"
        grid = schedule.grid(steps, spacing, truth)
        z = (grid.alpha[0].square() + grid.sigma[0].square()).sqrt() * noise(0)
        more = [noise] if sampler is ancestral else []
        x = sampler(mixture.denoiser(schedule), z, grid, *more)
        # The mean log-density has a deviation of 0.9 / sqrt(1500), twice.
        difference = mixture.log_prob(x).mean() - mixture.log_prob(truth).mean()
        assert difference.abs() < 0.1, (name, sampler)
        torch.testing.assert_close(x.T.cov(), truth.T.cov(), atol=0.1, rtol=0)


def test_ancestral_steps_keep_the_marginals_of_a_known_sample(schedule):
    grid = schedule.grid(6, "noise", torch.zeros((), dtype=F64))
    x = torch.full((20_000, 1), 1.7, dtype=F64)
    source = generator()
    z = grid.alpha[0] * x + grid.sigma[0] * torch.randn(x.shape, generator=source, dtype=F64)
    for n in (1, 2, 3):
        part = Grid(*(values[: n + 1] for values in grid))
        # One more level, so that noise is added at the last one too.
        part = Grid(*(torch.cat([v, w[-1:]]) for v, w in zip(part, grid, strict=True)))
        seen = []

        def denoise(z, log_snr, seen=seen):
            seen.append(z)
            return x

        ancestral(denoise, z, part, lambda i: torch.randn(x.shape, generator=source, dtype=F64))
        scaled = (seen[-1] - grid.alpha[n] * x) / grid.sigma[n]
        assert scaled.mean().abs() < 0.03
        assert scaled.std().item() == pytest.approx(1, abs=0.02)


def test_ddim_is_exact_for_a_known_sample(schedule):
    grid = schedule.grid(3, "noise", torch.zeros((), dtype=F64))
    noise, x = torch.randn(2, 5, 2, generator=generator(), dtype=F64)
    z = grid.alpha[0] * x + grid.sigma[0] * noise
    part = Grid(*(values[:3] for values in grid))
    found = DETERMINISTIC["ddim"](lambda z, log_snr: x, z, part)
    torch.testing.assert_close(found, grid.alpha[2] * x + grid.sigma[2] * noise)


# --- guidance -------------------------------------------------------------------------------------


class Line(nn.Module):
    """Answers the sum of its condition, which is 0 where that is hidden."""

    def forward(self, x, time, condition):
        return torch.zeros_like(x) + condition.sum(1, keepdim=True)


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 4.0), (0.0, 0.0), (2.5, 10.0)])
def test_guidance_goes_on_from_the_unconditional_answer(weight, expected):
    denoiser = Denoiser(schedule_of("cosine"), Line(), (2,), "x0").double()
    condition = torch.full((3, 1), 3.0, dtype=F64)  # and 1 for being shown
    denoise = guided(denoiser, condition, weight)
    x = denoise(torch.ones(3, 2, dtype=F64), torch.zeros((), dtype=F64))
    torch.testing.assert_close(x, torch.full((3, 2), expected, dtype=F64))


# --- likelihood -----------------------------------------------------------------------------------


def density(schedule, denoise, x, steps=24, probe=None):
    levels = (-schedule.grid(steps + 1, "noise", x).log_snr[:-1] / 2).sigmoid().flip(0)
    flow = probability_flow(denoise, schedule, probe)
    u, total = integrate(flow, (1 - levels[0]) * x, levels)
    alpha, sigma = schedule.amplitudes(schedule.log_snr(x.new_ones(())))
    scale = (alpha.square() + sigma.square()).sqrt() / (alpha + sigma)
    base = torch.distributions.Normal(0, scale).log_prob(u).sum(1)
    return base + total + x.shape[1] * (1 - levels[0]).log()


@pytest.mark.parametrize("name", ["linear", "cosine", "edm", "straight"])
def test_likelihood_of_a_mixture_is_exact_to_one_per_cent(name):
    mixture, schedule = Mixture(), schedule_of(name)
    x = mixture.sample(100, generator())
    found, exact = density(schedule, mixture.denoiser(schedule), x), mixture.log_prob(x)
    assert (found.mean() / exact.mean() - 1).abs() < 0.003
    assert ((found - exact).abs() < 0.01 * exact.abs().clamp(min=1)).all()


def test_hutchinson_estimates_the_same_likelihood():
    mixture, schedule = Mixture(), schedule_of("cosine")
    x = mixture.sample(5, generator())
    exact = density(schedule, mixture.denoiser(schedule), x)
    many = x.repeat(100, 1)
    probe = torch.randint(2, many.shape, generator=generator()).to(F64) * 2 - 1
    found = density(schedule, mixture.denoiser(schedule), many, probe=probe).reshape(100, 5)
    error = found.std(0) / 10
    assert ((found.mean(0) - exact).abs() < 4 * error + 1e-9).all()
    assert (error > 0).all()
