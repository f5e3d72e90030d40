"""What physgen knows of physics: what a sample is, what is measured on it, what is known of it.

A system is a frozen dataclass built from a recipe. `System` is all it must be; the other protocols
are what it may be able to do besides, and code above asks with `isinstance`. Parameters of its
constructor that describe a file, and so stand in the data section of a recipe, are named in the
class attribute `file_keys`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.io.joined import expand, joined
from physgen.io.source import Source
from physgen.io.writer import Append


@dataclass(frozen=True)
class Derived:
    """A quantity that is a function of means, such as a susceptibility or a Binder cumulant.

    Attributes:
        means: names of per-sample observables whose means the function takes, in this order.
        function: maps an array (n_means,) of means to a number. Smooth, so that the Gamma-method
            and the jackknife carry errors through it.
    """

    means: tuple[str, ...]
    function: Callable[[NDArray[float64]], float]


@runtime_checkable
class System(Protocol):
    """The physics of one kind of sample."""

    @property
    def schema(self) -> Schema:
        """What one sample is."""
        ...

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Quantities made of means of `observables`."""
        ...

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return per-sample quantities, (B,) or (B, bins), by name (NaN: not defined here)."""
        ...


@runtime_checkable
class HasUnits(Protocol):
    """Knows the units of its observables; those not named are pure numbers."""

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of each observable or derived quantity that has one."""
        ...


@runtime_checkable
class HasPlausible(Protocol):
    """Knows where the medians of some observables lie, whatever the sample."""

    @property
    def plausible(self) -> Mapping[str, tuple[float, float]]:
        """Widest range of the median by observable: outside of it units are mixed up."""
        ...


@runtime_checkable
class HasAction(Protocol):
    """Has an unnormalised probability exp(-action)."""

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), differentiable in `x`."""
        ...


@runtime_checkable
class HasValueFields(Protocol):
    """Has spins of q values, each drawn given all others by the softmax of fields."""

    def value_fields(self, x: Tensor) -> Tensor:
        """Return (B, q, *shape), minus the action at a site for each value it may take."""
        ...


@runtime_checkable
class HasTemperature(HasAction, Protocol):
    """Has the action E / T of sites in units of a coupling, so that F = -T ln Z."""

    @property
    def temperature(self) -> float:
        """T, in units of the coupling."""
        ...

    @property
    def n_sites(self) -> int:
        """N."""
        ...


Moves = Mapping[str, Callable[[Tensor], Iterable[Tensor]]]
"""Symmetries by name: each maps fields (B, *shape) to one or more of their images."""


@runtime_checkable
class HasMoves(HasAction, Protocol):
    """Knows which symmetries its action may have."""

    def moves(self) -> Moves:
        """Return how the symmetries act on fields."""
        ...

    def arbitrary(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw any fields (n, *shape), whatever the couplings."""
        ...


@runtime_checkable
class Simulates(Protocol):
    """Can make its own samples."""

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Return `n` samples; the same seed gives the same samples.

        Markov chain samples carry `chain`; independent ones do not.
        """
        ...


@runtime_checkable
class HasMoreConditions(Protocol):
    """Simulates samples of which more is known than their conditions."""

    def with_all_conditions(self) -> Any:
        """Return the same system, with all that is known as conditions, to be kept in files."""
        ...


@runtime_checkable
class HasExact(Protocol):
    """Knows some results exactly, at finite size."""

    def exact(self) -> dict[str, float]:
        """Return exact values by the names used in `observables` and `derived`."""
        ...


class Distribution(NamedTuple):
    """A distribution of few values.

    Attributes:
        values: (K,), ascending.
        probabilities: (K,), of unit sum.
    """

    values: NDArray[float64]
    probabilities: NDArray[float64]


@runtime_checkable
class HasDistributions(Protocol):
    """Knows the distributions of some observables exactly, at finite size."""

    def distributions(self) -> Mapping[str, Distribution]:
        """Return them by the names used in `observables`."""
        ...


@runtime_checkable
class HasReference(Protocol):
    """Knows published or high-statistics results with their errors."""

    def reference(self) -> dict[str, tuple[float, float]]:
        """Return (value, error) by the names used in `observables` and `derived`."""
        ...


@runtime_checkable
class HasFeatures(Protocol):
    """Says what a classifier should look at."""

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return (B, F): the sample itself ("low") or what physicists compute from it ("high")."""
        ...


