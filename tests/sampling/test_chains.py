"""Markov chains against exactly known targets, and detailed balance where it can be counted."""

import math

import pytest
import torch

from physgen.batch import Batch
from physgen.errors import DomainError, InputError
from physgen.sampling import hmc, langevin, metropolis
from physgen.sampling.thinning import spacing

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)


def action(x):
    return 0.5 * ((x @ COVARIANCE.inverse()) * x).sum(1)


def quartic(x):
    return (x**4 + 0.3 * x**2 * x.roll(1, 1)).flatten(1).sum(1)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def start(n=256):
    return torch.randn((n, 2), generator=generator(9), dtype=torch.float64)


def test_hmc_samples_a_gaussian():
    run = hmc.sample(start(), action, hmc.Schedule(100, n_warm=60), generator=generator())
    x = run.x.flatten(0, 1)
    torch.testing.assert_close(x.T.cov(), COVARIANCE, atol=0.08, rtol=0)
    torch.testing.assert_close(x.mean(0), torch.zeros(2).double(), atol=0.06, rtol=0)
    assert run.acceptance > 0.75


def test_langevin_with_short_gradients_samples_the_same_and_leaves_steep_places():
    noise, state = generator(), langevin.init(start(4000), action)
    for _ in range(60):
        state, _ = langevin.step(state, action, step_size=0.4, generator=noise, longest=0.8)
    torch.testing.assert_close(state.x.T.cov(), COVARIANCE, atol=0.15, rtol=0)
    cut = langevin.truncated(state, 0.8).gradient.norm(dim=1)
    assert cut.max() <= 0.8 + 1e-9
    assert (cut < 0.8 - 1e-9).any()

    def chains_after(longest):
        noise = generator(2)
        state = langevin.init(torch.full((64, 2), 20.0, dtype=torch.float64), quartic)
        for _ in range(200):
            state, _ = langevin.step(
                state, quartic, step_size=0.1, generator=noise, longest=longest
            )
        return state.x

    assert (chains_after(math.inf) == 20).all()
    assert chains_after(3.0).abs().max() < 5


def test_langevin_samples_a_gaussian():
    state, draws, noise = langevin.init(start(512), action), generator(), []
    for time in range(400):
        state, _ = langevin.step(state, action, step_size=0.5, generator=draws)
        if time >= 50:
            noise.append(state.x)
    torch.testing.assert_close(torch.cat(noise).T.cov(), COVARIANCE, atol=0.08, rtol=0)


