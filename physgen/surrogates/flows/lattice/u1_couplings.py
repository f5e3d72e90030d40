r"""Gauge-equivariant couplings of the links of U(1) in two dimensions.

After Kanwar, Albergo, Boyda et al. (Phys. Rev. Lett. 125 (2020) 121601) and the tutorial arXiv
2101.08176: links of one direction in every fourth column are moved so that the plaquettes on one
side of them, P, become h(P), h being a circular spline whose parameters come from plaquettes that
stay. Those on the other side go along, with P + P' = R, which stays as well. Here h moves
y = P - R / 2, about which the density of independent plaquettes is even:

    y -> spline(y) + shift,

an odd spline with parameters that are even in the angles that stay and a shift that is odd in
them, so that charge conjugation, under which all angles change sign, is a symmetry. Parameters
reach over the whole lattice: they are circular convolutions of cosines (even) and sines (odd), and
products of these.

Windings, the angles of lines round the torus, have a layer of their own: all of them in one
direction are turned together, which no plaquette sees.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from physgen.networks.mlp import MLP
from physgen.sampling.manifold import wrapped
from physgen.surrogates.flows.lattice.links import plaquettes
from physgen.surrogates.flows.spline import circular_spline

STRIPES = 4
"""Columns from one that moves to the next."""


def turned(x: Tensor) -> Tensor:
    """Exchange the two axes of (B, 2, T, L) links; its own inverse. Plaquettes change sign."""
    return torch.stack([x[:, 1].mT, x[:, 0].mT], 1)


def odd_spline(y: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Map angles by splines with h(-y) = -h(y); zero parameters are the identity.

    Args:
        y: (...) angles.
        raw: (..., 3 K / 2 + 1): K / 2 widths and heights and K / 2 + 1 slopes, of y >= 0.
        inverse: apply the inverse map.

    Returns:
        h(y) and ln dh/dy, or those of the inverse.
    """
    half = raw.shape[-1] // 3
    widths, heights, slopes = torch.split(raw, [half, half, half + 1], -1)
    whole = [torch.cat([part.flip(-1), part], -1) for part in (widths, heights)]
    # Knots from -pi to pi; the one at pi is that at -pi.
    knots = torch.cat([slopes[..., 1:].flip(-1), slopes[..., :-1]], -1)
    return circular_spline(y, torch.cat([*whole, knots], -1), inverse=inverse)