@runtime_checkable
class HasReferenceFeatures(Protocol):
    """Knows the features that the reference evaluation of its field compares, to the letter."""

    def reference_features(
        self, batch: Batch, level: Literal["low", "normalised", "high", "voxels"]
    ) -> Tensor:
        """Return (B, F), float64.

        "high" goes into distances and a classifier, "low" and "normalised" into classifiers,
        "voxels" into precision, recall, density and coverage.
        """
        ...


@runtime_checkable
class HasCut(Protocol):
    """Takes energies below a threshold for 0, in what its reference evaluation looks at."""

    @property
    def cut_mev(self) -> float:
        """In MeV."""
        ...


@runtime_checkable
class HasVoxelGrid(Protocol):
    """Knows where its voxels lie around an axis; they are the last of its features of low level."""

    @property
    def voxel_grid(self) -> NDArray[np.int64]:
        """(layers, sectors, rings) numbers of voxels, -1 where there is none.

        A layer of few sectors repeats its voxels.
        """
        ...


class Bins(NamedTuple):
    """Bins of a histogram.

    Attributes:
        edges: (bins + 1,), the last one is in the last bin.
        logarithmic: whether widths are those of log10.
        unit: of the widths.
    """

    edges: NDArray[float64]
    logarithmic: bool
    unit: str


@runtime_checkable
class HasReferenceHistograms(Protocol):
    """Knows the histograms of the reference evaluation of its field, to the letter."""

    def reference_quantities(
        self, batch: Batch, empty: Literal["zero", "excluded"]
    ) -> dict[str, Tensor]:
        """Return (B,) by name, the response first; NaN is not counted.

        `empty` says what stands for a moment of nothing.
        """
        ...

    def reference_spectra(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B, k) by name, k values of each sample that are in one histogram."""
        ...

    def reference_bins(self, name: str, truth: NDArray[float64]) -> Bins:
        """Return the bins of a histogram of either.

        `truth` holds true values, the largest among them. The response at one value of a condition
        is called "NAME at VALUE UNIT".
        """
        ...


@runtime_checkable
class HasLabels(Protocol):
    """Has samples of known classes, such as images of digits."""

    def labelled(self, n: int) -> tuple[Tensor, Tensor]:
        """Return at most `n` samples (N, *shape), and the numbers (N,) of their classes from 0.

        Raises `FormatError` if the data say nothing of classes.
        """
        ...


@runtime_checkable
class HasOwnFiles(Protocol):
    """Is itself partly defined by files: a geometry, an action."""

    def digest(self) -> str:
        """Return the SHA-256 of them."""
        ...


@runtime_checkable
class HasFiles(Protocol):
    """Has file formats of its own."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        ...

    def open(self, path: Path) -> Source:
        """Open a user's file as samples of this system; raises `FormatError` if it is not."""
        ...

    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Append]:
        """Open an atomic output for `n` samples in all, in the format of the field.

        The context yields `append(batch)`, so that generation needs no memory for all of them, and
        the file appears when it ends without an error (see `physgen.io.writer`). `facts` are kept
        in it, by name.
        """
        ...


@runtime_checkable
class HasEnsembles(HasFiles, Protocol):
    """Has files of one sample each, which belong together."""

    def open_ensemble(self, paths: Sequence[Path]) -> Source:
        """Open files, in any order, as samples in the order of Monte Carlo time."""
        ...


def open_files(system: HasFiles, path: str | Path | Sequence[str]) -> Source:
    """Open a file, or several of the same layout as one: a path, a pattern, or a list of them.

    Raises:
        FormatError: a file is absent or unfit, or no file matches; or their layouts differ.
    """
    paths = expand(path)
    if isinstance(system, HasEnsembles):
        return system.open_ensemble(paths)
    return joined([system.open(one) for one in paths])