def test_leapfrog_is_reversible_and_of_second_order():
    x = start(64) * 0.5
    p, state, errors = torch.randn(x.shape, generator=generator()).double(), None, []
    for n in (10, 20):
        state = hmc.init(x, quartic)
        end, q = hmc.leapfrog(state, p, quartic, 0.5 / n, n)
        back, r = hmc.leapfrog(end, -q, quartic, 0.5 / n, n)
        torch.testing.assert_close(back.x, x)
        torch.testing.assert_close(r, -p)
        kinetic = 0.5 * (q.square() - p.square()).sum(1)
        errors.append((end.action - state.action + kinetic).abs().mean().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("longest", [math.inf, 0.7])
def test_langevin_acceptance_is_that_of_the_density_of_its_proposals(longest):
    eps, x = 0.1, langevin.init(start(32), quartic)
    xi = torch.randn((32, 2), generator=generator(), dtype=torch.float64)
    y, change = langevin.proposed(x, xi, quartic, eps, longest)

    def log_density(a, b):
        drift = eps * langevin.truncated(a, longest).gradient
        return -(b.x - a.x + drift).square().sum(1) / (4 * eps)

    torch.testing.assert_close(log_density(x, y), -0.5 * xi.square().sum(1))
    ratio = x.action - y.action + log_density(y, x) - log_density(x, y)
    torch.testing.assert_close(-change, ratio)
    assert (langevin.lengths(x) > 0.7).any()


def test_a_trajectory_to_nowhere_is_refused():
    state = hmc.init(torch.ones(8, 2).double(), lambda x: (x**4).sum(1))
    after, info = hmc.step(
        state, lambda x: (x**4).sum(1), step_size=1e3, n_steps=5, generator=generator()
    )
    assert not info.accepted.any()
    torch.testing.assert_close(after.x, state.x)


@pytest.mark.parametrize(
    ("broken", "message"),
    [(lambda x: x, "shape"), (lambda x: x.detach().sum(1), "differentiably")],
)
def test_what_is_no_action(broken, message):
    with pytest.raises(DomainError, match=message):
        hmc.init(torch.zeros(3, 2), broken)


def test_hmc_gives_up_where_nothing_is_accepted():
    with pytest.raises(InputError, match="not finite"):
        hmc.sample(
            start(4),
            lambda x: (x * math.nan).sum(1),
            hmc.Schedule(10, n_warm=300),
            generator=generator(),
        )


def test_independence_metropolis_balances_in_detail():
    """The transition matrix of three states, counted, leaves the target invariant."""
    target = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    proposal = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    log_weight = (target / proposal).log()
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            state = metropolis.init(log_weight[i].expand(1000))
            _, accepted = metropolis.step(state, log_weight[j].expand(1000), uniform)
            rate = accepted.double().mean()
            matrix[i, j] += proposal[j] * rate
            matrix[i, i] += proposal[j] * (1 - rate)
    flow = target[:, None] * matrix
    torch.testing.assert_close(flow, flow.T, atol=1e-3, rtol=0)
    torch.testing.assert_close(target @ matrix, target, atol=1e-3, rtol=0)


@pytest.mark.parametrize("n_chains", [1, 8])
def test_independence_metropolis_corrects_a_gaussian(n_chains):
    """From N(0, 1) to N(0.3, 0.8^2): s of the log-weights is small, the correction exact."""
    x = torch.randn((40_000, 1), generator=generator(), dtype=torch.float64)
    log_weight = (0.5 * x**2 - 0.5 * ((x - 0.3) / 0.8) ** 2)[:, 0]
    found = metropolis.independence_metropolis(
        Batch(x=x, log_weight=log_weight), generator=generator(2), n_chains=n_chains
    )
    assert found.batch.x.mean().item() == pytest.approx(0.3, abs=0.03)
    assert found.batch.x.std().item() == pytest.approx(0.8, abs=0.02)
    assert found.batch.chain.unique().tolist() == list(range(n_chains))
    assert found.batch.log_weight is None
    assert 0.6 < found.acceptance < 0.95
    again = metropolis.independence_metropolis(
        Batch(x=x, log_weight=log_weight), generator=generator(2), n_chains=n_chains
    )
    assert torch.equal(found.batch.x, again.batch.x)


def test_acceptance_of_gaussian_log_weights():
    """In equilibrium it is erfc(s / 2)."""
    log_weight = torch.randn(40_000, generator=generator(), dtype=torch.float64)
    found = metropolis.independence_metropolis(
        Batch(x=log_weight[:, None], log_weight=log_weight), generator=generator(3)
    )
    assert found.acceptance == pytest.approx(math.erfc(0.5), abs=0.015)
    # Under the target, log-weights of N(0, 1) have moved by s^2 = 1.
    assert found.batch.x.mean().item() == pytest.approx(1, abs=0.05)
    assert found.longest_rejection > 5


def test_equal_weights_are_always_accepted_and_worthless_ones_never():
    x = torch.arange(10.0)[:, None]
    found = metropolis.independence_metropolis(
        Batch(x=x, log_weight=torch.zeros(10)), generator=generator()
    )
    assert torch.equal(found.batch.x, x)
    assert found.acceptance == 1
    log_weight = torch.tensor([0.0] + [-math.inf] * 4 + [math.nan] * 5)
    found = metropolis.independence_metropolis(
        Batch(x=x, log_weight=log_weight), generator=generator()
    )
    assert (found.batch.x == 0).all()
    assert found.longest_rejection == 9


def test_proposals_that_will_not_do():
    x = torch.zeros(4, 1)
    with pytest.raises(InputError, match="log-weights"):
        metropolis.independence_metropolis(Batch(x=x), generator=generator())
    with pytest.raises(InputError, match="too few"):
        metropolis.independence_metropolis(
            Batch(x=x, log_weight=torch.zeros(4)), generator=generator(), n_chains=3
        )
    with pytest.raises(InputError, match="not finite"):
        metropolis.independence_metropolis(
            Batch(x=x, log_weight=torch.full((4,), -math.inf)), generator=generator()
        )


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_spacing_is_two_autocorrelation_times(correlation):
    noise = torch.randn((4000, 16), generator=generator(), dtype=torch.float64).numpy()
    for t in range(1, len(noise)):
        noise[t] = correlation * noise[t - 1] + math.sqrt(1 - correlation**2) * noise[t]
    tau = (1 + correlation) / (1 - correlation) / 2
    assert spacing(noise) == pytest.approx(2 * tau, abs=0.15 * 2 * tau + 1)
