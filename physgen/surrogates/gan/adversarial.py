"""Adversarial training: critic and generator in turn (Goodfellow et al., arXiv 1406.2661).

One step of the engine is `n_critic` steps of the critic, each on a batch and noise of its own, and
one of the generator. What they minimise stands in `losses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError, errors_of
from physgen.networks.epic import EPiCOptions
from physgen.networks.mlp import MLPOptions
from physgen.ranges import NotNegative, Positive, PositiveFloat, Probability, Share
from physgen.surrogates.gan.growth import Growth
from physgen.surrogates.gan.losses import LOSSES, LossName, slope_penalty, squared_slope
from physgen.surrogates.gan.monitor import GANMonitor, coverage, spread
from physgen.surrogates.gan.networks import Critic, CriticOptions, Generator
from physgen.surrogates.gan.regularisers import (
    decode_mixed,
    n_mixed,
    orthogonality,
    path_lengths,
    styles_of,
)
from physgen.surrogates.method import Method, StepContext

MONITOR_EVERY = 50
"""Steps between two estimates of coverage and spread."""

MONITOR_SAMPLES = 256
"""Samples that they are estimated with."""

PATHS_EVERY = 4
"""Steps between two penalties on path lengths, each so much larger."""


class Adversarial(Method):
    """Train a generator against a critic.

    The journal shows "D_real" and "D_fake", the means of D(x) and D(G(z)) ("score_real" and
    "score_fake", of the bare scores, for hinge and Wasserstein losses), the critic's loss without
    its penalties, and every fifty steps the share of data that generated samples come near, and how
    far these are from one another in distances of the data ("coverage", "spread"; see `monitor`).

    Args:
        surrogate: a `Generator`.
        steps: of the engine in all.
        loss: what is played for.
        n_critic: steps of the critic to one of the generator.
        clip: clip the critic's weights into [-clip, clip].
        gradient_penalty: lambda of the penalty on slopes other than 1 between data and samples.
        r1: gamma of the penalty on slopes at the data.
        spectral_norm: divide the critic's weights by their largest singular values.
        critic: its network; convolutions need more channels than those of its generator, and sets
            of points are for "epic" alone.
        learning_rate: of Adam, for both.
        momentum: of Adam's first moment; the opponent moves, so that none is most stable.
        critic_rate: learning rate of the critic in units of `learning_rate` (Heusel et al., arXiv
            1706.08500).
        growth: share of the training in which networks that grow reach the size of the image; their
            critic sees data as coarse as what they show.
        mixing: share of the images whose styles are mixed (style-based networks).
        path_length: weight of the penalty on path lengths, see `regularisers` (likewise).
        orthogonal: weight of the penalty on weights of the generator that are not orthogonal.

    Raises:
        RecipeError: the surrogate is no generator, or the options do not fit one another.

    >>> from physgen.batch import Schema, Variable
    >>> generator = Generator(Schema((2,), (Variable("x"),)), latent=4)
    >>> method = Adversarial(generator, steps=100, r1=1.0, critic=MLPOptions(hidden=(16,)))
    >>> sorted(method.optimisers)
    ['critic', 'generator']
    """

    def __init__(
        self,
        surrogate: Generator,
        *,
        steps: int,
        loss: LossName = "non-saturating",
        n_critic: Positive = 2,
        clip: float | None = None,
        gradient_penalty: NotNegative = 0.0,
        r1: NotNegative = 0.0,
        spectral_norm: bool = False,
        critic: CriticOptions = MLPOptions(activation="leaky-relu"),
        learning_rate: PositiveFloat = 5e-4,
        momentum: Probability = 0.0,
        critic_rate: PositiveFloat = 1.0,
        growth: Share = 0.5,
        mixing: Share = 0.0,
        path_length: NotNegative = 0.0,
        orthogonal: NotNegative = 0.0,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, Generator):
            raise RecipeError(
                f"method.kind: adversarial trains a generator, not {type(surrogate).__name__}"
            )
        if surrogate.classifies:
            raise RecipeError(
                "method.kind: adversarial brings a critic, and labelled-generator has its own, "
                "that knows classes: take semi-supervised"
            )
        if n_critic < 1:
            raise RecipeError(f"method.n_critic={n_critic}: it must be at least 1")
        if clip is not None and (clip <= 0 or spectral_norm):
            raise RecipeError(
                f"method.clip={clip} must be positive, and stand alone: spectral_norm=true bounds "
                "the same weights in another way"
            )
        if loss == "wasserstein" and clip is None and not (gradient_penalty or spectral_norm):
            raise RecipeError(
                "method.loss: wasserstein needs a critic of bounded slope: set gradient_penalty=10,"
                " clip=0.01, or spectral_norm=true"
            )
        if surrogate.schema.masked != isinstance(critic, EPiCOptions):
            raise RecipeError(
                "method.critic.kind: epic is for sets of points, and they need it: no other critic "
                "forgets their order"
            )
        self.mixing, self.path_length, self.orthogonal = mixing, path_length, orthogonal
        if mixing or path_length:
            styles_of(surrogate)
        self.generator, self.loss = surrogate, LOSSES[loss]
        self.n_critic, self.clip = n_critic, clip
        self.gradient_penalty, self.r1 = gradient_penalty, r1
        with errors_of("method.critic"):
            self.critic = Critic(
                surrogate.latent_shape,
                surrogate.n_condition,
                critic,
                spectral_norm=spectral_norm,
            )
        self.modules["critic"] = self.critic
        for name, network, rate in (
            ("critic", self.critic, critic_rate * learning_rate),
            ("generator", surrogate, learning_rate),
        ):
            self.optimisers[name] = torch.optim.Adam(
                network.parameters(), lr=rate, betas=(momentum, 0.99)
            )
        self._growing = Growth(surrogate, self.critic, steps, growth)
        if path_length:
            self.tensors["path_length"] = torch.zeros(())
        self._lengths: list[Tensor] = []
        self._curves: list[Tensor] = []
        self._monitor = GANMonitor(
            saturates=self.loss.saturates, late=steps / 2, meaning=self.loss.meaning
        )

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Map to the transform's space, adding its noise."""
        return self.generator.packed(super().prepare(batch, generator), generator)

    def critic_loss(self, batch: Batch, noise: Tensor, mix: Tensor) -> Tensor:
        """Return (B,) losses of the critic.

        Args:
            batch: prepared data; generated samples take its conditions.
            noise: (B, n_noise), normal.
            mix: (B, 1), uniform, for the gradient penalty.
        """
        with torch.no_grad():
            fake = self._made(noise, batch.condition)
        real = self._growing.seen(batch.x)
        real_score = self.critic(real, batch.condition)
        fake_score = self.critic(fake, batch.condition)
        loss = self.loss.real(real_score) + self.loss.fake(fake_score)
        shown = [self.loss.shown(real_score), self.loss.shown(fake_score), loss]
        self._curves.append(torch.stack([values.detach().float().mean() for values in shown]))
        if self.gradient_penalty:
            penalty = slope_penalty(self.critic, real, fake, mix, batch.condition)
            loss = loss + self.gradient_penalty * penalty
        if self.r1:
            loss = loss + 0.5 * self.r1 * squared_slope(self.critic, real, batch.condition)
        return loss

    def generator_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return (B,) losses of the generator at the conditions of a prepared batch."""
        fake = self._made(noise, batch.condition)
        loss = self.loss.generator(self.critic(fake, batch.condition))
        loss = loss + self.generator.surprise(batch.condition)
        if self.orthogonal:
            loss = loss + self.orthogonal * orthogonality(self.generator)
        return loss

    def generator_loss_with_paths(self, batch: Batch, noise: Tensor, direction: Tensor) -> Tensor:
        """Return (B,) losses of the generator with those of its path lengths along (B, entries)."""
        lengths: Tensor = path_lengths(self.generator, noise, batch.condition, direction)
        self._lengths.append(lengths.detach().mean())
        penalty = (lengths - self.tensors["path_length"]).square()
        loss = self.generator_loss(batch, noise)
        return loss + PATHS_EVERY * self.path_length * penalty

    @property
    def n_noise(self) -> int:
        """Normal numbers behind a generated sample while training."""
        return n_mixed(styles_of(self.generator)) if self.mixing else self.generator.latent

    def _made(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        if self.mixing:
            return decode_mixed(self.generator, noise, condition, self.mixing)
        return self.generator.decode_noise(noise, condition)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Move the critic `n_critic` times, then the generator."""
        batch = batches["data"]
        self._growing.begin(ctx.step)
        for turn in range(self.n_critic):
            if turn:
                batch = ctx.next()
            noise, mix = ctx.randn(self.n_noise), ctx.rand(1)
            ctx.minimise(self.critic_loss, self.optimisers["critic"], batch, noise, mix)
            if self.clip is not None:
                with torch.no_grad():
                    for parameter in self.critic.parameters():
                        parameter.clamp_(-self.clip, self.clip)
        noise, optimiser = ctx.randn(self.n_noise), self.optimisers["generator"]
        if self.path_length and ctx.step % PATHS_EVERY == 0:
            direction = ctx.randn(math.prod(self.generator.latent_shape))
            inputs = batch, noise, direction
            loss = ctx.minimise(self.generator_loss_with_paths, optimiser, *inputs)
            length = torch.stack(self._lengths).mean().to(self.tensors["path_length"])
            self._lengths.clear()
            self.tensors["path_length"] = self.tensors["path_length"].lerp(length, 0.01)
        else:
            loss = ctx.minimise(self.generator_loss, optimiser, batch, noise)
        self.generator.observe(noise, batch.condition)
        real, fake, critic = torch.stack(self._curves).mean(0)
        self._curves.clear()
        name = self.loss.meaning
        metrics = {"loss": loss, "critic_loss": critic, f"{name}_real": real, f"{name}_fake": fake}
        if ctx.step % MONITOR_EVERY == 0:
            with torch.no_grad():
                generated = self._made(noise, batch.condition)
            samples = self._growing.seen(batch.x), generated
            pair = [self.generator.comparable(x[:MONITOR_SAMPLES]) for x in samples]
            metrics["coverage"], metrics["spread"] = coverage(*pair), spread(*pair)
        return metrics

    def warnings(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Say that the critic has won, or that modes are missing, once it has lasted."""
        return self._monitor.warnings(step, metrics)
