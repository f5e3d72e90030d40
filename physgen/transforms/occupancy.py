r"""Numbers of occupied voxels, set against their means at a shower's energies.

Layer i has N_i occupied voxels of n_i. These are mapped to

    \ln N_i/(n_i + 1 - N_i),

and what is given is how far they are from a polynomial in the logarithms of the energies, in units
of the spread about it: in E_inc, E_tot and E_i, and in those of the layers before and behind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOGISTIC = 0.55
"""Scale of a logistic distribution whose standard deviation is 1."""
LEAST = 0.2
"""Least spread, in steps from one N_i to the next."""
FEW = 10.0
"""As many showers are added whose numbers do not depend on their energies."""
N_LAYER_FEATURES = 9


class Occupancy(nn.Module):
    """Distances of N_i from their means.

    Args:
        n_voxels: (n_layers,) n_i.

    >>> occupancy = Occupancy(torch.tensor([12, 96]))
    >>> means, number = occupancy.means(torch.zeros(1, 4)), torch.tensor([[3.0, 50.0]])
    >>> occupancy.voxels(means, occupancy.distances(means, number)).round()
    tensor([[ 3., 50.]])
    """

    n_voxels: Tensor
    of_layers: Tensor
    spread: Tensor

    def __init__(self, n_voxels: Tensor) -> None:
        super().__init__()
        n = len(n_voxels)
        self.register_buffer("n_voxels", n_voxels.float(), persistent=False)
        self.register_buffer("of_layers", torch.zeros(n, N_LAYER_FEATURES))
        self.register_buffer("spread", torch.ones(n))

    def fit(self, energies: Tensor, voxels: Tensor, free: Tensor) -> None:
        """Learn the means of showers that are not empty.

        Args:
            energies: (B, 2 + n_layers) standardised logarithms of E_inc, E_tot and E_i.
            voxels: (B, n_layers) N_i.
            free: (B, n_layers) whether E_i leaves a choice of N_i.
        """
        numbers, ends = self._number(voxels), [self._number(voxels + d) for d in (-0.5, 0.5)]
        for i, features in enumerate(_of_layers(energies).unbind(1)):
            rows = free[:, i]
            if int(rows.sum()) < 2:
                continue
            features, number = features[rows], numbers[rows, i]
            found = _regression(features, number)
            self.of_layers[i] = found
            steps = (ends[1] - ends[0])[rows, i]
            spread = (number - features @ found).std(correction=0)
            self.spread[i] = spread.maximum(LEAST * steps.mean())

    def distances(self, means: Tensor, voxels: Tensor) -> Tensor:
        """Return the distances of N_i, (B, n_layers), from what `means` returns."""
        return (self._number(voxels) - means) / (LOGISTIC * self.spread)

    def voxels(self, means: Tensor, distances: Tensor) -> Tensor:
        """Return the N_i, (B, n_layers), of what `distances` returns."""
        number = LOGISTIC * self.spread * distances + means
        return (self.n_voxels + 1) * torch.sigmoid(number)

    def means(self, energies: Tensor) -> Tensor:
        """Return the means of the numbers of the N_i, (B, n_layers)."""
        return (_of_layers(energies) * self.of_layers).sum(2)

    def _number(self, voxels: Tensor) -> Tensor:
        n = self.n_voxels.to(voxels)
        return (voxels.clamp(min=0.5) / (n + 1 - voxels).clamp(min=0.5)).log()


def _regression(features: Tensor, y: Tensor) -> Tensor:
    """Return the coefficients of y in features, of which the first is 1."""
    x, y = features.double(), y.double()
    matrix = x.T @ x
    matrix.diagonal()[1:] += FEW
    found: Tensor = torch.linalg.lstsq(matrix, (x.T @ y)[:, None], driver="gelsd").solution[:, 0]
    return found.to(features)


def _of_layers(energies: Tensor) -> Tensor:
    """What the means of N_i are linear in, (B, n_layers, 9)."""
    own = energies[:, 2:]
    e, r = energies[:, :1].expand_as(own), (energies[:, 1:2] - energies[:, :1]).expand_as(own)
    zero = torch.zeros_like(own[:, :1])
    before, behind = torch.cat([zero, own[:, :-1]], 1), torch.cat([own[:, 1:], zero], 1)
    powers = [torch.ones_like(own), own, own**2, own**3]
    return torch.stack([*powers, e, r, before, behind, e * own], 2)
