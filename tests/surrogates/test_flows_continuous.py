"""The continuous flow: what it integrates, and how well."""

import pytest
import torch
from randomised import generator, randomised

from physgen.surrogates.flows.continuous import ContinuousBijection, ContinuousOptions
from physgen.surrogates.flows.integration import even, runge_kutta


def test_runge_kutta_is_of_fourth_order():
    """dy/dt = y cos t has the solution exp(sin t)."""

    def error(n_steps):
        def slope(time, state):
            return (state[0] * torch.tensor(time).cos(),)

        start = (torch.ones(1, dtype=torch.float64),)
        (end,) = runge_kutta(slope, start, even(0.0, 2.0, n_steps))
        return (end - torch.tensor(2.0, dtype=torch.float64).sin().exp()).abs().item()

    assert error(20) / error(40) == pytest.approx(16, rel=0.1)


def test_the_linear_part_is_the_matrix_exponential():
    flow = ContinuousBijection(
        3, options=ContinuousOptions(hidden=4, integration_steps=40)
    ).double()
    matrix = 0.7 * torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        flow.linear[0] = matrix
    z = torch.randn(10, 3, generator=generator(1), dtype=torch.float64)
    x, log_det = flow.inverse(z)
    torch.testing.assert_close(x, z @ torch.linalg.matrix_exp(matrix).T, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det, matrix.trace().expand(10))


def test_pushing_without_the_density_gives_the_same_samples():
    flow = randomised(ContinuousBijection(4, 1, options=ContinuousOptions(hidden=8)))
    z, c = torch.randn(5, 4, generator=generator()), torch.randn(5, 1, generator=generator(1))
    torch.testing.assert_close(flow.from_noise(z, c), flow.inverse(z, c)[0])
