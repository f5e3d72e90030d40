"""Stacks of couplings: the bare bijection, and the surrogates made of a transform and a stack.

z = f_n(...f_1(x)), log q(x | condition) = log N(z; 0, 1) + sum log|det f_i|. In a surrogate x is
what the transform makes of the physical sample; its log-determinant is added where it has one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.mlp import Activation
from physgen.surrogates.base import HasDensity, Surrogate
from physgen.surrogates.flows.coupling import (
    AffineCoupling,
    Coupling,
    CouplingKind,
    SplineCoupling,
)
from physgen.transforms.base import Chain, Transform


class CouplingStack(nn.Module):
    """A conditional bijection of R^features, the identity (up to order) when it is new.

    Layers map one half given the other, in turn; after every second layer a fixed random
    permutation makes new halves.

    Args:
        features: size of x; 1 is allowed (then only the condition acts).
        n_condition: size of the condition; 0 for none.
        n_layers: number of couplings.
        hidden: widths of each coupling's network.
        coupling: "affine" is the fastest, "spline" bends further per layer.
        bins: of a spline.
        bound: splines act within [-bound, bound].
        activation: of the networks.
    """

    def __init__(
        self,
        features: int,
        n_condition: int = 0,
        *,
        n_layers: int = 8,
        hidden: tuple[int, ...] = (64, 64),
        coupling: CouplingKind = "spline",
        bins: int = 8,
        bound: float = 5.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.features, self.n_condition = features, n_condition
        layers: list[Coupling] = []
        n_passive = features // 2
        for _ in range(n_layers):
            if coupling == "affine":
                layers.append(
                    AffineCoupling(
                        features, n_passive, n_condition, hidden=hidden, activation=activation
                    )
                )
            else:
                layers.append(
                    SplineCoupling(
                        features,
                        n_passive,
                        n_condition,
                        hidden=hidden,
                        bins=bins,
                        bound=bound,
                        activation=activation,
                    )
                )
            # A lone feature is never passive: it has nothing to be exchanged with.
            n_passive = features - n_passive if features > 1 else 0
        self.layers = nn.ModuleList(layers)
        generator = torch.Generator().manual_seed(features)
        orders = torch.empty((n_layers - 1) // 2, features, dtype=torch.long)
        for order in orders:
            torch.randperm(features, generator=generator, out=order)
        self.register_buffer("orders", orders)
        self.register_buffer("orders_back", orders.argsort(-1))
        self.orders: Tensor
        self.orders_back: Tensor

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, features) to the base; return z and log|det dz/dx|, (B,)."""
        total = torch.zeros_like(x[:, 0])
        for i, layer in enumerate(self.layers):
            if i and i % 2 == 0:
                x = x.index_select(-1, self.orders[i // 2 - 1])
            x, log_det = layer(x, condition)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the base (B, features) to data; return x and log|det dx/dz|, (B,)."""
        total = torch.zeros_like(z[:, 0])
        for i in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[i]
            z, log_det = layer.inverse(z, condition)  # type: ignore[operator]
            total = total + log_det
            if i and i % 2 == 0:
                z = z.index_select(-1, self.orders_back[i // 2 - 1])
        return z, total

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) log q(x | condition) under a standard normal base."""
        z, log_det = self(x, condition)
        total: Tensor = standard_normal(z) + log_det
        return total


class LatentFlow(Surrogate):
    """What flows on exact and inexact transforms share: a stack in the transform's space.

    Args:
        schema: of the samples.
        transform: from physical samples to real vectors.
        n_layers: number of couplings.
        hidden: widths of each coupling's network.
        coupling: "affine" or "spline".
        bins: of a spline.
        bound: splines act within [-bound, bound] of the transform's space.
        activation: of the networks.
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        n_layers: int = 8,
        hidden: tuple[int, ...] = (64, 64),
        coupling: CouplingKind = "spline",
        bins: int = 8,
        bound: float = 5.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(schema, transform)
        if isinstance(self, HasDensity) and not self.transform.exact:
            raise RecipeError(
                "surrogate.kind: coupling-flow has an exact density, but the transform adds noise "
                "or holds discrete parts; use kind: dequantised-flow"
            )
        self.latent_shape = self.transform.latent_shape(schema.shape)
        self.flow = CouplingStack(
            math.prod(self.latent_shape),
            self.transform.latent_condition(len(schema.condition)),
            n_layers=n_layers,
            hidden=hidden,
            coupling=coupling,
            bins=bins,
            bound=bound,
            activation=activation,
        )

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) the log-density of a batch in the transform's space."""
        return self.flow.log_prob(batch.x.flatten(1), batch.condition)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise behind one sample."""
        return (self.flow.features,)

    def push(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, features) noise and (B, C) physical conditions to (B, *shape) samples."""
        latent, _ = self._latent(noise, condition)
        return self.transform.inverse(latent).x

    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` samples in physical units."""
        with torch.no_grad():
            noise, condition = self._draw(n, condition, generator)
            return Batch(self.push(noise, condition), condition)

    def _draw(
        self, n: int, condition: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Base noise, and the conditions, checked or drawn from those seen in training."""
        if condition is None:
            condition = self.conditions.draw(n, generator)
        else:
            self.conditions.check(condition)
        noise = torch.randn(
            n, *self.noise_shape, generator=generator, device=self.device, dtype=self.dtype
        )
        return noise, condition

    def _latent(self, noise: Tensor, condition: Tensor | None) -> tuple[Batch, Tensor]:
        """Samples in the transform's space and log|det dx/dz|, (B,)."""
        mapped = None if condition is None else self.transform.map_condition(condition)
        x, log_det = self.flow.inverse(noise, mapped)
        return Batch(x.reshape(-1, *self.latent_shape), mapped), log_det


class CouplingFlow(LatentFlow):
    """A coupling flow with an exact density (`HasDensity`): RealNVP, or a neural spline flow.

    Raises:
        RecipeError: if the transform has no log-determinant; use `DequantisedFlow`.
    """

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | condition) in physical units, differentiable."""
        latent, log_det = self.transform(batch)
        total: Tensor = self.latent_log_prob(latent) + log_det
        return total

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw samples and return their (n,) log-density, both differentiable."""
        noise, condition = self._draw(n, condition, generator)
        latent, log_det = self._latent(noise, condition)
        samples = self.transform.inverse(latent).replace(condition=condition)
        log_prob = standard_normal(noise) - log_det
        if isinstance(self.transform, Chain) and not self.transform.transforms:
            return samples, log_prob
        _, transform_log_det = self.transform(samples)
        return samples, log_prob + transform_log_det


class DequantisedFlow(LatentFlow):
    """A coupling flow on a transform that adds noise or holds discrete parts (`HasBound`).

    With noise z ~ r(z | x) on the preimage of x, log p(x) >= E[log q(z) - log r(z | x)]: the
    dequantisation bound of Ho et al. (arXiv 1902.00275), equation 11.
    """

    def elbo(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,), an unbiased draw of the bound on log p(x | condition) in physical units."""
        latent, volume = self.transform.bound(batch, generator)
        return self.latent_log_prob(latent) + volume


def standard_normal(z: Tensor) -> Tensor:
    """Log-density (B,) of z (B, D) under N(0, 1)^D."""
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
