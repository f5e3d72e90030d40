r"""Showers in two stages: layer energies, then their division among the voxels.

In the space of `ShowerTransform`, with e the incident energy, l the numbers of the layer energies
E, and for each split its outcome c (all right, all left, both) and, for both, a real z:

    q(l, c, z | e) = q(l | e) \prod_i q(c_i, z_i | c_{<i}, z_{<i}, e, E).

The first factor is a stack of spline couplings. The others come from one masked network, through a
small network for each split that also sees its energy W_i:

    q(c | ...) = softmax(ln p_c(W) + output),
    z = \mu + \sigma sinh((asinh(n) + \epsilon) / \delta),

with n standard normal (the sinh-arcsinh law: Jones & Pewsey, Biometrika 96 (2009) 761), and p_c(W)
the frequencies in the transform's tables: a new flow is the copula of independent splits. Both
stages are trained by maximum likelihood at once; they share no parameters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import DomainError
from physgen.networks.masked import MaskedMLP
from physgen.ranges import Positive
from physgen.surrogates.copula import ShowerSurrogate
from physgen.surrogates.flows.shower_kernel import Network, Tables, divide_layers
from physgen.surrogates.flows.spline import softclip
from physgen.surrogates.flows.stack import CouplingOptions, CouplingStack
from physgen.systems.base import System
from physgen.systems.calorimeter import geometry_of
from physgen.transforms.base import Transform
from physgen.transforms.showers import ALL_LEFT, ALL_RIGHT, ShowerTransform, choose

LOG_SCALE_LIMIT = 3.0
"""Bound on |ln sigma| of a split."""
LOG_TAIL_LIMIT = 0.3
"""Bound on |ln delta|: lighter tails would make an outlier's loss explode."""
SKEW_LIMIT = 2.0
"""Bound on |epsilon|."""
N_DIRECT = 4
"""How many numbers a split's own network gets that are linear in the earlier splits: where one
split leans, all others of the shower lean too, and this is what it leans by."""
ATOM = 3.0
"""How the later splits see one that gives all to one side: as z of this size."""
FEW = 64
"""Up to so many showers at once are divided shower by shower, on a CPU."""


