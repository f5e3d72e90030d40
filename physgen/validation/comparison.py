"""What metrics compare: generated samples with truth, with more truth, and with a baseline."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.sampling.reweighting import Reference
from physgen.systems.base import HasExact, HasFeatures, HasReference, HasUnits, HasVoxelGrid, System
from physgen.validation.answers import Guesses
from physgen.validation.ranks import Array, PosteriorDraws
from physgen.validation.training_rows import TrainingRows

Value = TypeVar("Value")
Floats = NDArray[np.floating[Any]]
Role = Literal["generated", "truth", "floor", "baseline"]
BLOCK = 8192
"""Samples whose observables are computed at once, of large ones fewer: see `in_blocks`."""

CELLS = 2**20
"""Numbers in them at most: of showers some hundred, whose temporary arrays are small."""


_COMPANIONS = (("weight", torch.float64), ("chain", torch.int64), ("condition", torch.float64))
"""What is kept beside the observables of a batch."""


@dataclass(frozen=True)
class HeldOut:
    """Log-likelihoods of true samples under a model.

    Attributes:
        truth: (n,) in nats, of `evenly_spaced` spaced rows of the truth.
        floor: (m,), of `evenly_spaced` spaced rows of the floor.
        exact: whether they are exact, not lower bounds.
        error: common to all rows, of a normalisation that was estimated.
        discrete: whether they are log-probabilities of discrete samples, not log-densities.
        note: how they were found.
        warning: why they are not known.
    """

    truth: NDArray[float64]
    floor: NDArray[float64] | None = None
    exact: bool = True
    error: float = 0.0
    discrete: bool = False
    note: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Comparison:
    """Samples side by side, and what they should be.

    Attributes:
        system: measures the samples, and may know exact or published values.
        generated: what is judged. With `chain`, errors include autocorrelation; with `log_weight`
            and without `chain`, in a corrected comparison, means are importance-weighted.
        truth: independent samples of what it should be; `None` where nobody can make them.
        floor: a second, independent truth sample of the same size.
        baseline: samples of something simple to stand beside.
        proposals: independent draws with `log_weight` that `generated` was corrected from.
        own_weight: (N,) weights that the generator gave its samples, where those of `generated` are
            times the weights of the truth.
        reference: what the mean weight of the proposals is Z in units of, if not Z itself.
        corrected: whether `generated` was corrected to be exact.
        held_out: log-likelihoods of the true samples under the model, by what they are called, the
            closest first.
        timing: milliseconds a sample of the surrogate, repeat by repeat, by batch size.
        timed_on: what they were measured on.
        groups: (N,) group keys of the rows of a sample (candidates of one collision share one), by
            role; a sample that is not there has rows that stand alone. No two samples share a key.
        paired: the samples whose row i was drawn at the condition of row i of the truth.
        series: observables of a Markov chain that is too long to be held; `generated` is then its
            beginning, to be drawn.
        whole: measures more rows of the files that `generated` and `truth` are parts of, all of
            them where there are not too many, row by row if these are paired. They are not held:
            the samples fill the memory.
        training: the rows that the generator was trained on, where they are known.
        given: observables of samples that were measured before, by role: of a truth that several
            samples are set beside.
        posterior: draws for each of many data, where parameters are inferred.
        posteriors: of a few data (n, P) draws of the estimated posterior, and twice of the exact
            one; empty if nobody knows it.
        guesses: classes of the truth, where a classifier learned them from few labels.
        seed: of all resampling and of the classifiers.

    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> comparison = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> list(comparison.samples), comparison.measured_truth.n
    (['generated', 'truth', 'floor'], 500)
    """

    system: System
    generated: Batch
    truth: Batch | None = None
    floor: Batch | None = None
    baseline: Batch | None = None
    proposals: Batch | None = None
    own_weight: NDArray[float64] | None = None
    reference: Reference | None = None
    corrected: bool = False
    held_out: Mapping[str, HeldOut] = field(default_factory=dict)
    timing: Mapping[int, NDArray[float64]] = field(default_factory=dict)
    timed_on: str = ""
    groups: Mapping[Role, NDArray[np.int64]] = field(default_factory=dict)
    paired: frozenset[Role] = frozenset()
    series: Measured | None = None
    whole: Callable[[], dict[Role, Measured]] | None = None
    training: TrainingRows | None = None
    given: Mapping[Role, Measured] = field(default_factory=dict)
    posterior: PosteriorDraws | None = None
    posteriors: Sequence[tuple[Array, Array, Array]] | None = None
    guesses: Guesses | None = None
    seed: int = 0

    def batch(self, role: Role) -> Batch | None:
        """Return the samples that play a role, if there are any."""
        return self.samples.get(role)

    @property
    def samples(self) -> dict[Role, Batch]:
        """The samples that are there, by role."""
        batches: dict[Role, Batch | None] = {
            "generated": self.generated,
            "truth": self.truth,
            "floor": self.floor,
            "baseline": self.baseline,
        }
        return {role: batch for role, batch in batches.items() if batch is not None}

    @cached_property
    def measured(self) -> dict[Role, Measured]:
        """Observables of every sample that is there; computed once for all metrics."""
        if self.series is not None:
            return {"generated": self.series}
        return {
            role: self.given[role]
            if role in self.given
            else measure(
                self.system,
                batch,
                importance=role == "generated" and self.corrected,
                group=self.groups.get(role),
            )
            for role, batch in self.samples.items()
        }

    @property
    def measured_truth(self) -> Measured:
        """Observables of the truth; `InputError` if there is none."""
        if "truth" not in self.measured:
            raise InputError(
                "this metric needs a sample of the truth, which this system cannot make: give a "
                "data set, or leave the metric out"
            )
        return self.measured["truth"]

    def left_out(self, max_bins: int = 1) -> str:
        """Return words on what observables of at most so many bins do not show; none, no words."""
        values = self.measured_truth.values
        names = [n for n, v in values.items() if v.ndim > 1 and v.shape[1] > max_bins]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        bins = "several" if max_bins == 1 else f"more than {max_bins}"
        parts = [f"{', '.join(names[:4])}{more} ({bins} bins)"] if names else []
        if isinstance(self.system, HasVoxelGrid):
            parts.append("voxels one by one, which classifiers of low level see")
        return f"not looked at: {' and '.join(parts)}" if parts else ""

    def once(self, of: Callable[[Comparison], Value]) -> Value:
        """Return what a function makes of this comparison; computed once for all metrics."""
        if of not in self._computed:
            self._computed[of] = of(self)
        return typing.cast("Value", self._computed[of])

    @cached_property
    def _computed(self) -> dict[Callable[[Comparison], Any], Any]:
        return {}

    def known(self, name: str) -> tuple[float, float, Literal["exact", "reference"]] | None:
        """Return (value, error, source) of an observable from theory or the literature."""
        if name in self._exact:
            return self._exact[name], 0.0, "exact"
        if name in self._reference:
            return *self._reference[name], "reference"
        return None

    @cached_property
    def _exact(self) -> dict[str, float]:
        return self.system.exact() if isinstance(self.system, HasExact) else {}

    @cached_property
    def _reference(self) -> dict[str, tuple[float, float]]:
        return self.system.reference() if isinstance(self.system, HasReference) else {}

    def unit(self, name: str) -> str:
        """Return the unit of an observable or derived quantity."""
        return self.system.units.get(name, "1") if isinstance(self.system, HasUnits) else "1"

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Floats:
        """Return (N, F), what a classifier looks at, in the system's precision: `HasFeatures`."""
        if not isinstance(self.system, HasFeatures):
            if level == "low":
                flat = batch.x.flatten(1).cpu()
                return np.asarray((flat if flat.is_floating_point() else flat.float()).numpy())
            values = measure(self.system, batch).values
            return np.concatenate([v.reshape(len(v), -1) for v in values.values()], axis=1)
        with torch.no_grad():
            parts = [self.system.features(part, level).cpu() for part in in_blocks(batch)]
        return np.asarray((parts[0] if len(parts) == 1 else torch.cat(parts)).numpy())


