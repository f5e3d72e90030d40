r"""A trained generator whose samples have the weights that make them those of the data.

    w(x, c) = p_data(x | c) / p_generator(x | c)

is what a classifier of generated against true samples at the same conditions c has as its odds, as
in `physgen.surrogates.reweighting` for two files (DCTR: Andreassen & Nachman, arXiv:1907.08209; of
generative models: Diefenbacher et al., arXiv:2009.03796). It looks at the features by which the
system's own classifiers judge, so that samples of any kind are weighted alike: showers in voxels,
sets of points, events, spins. The generator is not changed: what it never makes no weight brings
back, and where weights differ much few samples count (`event-weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.mlp import MLP
from physgen.ranges import Options, PositiveFloat, Widths
from physgen.surrogates.base import HasSampler, Surrogate
from physgen.surrogates.method import Method, StepContext
from physgen.surrogates.reweighting import Reweighting, cross_entropy
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.systems.base import HasFeatures, System
from physgen.transforms.base import Transform

LARGEST = 8.0
"""Features further from their mean, in standard deviations, are shown to the network as this."""


class ClassifierOptions(Options):
    """The classifier behind the weights.

    Attributes:
        levels: of the features that it looks at: "low" (the sample itself), "high", or both.
        hidden: units of its hidden layers.
    """

    levels: Annotated[tuple[Literal["low", "high"], ...], Field(min_length=1)] = ("low", "high")
    hidden: Widths = (64, 64)


class Reweighted(Surrogate):
    """Draws samples of a generator and weighs them.

    Args:
        schema: of the samples.
        transform: of the generator, which has it already.
        inner: the generator, as `generator` describes it.
        system: whose features the classifier looks at.
        generator: kind and options of the generator, as a section `surrogate` has them.
        classifier: its features and units.

    Raises:
        RecipeError: there is no generator, its samples have weights already, or the system has no
            features.

    >>> from physgen.surrogates.flows.flow import Flow
    >>> from physgen.systems.scalar import Phi4
    >>> system = Phi4(shape=(4,))
    >>> model = Reweighted(system.schema, inner=Flow(system.schema), system=system)
    >>> batch = model.sample(3, seed=1)
    >>> batch.x.shape, batch.weight  # before training all count alike
    (torch.Size([3, 4]), tensor([1., 1., 1.]))
    """

    not_exported = (
        "its samples have weights, which the model has no output for; export the generator's run"
    )

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        inner: Surrogate | None = None,
        *,
        system: System,
        generator: Mapping[str, object] | None = None,
        classifier: ClassifierOptions = ClassifierOptions(),
    ) -> None:
        self.knows_masks = inner is not None and inner.knows_masks
        super().__init__(schema)
        if not isinstance(system, HasFeatures):
            raise RecipeError(
                "surrogate.kind: reweighted needs features of samples, which system "
                f"{type(system).__name__} does not have"
            )
        if inner is None:
            raise RecipeError(
                "surrogate.generator is missing: name kind and options of the surrogate that is "
                "weighted, as in its own recipe (surrogate.generator.kind=...)"
            )
        if isinstance(inner, Reweighted | Reweighting):
            raise RecipeError(
                f"surrogate.generator.kind: samples of {type(inner).__name__} have weights "
                "already; weigh those of the generator itself"
            )
        self.inner, self.levels, self._measures = inner, classifier.levels, _Shared(system)
        self.at_once = inner.at_once
        n = self._raw_features(_any_sample(schema)).shape[1]
        self.register_buffer("centre", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))
        self.log_odds = MLP(n, 1, hidden=classifier.hidden)
        last = [part for part in self.log_odds.modules() if isinstance(part, torch.nn.Linear)][-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)

    centre: Tensor
    scale: Tensor

    def initialise(self, data: Batch | None) -> None:
        """Fit the scales of the features; all of the generator comes with its weights."""
        super().initialise(data)
        if data is not None:
            values = self._raw_features(data).double()
            spread = values.std(0)
            self.centre.copy_(values.mean(0))
            self.scale.copy_(torch.where(spread > 0, spread, 1.0))

    def use_sampler(self, options: SamplerOptions) -> None:
        """Let the generator draw in another way; `RecipeError` if it cannot."""
        if not isinstance(self.inner, HasSampler):
            raise RecipeError(
                f"sampling.sampler: {type(self.inner).__name__} has no sampler to choose; leave "
                "it out"
            )
        self.inner.use_sampler(options)

    def features(self, batch: Batch) -> Tensor:
        """Return what the classifier looks at, (B, F), of samples in physical units."""
        values = self._raw_features(batch).to(self.centre)
        return ((values - self.centre) / self.scale).clamp(-LARGEST, LARGEST)

    def log_ratio(self, features: Tensor) -> Tensor:
        """Return (B,) ln w of samples with these features."""
        f: Tensor = self.log_odds(features)[:, 0]
        return f

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` samples of the generator, with their weights."""
        batch = self.generated(n, condition, generator)
        return batch.replace(weight=self.log_ratio(self.features(batch)).exp())

    def generated(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` samples of the generator alone.

        Raises:
            DomainError: a condition is outside the domain that the generator was trained on.
        """
        self.inner.conditions.extrapolate = self.conditions.extrapolate
        return self.inner.sample(n, condition, generator=generator)

    def _raw_features(self, batch: Batch) -> Tensor:
        given = batch.to("cpu")
        parts = [self._measures.system.features(given, level).flatten(1) for level in self.levels]
        if given.condition is not None:
            parts.append(given.condition.to(parts[0]))
        return torch.cat(parts, 1).nan_to_num(0.0, 0.0, 0.0)


class GeneratorRatio(Method):
    """Trains the classifier of a `Reweighted` on samples of its generator and of the data.

    Args:
        surrogate: weighs samples.
        trained: the generator.
        generator: run directory that the generator comes from.
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.

    Raises:
        RecipeError: the surrogate weighs no samples, there is no generator, or it is another one.

    >>> GeneratorRatio.inputs
    ('data',)
    """

    def __init__(
        self,
        surrogate: Surrogate,
        trained: Surrogate | None = None,
        *,
        generator: str | None = None,
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, Reweighted):
            raise RecipeError(
                "method.kind: generator-ratio trains the surrogate reweighted, not "
                f"{type(surrogate).__name__}"
            )
        if trained is None:
            raise RecipeError(
                "method.generator is missing: name the directory of a finished run "
                "(method.generator=runs/...) whose samples are to be weighted"
            )
        if type(trained) is not type(surrogate.inner) or trained.schema != surrogate.schema:
            raise RecipeError(
                f"method.generator is a {type(trained).__name__}, and surrogate.generator a "
                f"{type(surrogate.inner).__name__} of other samples or another kind; describe the "
                "generator as its own recipe does"
            )
        surrogate.inner.load_state_dict(trained.state_dict())
        surrogate.inner.requires_grad_(False).eval()
        self._model = surrogate
        self.optimisers["classifier"] = torch.optim.AdamW(
            surrogate.log_odds.parameters(), lr=learning_rate, weight_decay=weight_decay
        )

    def loss(self, generated: Tensor, true: Tensor) -> Tensor:
        """Return (B,) binary cross-entropies of features of generated and of true samples."""
        return cross_entropy(*map(self._model.log_ratio, (generated, true)))

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step on new samples of the generator at the conditions of the data."""
        data, model = batches["data"], self._model
        generated = model.generated(len(data), data.condition, ctx.generator)
        features = model.features(generated), model.features(data)
        return {"loss": ctx.minimise(self.loss, self.optimisers["classifier"], *features)}


class _Shared:
    """A system, which may hold open files: copies of a surrogate share it."""

    def __init__(self, system: HasFeatures) -> None:
        self.system = system

    def __deepcopy__(self, memo: dict[int, object]) -> _Shared:
        return self


def _any_sample(schema: Schema) -> Batch:
    """Return a batch of one sample, of which only the shape is of use."""
    condition = torch.ones(1, len(schema.condition)) if schema.condition else None
    mask = torch.ones(1, schema.shape[0], dtype=torch.bool) if schema.masked else None
    return Batch(torch.ones(1, *schema.shape), condition, mask=mask)
