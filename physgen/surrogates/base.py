"""The interface every family of models goes through.

A surrogate is what is kept, exported and served; a method (`physgen.surrogates.method`) is how it
is trained. RealNVP under maximum likelihood and RealNVP under reverse KL are one surrogate with two
methods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from physgen.arguments import whole
from physgen.batch import Batch, Schema
from physgen.errors import InputError, RecipeError
from physgen.sampling.reweighting import Reference
from physgen.surrogates.conditions import ConditionPrior
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.transforms.base import Chain, Transform


class Surrogate(nn.Module):
    """A generative model of one kind of sample, in physical units.

    Subclasses take `schema` and `transform` positionally (the recipe's builder gives them) and
    their own options as keyword-only arguments with defaults: these are what a recipe may set.
    The shapes of parameters and buffers follow from the constructor's arguments alone.

    Raises:
        RecipeError: samples are masked, and this family models samples of one shape.

    >>> from physgen.batch import Variable
    >>> from physgen.surrogates.flows.flow import Flow
    >>> surrogate = Flow(Schema((2,), (Variable("x"), Variable("y"))))
    >>> surrogate.sample(3, seed=1).x.shape
    torch.Size([3, 2])
    """

    at_once: int | None = 4096
    """Samples drawn together, which bounds the memory; `None` is all."""

    knows_masks: bool = False
    """Whether it models masked samples (`Schema.masked`)."""

    not_exported: str = ""
    """Why samples are no map of noise of one shape, and what to do; any part may say it."""

    def __init__(self, schema: Schema, transform: Transform | None = None) -> None:
        super().__init__()
        self.check_masks(schema)
        self.schema = schema
        if transform is None or transform.wide:
            transform = Chain([] if transform is None else [transform], schema)
        self.transform = transform
        self.conditions = ConditionPrior(schema)

    def check_masks(self, schema: Schema) -> None:
        """Raise `RecipeError` if samples are masked, and this family knows no masks."""
        if schema.masked and not self.knows_masks:
            raise RecipeError(
                f"surrogate.kind: {type(self).__name__} models samples of one shape, and these "
                f"have up to {schema.shape[0]} items; take independent-items, or the system "
                "events, which makes a table of them"
            )

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform and all that is set from data before the first step.

        `data` is a sample of the training split in physical units; `None` for data-free training.
        """
        if data is not None:
            self.schema.check(data.x if data.mask is None else data.x[data.mask])
            self.transform.fit(data)
            if data.condition is not None:
                self.conditions.fit(data.condition, data.weight)

    def sample(
        self,
        n: int,
        condition: Tensor | None = None,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Draw `n` samples in physical units, `at_once` at a time.

        Args:
            n: how many.
            condition: (n, C) in physical units; `None` draws from the stored condition prior.
            seed: of the random numbers.
            generator: in the place of a seed, on the device of the parameters.

        Raises:
            InputError: neither seed nor generator is given, or both are.
            DomainError: a condition is outside the trained domain.
        """
        if generator is None and seed is not None:
            generator = torch.Generator(self.device).manual_seed(whole("seed", seed))
        elif generator is None or seed is not None:
            raise InputError("sample takes either a seed or a generator")
        condition = self.conditions.resolve(condition, n, generator)
        step = n if self.at_once is None else self.at_once
        parts = []
        with torch.no_grad():
            for first in range(0, n, step) if n else (0,):
                last = min(first + step, n)
                given = None if condition is None else condition[first:last]
                parts.append(self.draw(last - first, given, generator))
        return Batch.concatenate(parts)

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` samples at (n, C) conditions; by default what normal noise is mapped to.

        What `sample` calls, without gradients, for at most `at_once` samples.
        """
        assert isinstance(self, FromNoise), f"{type(self).__name__} says how it draws"
        shape = n, *self.noise_shape
        noise = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        return Batch(self.from_noise(noise, condition), condition)

    def high_precision(self) -> Self:
        """Return a copy in float64, integrated more finely where it is: for final numbers."""
        return copy.deepcopy(self).double()

    def accept(self, batch: Batch) -> Batch:
        """Move samples of any numeric type to the device, in the type that densities take them."""
        parts = (part for part in self.transform.modules() if isinstance(part, Transform))
        dtype = torch.float64 if any(part.wide for part in parts) else self.dtype
        moved = batch.to(self.device, dtype)
        return moved.replace(x=moved.x.to(dtype))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(self.parameters()).dtype


def refuse_negative_weights(data: Batch, who: str) -> None:
    """Raise `InputError` if an event weight is negative: `who` fits a distribution at once."""
    if data.weight is not None and bool((data.weight < 0).any()):
        n = int((data.weight < 0).sum())
        raise InputError(
            f"data.weight: {n} of {len(data)} training events have negative weights, with which "
            f"{who} cannot be fitted; take a flow with method maximum-likelihood, or positive "
            "weights"
        )


@runtime_checkable
class HasDensity(Protocol):
    """Knows its normalised density in physical space."""

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | condition), differentiable."""
        ...

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw samples and return their (n,) log-density, differentiable."""
        ...


@runtime_checkable
class HasLogWeight(Protocol):
    """Weighs its samples against an action though it does not know its density.

    Its samples come by random ways, and a weight is that of a way.
    """

    @property
    def reference(self) -> Reference | None:
        """What the mean weight is Z in units of; `None` where it is Z."""
        ...

    def sample_with_log_weight(
        self,
        n: int,
        action: Callable[[Tensor, Tensor | None], Tensor],
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> tuple[Batch, Tensor]:
        """Draw samples and their (n,) log-weights: <w O> / <w> are means of exp(-action) / Z."""
        ...

    def log_weight(
        self,
        batch: Batch,
        action: Callable[[Tensor, Tensor | None], Tensor],
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return (B,) log-weights of ways back from samples of exp(-action) / Z."""
        ...


@runtime_checkable
class HasBound(Protocol):
    """Knows a lower bound on the log-density in physical space."""

    def elbo(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,), an unbiased draw of the bound."""
        ...


def density_of(surrogate: object) -> HasDensity | None:
    """Return a surrogate as one that knows its density exactly, if its transform lets it."""
    if not isinstance(surrogate, HasDensity):
        return None
    return surrogate if _is_exact(surrogate) or not isinstance(surrogate, HasBound) else None


def bound_of(surrogate: object) -> HasBound | None:
    """Return a surrogate as one that knows a bound on its density, if it does not know that."""
    if not isinstance(surrogate, HasBound):
        return None
    return surrogate if density_of(surrogate) is None else None


def _is_exact(surrogate: object) -> bool:
    transform = getattr(surrogate, "transform", None)
    return isinstance(transform, Transform) and transform.exact and not transform.leaks


@runtime_checkable
class HasImportanceBound(Protocol):
    """Knows the importance-weighted bound too, which closes as its draws grow in number."""

    def importance_bound(self, batch: Batch, *, draws: int, generator: torch.Generator) -> Tensor:
        """Return (B,), a draw of the bound of `draws` latent vectors a sample."""
        ...


@runtime_checkable
class HasRelativeDensity(Protocol):
    """Knows its density up to a factor that depends on the conditions alone."""

    def relative_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x | condition), but for a constant of each condition."""
        ...

    def held_out_loss(self, batch: Batch) -> Tensor:
        """Return (B,) what training minimises, of samples in physical units."""
        ...


@runtime_checkable
class HasEstimatedLikelihood(Protocol):
    """Knows its density up to a constant, which sampling can estimate (Boltzmann machines)."""

    def log_likelihood(self, batch: Batch, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return (B,) log q(x) in physical space, and the standard error (), of their constant.

        The error is common to all of them. Where the transform adds noise, the values are draws of
        a lower bound. Estimating the constant is the work: pass all samples at once.
        """
        ...


@runtime_checkable
class FromNoise(Protocol):
    """Is a deterministic map of noise: what export and fixed-seed pictures need."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise behind one sample."""
        ...

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise to (B, *shape) samples in physical units."""
        ...


@runtime_checkable
class HasSampler(Protocol):
    """Can draw its samples in several ways, chosen when sampling."""

    def use_sampler(self, options: SamplerOptions) -> None:
        """Draw samples in another way from now on; `RecipeError` if this model cannot."""
        ...


@runtime_checkable
class HasTruncation(Protocol):
    """Can draw samples near the middle of its latent space alone, chosen when sampling."""

    def truncate(self, bound: float) -> None:
        """Draw so from now on; `RecipeError` if this model cannot."""
        ...