class PlaquetteCoupling(nn.Module):
    """Moves links along the first axis in every fourth column.

    Args:
        shape: of the lattice, the second extent a multiple of four.
        offset: of the first column that moves.
        channels: even and odd ones, between which products are taken.
        bins: of the splines, an even number.

    >>> coupling = PlaquetteCoupling((4, 4), 0, channels=2, bins=4).double()
    >>> x = torch.rand(3, 2, 4, 4, dtype=torch.float64)
    >>> bool(torch.allclose(coupling.inverse(coupling(x)[0])[0], x))
    True
    """

    relative: Tensor

    def __init__(self, shape: tuple[int, int], offset: int, channels: int, bins: int) -> None:
        super().__init__()
        self.shape, self.offset = shape, offset
        rows, groups = shape[0], shape[1] // STRIPES
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(groups))
        difference = place[:, None] - place
        relative = difference[..., 0] % rows * groups + difference[..., 1] % groups
        self.register_buffer("relative", relative, persistent=False)
        sites, n_raw = rows * groups, 3 * (bins // 2) + 1
        scale = 1 / math.sqrt(6 * sites)
        self.even = nn.Parameter(scale * torch.randn(channels, 6, sites))
        self.odd = nn.Parameter(scale * torch.randn(channels, 6, sites))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.direct = nn.Parameter(torch.zeros(1, 6, sites))
        self.shift = nn.Parameter(torch.zeros(2 * channels, 1))
        self.raw = nn.Parameter(torch.zeros(2 * channels, n_raw))
        self.raw_bias = nn.Parameter(torch.zeros(n_raw))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 2, T, L) links; return them and the (B,) log-determinants."""
        return self._move(x, inverse=False)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map back, with the log-determinants of this inverse map."""
        return self._move(x, inverse=True)

    def _move(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        columns = x.roll(-self.offset, 3)
        p = plaquettes(columns).reshape(x.shape[0], self.shape[0], -1, STRIPES)
        active, passive = p[..., 0], p[..., 3].roll(1, 2)
        both = wrapped(active + passive)
        raw, shift = self._bend(torch.stack([p[..., 1], p[..., 2], both], 1))
        y = active - both / 2
        if inverse:
            y, log_slope = odd_spline(wrapped(y - shift), raw, inverse=True)
        else:
            y, log_slope = odd_spline(wrapped(y), raw)
            y = y + shift
        turn = y + both / 2 - active
        links = columns[:, 0].reshape(p.shape)
        moved = torch.cat([links[..., :1] + turn[..., None], links[..., 1:]], -1)
        columns = torch.stack([wrapped(moved.reshape(x[:, 0].shape)), columns[:, 1]], 1)
        return columns.roll(self.offset, 3), log_slope.flatten(1).sum(1)

    def _bend(self, stay: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, T, L / 4, 3 K / 2 + 1) and (B, T, L / 4) of (B, 3, T, L / 4) angles."""
        angles = torch.cat([stay, 2 * stay], 1).flatten(1)
        cosines, sines = angles.cos(), angles.sin()
        n = len(self.bias)
        even = (self._convolve(cosines, self.even) + self.bias[:, None]).tanh().mT
        odd = self._convolve(sines, torch.cat([self.odd, self.direct]))
        odd, direct = odd[:, :n].tanh().mT, odd[:, n]
        shift = direct + (torch.cat([odd, odd * even], -1) @ self.shift)[..., 0]
        raw = torch.cat([even, odd.square()], -1) @ self.raw + self.raw_bias
        grid = (stay.shape[0], *stay.shape[2:])
        return raw.reshape(*grid, -1), shift.reshape(grid)

    def _convolve(self, values: Tensor, kernel: Tensor) -> Tensor:
        """Return (B, channels, sites), circular convolutions of (B, 6 sites)."""
        dense = kernel[:, :, self.relative]  # (channels, 6, in, out)
        out = values @ dense.permute(1, 2, 0, 3).reshape(values.shape[1], -1)
        return out.reshape(values.shape[0], len(kernel), -1)


class WindingCoupling(nn.Module):
    """Turns all lines round the first axis together, by what stays the same.

    With W_j the angles of these lines, A = arg sum_j exp(i W_j) goes to an odd spline of A, whose
    parameters are a network of quantities that charge conjugation keeps: cosines of the other
    windings and of plaquettes, the largest waves of sines of plaquettes, and the charge |Q|.

    Args:
        shape: of the lattice.
        hidden: units of the network.
        bins: of the splines, an even number.
    """

    def __init__(self, shape: tuple[int, int], hidden: int, bins: int) -> None:
        super().__init__()
        self.shape = shape
        waves = [(k, p) for k in (0, 1, 2) for p in (0, 1, 2) if k <= shape[0] // 2]
        self.waves = [(k, p) for k, p in waves if k + p > 0 and p <= shape[1] // 2]
        n_raw = 3 * (bins // 2) + 1
        self.network = MLP(
            9 + len(self.waves), n_raw, hidden=(hidden, hidden), activation="tanh", zero_output=True
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 2, T, L) links; return them and the (B,) log-determinants."""
        return self._turn(x, inverse=False)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map back, with the log-determinants of this inverse map."""
        return self._turn(x, inverse=True)

    def _turn(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        lines, others = x[:, 0].sum(1), x[:, 1].sum(2)
        angle, length = _resultant(lines)
        raw = self.network(self._features(plaquettes(x), length, *_resultant(others)))
        moved, log_slope = odd_spline(angle, raw, inverse)
        first = x[:, 0, :1] + (moved - angle)[:, None, None]
        links = wrapped(torch.cat([first, x[:, 0, 1:]], 1))
        return torch.stack([links, x[:, 1]], 1), log_slope

    def _features(self, p: Tensor, length: Tensor, other: Tensor, other_length: Tensor) -> Tensor:
        """Return (B, F) numbers that stay, and that charge conjugation keeps."""
        charge = (p.flatten(1).sum(1) / (2 * math.pi)).round().abs()
        sectors = [(charge == 0).to(p), (charge == 1).to(p), (charge >= 2).to(p)]
        power = torch.fft.fft2(p.sin()).abs().square() / p[0].numel()
        waves = [power[:, k, q] for k, q in self.waves]
        cosines = [p.cos().mean((1, 2)), (2 * p).cos().mean((1, 2))]
        windings = [other.cos(), (2 * other).cos(), other_length, length]
        return torch.stack([*windings, *cosines, *sectors, *waves], 1)


def _resultant(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B,) the direction and the length of the mean of exp(i angle) of (B, n) angles."""
    cosine, sine = angles.cos().mean(1), angles.sin().mean(1)
    return torch.atan2(sine, cosine), (cosine.square() + sine.square()).sqrt()