class ShowerFlow(ShowerSurrogate):
    """A conditional flow of calorimeter showers.

    Args:
        schema: of the showers.
        transform: must be absent; the surrogate brings its own.
        system: the calorimeter, for its geometry.
        hidden: units of each of the two hidden layers of the splits' common network.
        split_hidden: units of each split's own network.
        n_layers: couplings of the flow of the layer energies.
        layer_hidden: widths of their networks.
        n_knots, n_bins: of the transform's tables.

    Raises:
        RecipeError: the recipe asks for a transform, or the system is no calorimeter.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> flow = ShowerFlow(system.schema, system=system, hidden=16)
    >>> flow.initialise(system.simulate(200, seed=1))
    >>> flow.sample(2, torch.tensor([[2000.0], [50000.0]]), seed=1).x.shape
    torch.Size([2, 368])
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        system: System,
        hidden: Positive = 256,
        split_hidden: int = 12,
        n_layers: Positive = 6,
        layer_hidden: tuple[int, ...] = (64, 64),
        n_knots: int = 24,
        n_bins: int = 128,
    ) -> None:
        geometry = geometry_of(system, "surrogate shower-flow")
        own = ShowerTransform(schema, geometry, n_knots=n_knots, n_bins=n_bins)
        super().__init__(schema, transform, own)
        n, n_splits = own.n_layers, own.n_splits
        options = CouplingOptions(n_layers=n_layers, hidden=layer_hidden, activation="silu")
        self.layers = CouplingStack(n, 1, options)
        self.splits = MaskedMLP(
            n_splits,
            3,
            1 + 2 * n,
            split_hidden,
            hidden=hidden,
            n_direct=min(N_DIRECT, split_hidden),
        )
        self.inward = nn.Parameter(torch.randn(n_splits, split_hidden) * 0.5)
        self.outward = nn.Parameter(torch.zeros(n_splits, split_hidden, 6))
        self.offset = nn.Parameter(torch.zeros(n_splits, 6))

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q of a mapped batch; probabilities of outcomes, densities of z."""
        condition = self._condition(batch)
        n, t = self.showers.n_layers, self.showers
        layers = self.layers.log_prob(batch.x[:, :n], condition[:, :1])
        z, energy, contrast = batch.x[:, n:].reshape(len(batch), 3, t.n_splits).unbind(1)
        right, left = z < ALL_RIGHT / 2, z > ALL_LEFT / 2
        present = energy >= 0
        both = present & ~right & ~left
        h = self.splits(_shown(z, both, contrast), self._context(condition))
        h = functional.silu(h + energy[..., None] * self.inward)
        out = torch.einsum("bsh,sho->bso", h, self.outward) + self.offset
        whole = energy.exp() * t.threshold
        odds = t.outcomes(whole, slice(None))
        log_right, log_left = odds[0] + out[..., 0], odds[1] + out[..., 1]
        outcome = torch.where(right, log_right, torch.where(left, log_left, 0.0))
        all_three = torch.stack([log_right, log_left, torch.zeros_like(z)], -1)
        each = outcome - all_three.logsumexp(-1)
        each = each + torch.where(both, _log_density(torch.where(both, z, 0.0), out[..., 2:]), 0.0)
        total: Tensor = layers + torch.where(present, each, 0.0).sum(1)
        return total

    def elbo(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,), a draw of the bound on the log-density; see `ShowerTransform.bound`."""
        mapped, volume = self.showers.bound(batch, generator)
        return self.latent_log_prob(mapped) + volume

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Standard normal numbers behind one shower: one a layer, two a split."""
        return (self.showers.n_layers + 2 * self.showers.n_splits,)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, 1) incident energies to (B, n_voxels) in MeV."""
        if condition is None:
            raise DomainError("showers need incident energies: pass them as the condition (B, 1)")
        t, n = self.showers, self.showers.n_layers
        latent, _ = self.layers.inverse(noise[:, :n], t.map_condition(condition))
        energies = t.to_layers(latent, condition)
        u = torch.special.ndtr(noise[:, n:][:, : t.n_splits])
        normal = noise[:, n + t.n_splits :]
        context = self._context(t.condition_of(condition, energies))
        few = len(noise) <= FEW and noise.device.type == "cpu"
        if few and not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            nodes = self._divide_singly(energies, context, u, normal)
        else:
            nodes = self._divide(energies, context, u.T, normal.T)
        return nodes[:, t.tree.leaf]

    def _divide(self, energies: Tensor, context: Tensor, u: Tensor, normal: Tensor) -> Tensor:
        """Return the energies of all nodes, (B, n_nodes), one split after the other.

        Args:
            energies: (B, n_layers) in MeV.
            context: of the splits' network.
            u, normal: (n_splits, B).
        """
        t, n = self.showers, self.showers.n_layers
        nodes = energies.new_zeros(n + 2 * t.n_splits, len(energies))
        nodes[:n] = energies.T
        parents, layers = t.tree.parent.tolist(), t.tree.layer.tolist()
        floors = energies.clamp(min=t.threshold).T

        def draw(i: int, h: Tensor) -> Tensor:
            whole, stage = nodes[parents[i]], slice(i, i + 1)
            energy = torch.where(whole > 0, (whole / t.threshold).clamp(min=1).log(), -1.0)
            h = functional.silu(h + energy * self.inward[i][:, None])
            out = self.outward[i].T @ h + self.offset[i][:, None]
            odds = t.outcomes(whole[:, None], stage)
            z = _draw(normal[i], out[2:].T).clamp(ALL_RIGHT / 4, ALL_LEFT / 4)
            z = choose(u[i], z, odds[0][:, 0] + out[0], odds[1][:, 0] + out[1])
            left, right = t.divide(whole[:, None], z[:, None], stage)
            nodes[n + 2 * i], nodes[n + 2 * i + 1] = left[:, 0], right[:, 0]
            both = (left[:, 0] > 0) & (right[:, 0] > 0)
            contrast = (left - right)[:, 0] / floors[layers[i]] / t.spread[i]
            z = torch.where(whole > 0, z, 0.0)
            return _shown(z, both, contrast).T

        self.splits.autoregress(context, draw)
        return nodes.T

    def _divide_singly(
        self, energies: Tensor, context: Tensor, u: Tensor, normal: Tensor
    ) -> Tensor:
        """Do the same shower by shower; `u` and `normal` are (B, n_splits)."""
        t, network = self.showers, self.splits

        def array(x: Tensor) -> Any:
            return x.detach().contiguous().numpy()

        weights = Network(
            **{name: array(value) for name, value in network.masked().items()},
            direct=array(network.direct),
            known=np.array(network.known),
            inward=array(self.inward),
            outward=array(self.outward),
            offset=array(self.offset),
            bounds=(LOG_SCALE_LIMIT, SKEW_LIMIT, LOG_TAIL_LIMIT),
        )
        tables = Tables(
            parent=array(t.tree.parent),
            layer=array(t.tree.layer),
            group=array(t.tree.group),
            spread=array(t.spread),
            first_knot=float(t.splits.knots[0]),
            last_knot=float(t.splits.knots[-1]),
            top=array(t.splits.top),
            tails=array(t.splits.tails),
            atoms=array(t.splits.atoms),
            threshold=float(t.threshold),
            atom=ATOM,
        )
        inputs = (array(x) for x in (energies, context, u, normal))
        return torch.from_numpy(divide_layers(*inputs, weights, tables))

    def _context(self, condition: Tensor) -> Tensor:
        """What the splits see: the energies, and which layers are empty."""
        t = self.showers
        # Mapped energies of empty layers, and a little more against rounding.
        floor = (t.threshold.log() - t.centre[1:]) / t.scale[1:] + 1e-5
        return torch.cat([condition, (condition[:, 1:] > floor).to(condition.dtype)], 1)

    def _condition(self, batch: Batch) -> Tensor:
        if batch.condition is None:
            raise DomainError("shower-flow needs showers with incident energies")
        return batch.condition


def _shown(z: Tensor, both: Tensor, contrast: Tensor) -> Tensor:
    """Return how the later splits see one, (..., 3)."""
    return torch.stack([z.clamp(-ATOM, ATOM), both.to(z.dtype), contrast], -1)


def _parameters(out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mu, ln sigma, epsilon and ln delta, given outputs (..., 4)."""
    mean, scale, skew, tail = out.unbind(-1)
    return (
        mean,
        softclip(scale, LOG_SCALE_LIMIT),
        softclip(skew, SKEW_LIMIT),
        softclip(tail, LOG_TAIL_LIMIT),
    )


def _log_density(z: Tensor, out: Tensor) -> Tensor:
    """Return the logarithm of the sinh-arcsinh density, given outputs (..., 4)."""
    mean, log_scale, skew, log_tail = _parameters(out)
    r = (z - mean) * (-log_scale).exp()
    t = log_tail.exp() * r.asinh() - skew
    normal = t.sinh()
    log_slope = (
        0.5 * (torch.log1p(normal.square()) - torch.log1p(r.square())) + log_tail - log_scale
    )
    return log_slope - 0.5 * normal.square() - 0.5 * math.log(2 * math.pi)


def _draw(normal: Tensor, out: Tensor) -> Tensor:
    """Map standard normal numbers to z: the inverse of what `_log_density` is the density of."""
    mean, log_scale, skew, log_tail = _parameters(out)
    return mean + log_scale.exp() * ((normal.asinh() + skew) * (-log_tail).exp()).sinh()
