"""What autoencoders and adversarial generators share: samples are decoded normal noise."""

from __future__ import annotations

from torch import Tensor

from physgen.batch import Batch
from physgen.surrogates.base import Surrogate


class DecodedNoise(Surrogate):
    """A surrogate whose samples are a map of standard normal noise (`FromNoise`)."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise behind one sample."""
        raise NotImplementedError

    @property
    def n_latent(self) -> int:
        """How many entries of the noise, the first ones, are of latent vectors."""
        raise NotImplementedError

    def decode_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Map noise and mapped conditions to samples of the transform's space.

        Returns (B, entries), or (B, *shape) of that space.
        """
        raise NotImplementedError

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, C) physical conditions to (B, *shape) samples."""
        mapped = None if condition is None else self.transform.map_condition(condition)
        x = self.decode_noise(noise, mapped)
        shape = self.transform.latent_shape(self.schema.shape)
        return self.transform.inverse(Batch(x.reshape(-1, *shape), mapped)).x
