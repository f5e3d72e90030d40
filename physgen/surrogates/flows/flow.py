r"""Flows: a bijection in the space of a transform, which decides what is known of the density.

In a surrogate x is what the transform makes of the physical sample. Where the transform has a
log-determinant it is added: the density is exact. Where it adds noise, z ~ r(z | x) on the preimage
of x, there is the bound

    log p(x) >= E[log q(z) - log r(z | x)]

(Ho et al., arXiv 1902.00275, equation 11). For pixels of K levels p(x) is a probability, and
-log p(x) / (D ln 2) the bits per dimension that images are compared by, at most log_2 K for a
model that knows nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.io.weights import positive_weight
from physgen.surrogates.base import Surrogate, density_of
from physgen.surrogates.flows.bijection import Bijection, standard_normal
from physgen.surrogates.flows.chosen import BijectionOptions
from physgen.surrogates.flows.stack import CouplingOptions
from physgen.transforms.base import INEXACT, Chain, Transform

START_ROWS = 20_000
"""How many samples a bijection that starts at the data is shown."""


class Flow(Surrogate):
    """A normalising flow (`FromNoise`, and `HasDensity` or `HasBound` as the transform has it).

    Args:
        schema: of the samples.
        transform: from physical samples to real vectors.
        bijection: from these to normal noise.

    Raises:
        RecipeError: the bijection does not fit the samples.

    >>> from physgen.batch import Variable
    >>> from physgen.surrogates.flows.autoregressive import AutoregressiveOptions
    >>> schema = Schema((2,), (Variable("x"), Variable("y")))
    >>> flow = Flow(schema, bijection=AutoregressiveOptions(n_layers=2, hidden=16))
    >>> flow.log_prob(Batch(torch.zeros(3, 2))).shape
    torch.Size([3])
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        bijection: BijectionOptions = CouplingOptions(),
    ) -> None:
        super().__init__(schema, transform)
        self.latent_shape = self.transform.latent_shape(schema.shape)
        n_condition = self.transform.latent_condition(len(schema.condition))
        self.bijection: Bijection = bijection.build(self.latent_shape, n_condition)

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform; a bijection may start at the data."""
        super().initialise(data)
        if data is not None and self.bijection.starts_at_data:
            first = data[:START_ROWS]
            generator = torch.Generator(device=data.x.device).manual_seed(0)
            mapped = self.transform(first, generator)[0].to(dtype=self.dtype)
            x = mapped.x.flatten(1)
            self.bijection.start_at(x, mapped.condition, positive_weight(first).to(x))

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) the log-density of a batch in the transform's space."""
        return self.bijection.log_prob(batch.x.flatten(1), batch.condition)

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | condition) in physical units, differentiable.

        Raises:
            RecipeError: the transform leaves a bound only.
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
            RecipeError: the transform leaves a bound only.
        """
        self._check_exact()
        condition = self.conditions.resolve(condition, n, generator)
        shape = n, *self.noise_shape
        noise = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        mapped = self._mapped(condition)
        x, log_det = self.bijection.inverse(noise, mapped)
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

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise behind one sample."""
        return (math.prod(self.latent_shape),)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, C) physical conditions to (B, *shape) samples."""
        mapped = self._mapped(condition)
        return self._physical(self.bijection.from_noise(noise, mapped), mapped)

    def _check_exact(self) -> None:
        if density_of(self) is None:
            raise RecipeError(f"transform: a flow on it has a bound, no exact density: {INEXACT}")

    def _mapped(self, condition: Tensor | None) -> Tensor | None:
        return None if condition is None else self.transform.map_condition(condition)

    def _physical(self, x: Tensor, mapped: Tensor | None) -> Tensor:
        return self.transform.inverse(Batch(x.reshape(-1, *self.latent_shape), mapped)).x
