r"""What is measured of a jet: mass, sum of pT, energy-flow polynomials, N-subjettiness.

Particles are massless, with relative transverse momenta z_i = pT_i / pT_jet, and positions
(eta_i, phi_i) relative to the axis of the jet, theta_ij being the distance of two.

**Mass.** m^2 = (sum E)^2 - |sum p|^2, with E_i = z_i cosh eta_i: relative to the jet's pT.

**Energy-flow polynomials** (Komiske, Metodiev & Thaler, arXiv:1712.07124, eq. 4). For a multigraph
G of vertices 1..N and edges (k, l), loops excluded,

    EFP_G = sum_{i_1} ... sum_{i_N} z_{i_1} ... z_{i_N} prod_{(k, l) in G} theta_{i_k i_l}.

There are 1, 1, 2, 5, 12 connected ones of 0 to 4 edges, and 36 in all, the others being products of
these. A graph is written as its edges, "01.12.12". A sum over N indices factorises: with T the
matrix theta, T_k its k-th power element by element, Z = diag(z), one needs a_k = T_k z,
b = T Z a_1 and M = T Z T only.

**N-subjettiness** (Thaler & Van Tilburg, 1011.2268) with beta = 1:
tau_N = sum_i z_i min_k theta_{i, axis k} / sum_i z_i, see `physgen.systems.kernels.subjets`.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import prod

import torch
from torch import Tensor

from physgen.systems.kernels.subjets import subjettiness

PAIRS = 2**20
"""Pairs of particles whose distances are held at once."""

DEGREES = {
    "": 0,
    **dict.fromkeys(("01",), 1),
    **dict.fromkeys(("01.01", "01.12"), 2),
    **dict.fromkeys(("01.01.01", "01.01.12", "01.02.12", "01.02.03", "01.12.23"), 3),
    **dict.fromkeys(
        (
            *("01.01.01.01", "01.01.01.12", "01.01.12.12", "01.01.02.12"),
            *("01.01.12.23", "01.12.12.23", "01.01.02.03", "01.12.23.03", "01.02.12.03"),
            *("01.02.03.04", "01.12.23.34", "01.02.03.34"),
        ),
        4,
    ),
}
"""The connected multigraphs of up to 4 edges, and how many they have; "" is one vertex."""


def vertices(graph: str) -> int:
    """Return how many vertices a connected multigraph has.

    >>> vertices("01.12.12")
    3
    """
    return len(set(graph) - {"."}) or 1


def relative_mass(x: Tensor, mask: Tensor) -> Tensor:
    """Return (B,) masses over the jet's pT of particles (B, P, 3), eta, phi, pT, where `mask`.

    Two particles of equal z at a distance of 0.2 in phi have m = 2 z sin(0.1):

    >>> x = torch.tensor([[[0.0, 0.1, 0.5], [0.0, -0.1, 0.5]]], dtype=torch.float64)
    >>> f"{relative_mass(x, torch.ones(1, 2, dtype=torch.bool)).item():.6f}"
    '0.099833'
    """
    eta, phi, z = _unpacked(x, mask)
    energy = (z * eta.cosh()).sum(1)
    momenta = (z * phi.cos(), z * phi.sin(), z * eta.sinh())
    square = energy**2 - sum(component.sum(1) ** 2 for component in momenta)
    # What is left of a single particle is rounding, whose digits would tell 32 from 64 bits.
    return torch.where(square < 1e-12 * energy**2, 0.0, square).sqrt()


def connected_polynomials(x: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return (B,), float64, each of the 21 connected energy-flow polynomials of `DEGREES`.

    Args:
        x: (B, P, 3) particles, eta, phi, pT.
        mask: (B, P) which of them are there.

    >>> x = torch.tensor([[[0.0, 0.0, 0.5], [0.3, 0.4, 0.5]]], dtype=torch.float64)
    >>> efp = connected_polynomials(x, torch.ones(1, 2, dtype=torch.bool))
    >>> round(efp["01"].item(), 12)  # 2 * 0.5 * 0.5 * 0.5
    0.25
    """
    size = max(1, PAIRS // max(1, x.shape[1]) ** 2)
    starts = range(0, max(1, len(x)), size)
    parts = [_polynomials(*_unpacked(x[i : i + size], mask[i : i + size])) for i in starts]
    return {graph: torch.cat([part[graph] for part in parts]) for graph in DEGREES}


def all_polynomials(connected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the 36 polynomials of up to 4 edges: the connected ones, and products of them.

    >>> len(all_polynomials({graph: torch.ones(1) for graph in DEGREES}))
    36
    """
    with_edges = [graph for graph, degree in DEGREES.items() if degree]
    result = dict(connected)
    for n in (2, 3, 4):
        for graphs in combinations_with_replacement(with_edges, n):
            if sum(DEGREES[graph] for graph in graphs) <= 4:
                result[" ".join(graphs)] = prod(connected[graph] for graph in graphs)  # type: ignore[assignment]
    return result


def subjettiness_ratios(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B,) each tau_2 / tau_1 and tau_3 / tau_2; NaN where the divisor is 0."""
    eta, phi, z = _unpacked(x, mask)
    points = torch.stack([eta, phi, z.clamp(min=0.0)], 2)
    tau = torch.from_numpy(subjettiness(points.cpu().numpy(), mask.cpu().numpy())).to(x.device)
    ratios = torch.where(tau[:, :2] > 0, tau[:, 1:] / tau[:, :2], torch.nan)
    return ratios[:, 0], ratios[:, 1]


def _unpacked(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (B, P) each eta, phi and pT in double precision, 0 where there is no particle."""
    eta, phi, z = torch.where(mask[..., None], x.double(), 0.0).unbind(2)
    return eta, phi, z


def _polynomials(eta: Tensor, phi: Tensor, z: Tensor) -> dict[str, Tensor]:
    delta_eta, delta_phi = (c[:, :, None] - c[:, None, :] for c in (eta, phi))
    squares = delta_eta**2 + delta_phi**2
    theta = squares.sqrt()

    def contracted(matrix: Tensor, vector: Tensor) -> Tensor:
        return (matrix @ vector[..., None])[..., 0]

    a1, a2 = contracted(theta, z), contracted(squares, z)
    a3, a4 = contracted(squares * theta, z), contracted(squares**2, z)
    za1 = z * a1
    b = contracted(theta, za1)
    m = theta @ (z[:, :, None] * theta)
    triangles = contracted(theta * m, z)
    values = {
        "": torch.ones_like(z),
        "01": a1,
        "01.01": a2,
        "01.12": a1**2,
        "01.01.01": a3,
        "01.01.12": a2 * a1,
        "01.02.12": triangles,
        "01.02.03": a1**3,
        "01.12.23": a1 * b,
        "01.01.01.01": a4,
        "01.01.01.12": a3 * a1,
        "01.01.12.12": a2**2,
        "01.01.02.12": contracted(squares * m, z),
        "01.01.12.23": a2 * b,
        "01.12.12.23": a1 * contracted(squares, za1),
        "01.01.02.03": a2 * a1**2,
        "01.12.23.03": contracted(m**2, z),
        "01.02.12.03": a1 * triangles,
        "01.02.03.04": a1**4,
        "01.12.23.34": b**2,
        "01.02.03.34": a1**2 * b,
    }
    return {graph: (z * value).sum(1) for graph, value in values.items()}
