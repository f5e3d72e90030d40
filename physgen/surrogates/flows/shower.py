r"""Showers in two stages: layer energies, then voxels given them.

In the space of `ShowerTransform`, with e the incident energy, l the numbers of the layer energies,
E' the (jittered) layer energies and x_v the voxels, which are `OFF` or real:

    q(l, x | e) = q(l | e) \prod_v q(x_v | x_{<v}, e, E').

The first factor is a stack of spline couplings. The voxels are autoregressive, from the layer with
most energy to the one with least, and within a layer from ring to ring: an affine flow whose
parameters come from one masked network, with the zeros as a discrete part of its own,

    q(x_v = OFF | ...) = 1 - p,    q(x_v | ..., on) = p N(x_v; \mu, \sigma^2),
    logit p = logit p_v(E'_i) + output,

where p_v is the frequency in the transform's tables: a new network is the copula of independent
voxels. Both stages are trained by maximum likelihood at once; they share no parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import DomainError
from physgen.networks.masked import MaskedMLP
from physgen.surrogates.copula import ShowerSurrogate
from physgen.surrogates.flows.spline import soft_bound
from physgen.surrogates.flows.stack import CouplingStack
from physgen.systems.calorimeter import Calorimeter
from physgen.transforms.base import Transform
from physgen.transforms.showers import OFF, ShowerTransform

LOG_SCALE_LIMIT = 4.0
"""Bound on |ln sigma| of a voxel."""


class ShowerFlow(ShowerSurrogate):
    """A conditional flow of calorimeter showers.

    Args:
        schema: of the showers.
        transform: must be absent; the surrogate brings its own.
        system: the calorimeter, for its geometry.
        hidden: units of each of the two hidden layers of the voxels' network.
        n_layers: couplings of the flow of the layer energies.
        layer_hidden: widths of their networks.
        jitter: relative spread of the reference energies (see `ShowerTransform`).
        n_knots, n_bins: of the transform's tables.

    Raises:
        RecipeError: the recipe asks for a transform.
    """

    latent_order: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        system: Calorimeter,
        hidden: int = 512,
        n_layers: int = 6,
        layer_hidden: tuple[int, ...] = (64, 64),
        jitter: float = 0.03,
        n_knots: int = 24,
        n_bins: int = 128,
    ) -> None:
        own = ShowerTransform(
            schema, system.geometry, n_knots=n_knots, n_bins=n_bins, jitter=jitter
        )
        super().__init__(schema, transform, own)
        n, n_voxels = own.n_layers, own.n_voxels
        self.layers = CouplingStack(
            n, 1, n_layers=n_layers, hidden=layer_hidden, coupling="spline", activation="silu"
        )
        self.voxels = MaskedMLP(n_voxels, 3, 1 + 2 * n, 3, hidden)
        self.register_buffer("latent_order", torch.arange(n_voxels))

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform and the order of the voxels."""
        super().initialise(data)
        # Layers by falling energy; within a layer the flat order is turned into rings.
        position = torch.empty_like(self.showers.order)
        position[self.showers.order] = torch.arange(len(position), device=position.device)
        key = -position[self.showers.layer] * self.showers.n_voxels + self.showers.ring
        self.latent_order.copy_(key.argsort(stable=True))

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q of a mapped batch; probabilities for the zeros, densities elsewhere."""
        condition = self._condition(batch)
        n = self.showers.n_layers
        layers = self.layers.log_prob(batch.x[:, :n], condition[:, :1])
        n_voxels = self.showers.n_voxels
        x = batch.x[:, n : n + n_voxels][:, self.latent_order]
        share = batch.x[:, n + n_voxels :][:, self.latent_order]
        on = x > OFF / 2
        value = torch.where(on, x, 0.0)
        context = self._context(condition)
        out = self.voxels(torch.stack([on.to(x.dtype), value, share], -1), context)
        logit = out[..., 0] + self.showers.log_odds(condition)[:, self.latent_order]
        log_scale = soft_bound(out[..., 2], LOG_SCALE_LIMIT)
        residual = (value - out[..., 1]) * (-log_scale).exp()
        density = -0.5 * residual.square() - log_scale - 0.5 * math.log(2 * math.pi)
        # Voxels of an empty layer are zero by construction: nothing to be learnt.
        present = self._present(condition)[:, self.latent_order]
        each = torch.where(
            on, functional.logsigmoid(logit) + density, functional.logsigmoid(-logit)
        )
        total: Tensor = layers + torch.where(present, each, 0.0).sum(1)
        return total

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Standard normal numbers behind one shower: one a layer, two more, two a voxel."""
        n, n_voxels = self.showers.n_layers, self.showers.n_voxels
        return (2 * n + 2 * n_voxels,)

    def push(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, 1) incident energies to (B, n_voxels) in MeV."""
        if condition is None:
            raise DomainError("showers need incident energies: pass them as the condition (B, 1)")
        t, n = self.showers, self.showers.n_layers
        z, jitter, u = noise[:, :n], noise[:, n : 2 * n], noise[:, 2 * n :]
        latent, _ = self.layers.inverse(z, t.map_condition(condition))
        energies = t.to_layers(latent, condition)
        reference = energies * (t.jitter * jitter).exp()
        mapped = t.condition_of(condition, reference)
        log_odds = t.log_odds(mapped)[:, self.latent_order].T
        u = u.T
        x = torch.empty_like(log_odds)
        log_references = t.log_references(mapped)
        places = self.latent_order.tolist()
        layers = t.layer.tolist()

        def draw(i: int, out: Tensor) -> Tensor:
            on = torch.special.ndtr(u[2 * i]) < torch.sigmoid(out[0] + log_odds[i])
            value = out[1] + soft_bound(out[2], LOG_SCALE_LIMIT).exp() * u[2 * i + 1]
            x[i] = torch.where(on, value.clamp(min=OFF / 4), OFF)
            share = t.share(x[i], log_references[:, layers[places[i]]], places[i])
            return torch.stack([on.to(value.dtype), torch.where(on, value, 0.0), share])

        self.voxels.autoregress(self._context(mapped), draw)
        return t.to_voxels(x.T[:, self.latent_order.argsort()], reference, energies)

    def _context(self, condition: Tensor) -> Tensor:
        """What the voxels see: the energies, and which layers are empty."""
        floor = self._floor()
        return torch.cat([condition, (condition[:, 1:] > floor).to(condition.dtype)], 1)

    def _present(self, condition: Tensor) -> Tensor:
        return (condition[:, 1:] > self._floor())[:, self.showers.layer]

    def _floor(self) -> Tensor:
        """Mapped energies of empty layers, and a little more against rounding."""
        t = self.showers
        return (t.threshold.log() - t.centre[1:]) / t.scale[1:] + 1e-5

    def _condition(self, batch: Batch) -> Tensor:
        if batch.condition is None:
            raise DomainError("shower-flow needs showers with incident energies")
        return batch.condition
