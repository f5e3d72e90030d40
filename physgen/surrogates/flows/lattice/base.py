"""What the flows of lattice fields share: noise of the lattice's shape, samples, densities."""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.surrogates.base import Surrogate
from physgen.transforms.base import Chain, Transform


class LatticeFlow(Surrogate):
    """A map of white noise on a lattice to a real field, with a density.

    Raises:
        RecipeError: if the samples are not one unbounded real field, or have conditions that this
            flow takes none of, or a transform is given, which would break the symmetries of the
            lattice.
    """

    knows_conditions: bool = False
    """Whether it depends on the conditions of the samples (the couplings of the theory)."""

    symmetries: tuple[str, ...] = ()
    """Names (of `physgen.systems.symmetries`) of those the density has, whatever it learns."""

    def __init__(self, schema: Schema, transform: Transform | None = None) -> None:
        super().__init__(schema, transform)
        name = type(self).__name__
        if len(schema.variables) != 1 or schema.variables[0].domain != "real":
            raise RecipeError(
                f"{name} models one unbounded real field on a lattice, and the samples are "
                f"{', '.join(schema.names)} of shape {schema.shape}"
            )
        if schema.condition and not self.knows_conditions:
            names = ", ".join(variable.name for variable in schema.condition)
            raise RecipeError(
                f"{name} models fields without conditions, and these have {names}; "
                "continuous-lattice-flow takes couplings as conditions"
            )
        if not (isinstance(self.transform, Chain) and len(self.transform.transforms) == 0):
            raise RecipeError(f"{name} keeps the lattice's symmetries: leave 'transform' empty")

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise behind one sample: that of the sample."""
        return self.schema.shape

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *shape) noise to fields."""
        return self.from_noise_with_log_prob(noise, condition)[0]

    def from_noise_with_log_prob(
        self, noise: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, *shape) noise to fields and their (B,) log-density, both differentiable."""
        raise NotImplementedError

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x), differentiable."""
        raise NotImplementedError

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q of prepared samples, which are the samples: there is no transform."""
        return self.log_prob(batch)

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw `n` fields and their (n,) log-density, differentiable."""
        condition = self.conditions.resolve(condition, n, generator)
        x, log_prob = self.from_noise_with_log_prob(self._noise(n, generator), condition)
        return Batch(x, condition), log_prob

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        shape = (n, *self.noise_shape)
        return torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
