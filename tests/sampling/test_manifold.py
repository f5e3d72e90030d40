"""Integrators on groups: what stays on the group, keeps its measure, and samples exactly."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from physgen.sampling import hmc
from physgen.sampling.manifold import (
    CIRCLES,
    FLAT,
    SPECIAL_UNITARY,
    haar,
    matrices,
    nearest_unitary,
    not_unitary,
    stored,
    wrapped,
)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [2, 3])
def test_momenta_have_the_density_of_their_kinetic_energy(n):
    """2 |A|^2 = sum_a p_a^2 of n^2 - 1 normal numbers p_a = -2 Im tr(A T_a)."""
    x = haar((20_000,), n, generator())
    momentum = SPECIAL_UNITARY.momentum(x, generator(2))
    a = matrices(momentum)
    torch.testing.assert_close(a.mH, -a)
    assert a.diagonal(dim1=-2, dim2=-1).sum(-1).abs().max() < 1e-12
    twice = 2 * SPECIAL_UNITARY.kinetic(momentum)
    freedom = n**2 - 1
    assert twice.mean().item() == pytest.approx(freedom, rel=0.02)
    assert twice.var().item() == pytest.approx(2 * freedom, rel=0.05)


@pytest.mark.parametrize("n", [2, 3])
def test_the_kick_is_the_derivative_along_the_group(n):
    """d/de S(exp(e X) U) = -2 Re tr(X^+ F), F being the change of A in unit time."""
    x = haar((3,), n, generator())
    along = SPECIAL_UNITARY.momentum(x, generator(2))

    def action(u):
        return (matrices(u) @ matrices(haar((1,), n, generator(9)))).sum((-2, -1)).real ** 2

    gradient = hmc.init(x, action).gradient
    force = SPECIAL_UNITARY.kick(torch.zeros_like(x), x, gradient, 1.0)
    step = 1e-5
    ends = [action(SPECIAL_UNITARY.drift(x, along, sign * step)) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    expected = -2 * (along * force).sum((-3, -2, -1))
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("manifold", "start"),
    [
        (FLAT, torch.randn(4, 5, generator=generator(), dtype=torch.float64)),
        (CIRCLES, torch.randn(4, 5, generator=generator(), dtype=torch.float64)),
        (SPECIAL_UNITARY, haar((4, 5), 3, generator())),
    ],
)
def test_leapfrog_is_reversible_and_of_second_order(manifold, start):
    weight = torch.randn(start.shape[1:], generator=generator(3), dtype=torch.float64)

    def action(x):
        return ((x.cos() if manifold is CIRCLES else x) * weight).flatten(1).sum(1)

    state, momentum = hmc.init(start, action), manifold.momentum(start, generator(4))
    there, end = hmc.leapfrog(state, momentum, action, 0.1, 10, manifold)
    back, _ = hmc.leapfrog(there, -end, action, 0.1, 10, manifold)
    difference = back.x - start
    if manifold is CIRCLES:
        difference = wrapped(difference)
    assert difference.abs().max() < 1e-12
    errors = []
    for n_steps in (10, 20):
        there, end = hmc.leapfrog(state, momentum, action, 1 / n_steps, n_steps, manifold)
        h = there.action - state.action + manifold.kinetic(end) - manifold.kinetic(momentum)
        errors.append(h.abs().max().item())
    if manifold is not FLAT:  # There a linear action is integrated exactly.
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    if manifold is SPECIAL_UNITARY:
        assert not_unitary(there.x).max() < 1e-12


@pytest.mark.parametrize("n", [2, 3])
def test_haar_is_invariant_and_knows_its_moments(n):
    """<|tr U|^2> = 1 and <|tr U|^4> = 2 (3 for SU(2): tr U is real); shifted alike."""
    u = matrices(haar((40_000,), n, generator()))
    assert not_unitary(stored(u)).max() < 1e-12
    fixed = matrices(haar((1,), n, generator(5)))
    for group in (u, fixed @ u):
        trace = group.diagonal(dim1=-2, dim2=-1).sum(-1).abs() ** 2
        error = (trace.std() / math.sqrt(len(trace))).item()
        assert abs(trace.mean().item() - 1) < 4 * error
        fourth = trace**2
        error = (fourth.std() / math.sqrt(len(trace))).item()
        assert abs(fourth.mean().item() - 2) < 4 * error


def test_one_angle_has_the_exact_distribution():
    """exp(beta cos theta): <cos theta> = I_1 / I_0."""
    start = torch.zeros(256, 1, dtype=torch.float64)
    found = hmc.sample(
        start,
        lambda x: -2 * x.cos().sum(1),
        hmc.Schedule(60),
        generator=generator(),
        manifold=CIRCLES,
    )
    assert found.x.abs().max() <= math.pi
    means = found.x.cos().mean((1, 2)).numpy()
    exact = special.iv(1, 2.0) / special.iv(0, 2.0)
    assert abs(means.mean() - exact) < 4.5 * means.std() / math.sqrt(len(means))


def test_the_nearest_matrix_of_the_group():
    x = haar((50,), 3, generator())
    noisy = x + 1e-3 * torch.randn(x.shape, generator=generator(2), dtype=x.dtype)
    near = nearest_unitary(noisy)
    assert not_unitary(near).max() < 1e-12
    assert (near - x).abs().max() < 1e-2
    torch.testing.assert_close(nearest_unitary(x), x)
    assert np.all(not_unitary(2 * x).numpy() > 1)
