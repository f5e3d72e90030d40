r"""How many voxels of a shower's layers have energy.

N_i depends, layer after layer, on all energies of layers and on the layers in front. A mixture of
logistic densities is drawn, of its distance r_i from the mean of `Occupancy`, with locations

    \mu_i = f_i(E) + \sum_{j < i} L_ij(e) r_j,    L_ij(e) = \sum_p L^p_ij e^p,    p = 0, 1, 2,

with e the standardised logarithm of E_inc: what layers have in common grows with the energy, which
the spread of all occupied voxels shows. The f_i, the scales and the shares come from one small
network. A number has the probability of the distances that round to it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.surrogates.flows.logistic_mixture import draw, located, log_probability, spread
from physgen.transforms.counted_showers import CountedShowers
from physgen.transforms.showers import log_odds

FARTHEST_DISTANCE = 6.0
"""Bound on the r_j that other layers see."""
FARTHEST_ENERGY = 3.0
"""Bound on the e of L(e)."""


class ShowerNumbers(nn.Module):
    """Densities of N_i, mixtures of n components each.

    Args:
        n_layers: of the calorimeter.
        n_components: n.
        hidden: units of each layer of the networks.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> showers, t = system.simulate(200, seed=1), CountedShowers(system.schema, system.geometry)
    >>> t.fit(showers)
    >>> mapped, _ = t.numbers(showers)
    >>> bool((ShowerNumbers(5, 2, hidden=8).log_prob(t, mapped.condition) <= 0).all())
    True
    """

    def __init__(self, n_layers: int, n_components: int, *, hidden: int) -> None:
        super().__init__()
        n = 3 * n_components
        self.voxels_in = nn.Linear(2 + n_layers, hidden)
        self.voxels_hidden = nn.Linear(hidden, hidden)
        self.voxels_out = nn.Linear(hidden, n * n_layers)
        self.linear = nn.Parameter(torch.zeros(3, n_layers, n_layers))
        nn.init.zeros_(self.voxels_out.weight)
        nn.init.zeros_(self.voxels_out.bias)
        with torch.no_grad():
            self.voxels_out.bias.view(-1, n)[:, :n_components] = spread(n_components)

    def log_prob(self, t: CountedShowers, condition: Tensor) -> Tensor:
        """Return ln of the probability of the N_i in a mapped condition, (B,)."""
        energies = condition[:, : 2 + t.n_layers]
        voxels = t.occupied(condition)
        means = t.occupancy.means(energies)
        distances = torch.where(voxels > 0, t.occupancy.distances(means, voxels), 0.0)
        out = located(self._of_voxels(energies), self._shift(energies, distances))
        ends = [t.occupancy.distances(means, voxels + d) for d in (-0.5, 0.5)]
        return _log_p(voxels, t.most(t.in_mev(energies)[:, 2:]), ends, out).sum(1)

    def draw_voxels(
        self, t: CountedShowers, nodes: Tensor, incident: Tensor, noise: Tensor
    ) -> Tensor:
        """Return N_i, (B, n_layers), of energies of nodes in MeV and noise, (B, n_layers, 2)."""
        layers = nodes[:, t.tree.layers]
        energies, most = t.energies_of(incident, nodes), t.most(layers)
        means, out = t.occupancy.means(energies), self._of_voxels(energies)
        z, distances, voxels = (torch.zeros_like(layers) for _ in range(3))
        for i in range(t.n_layers):
            shift = self._shift(energies, distances)[:, i]
            z[:, i] = _draw(noise[:, i], located(out[:, i], shift))
            voxels = torch.minimum(t.occupancy.voxels(means, z).round().clamp(min=1), most)
            distances = torch.where(layers > 0, t.occupancy.distances(means, voxels), 0.0)
        return torch.where(layers > 0, voxels, 0.0)

    def _of_voxels(self, energies: Tensor) -> Tensor:
        """Return the parameters of N_i without L, (B, n_layers, 3 n)."""
        h = functional.silu(self.voxels_in(energies))
        h = h + functional.silu(self.voxels_hidden(h))
        out: Tensor = self.voxels_out(h)
        return out.reshape(len(h), self.linear.shape[1], -1)

    def _shift(self, energies: Tensor, distances: Tensor) -> Tensor:
        """Return what r_j add to the locations, (B, n_layers)."""
        seen = distances.clamp(-FARTHEST_DISTANCE, FARTHEST_DISTANCE)
        e = energies[:, :1].clamp(-FARTHEST_ENERGY, FARTHEST_ENERGY)
        constant, slope, curvature = (seen @ linear.T for linear in self.linear.tril(-1))
        shift: Tensor = constant + e * (slope + e * curvature)
        return shift


def _draw(noise: Tensor, out: Tensor) -> Tensor:
    """Return distances, (B,), of standard normal noise, (B, 2)."""
    return draw(torch.special.ndtr(noise[:, 0]), log_odds(noise[:, 1]), out)


def _log_p(number: Tensor, most: Tensor, ends: list[Tensor], out: Tensor) -> Tensor:
    """Return ln of the probabilities of numbers (...) of at most `most`, given (..., 3 n); 0 of 0.

    `ends` are the distances between which a number is drawn.
    """
    low = torch.where(number <= 1, -torch.inf, ends[0]).double().flatten()
    high = torch.where(number >= most, torch.inf, ends[1]).double().flatten()
    log_p = log_probability(low, high, out.double().reshape(len(low), -1))
    return torch.where(number > 0, log_p.reshape(number.shape).to(out), 0.0)
