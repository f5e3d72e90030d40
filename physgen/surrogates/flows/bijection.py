r"""Bijections of R^D, and the surrogates made of a transform and a bijection.

z = f(x | c) and log q(x | c) = log N(z; 0, 1) + log|det df/dx|. In a surrogate x is what the
transform makes of the physical sample. Where the transform has a log-determinant it is added: the
density is exact. Where it adds noise, z ~ r(z | x) on the preimage of x, there is the bound

    log p(x) >= E[log q(z) - log r(z | x)]

(Ho et al., arXiv 1902.00275, equation 11). For pixels of K levels p(x) is a probability, and
-log p(x) / (D ln 2) the bits per dimension that images are compared by, at most log_2 K for a
model that knows nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.surrogates.base import Surrogate, density_of
from physgen.transforms.base import INEXACT, Chain, Transform


class Bijection(nn.Module):
    """A conditional bijection of R^features, with log-determinants in the dtype of its input.

    Args:
        features: size of x.
        n_condition: size of the condition; 0 for none.
    """

    def __init__(self, features: int, n_condition: int = 0) -> None:
        super().__init__()
        self.features, self.n_condition = features, n_condition

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, features) to the base; return z and log|det dz/dx|, (B,)."""
        raise NotImplementedError

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the base (B, features) to data; return x and log|det dx/dz|, (B,)."""
        raise NotImplementedError

    def from_noise(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map the base to data, where the log-determinant is not asked for."""
        return self.inverse(z, condition)[0]

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) log q(x | condition) under a standard normal base."""
        z, log_det = self(x, condition)
        total: Tensor = standard_normal(z) + log_det
        return total


class LatentFlow(Surrogate):
    """A bijection in the space of a transform; families of flows set `flow`.

    It has an exact density (`HasDensity`) where the transform has a log-determinant and covers the
    ranges of the variables, else a bound (`HasBound`): `density_of` and `bound_of` say which.

    Args:
        schema: of the samples.
        transform: from physical samples to real vectors.
    """

    flow: Bijection

    def __init__(self, schema: Schema, transform: Transform | None = None) -> None:
        super().__init__(schema, transform)
        self.latent_shape = self.transform.latent_shape(schema.shape)
        self.features = math.prod(self.latent_shape)
        self.n_condition = self.transform.latent_condition(len(schema.condition))

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) the log-density of a batch in the transform's space."""
        return self.flow.log_prob(batch.x.flatten(1), batch.condition)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise behind one sample."""
        return (self.features,)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, features) noise and (B, C) physical conditions to (B, *shape) samples."""
        mapped = self._mapped(condition)
        return self._physical(self.flow.from_noise(noise, mapped), mapped)

    def _draw(
        self, n: int, condition: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Base noise, and the conditions, checked or drawn from those seen in training."""
        condition = self.conditions.resolve(condition, n, generator)
        noise = torch.randn(
            n, *self.noise_shape, generator=generator, device=self.device, dtype=self.dtype
        )
        return noise, condition

    def _mapped(self, condition: Tensor | None) -> Tensor | None:
        return None if condition is None else self.transform.map_condition(condition)

    def _physical(self, x: Tensor, mapped: Tensor | None) -> Tensor:
        return self.transform.inverse(Batch(x.reshape(-1, *self.latent_shape), mapped)).x

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | condition) in physical units, differentiable.

        Raises:
            RecipeError: the transform leaves no exact density.
        """
        self._check_exact()
        latent, log_det = self.transform(batch)
        total: Tensor = self.latent_log_prob(latent) + log_det
        return total

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw samples and return their (n,) log-density, both differentiable.

        Raises:
            RecipeError: the transform leaves no exact density.
        """
        self._check_exact()
        noise, condition = self._draw(n, condition, generator)
        mapped = self._mapped(condition)
        x, log_det = self.flow.inverse(noise, mapped)
        samples = Batch(self._physical(x, mapped), condition)
        log_prob = standard_normal(noise) - log_det
        if isinstance(self.transform, Chain) and not self.transform.transforms:
            return samples, log_prob
        _, transform_log_det = self.transform(samples)
        return samples, log_prob + transform_log_det

    def elbo(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,), an unbiased draw of the bound on log p(x | condition) in physical units."""
        latent, volume = self.transform.bound(batch, generator)
        return self.latent_log_prob(latent) + volume

    def _check_exact(self) -> None:
        if density_of(self) is None:
            raise RecipeError(f"{type(self).__name__} has no exact density here: {INEXACT}")


def fixed_orders(n: int, features: int) -> Tensor:
    """Return (n, features) permutations, the same ones for the same number of features."""
    generator = torch.Generator().manual_seed(features)
    orders = torch.empty(n, features, dtype=torch.long)
    for order in orders:
        torch.randperm(features, generator=generator, out=order)
    return orders


def standard_normal(z: Tensor) -> Tensor:
    """Log-density (B,) of z (B, D) under N(0, 1)^D."""
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
