r"""Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): away from what any condition gives.

    x_hat = x_hat(z) + w (x_hat(z, c) - x_hat(z)).

w = 1 is the conditional model, larger w gives samples more typical of their condition and less
various. One network learns both: in training the condition of a share of the samples is hidden.
What is hidden is told from a condition of zeros by one more column, 1 where it is shown.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.surrogates.diffusion.denoiser import Denoise, Denoiser


def shown(condition: Tensor, where: Tensor) -> Tensor:
    """Return (B, C + 1) conditions, hidden where `where` (B,) is 0 and not where it is 1."""
    return torch.cat([condition, torch.ones_like(condition[:, :1])], 1) * where[:, None]


def conditioned(denoiser: Denoiser, condition: Tensor | None) -> Denoise:
    """Fix the condition of a denoiser, as its network takes it."""

    def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
        expected: Tensor = denoiser(z, log_snr.expand(z.shape[0]), condition)
        return expected

    return denoise


def guided(denoiser: Denoiser, condition: Tensor, weight: float) -> Denoise:
    """Fix the mapped condition (B, C) of a denoiser that was trained with hidden ones, and guide.

    Args:
        weight: w; 1 is no guidance.
    """
    with_it = conditioned(denoiser, shown(condition, torch.ones_like(condition[:, 0])))
    if weight == 1:
        return with_it
    without = conditioned(denoiser, shown(condition, torch.zeros_like(condition[:, 0])))

    def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
        free = without(z, log_snr)
        return free + weight * (with_it(z, log_snr) - free)

    return denoise
