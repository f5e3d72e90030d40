r"""Samplers: from noise to samples by a denoiser and a grid of noise levels.

From a level (alpha, sigma) to the next (alpha', sigma'), with x = x_hat(z, lambda):

ancestral (Ho et al., arXiv 2006.11239; Kingma et al., arXiv 2107.00630, equation 33):
    z' = (1 - c) (alpha' / alpha) z + c alpha' x + sqrt(c) sigma' eps,  c = 1 - e^(lambda - lambda')
DDIM (Song et al., arXiv 2010.02502), of first order, exact for a constant x:
    z' = (sigma' / sigma) z + (alpha' - alpha sigma' / sigma) x
DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2), of second order: DDIM with
    x + (x - x_before) h' / (2 h) in the place of x,    h = change of lambda in the step before
Heun (Karras et al., arXiv 2206.00364, algorithm 1), of second order, two evaluations a step: on the
    straight path u = z / (alpha + sigma), tau = sigma / (alpha + sigma), onto which all schedules
    fall, du / dtau = (u - x) / tau; the slope is averaged over the two ends of a step.

The last step of all four, to a clean sample, is DDIM's.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from physgen.surrogates.diffusion.denoiser import Denoise
from physgen.surrogates.diffusion.schedule import Grid
from physgen.surrogates.sampler_options import SamplerName


def ancestral(denoise: Denoise, z: Tensor, grid: Grid, noise: Callable[[int], Tensor]) -> Tensor:
    """Walk back step by step, adding new noise; `noise(i)` is (B, D), asked for i = 1, 2, ..."""
    n = len(grid.log_snr) - 1
    for i in range(n):
        share = -(grid.log_snr[i] - grid.log_snr[i + 1]).expm1()
        x = denoise(z, grid.log_snr[i])
        z = (1 - share) * (grid.alpha[i + 1] / grid.alpha[i]) * z + share * grid.alpha[i + 1] * x
        if i + 1 < n:
            z = z + share.sqrt() * grid.sigma[i + 1] * noise(i + 1)
    return z


def ddim(denoise: Denoise, z: Tensor, grid: Grid) -> Tensor:
    """Follow the probability flow by steps of first order."""
    for i in range(len(grid.log_snr) - 1):
        z = _towards(denoise(z, grid.log_snr[i]), z, grid, i)
    return z


def dpm_solver(denoise: Denoise, z: Tensor, grid: Grid) -> Tensor:
    """Follow the probability flow by steps of second order that remember the one before."""
    n = len(grid.log_snr) - 1
    before = z
    for i in range(n):
        x = denoise(z, grid.log_snr[i])
        ahead = x
        if 0 < i < n - 1:
            here, last, following = grid.log_snr[i], grid.log_snr[i - 1], grid.log_snr[i + 1]
            ahead = x + (x - before) * (following - here) / (2 * (here - last))
        z, before = _towards(ahead, z, grid, i), x
    return z


def heun(denoise: Denoise, z: Tensor, grid: Grid) -> Tensor:
    """Follow the probability flow by steps of second order, two evaluations each."""
    size = grid.alpha + grid.sigma
    tau = grid.sigma / size
    n = len(tau) - 1
    u = z / size[0]
    for i in range(n):
        step = tau[i + 1] - tau[i]
        slope = (u - denoise(u * size[i], grid.log_snr[i])) / tau[i]
        ahead = u + step * slope
        if i < n - 1:
            x = denoise(ahead * size[i + 1], grid.log_snr[i + 1])
            slope = (slope + (ahead - x) / tau[i + 1]) / 2
        u = u + step * slope
    return u * size[n]


DETERMINISTIC: dict[SamplerName, Callable[[Denoise, Tensor, Grid], Tensor]] = {
    "ddim": ddim,
    "heun": heun,
    "dpm-solver": dpm_solver,
}


def _towards(x: Tensor, z: Tensor, grid: Grid, i: int) -> Tensor:
    """Move from level i to the next, x being the clean sample."""
    shrunk = grid.sigma[i + 1] / grid.sigma[i]
    return shrunk * z + (grid.alpha[i + 1] - grid.alpha[i] * shrunk) * x
