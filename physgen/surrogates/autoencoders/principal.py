r"""Principal components, as the linear model they are the best of (Tipping & Bishop, 1999).

x = m + B c + W z + s \epsilon,   z ~ N(0, 1)^q,   \epsilon ~ N(0, 1)^D,

is normal with covariance W W^T + s^2. Its likelihood is greatest (J. R. Stat. Soc. B 61, 611,
equations 7 and 8) where, with the eigenvalues l_1 >= ... >= l_D of the data's covariance and the
eigenvectors U of the first q, W = U (l - s^2)^{1/2}, and s^2 is the mean of the other eigenvalues.
With q = D - 1 it is the normal distribution that has the data's covariance.

The mean depends on a condition c linearly, by least squares.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.io.weights import positive_weight
from physgen.surrogates.base import refuse_negative_weights
from physgen.surrogates.decoding import DecodedNoise
from physgen.transforms.base import Transform

SMALLEST_VARIANCE = 1e-8
"""Of the noise, in the transform's space: data may lie in fewer dimensions than it has entries."""


class PCA(DecodedNoise):
    """Probabilistic principal component analysis (`HasBound`, `FromNoise`).

    `initialise` finds the maximum of the likelihood, so that there is nothing left to train:
    take the method `maximum-likelihood` and `engine.steps=0`. Where the transform is exact, the
    bound is the log-density itself.

    Args:
        schema: of the samples.
        transform: to real vectors.
        components: q, at least 1 and fewer than the entries of a sample.

    Raises:
        RecipeError: the number of components does not fit.

    >>> from physgen.batch import Variable
    >>> model = PCA(Schema((4,), (Variable("x"),)), components=2)
    >>> model.initialise(Batch(torch.randn(100, 4, generator=torch.Generator().manual_seed(0))))
    >>> model.sample(5, seed=1).x.shape
    torch.Size([5, 4])
    """

    def __init__(
        self, schema: Schema, transform: Transform | None = None, *, components: int = 16
    ) -> None:
        super().__init__(schema, transform)
        features = math.prod(self.transform.latent_shape(schema.shape))
        if not 1 <= components < features:
            raise RecipeError(
                f"surrogate.components={components}: samples of {features} entries have from 1 "
                f"to {features - 1} principal components"
            )
        n_condition = self.transform.latent_condition(len(schema.condition))
        self.components, self.features = components, features
        self.centre = nn.Parameter(torch.zeros(features))
        self.slope = nn.Parameter(torch.zeros(features, n_condition))
        self.loading = nn.Parameter(torch.eye(features, components))
        self.log_deviation = nn.Parameter(torch.zeros(()))

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform, and all parameters."""
        if data is not None:
            refuse_negative_weights(data, "surrogate pca")
        super().initialise(data)
        if data is None:
            return
        generator = torch.Generator(device=data.x.device).manual_seed(0)
        mapped, _ = self.transform(data, generator)
        x = mapped.x.flatten(1).double()
        counts = positive_weight(data)
        root = (counts / counts.sum()).sqrt()[:, None]
        inputs = x.new_ones(len(x), 1)
        if mapped.condition is not None:
            inputs = torch.cat([inputs, mapped.condition.to(x)], 1)
        # By the pseudo-inverse: the columns of one-hot labels add up to that of ones.
        fitted = torch.linalg.pinv(root * inputs) @ (root * x)
        rest = root * (x - inputs @ fitted)
        values, vectors = torch.linalg.eigh(rest.T @ rest)
        q = self.components
        noise = values[:-q].mean().clamp_min(SMALLEST_VARIANCE)
        loading = vectors[:, -q:] * (values[-q:] - noise).clamp_min(0).sqrt()
        with torch.no_grad():
            self.centre.copy_(fitted[0])
            self.slope.copy_(fitted[1:].T)
            self.loading.copy_(loading.flip(1))
            self.log_deviation.copy_(0.5 * noise.log())

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) the log-density of a batch in the transform's space."""
        deviation = batch.x.flatten(1) - self._mean(batch.condition)
        variance = (2 * self.log_deviation).exp()
        # By the inner (q, q) matrix M = W^T W + s^2: |covariance| = |M| s^{2 (D - q)}.
        inner = self.loading.T @ self.loading + variance * torch.eye(self.components).to(variance)
        factor = torch.linalg.cholesky(inner)
        projected = torch.linalg.solve_triangular(factor, (deviation @ self.loading).T, upper=False)
        pull = (deviation.square().sum(-1) - projected.square().sum(0)) / variance
        log_det = 2 * factor.diagonal().log().sum()
        log_det = log_det + 2 * (self.features - self.components) * self.log_deviation
        total: Tensor = -0.5 * (pull + log_det + self.features * math.log(2 * math.pi))
        return total

    def elbo(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,) log p(x | condition), or what bounds it where the transform adds noise."""
        mapped, volume = self.transform.bound(batch, generator)
        return self.latent_log_prob(mapped) + volume

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Noise of z, and of x given z."""
        return (self.components + self.features,)

    @property
    def n_latent(self) -> int:
        """One a component."""
        return self.components

    def decode_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Map (B, components + features) and mapped conditions to (B, features)."""
        z, rest = noise[:, : self.components], noise[:, self.components :]
        return self._mean(condition) + z @ self.loading.T + self.log_deviation.exp() * rest

    def _mean(self, condition: Tensor | None) -> Tensor:
        return self.centre if condition is None else self.centre + condition @ self.slope.T
