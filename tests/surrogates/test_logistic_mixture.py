import pytest
import torch

from physgen.surrogates.flows import mixture_kernel
from physgen.surrogates.flows.logistic_mixture import (
    FARTHEST,
    LOG_SCALE_LIMIT,
    draw_with_ends,
    log_density,
    narrowed,
)
from physgen.transforms.showers import log_odds

OUTPUTS = [(0.0, 0.0), (5.0, 2.0), (14.0, -1.0), (-9.0, 1.5), (0.0, 9.0)]


def outputs(location, scale):
    return torch.tensor([[location, -location / 2, scale, scale / 2, 0.3, -0.3]]).double()


@pytest.mark.parametrize("values", OUTPUTS)
def test_the_density_with_ends_is_that_of_draws_and_integrates_to_one(values):
    out, n, noise = outputs(*values), 20_000, torch.Generator().manual_seed(0)
    z = torch.randn(n, 2, generator=noise).double()
    x = draw_with_ends(torch.special.ndtr(z[:, 0]), log_odds(z[:, 1]), out.expand(n, -1))
    grid = torch.linspace(-50, 50, 100_001).double()
    level = log_density(grid, out.expand(len(grid), -1)).exp().cumsum(0) * 1e-3
    assert level[-1].item() == pytest.approx(1, abs=1e-3)
    found = level[((x.sort().values + 50) * 1e3).long()]
    assert (found - (torch.arange(n) + 0.5) / n).abs().max() < 2 / n**0.5
    # Beyond, the logistic function of x is uniform.
    beyond = x[x.abs() > FARTHEST].abs() - FARTHEST
    if len(beyond) > 1000:
        assert (-beyond).exp().mean().item() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("values", OUTPUTS)
def test_compiled_draws_are_the_same(values):
    out, noise = outputs(*values), torch.Generator().manual_seed(1)
    z = 2 * torch.randn(200, 2, generator=noise).double()
    x = draw_with_ends(torch.special.ndtr(z[:, 0]), log_odds(z[:, 1]), out.expand(200, -1))
    mixture = out[0].clone().numpy()
    mixture_kernel.fill_mixture(mixture, LOG_SCALE_LIMIT)
    compiled = [mixture_kernel.draw_mixture(pair, mixture, FARTHEST) for pair in z.numpy()]
    torch.testing.assert_close(torch.tensor(compiled).double(), x, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("values", OUTPUTS)
def test_narrowed_components_are_no_wider_than_a_standard_one(values):
    out = narrowed(outputs(*values))
    assert (out[:, 2:4] <= 0).all()  # ln s
    assert torch.equal(out[:, [0, 1, 4, 5]], outputs(*values)[:, [0, 1, 4, 5]])
    mixture = outputs(*values)[0].clone().numpy()
    mixture_kernel.narrow(mixture)
    torch.testing.assert_close(torch.as_tensor(mixture), out[0])
