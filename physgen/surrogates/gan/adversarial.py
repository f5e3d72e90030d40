"""Adversarial training: critic and generator in turn (Goodfellow et al., arXiv 1406.2661).

One step of the engine is `n_critic` steps of the critic, each on a batch and noise of its own, and
one of the generator. What they minimise stands in `losses`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError, errors_of
from physgen.networks.epic import EPiCOptions
from physgen.networks.mlp import MLPOptions
from physgen.ranges import NotNegative, Positive, PositiveFloat, Probability
from physgen.surrogates.gan.losses import LOSSES, LossName, slope_penalty, squared_slope
from physgen.surrogates.gan.monitor import GANMonitor, coverage, spread
from physgen.surrogates.gan.networks import Critic, CriticOptions, Generator
from physgen.surrogates.method import Method, StepContext

MONITOR_EVERY = 50
"""Steps between two estimates of coverage and spread."""

MONITOR_SAMPLES = 256
"""Samples that they are estimated with."""


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
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, Generator):
            raise RecipeError(
                f"method.kind: adversarial trains a generator, not {type(surrogate).__name__}"
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
        for name, network in (("critic", self.critic), ("generator", surrogate)):
            self.optimisers[name] = torch.optim.Adam(
                network.parameters(), lr=learning_rate, betas=(momentum, 0.99)
            )
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
            noise: (B, latent), normal.
            mix: (B, 1), uniform, for the gradient penalty.
        """
        with torch.no_grad():
            fake = self.generator.decode_noise(noise, batch.condition)
        real_score = self.critic(batch.x, batch.condition)
        fake_score = self.critic(fake, batch.condition)
        loss = self.loss.real(real_score) + self.loss.fake(fake_score)
        shown = [self.loss.shown(real_score), self.loss.shown(fake_score), loss]
        self._curves.append(torch.stack([values.detach().float().mean() for values in shown]))
        if self.gradient_penalty:
            penalty = slope_penalty(self.critic, batch.x, fake, mix, batch.condition)
            loss = loss + self.gradient_penalty * penalty
        if self.r1:
            loss = loss + 0.5 * self.r1 * squared_slope(self.critic, batch.x, batch.condition)
        return loss

    def generator_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return (B,) losses of the generator at the conditions of a prepared batch."""
        fake = self.generator.decode_noise(noise, batch.condition)
        loss = self.loss.generator(self.critic(fake, batch.condition))
        return loss + self.generator.surprise(batch.condition)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Move the critic `n_critic` times, then the generator."""
        batch, latent = batches["data"], self.generator.latent
        for turn in range(self.n_critic):
            if turn:
                batch = ctx.next()
            noise, mix = ctx.randn(latent), ctx.rand(1)
            ctx.minimise(self.critic_loss, self.optimisers["critic"], batch, noise, mix)
            if self.clip is not None:
                with torch.no_grad():
                    for parameter in self.critic.parameters():
                        parameter.clamp_(-self.clip, self.clip)
        noise = ctx.randn(latent)
        loss = ctx.minimise(self.generator_loss, self.optimisers["generator"], batch, noise)
        real, fake, critic = torch.stack(self._curves).mean(0)
        self._curves.clear()
        name = self.loss.meaning
        metrics = {"loss": loss, "critic_loss": critic, f"{name}_real": real, f"{name}_fake": fake}
        if ctx.step % MONITOR_EVERY == 0:
            with torch.no_grad():
                generated = self.generator.decode_noise(noise, batch.condition)
            pair = [self.generator.comparable(x[:MONITOR_SAMPLES]) for x in (batch.x, generated)]
            metrics["coverage"], metrics["spread"] = coverage(*pair), spread(*pair)
        return metrics

    def warnings(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Say that the critic has won, or that modes are missing, once it has lasted."""
        return self._monitor.warnings(step, metrics)
