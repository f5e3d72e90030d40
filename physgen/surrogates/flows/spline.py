r"""Monotonic rational-quadratic splines, without branches, masks or searches.

Durkan et al., Neural Spline Flows (arXiv 1906.04032), equations 4 to 8. Between knots (x_k, y_k)
and (x_{k+1}, y_{k+1}) with bin width w, height h, slope s = h/w, end derivatives d_k, d_{k+1}, and
\xi = (x - x_k)/w,

    y = y_k + h [s \xi^2 + d_k \xi(1-\xi)] / D,    D = s + (d_{k+1} + d_k - 2s) \xi(1-\xi),
    dy/dx = s^2 [d_{k+1} \xi^2 + 2 s \xi(1-\xi) + d_k (1-\xi)^2] / D^2.

The inverse is the root \xi = 2c / (-b - sqrt(b^2 - 4ac)) of their equation 6.

A bin is found by counting the knots below x, and read out by `gather`: all shapes are static, so
that the functions compile without graph breaks and export with a dynamic batch. Unbounded
parameters are softly bounded first: bins and slopes cannot degenerate however large the network's
outputs grow, and the discriminant is clamped against rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

BIN_LIMIT = 2.5
"""Bound on |log bin size|: the widest and narrowest bin differ by at most exp(5), about 150."""
SLOPE_LIMIT = 4.0
"""Bound on |log derivative| at a knot: slopes lie within exp(-4) and exp(4), 0.02 to 55."""


def softclip(raw: Tensor, limit: float) -> Tensor:
    """Squash the real line into (-limit, limit), with slope 1 at zero."""
    return raw / (1 + raw.abs() * (1 / limit))


def tail_spline(
    x: Tensor, raw: Tensor, *, bound: float = 5.0, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Spline on [-bound, bound] with identity tails; all-zero parameters are the identity.

    Args:
        x: (..., D).
        raw: (..., D, 3K - 1) unbounded: K widths, K heights, K - 1 derivatives at inner knots.
        bound: where the tails begin; the derivative there is 1.
        inverse: apply the inverse map.

    Returns:
        y and log|dy/dx|, each (..., D), the logarithm that of the map applied.
    """
    bins = (raw.shape[-1] + 1) // 3
    # Padding with 0 is a derivative of 1 at both ends.
    slopes = functional.pad(raw[..., 2 * bins :], (1, 1))
    inside = x.abs() < bound
    y, log_slope = _spline(
        x.clamp(-bound, bound), raw[..., : 2 * bins], slopes, bound=bound, inverse=inverse
    )
    return torch.where(inside, y, x), torch.where(inside, log_slope, torch.zeros_like(x))


def circular_spline(x: Tensor, raw: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Spline of the circle [-pi, pi), smooth across the seam (Rezende et al., arXiv 2002.02428).

    Args:
        x: (..., D) angles, wrapped into [-pi, pi) first.
        raw: (..., D, 3K) unbounded: K widths, K heights, K derivatives, the first of which serves
            both ends.
        inverse: apply the inverse map.

    Returns:
        y in [-pi, pi) and log|dy/dx|, each (..., D).
    """
    bins = raw.shape[-1] // 3
    slopes = torch.cat([raw[..., 2 * bins :], raw[..., 2 * bins : 2 * bins + 1]], -1)
    wrapped = torch.remainder(x + math.pi, 2 * math.pi) - math.pi
    return _spline(wrapped, raw[..., : 2 * bins], slopes, bound=math.pi, inverse=inverse)


def _spline(
    x: Tensor, raw_sizes: Tensor, raw_slopes: Tensor, *, bound: float, inverse: bool
) -> tuple[Tensor, Tensor]:
    """The spline within [-bound, bound], from 2K unbounded sizes and K + 1 derivatives."""
    bins = raw_sizes.shape[-1] // 2
    # Widths (0) and heights (1) go through everything together.
    shares = softclip(raw_sizes.reshape(*x.shape, 2, bins), BIN_LIMIT).exp()
    ends = shares.cumsum(-1)
    scale = (2 * bound) / ends[..., -1:]

    axis = int(inverse)
    place = (x + bound).unsqueeze(-1) / scale[..., axis, :]
    k = (place >= ends[..., axis, :-1]).sum(-1, keepdim=True)
    both = torch.stack([k, k], -2)
    size, end = shares.gather(-1, both), ends.gather(-1, both)
    w, h = (size * scale).squeeze(-1).unbind(-1)
    x_k, y_k = ((end - size) * scale - bound).squeeze(-1).unbind(-1)
    slopes = raw_slopes.gather(-1, torch.cat([k, k + 1], -1))
    d_k, d_next = softclip(slopes, SLOPE_LIMIT).exp().unbind(-1)

    s = h / w
    curve = d_next + d_k - 2 * s
    if inverse:
        rise = x - y_k
        bend = rise * curve
        a, b, c = h * (s - d_k) + bend, h * d_k - bend, -s * rise
        root = (b.square() - 4 * a * c).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        xi = (2 * c / (-b - root)).clamp(0, 1)
    else:
        xi = ((x - x_k) / w).clamp(0, 1)
    mixed = xi * (1 - xi)
    D = s + curve * mixed
    top = d_next * xi.square() + 2 * s * mixed + d_k * (1 - xi).square()
    log_slope = (top * (s / D).square()).log()
    if inverse:
        return x_k + w * xi, -log_slope
    return y_k + h * (s * xi.square() + d_k * mixed) / D, log_slope
