"""The variational bound of diffusion, and optimal transport, against what is known exactly."""

import itertools
import math

import pytest
import torch
from mixtures import Mixture, schedule_of
from randomised import generator

from physgen.surrogates.diffusion.schedule import SCHEDULES
from physgen.surrogates.diffusion.transport import transport_plan
from physgen.surrogates.diffusion.variational import bound_terms

F64 = torch.float64


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return schedule_of(request.param)


def averaged_terms(schedule, variance, x, n_times=2000):
    """The terms of the bound of a Gaussian whose denoiser is exact, averaged over noise and time.

    They are quadratic in the noise, so that its mean over +-sqrt(2) along both axes is exact. Times
    are dense at both ends, t = s^2 (3 - 2 s), where the noise changes fast.
    """
    exact = Mixture(((0.0, 0.0),), math.sqrt(variance)).denoiser(schedule)
    axes = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).to(F64)
    even = (torch.arange(n_times, dtype=F64) + 0.5) / n_times
    time, density = even.square() * (3 - 2 * even), 6 * even * (1 - even)
    every = torch.cartesian_prod(torch.arange(n_times), torch.arange(4), torch.arange(len(x)))
    alpha, sigma = schedule.amplitudes(schedule.log_snr(torch.ones((), dtype=F64)))
    scale = (alpha.square() * variance + sigma.square()).sqrt()
    with torch.no_grad():
        terms = bound_terms(
            exact, schedule, x[every[:, 2]], time[every[:, 0]], axes[every[:, 1]], scale
        )
    weighted = terms._replace(denoising_matching=terms[2] * density[every[:, 0]])
    return [term.reshape(-1, len(x)).mean(0) for term in (*weighted, weighted.bound)], scale


def test_terms_sum_to_a_bound_below_the_likelihood_of_a_gaussian(schedule):
    variance = 0.6
    x = math.sqrt(variance) * torch.randn(3, 2, generator=generator(), dtype=F64)
    (reconstruction, prior, denoising, bound), scale = averaged_terms(schedule, variance, x)
    torch.testing.assert_close(reconstruction - prior - denoising, bound)
    first, last = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=F64)).tolist()
    # What the model with the exact denoiser makes: z_0 / alpha_0, and noise once more.
    widened = math.sqrt(variance + 2 * math.exp(-first))
    exact = Mixture(((0.0, 0.0),), widened).log_prob(x)
    # The bound is tight, but for the two ends of the schedule.
    assert (bound < exact).all()
    assert (bound > exact - 0.01).all()
    assert reconstruction[0].item() == pytest.approx(-(1 + math.log(2 * math.pi) - first))
    alpha, sigma = schedule.amplitudes(torch.tensor(last, dtype=F64))
    q = torch.distributions.Normal(alpha * x, sigma.detach().expand_as(x))
    p = torch.distributions.Normal(0, scale.detach())
    torch.testing.assert_close(prior, torch.distributions.kl_divergence(q, p).sum(1).detach())


def test_a_wrong_denoiser_loses_what_its_error_says():
    schedule, variance = schedule_of("cosine"), 0.6
    x = torch.randn(3, 2, generator=generator(), dtype=F64)
    good = averaged_terms(schedule, variance, x)[0][2]
    worse = averaged_terms(schedule, 2 * variance, x)[0][2]
    # E |eps - eps_hat|^2 of two widths, integrated over lambda by hand.
    first, last = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=F64)).tolist()
    log_snr = torch.linspace(first, last, 100_001, dtype=F64)
    snr = log_snr.exp()[:, None]

    def matching(v):
        error = (x.square().sum(1) / (1 + snr * v) ** 2 + 2 * snr * (v / (1 + snr * v)) ** 2) * snr
        return -0.5 * torch.trapezoid(error, log_snr[:, None], dim=0)

    torch.testing.assert_close(good, matching(variance), atol=1e-3, rtol=0)
    torch.testing.assert_close(worse, matching(2 * variance), atol=1e-3, rtol=0)


def test_the_bound_depends_on_the_ends_of_a_learned_schedule_only():
    x = torch.randn(4, 2, generator=generator(), dtype=F64)
    found = []
    for scale in (0.1, 2.0):
        schedule = schedule_of("learned", scale)
        found.append(averaged_terms(schedule, 1.0, x)[0])
        time = torch.linspace(0, 1, 5, dtype=F64)
        found[-1].append(schedule.log_snr(time).detach())
    torch.testing.assert_close(found[0][3], found[1][3], atol=2e-3, rtol=0)
    assert (found[0][4] - found[1][4]).abs().max() > 0.1


# --- optimal transport ----------------------------------------------------------------------------


def test_plan_is_the_best_of_all_permutations():
    x, noise = torch.randn(2, 7, 3, generator=generator(), dtype=F64)
    plan = transport_plan(x, noise)

    def cost(order):
        return (x - noise[list(order)]).square().sum().item()

    best = min(cost(order) for order in itertools.permutations(range(7)))
    assert cost(plan.tolist()) == pytest.approx(best)
    assert cost(range(7)) > best


def test_noise_stays_with_its_condition():
    x = torch.randn(200, 2, generator=generator())
    label = torch.randint(3, (200, 1), generator=generator(1)).float()
    x = x + 5 * label
    noise = torch.randn(200, 2, generator=generator(2))
    plan = transport_plan(x, noise, label)
    assert torch.equal(plan.sort().values, torch.arange(200))
    assert torch.equal(label[plan], label)
    assert (plan != torch.arange(200)).sum() > 100
    assert not torch.equal(label[transport_plan(x, noise)], label)
