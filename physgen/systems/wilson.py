r"""Wilson's Dirac operator in two dimensions, dense, with its determinant and the force of it.

On a periodic lattice of V sites with links U_mu(x) = exp(i theta_mu(x)),

    D = 1 - kappa H,    H_{xy} = sum_mu [(1 - gamma_mu) U_mu(x) delta_{x + mu, y}
                                         + (1 + gamma_mu) U_mu(y)^* delta_{x - mu, y}],

with gamma_0 = sigma_1, gamma_1 = sigma_2 and gamma_5 = sigma_3. Time is the first axis, round which
fermions are antiperiodic: links that leave its last slice count with the opposite sign. As
gamma_5 D gamma_5 = D^+, the determinant is real, and

    d ln |det D| / d theta = -kappa Re tr (D^-1 dH / d theta).

Where all extents are even, H joins sites of different parity only. Then det D = det S with
S = 1 - kappa^2 H_eo H_oe of half the size, and D^-1 has the blocks kappa S^-1 H_eo and
kappa H_oe S^-1, which the force needs.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SIGMA = torch.tensor(
    [[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128
)
"""The Pauli matrices."""


class _Elements(NamedTuple):
    """The elements of H in their blocks: H itself, or H_eo and H_oe one after the other."""

    place: Tensor
    """(V, 2, 2, 2, 2), by site, mu, forward or backward and spins: where in the flat blocks."""
    source: Tensor
    """(numbers of all blocks, multiplicity), the flat elements that are added up at a place."""
    spin: Tensor
    """(2, 2, 2, 2) complex: of mu, forward or backward, and the two spins."""
    sign: Tensor
    """(2, V), of the links."""
    blocks: int
    size: int


@functools.lru_cache(maxsize=16)
def _elements(shape: tuple[int, int]) -> _Elements:
    volume = shape[0] * shape[1]
    blocks = 2 if all(extent % 2 == 0 for extent in shape) else 1
    size = 2 * volume // blocks
    site = torch.arange(volume).reshape(shape)
    time, space = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    if blocks == 2:  # the parity, and the number among the sites of this parity
        parity = ((time + space) % 2).flatten()
        place = torch.where(parity == 0, (parity == 0).cumsum(0), parity.cumsum(0)) - 1
    else:
        parity, place = torch.zeros(volume, dtype=torch.long), site.flatten()
    there = torch.stack([site.roll(-1, mu).flatten() for mu in (0, 1)], 1)
    here = site.flatten()[:, None].expand_as(there)
    row, column = torch.stack([here, there], 2), torch.stack([there, here], 2)
    spin = torch.arange(2)
    rows = 2 * place[row][..., None, None] + spin[:, None]
    columns = 2 * place[column][..., None, None] + spin
    flat = (parity[row][..., None, None] * size + rows) * size + columns
    unit = torch.eye(2, dtype=torch.complex128)
    spins = torch.stack([torch.stack([unit - SIGMA[mu], unit + SIGMA[mu]]) for mu in (0, 1)])
    sign = torch.ones(2, *shape, dtype=torch.float64)
    sign[0, -1] = -1
    return _Elements(
        flat, _sources(flat.flatten(), blocks * size**2), spins, sign.flatten(1), blocks, size
    )


def _sources(place: Tensor, n: int) -> Tensor:
    """Return (n, K): the elements at each place, filled up with one beyond the last."""
    count = torch.bincount(place, minlength=n)
    source = torch.full((n, int(count.max())), len(place))
    order = torch.argsort(place, stable=True)
    rank = torch.arange(len(place)) - (count.cumsum(0) - count)[place[order]]
    source[place[order], rank] = order
    return source


def _values(theta: Tensor, lattice: _Elements) -> Tensor:
    """Return (B, V, 2, 2, 2, 2) complex, the elements of H."""
    angle = theta.detach().double().flatten(2)
    links = torch.polar(lattice.sign.to(angle.device).expand_as(angle), angle).mT
    return torch.stack([links, links.conj()], -1)[..., None, None] * lattice.spin.to(links.device)


def _blocks(values: Tensor, lattice: _Elements) -> Tensor:
    """Return (B, blocks, size, size) of the elements."""
    flat = torch.nn.functional.pad(values.flatten(1), (0, 1))
    whole = flat[:, lattice.source.to(flat.device)].sum(-1)
    return whole.reshape(len(flat), lattice.blocks, lattice.size, lattice.size)


_ELEMENTS = 1 << 22
"""Of all matrices that are held at a time."""


def _apart(theta: Tensor, lattice: _Elements) -> tuple[Tensor, ...]:
    """Split configurations so that their matrices fit into memory."""
    rows = max(1, _ELEMENTS // (lattice.blocks * lattice.size**2))
    parts: tuple[Tensor, ...] = torch.split(theta, rows)
    return parts


def _reduced(h: Tensor, kappa: float) -> Tensor:
    """Return (B, size, size), of the determinant of D: S, or D itself."""
    unit = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    return unit - (kappa * kappa * (h[:, 0] @ h[:, 1]) if h.shape[1] == 2 else kappa * h[:, 0])


def _logarithm(
    theta: Tensor, kappa: float, lattice: _Elements, with_force: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (B,) sign and ln |det D|, and the slope of this, or nothing in its place."""
    values = _values(theta, lattice)
    h = _blocks(values, lattice)
    matrix = _reduced(h, kappa)
    phase, log = torch.linalg.slogdet(matrix)
    if not with_force:
        return phase.real.sign(), log, log.new_empty(0)
    inverse = torch.linalg.inv(matrix)
    if lattice.blocks == 2:
        # An element at (e, o) of H is traced with that at (o, e) of D^-1.
        other = torch.stack([kappa * (h[:, 1] @ inverse), kappa * (inverse @ h[:, 0])], 1)
    else:
        other = inverse[:, None]
    traced = other.mT.flatten(1)[:, lattice.place.flatten().to(h.device)]
    pairs = (values * traced.reshape(values.shape)).sum((-2, -1))
    # d/d theta is i for the link and -i for its conjugate: Re(i z) = -Im z.
    force = kappa * (pairs[..., 0].imag - pairs[..., 1].imag)
    return phase.real.sign(), log, force.mT.reshape(theta.shape)