@dataclass(frozen=True)
class Measured:
    """Observables of one batch, as numpy arrays.

    Attributes:
        values: (N,) or (N, bins) by name.
        weight: (N,) event weights times importance weights, or `None`.
        chain: (N,) or `None`.
        group: (N,) keys, or `None`.
        condition: (N, C) or `None`.
    """

    values: Mapping[str, NDArray[float64]]
    weight: NDArray[float64] | None
    chain: NDArray[np.int64] | None
    group: NDArray[np.int64] | None = None
    condition: NDArray[float64] | None = None

    @property
    def n(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.values.values())))

    @property
    def scalars(self) -> dict[str, NDArray[float64]]:
        """The observables that are one number a sample."""
        return {name: value for name, value in self.values.items() if value.ndim == 1}

    def columns(self, max_bins: int) -> dict[str, NDArray[float64]]:
        """Return (N,) columns: scalars, and the bins of vectors of up to `max_bins` bins."""
        result = {}
        for name, value in self.values.items():
            if value.ndim == 1:
                result[name] = value
            elif value.shape[1] <= max_bins:
                result |= {f"{name}[{i}]": value[:, i] for i in range(value.shape[1])}
        return result


def in_blocks(batch: Batch) -> Iterator[Batch]:
    """Cut a batch into parts of which observables can be computed without filling the memory."""
    size = max(1, min(BLOCK, CELLS // max(1, batch.x[:1].numel())))
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


def evenly_spaced(n: int, chosen: int) -> NDArray[np.int64]:
    """Return the numbers of at most `chosen` of `n` rows, evenly spaced."""
    return np.linspace(0, n - 1, min(chosen, n)).astype(np.int64)


def random_rows(n: int, chosen: int, seed: int) -> NDArray[np.int64]:
    """Return the numbers of at most `chosen` of `n` rows, drawn at random, in rising order.

    The same of samples of one length, so that pairs stay pairs. Rows that alternate, or stand side
    by side, would be lost among evenly spaced ones.
    """
    if chosen >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng([seed, n]).choice(n, chosen, replace=False))


def varies(values: NDArray[float64]) -> bool:
    """Return whether an observable takes two values at least (NaN is none)."""
    finite = values[np.isfinite(values)]
    return len(finite) > 1 and bool(finite.min() < finite.max())


def measure(
    system: System,
    batch: Batch,
    *,
    importance: bool = False,
    group: NDArray[np.int64] | None = None,
) -> Measured:
    """Compute the observables of a batch in blocks; `importance` makes use of `log_weight`.

    Raises:
        InputError: if the batch is empty.
    """
    measured = measure_parts(system, [batch], len(batch))
    weight = measured.weight
    if importance and batch.log_weight is not None and batch.chain is None:
        log_weight = batch.log_weight.double().cpu().numpy()
        ratio = np.exp(log_weight - log_weight.max())
        weight = ratio if weight is None else weight * ratio
    return replace(measured, weight=weight, group=group)


def measure_parts(system: System, parts: Iterable[Batch], n: int) -> Measured:
    """Compute the observables of `n` samples that come in parts, of which one is held.

    Raises:
        InputError: if there are none.
    """
    if n == 0:
        raise InputError("there are no samples to validate: the sample is empty")
    # Filled where they stay: small results between large temporary arrays would pin the heap.
    values: dict[str, NDArray[float64]] = {}
    companions: dict[str, NDArray[Any]] = {}
    start = 0
    for part in (piece for batch in parts for piece in in_blocks(batch)):
        with torch.no_grad():
            observed = system.observables(part)
        rows = slice(start, start := start + len(part))
        for name, value in observed.items():
            if name not in values:
                values[name] = np.empty((n, *value.shape[1:]))
            values[name][rows] = value.double().cpu().numpy()
        for name, dtype in _COMPANIONS:
            if (given := getattr(part, name)) is not None:
                if name not in companions:
                    companions[name] = torch.empty((n, *given.shape[1:]), dtype=dtype).numpy()
                companions[name][rows] = given.to("cpu", dtype).numpy()
    return Measured(values, **{"weight": None, "chain": None, **companions})
