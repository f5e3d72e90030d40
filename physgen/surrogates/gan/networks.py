"""The two networks of the game: a generator as a surrogate, and the critic it is judged by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError, errors_of
from physgen.networks.bodies import Decoder, Encoder, NetworkOptions
from physgen.networks.conv import ConvOptions
from physgen.networks.epic import EPiCEncoder, EPiCOptions
from physgen.networks.growing import GrowingDecoder, GrowingEncoder, GrowingOptions
from physgen.networks.mlp import MLPOptions
from physgen.networks.resnet import ResNetDecoder, ResNetEncoder, ResNetOptions
from physgen.networks.stacked import StackedDecoder, StackedOptions
from physgen.networks.style import StyleDecoder, StyleOptions
from physgen.ranges import Positive
from physgen.surrogates.decoding import DecodedNoise
from physgen.transforms.base import Transform

GeneratorOptions = Annotated[
    NetworkOptions | StyleOptions | GrowingOptions | StackedOptions | ResNetOptions,
    Field(discriminator="kind"),
]
"""What generators can be made of."""

CriticOptions = Annotated[
    MLPOptions | ConvOptions | EPiCOptions | GrowingOptions | ResNetOptions,
    Field(discriminator="kind"),
]
"""What critics can be made of."""

BODIES: dict[type, Callable[..., nn.Module]] = {
    StyleOptions: StyleDecoder,
    GrowingOptions: GrowingDecoder,
    StackedOptions: StackedDecoder,
    ResNetOptions: ResNetDecoder,
}
"""Networks of generators for images alone; the others are those of decoders in general."""


class Generator(DecodedNoise):
    """A network that maps standard normal noise, and a condition, to samples (`FromNoise`).

    Args:
        schema: of the samples.
        transform: from physical samples to the space that generator and critic work in.
        latent: dimension of the latent vector. Some networks take noise besides, behind it.
        network: whose layers are said from the sample inwards, as those of the critic.
        bounded: end in tanh, for transforms into [-1, 1].
        residual: let the network say what to add to the noise, at first nothing: for transforms to
            nearly normal numbers, of which there are as many as entries of the noise. The game then
            begins with independent entries.

    Raises:
        RecipeError: a network that does not fit, or residual noise of another size.

    >>> from physgen.batch import Variable
    >>> model = Generator(Schema((2,), (Variable("x"),)), latent=4)
    >>> model.sample(5, seed=1).x.shape
    torch.Size([5, 2])
    """

    classifies: bool = False
    """Whether it holds a classifier, which is trained with it."""

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        latent: Positive = 64,
        network: GeneratorOptions = MLPOptions(activation="leaky-relu"),
        bounded: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__(schema, transform)
        self.latent, self.bounded, self.residual = latent, bounded, residual
        self.latent_shape = self.transform.latent_shape(schema.shape)
        self.n_condition = self.transform.latent_condition(len(schema.condition))
        with errors_of("surrogate.network"):
            self.body = self._body(network)
        self._n_latent, self._bound = latent, math.inf
        if isinstance(self.body, StyleDecoder | StackedDecoder):
            self.latent += self.body.n_sites
        if not residual:
            return
        entries = math.prod(self.latent_shape)
        if latent != entries or bounded:
            raise RecipeError(
                f"surrogate.residual adds noise to samples: latent={latent} must be {entries}, as "
                "the entries of a sample in the transform's space, and bounded be false"
            )
        with torch.no_grad():
            for parameter in list(self.body.parameters())[-2:]:  # Of its last layer.
                parameter.zero_()

    def _body(self, network: Any) -> nn.Module:
        """Return the network of noise (B, latent) and mapped conditions."""
        body = BODIES.get(type(network), Decoder)
        return body(self.latent, self.latent_shape, self.n_condition, network)

    def packed(self, mapped: Batch, generator: torch.Generator | None = None) -> Batch:
        """Return a batch of the transform's space as the critic takes it."""
        return mapped

    def surprise(self, condition: Tensor | None) -> Tensor | float:
        """Return (B,) losses of what is learned of a packed condition besides the game."""
        return self.body.surprise(condition) if isinstance(self.body, StackedDecoder) else 0.0

    def observe(self, noise: Tensor, condition: Tensor | None) -> None:
        """Take notice of noise (B, at least latent) that it was trained on, and its conditions."""
        if isinstance(self.body, StyleDecoder):
            self.body.observe(noise, condition)

    def comparable(self, x: Tensor) -> Tensor:
        """Return samples (B, *latent_shape) such that their distances mean something."""
        return x

    def decode_noise(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Map (B, latent) noise and (B, C) mapped conditions to (B, *latent_shape)."""
        x = self.finished(self.body(noise, condition))
        return x + noise.reshape(x.shape) if self.residual else x

    def finished(self, entries: Tensor) -> Tensor:
        """Return samples (B, *latent_shape) of what the network gives, (B, number of entries)."""
        x = entries.reshape(-1, *self.latent_shape)
        return x.tanh() if self.bounded else x

    def truncate(self, bound: float) -> None:
        """Draw less diverse samples, each of which is likely a better one.

        A style-based network moves styles towards their mean, w <- m + bound (w - m). Of others,
        latent entries are drawn from the normal distribution within [-bound, bound] (Brock,
        Donahue & Simonyan, arXiv 1809.11096, section 3.1).

        Raises:
            RecipeError: it makes sets of points.
        """
        if self.schema.masked:
            raise RecipeError("sampling.truncation: sets of points are not truncated; leave it out")
        if isinstance(self.body, StyleDecoder):
            self.body.psi = bound
        else:
            self._bound = bound

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` samples, truncated if asked for."""
        shape = n, *self.noise_shape
        noise = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        if self._bound < math.inf:
            # The quantiles of the normal distribution are those of the truncated one, shrunk.
            inside = math.erf(self._bound / math.sqrt(2))
            z = noise[:, : self.n_latent]
            z = math.sqrt(2) * (inside * (z / math.sqrt(2)).erf()).erfinv()
            noise = torch.cat([z, noise[:, self.n_latent :]], 1)
        return Batch(self.from_noise(noise, condition), condition)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise behind one sample."""
        return (self.latent,)

    @property
    def n_latent(self) -> int:
        """Entries of the latent vector, the first of the noise."""
        return self._n_latent


class Critic(nn.Module):
    """Scores samples of the transform's space: (B, *shape), (B, C) or `None` -> (B,).

    Args:
        shape: of one sample.
        n_condition: C.
        options: of the network.
        spectral_norm: divide each weight by its largest singular value, so that the critic is
            1-Lipschitz up to its activations (Miyato et al., arXiv 1802.05957).

    Raises:
        RecipeError: a network that does not fit.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_condition: int,
        options: CriticOptions,
        *,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.body: nn.Module
        if isinstance(options, EPiCOptions):
            self.body = EPiCEncoder(shape[1], 1, n_condition, options)
        elif isinstance(options, GrowingOptions):
            self.body = GrowingEncoder(shape, 1, n_condition, options)
        elif isinstance(options, ResNetOptions):
            self.body = ResNetEncoder(shape, n_condition, options)
        else:
            self.body = Encoder(shape, 1, n_condition, options)
        if spectral_norm:
            _normalise(self.body)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) scores."""
        scores: Tensor = self.body(x, condition)[:, 0]
        return scores


def _normalise(network: nn.Module) -> None:
    for layer in list(network.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            spectral_norm(layer)