class _LogDeterminant(torch.autograd.Function):
    """Sign and logarithm of det D; the force is made with it, where it will be asked for."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        lattice, with_force = _elements((theta.shape[2], theta.shape[3])), ctx.needs_input_grad[0]
        parts = [_logarithm(x, kappa, lattice, with_force) for x in _apart(theta, lattice)]
        sign, log, force = map(torch.cat, zip(*parts, strict=True))
        ctx.mark_non_differentiable(sign)
        if with_force:
            ctx.save_for_backward(force)
        return sign, log

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, outer: Tensor) -> tuple[Tensor, None]:
        (force,) = ctx.saved_tensors
        return outer.reshape(-1, 1, 1, 1) * force, None


def determinant(theta: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Return (B,) the sign of det D, and (B,) ln |det D|, of (B, 2, T, L) link angles.

    The logarithm can be differentiated once; both are in double precision.

    >>> sign, log = determinant(torch.zeros(1, 2, 4, 4), 0.2)
    >>> round(log.item(), 6)  # half of the sum over momenta of ln det D(p), see the tests
    0.388362
    """
    sign, log = _LogDeterminant.apply(theta, kappa)  # type: ignore[no-untyped-call]
    return sign, log


def dirac(theta: Tensor, kappa: float) -> Tensor:
    """Return (B, 2 V, 2 V) complex, D of (B, 2, T, L) link angles.

    Rows and columns are sites, each with two spins; where all extents are even, the even sites come
    first.
    """
    lattice = _elements((theta.shape[2], theta.shape[3]))
    h, size = _blocks(_values(theta, lattice), lattice), theta[0].numel()
    if lattice.blocks == 2:
        whole = h.new_zeros(len(h), size, size)
        whole[:, : lattice.size, lattice.size :] = h[:, 0]
        whole[:, lattice.size :, : lattice.size] = h[:, 1]
    else:
        whole = h[:, 0]
    return torch.eye(size, dtype=h.dtype, device=h.device) - kappa * whole


def condensate(theta: Tensor, kappa: float) -> Tensor:
    """Return (B,), tr D^-1 / V, of (B, 2, T, L) link angles.

    Where all extents are even, even and odd sites have the same part in it, tr S^-1.
    """
    lattice = _elements((theta.shape[2], theta.shape[3]))
    traces = [
        lattice.blocks
        * torch.linalg.inv(_reduced(_blocks(_values(x, lattice), lattice), kappa))
        .diagonal(dim1=1, dim2=2)
        .sum(1)
        .real
        for x in _apart(theta, lattice)
    ]
    return torch.cat(traces) / theta[0, 0].numel()
