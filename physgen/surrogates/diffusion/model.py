r"""Diffusion models: a schedule, a denoiser and a sampler, put together.

A sample x of the transform's space is mixed with noise, z = alpha x + sigma eps, and a network
learns E[x | z] at all levels of noise (`denoiser`, `schedule`). Samples come from pure noise by way
of the reversed process or of the ordinary differential equation with the same marginals
(`sampler`; Song et al., arXiv 2011.13456).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError, errors_of
from physgen.io.weights import moments
from physgen.networks.residual import ResidualMLP, ResidualOptions
from physgen.networks.unet import UNet, UNetOptions
from physgen.ranges import NotNegative, PositiveFloat, Probability
from physgen.surrogates.base import Surrogate
from physgen.surrogates.diffusion.denoiser import Denoise, Denoiser, Prediction
from physgen.surrogates.diffusion.guidance import conditioned, guided, shown
from physgen.surrogates.diffusion.sampler import DETERMINISTIC, ancestral
from physgen.surrogates.diffusion.schedule import (
    SCHEDULES,
    Grid,
    Schedule,
    ScheduleName,
)
from physgen.surrogates.diffusion.transport import transport_plan
from physgen.surrogates.method import Method, StepContext
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.transforms.base import Transform

DenoiserOptions = Annotated[ResidualOptions | UNetOptions, Field(discriminator="kind")]
"""What a denoiser of samples of one shape can be made of."""


class Diffusion(Surrogate):
    """A diffusion or flow-matching model of samples of any shape (`FromNoise`).

    Args:
        schema: of the samples.
        transform: from physical samples to real numbers of order one.
        schedule: how the noise rises; "straight" is that of flow matching, "learned" is for the
            method diffusion-bound.
        prediction: what the network learns (see `denoiser`).
        network: that learns it.
        condition_dropout: share of training samples whose condition is hidden, for guidance.

    Attributes:
        sampler: how samples are drawn; see `use_sampler`.

    Raises:
        RecipeError: a unet for samples that are no images, or conditions are hidden of which there
            are none.

    >>> from physgen.batch import Variable
    >>> model = Diffusion(Schema((8, 8), (Variable("phi"),)), network=UNetOptions(channels=(4, 8)))
    >>> model.use_sampler(SamplerOptions(kind="ddim", steps=4))
    >>> model.sample(5, seed=1).x.shape
    torch.Size([5, 8, 8])
    """

    at_once = 1024  # A U-net on 28 x 28 pixels then needs less than a gigabyte.

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        schedule: ScheduleName = "cosine",
        prediction: Prediction = "v",
        network: DenoiserOptions = ResidualOptions(),
        condition_dropout: Probability = 0.0,
    ) -> None:
        super().__init__(schema, transform)
        if condition_dropout and not schema.condition:
            raise RecipeError(
                "surrogate.condition_dropout hides conditions, and this model has none; give the "
                "system some (such as system.labels=true), or leave it out"
            )
        self.sampler, self.condition_dropout = SamplerOptions(), condition_dropout
        self.latent_shape = self.mapped_shape()
        self.features = math.prod(self.latent_shape)
        n_condition = self.transform.latent_condition(len(schema.condition))
        n_condition += condition_dropout > 0
        shape, body = self._body(network, n_condition)
        self.denoiser = Denoiser(SCHEDULES[schedule](), body, shape, prediction)

    def mapped_shape(self) -> tuple[int, ...]:
        """Return the shape of what is denoised."""
        return self.transform.latent_shape(self.schema.shape)

    def _body(
        self, network: DenoiserOptions, n_condition: int
    ) -> tuple[tuple[int, ...], nn.Module]:
        """Return the network, and the shape in which it takes samples."""
        if isinstance(network, ResidualOptions):
            return (self.features,), ResidualMLP(self.features, n_condition, network)
        with errors_of("surrogate.network"):
            return self.latent_shape, UNet(self.latent_shape, n_condition, network)

    def use_sampler(self, options: SamplerOptions) -> None:
        """Draw samples in another way from now on; nothing that was learned changes.

        Raises:
            RecipeError: guidance of a model that was not trained to hide its conditions, or noise
                is added on the straight path, which has none to add.
        """
        if options.guidance != 1 and not self.condition_dropout:
            raise RecipeError(
                "sampling.sampler.guidance compares the model with and without its condition: "
                "train it with surrogate.condition_dropout=0.1 or so, on a system of conditions"
            )
        if options.kind == "ancestral" and self.schedule.scaling == "straight":
            raise RecipeError(
                "sampling.sampler.kind: the straight path of flow matching has no noise to add; "
                "take heun, ddim or dpm-solver"
            )
        self.sampler = options

    @property
    def schedule(self) -> Schedule:
        """How the noise rises; a part of the denoiser, so that its parameters are there once."""
        return self.denoiser.schedule

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform, and measure how large its samples are."""
        super().initialise(data)
        if data is not None:
            generator = torch.Generator(device=data.x.device).manual_seed(0)
            mapped, _ = self.transform(data, generator)
            self.denoiser.scale.copy_(moments(self.size(mapped), data)[0].sqrt())

    def size(self, mapped: Batch) -> Tensor:
        """Return (B,) mean squares of samples in the transform's space."""
        return mapped.x.flatten(1).square().mean(1)

    def flat(self, mapped: Batch, generator: torch.Generator | None = None) -> Batch:
        """Return a batch of the transform's space as the denoiser takes it: x is (B, D)."""
        return mapped.replace(x=mapped.x.flatten(1))

    def exchanged(self, x: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return noise (B, D) in the order in which optimal transport pairs it with x (B, D)."""
        return noise[transport_plan(x, noise, condition)]

    def loss(self, x: Tensor, noise: Tensor, log_snr: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,) what is minimised over flat samples and their noise (B, D)."""
        return self.denoiser.loss(x, noise, log_snr, condition)

    def distance(self, x: Tensor, other: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,) mean squared differences of samples (B, D) at what is `given`."""
        return (x - other).square().mean(1)

    def start(self) -> Tensor:
        """Return the deviation of z at t = 1, (), where sampling starts."""
        log_snr = self.schedule.log_snr(self.denoiser.scale.new_ones(()))
        alpha, sigma = self.schedule.amplitudes(log_snr)
        return ((alpha * self.denoiser.scale).square() + sigma.square()).sqrt()

    def begin(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return where paths begin, (B, D), for normal noise (B, D) and mapped conditions."""
        return noise

    def map_condition(self, condition: Tensor | None) -> Tensor | None:
        """Map physical conditions (B, C) as the denoiser takes them."""
        return None if condition is None else self.transform.map_condition(condition)

    def denoise(self, condition: Tensor | None) -> Denoise:
        """Return the denoiser at physical conditions (B, C), guided where the recipe says so."""
        mapped = self.map_condition(condition)
        if mapped is None or not self.condition_dropout:
            return conditioned(self.denoiser, mapped)
        return guided(self.denoiser, mapped, self.sampler.guidance)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One normal number an entry, and as many a step where the sampler adds noise."""
        return (self.sampler.steps, self.features) if self._noisy else (self.features,)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, C) physical conditions to (B, *shape) samples."""
        noise, condition = self.given(noise, condition)
        if self._noisy:
            return self._sample_from(noise[:, 0], condition, lambda i: noise[:, i])
        return self._sample_from(noise, condition, lambda i: noise)

    def given(self, noise: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return noise of entries of samples alone, and all that is given besides them."""
        return noise, condition

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` samples; the noise of all steps at once may not fit into memory."""

        def noise(_: int) -> Tensor:
            shape = n, self.features
            return torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)

        return Batch(self._sample_from(noise(0), condition, noise), condition)

    @property
    def _noisy(self) -> bool:
        return self.sampler.kind == "ancestral"

    def _sample_from(
        self, start: Tensor, condition: Tensor | None, noise: Callable[[int], Tensor]
    ) -> Tensor:
        """Sample from normal numbers (B, D), in physical units."""
        if self._noisy:
            grid = self._grid(start)
            x = ancestral(self.denoise(condition), self._begun(start, condition), grid, noise)
        else:
            x = self.cleaned(start, condition)
        return self.physical(x, condition)

    def cleaned(self, start: Tensor, condition: Tensor | None) -> Tensor:
        """Return samples of the transform's space, (B, D), by a sampler that adds no noise.

        Args:
            start: (B, D), normal, where sampling begins.
            condition: (B, C), physical, see `given`.
        """
        follow = DETERMINISTIC[self.sampler.kind]
        return follow(self.denoise(condition), self._begun(start, condition), self._grid(start))

    def _begun(self, start: Tensor, condition: Tensor | None) -> Tensor:
        """Return z at t = 1, (B, D)."""
        return self.start() * self.begin(start, self.map_condition(condition))

    def _grid(self, like: Tensor) -> Grid:
        """Return the levels of noise that sampling goes through."""
        return self.schedule.grid(self.sampler.steps, self.sampler.spacing, like)

    def physical(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Map clean samples (B, D) back to physical units, (B, *shape)."""
        mapped = self.map_condition(condition)
        return self.transform.inverse(Batch(x.reshape(-1, *self.latent_shape), mapped)).x


class Denoising(Method):
    """Learn to denoise: the mean squared error of what the network predicts, at random levels.

    Args:
        surrogate: a `Diffusion`.
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.
        levels: "uniform" draws t in [0, 1]; "normal" draws log(sigma / (alpha s)) from
            N(-0.5, 1.2^2), s the size of the data: EDM's choice (Karras et al., table 1).

    Raises:
        RecipeError: the surrogate is no `Diffusion`, or its schedule is to be learned.

    >>> from physgen.batch import Variable
    >>> method = Denoising(Diffusion(Schema((2,), (Variable("x"),))), levels="normal")
    >>> sorted(method.optimisers)
    ['denoiser']
    """

    negative_weights = True

    def __init__(
        self,
        surrogate: Diffusion,
        *,
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NotNegative = 0.0,
        levels: Literal["uniform", "normal"] = "uniform",
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, Diffusion):
            raise RecipeError(
                f"method.kind: denoising and flow-matching train a diffusion model, not "
                f"{type(surrogate).__name__}"
            )
        if any(True for _ in surrogate.schedule.parameters()):
            raise RecipeError(
                "surrogate.schedule: learned is for method.kind: diffusion-bound, since the error "
                "of a denoiser says nothing of the schedule; take cosine"
            )
        self.model, self.levels = surrogate, levels
        self.optimisers["denoiser"] = torch.optim.AdamW(
            surrogate.parameters(), lr=learning_rate, weight_decay=weight_decay
        )

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Map to the transform's space, adding its noise; samples become flat."""
        return self.model.flat(super().prepare(batch, generator), generator)

    def loss(self, batch: Batch, noise: Tensor, log_snr: Tensor, shows: Tensor) -> Tensor:
        """Return (B,) errors of a prepared batch; `shows` (B,) is 0 where conditions are hidden."""
        condition = batch.condition
        if condition is not None and self.model.condition_dropout:
            condition = shown(condition, shows)
        return self.model.loss(batch.x, noise, log_snr, condition)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step."""
        batch = batches["data"]
        noise = self.model.begin(ctx.randn(self.model.features), batch.condition)
        return self.learn(batch, noise, ctx)

    def learn(self, batch: Batch, noise: Tensor, ctx: StepContext) -> dict[str, Tensor]:
        """Take one step on samples (B, D) and the noise (B, D) that goes with them."""
        if self.levels == "uniform":
            log_snr = self.model.schedule.log_snr(ctx.rand())
        else:
            log_snr = -2 * (self.model.denoiser.scale.log() - 0.5 + 1.2 * ctx.randn())
        shows = (ctx.rand() >= self.model.condition_dropout).to(noise)
        optimiser = self.optimisers["denoiser"]
        return {"loss": ctx.minimise(self.loss, optimiser, batch, noise, log_snr, shows)}
