r"""The histograms of the reference evaluation of a field, in its bins: how far apart they are.

With contents n_i, m_i of the bins, N and M in all, p_i = n_i/N, q_i = m_i/M and widths w_i (of
log10 where bins are logarithmic),

    separation   1/2 sum (p - q)^2 / (p + q)                          (arXiv 2009.03796, eq. 15)
    chi^2/bin    sum (n (M/N)^1/2 - m (N/M)^1/2)^2 / (n + m), over the filled bins less one
    W1           sum_i w_i |sum_{j <= i} (p_j - q_j)|

What lies outside of the bins is not counted, as in the reference. Unlike `histograms`, which tests,
these are for setting beside published figures, and beside their floor: of n rows a side, separation
is about (filled bins)/(4 n) by chance, and chi^2/bin 1 where each sample has one entry. The entries
of a spectrum that are of one shower are not independent: chi^2/bin is then by chance the trace of
the covariance of the differences, which is found from the showers, and stands in the note.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import NotMeasurable
from physgen.systems.base import HasReferenceHistograms
from physgen.validation.comparison import Comparison, Role, in_blocks
from physgen.validation.features import unweighted_rows
from physgen.validation.half_sampling import HalfSampled, half_sampling
from physgen.validation.independence import select
from physgen.validation.scorecard import Row, row_by_role
from physgen.validation.threshold import cut_in_words
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]
Rows = NDArray[np.int64]

FEW_VALUES = 20
"""A condition with at most so many values has a histogram of the response for each."""

OUTSIDE = 0.01
"""With a larger share of the truth outside, bins reach from its least to its largest value."""


@dataclass(frozen=True, kw_only=True)
class ReferenceHistograms:
    """Separation, chi^2 and W1 of every histogram of the reference evaluation, and mean separation.

    Attributes:
        empty: what stands for centre and width of an empty layer: "zero", as in the reference, or
            "excluded".

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> samples = Comparison(system, *(system.simulate(400, seed=i) for i in range(3)))
    >>> len(ReferenceHistograms().rows(samples))  # three distances of each histogram
    106
    """

    empty: Literal["zero", "excluded"] = "zero"

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return three rows a histogram, and their mean separation.

        Raises:
            NotMeasurable: the field of this system has no reference evaluation here.
            InputError: there is no truth, samples carry weights, or too few are independent.
        """
        unweighted_rows(comparison)
        system = comparison.system
        if not isinstance(system, HasReferenceHistograms):
            raise NotMeasurable(
                "reference-histograms is known for calorimeter showers only: leave it out"
            )
        histograms = _filled(comparison, system, self.empty)
        selected = comparison.once(select)
        halves: dict[Role, HalfSampled] = {}
        chi: dict[Role, list[tuple[Estimate, float]]] = {}
        for role in comparison.samples:
            if role == "truth":
                continue

            def distances(a: Rows, b: Rows, role: Role = role) -> Array:
                found = [h.distances(role, a, b) for h in histograms]
                return np.append(found, np.mean(found, axis=0)[0])

            both = selected["truth"], selected[role]
            rows = [np.arange(len(one.rows)) for one in both]
            units = [one.unit for one in both]
            halves[role] = half_sampling(distances, rows, units, seed=comparison.seed)
            chi[role] = [h.chi_square(role, rows, units) for h in histograms]
        cut = cut_in_words(comparison)
        result = []
        for number, histogram in enumerate(histograms):
            about = "; ".join(filter(None, (histogram.note, cut)))
            for which, kind in enumerate(("separation", "W1")):
                found = {role: half.estimate(2 * number + which) for role, half in halves.items()}
                unit = histogram.unit if kind == "W1" else "1"
                result.append(_row(f"{kind} {histogram.name}", found, about, unit))
            by_chance = chi["generated"][number][1]
            if histogram.contents and math.isfinite(by_chance):
                said = f"{by_chance:.2g} by chance, entries of a shower not being independent"
                about = "; ".join(filter(None, (about, said)))
            found = {role: of[number][0] for role, of in chi.items()}
            result.append(_row(f"chi^2/bin {histogram.name}", found, about, "1"))
        means = {role: half.estimate(2 * len(histograms)) for role, half in halves.items()}
        note = f"mean of {len(histograms)} histograms; empty layers: {self.empty}"
        note += f"; {cut}" if cut else ""
        return [_row("separation, mean", means, note, "1"), *result]


def _row(name: str, scores: dict[Role, Estimate], note: str, unit: str) -> Row:
    return row_by_role(
        f"{name}, reference bins", "reference-histograms", scores, note=note, unit=unit
    )


@dataclass
class Histogram:
    """One histogram, sample by sample.

    Attributes:
        name: of the quantity.
        edges: (bins + 1,).
        logarithmic: whether bins are of equal width in the logarithm.
        unit: of W1.
        note: what a reader must know.
        bins: (n,) by role, the bin of each sample, or -1.
        contents: (n, bins) by role, where a sample has several values.
    """

    name: str
    edges: Array
    logarithmic: bool
    unit: str
    note: str = ""
    bins: dict[Role, NDArray[np.int16]] = field(default_factory=dict)
    contents: dict[Role, NDArray[np.uint16]] = field(default_factory=dict)

    @property
    def widths(self) -> Array:
        """(bins,), of log10 where bins are logarithmic."""
        return np.diff(np.log10(self.edges) if self.logarithmic else self.edges)

    def counts(self, role: Role, rows: Rows) -> Array:
        """Return (bins,), the contents that some rows make."""
        if role in self.contents:
            return np.asarray(self.contents[role][rows].sum(0, dtype=float64))
        numbers = self.bins[role][rows]
        inside = numbers[numbers >= 0]
        return np.bincount(inside, minlength=len(self.edges) - 1).astype(float64)

    def distances(self, role: Role, a: Rows, b: Rows) -> tuple[float, float]:
        """Return separation and W1 of some rows of the truth and of another sample."""
        n, m = self.counts("truth", a), self.counts(role, b)
        off = n / max(n.sum(), 1.0) - m / max(m.sum(), 1.0)
        return separation(n, m), float(self.widths @ np.abs(np.cumsum(off)))

    def chi_square(self, role: Role, rows: list[Rows], units: list[Rows]) -> tuple[Estimate, float]:
        """Return chi^2/bin of rows of the truth and of another sample, and what it is by chance."""
        if "truth" in self.contents:
            contents = self.contents["truth"][rows[0]], self.contents[role][rows[1]]
            return chi_square_of_spectra(*contents, units)
        return chi_square(self.counts("truth", rows[0]), self.counts(role, rows[1])), 1.0


def bin_numbers(values: Array, edges: Array) -> NDArray[np.int16]:
    """Return the bin of each value, -1 outside; the last edge is in the last bin.

    >>> bin_numbers(np.array([0.0, 0.5, 2.0, 2.5, np.nan]), np.array([0.0, 1.0, 2.0])).tolist()
    [0, 0, 1, -1, -1]
    """
    numbers = np.searchsorted(edges, values, side="right") - 1
    numbers[values == edges[-1]] = len(edges) - 2
    inside = (values >= edges[0]) & (values <= edges[-1])
    return np.where(inside, numbers, -1).astype(np.int16)


def separation(n: Array, m: Array) -> float:
    """Return the separation power of two histograms of (bins,) contents.

    >>> separation(np.array([2.0, 2.0]), np.array([3.0, 0.0]))
    0.3333333333333333
    """
    p, q = n / max(n.sum(), 1.0), m / max(m.sum(), 1.0)
    filled = p + q > 0
    return float(((p - q)[filled] ** 2 / (p + q)[filled]).sum() / 2)


def chi_square(n: Array, m: Array) -> Estimate:
    """Return chi^2 over its degrees of freedom k; its error is that of a noncentral chi^2 law.

    >>> value = chi_square(np.array([8.0, 2.0]), np.array([2.0, 8.0]))
    >>> round(value.value, 6), round(value.error, 4)
    (7.2, 5.1769)
    """
    first, second = n.sum(), m.sum()
    filled = n + m > 0
    k = int(filled.sum()) - 1
    if first == 0 or second == 0 or k < 1:
        return Estimate(math.nan, math.nan)
    ratio = math.sqrt(second / first)
    chi = float(((n * ratio - m / ratio)[filled] ** 2 / (n + m)[filled]).sum())
    return Estimate(chi / k, math.sqrt(2 * k + 4 * max(chi - k, 0.0)) / k)


def chi_square_of_spectra(
    a: NDArray[Any], b: NDArray[Any], units: list[Rows]
) -> tuple[Estimate, float]:
    """Return chi^2/bin of histograms of several entries a row, and what it is by chance.

    With z the differences of the contents over (n + m)^1/2 and C the covariance of z, found from
    the rows, chi^2 = z.z is by chance tr C, and its variance 2 tr C^2 + 4 (z.C z - tr C^2).

    Args:
        a, b: (N, bins) and (M, bins) contents of the rows of both samples.
        units: (N,) and (M,), equal for rows that are not independent.

    >>> one = np.eye(2, dtype=int)[[0] * 10 + [1] * 10]
    >>> value, chance = chi_square_of_spectra(one, one, list(np.split(np.arange(40), 2)))
    >>> value.value, round(chance, 6)
    (0.0, 1.0)
    """
    n, m = a.sum(0, dtype=float64), b.sum(0, dtype=float64)
    value, filled = chi_square(n, m), n + m > 0
    if math.isnan(value.value):
        return value, math.nan
    k, ratio = int(filled.sum()) - 1, math.sqrt(m.sum() / n.sum())
    scale = np.sqrt((n + m)[filled])
    z = (n * ratio - m / ratio)[filled] / scale
    terms = []  # What each row adds to z.
    for contents, sums, factor in ((a, n, ratio), (b, m, -1 / ratio)):
        share = sums[filled] / sums.sum()
        off = contents[:, filled] - contents.sum(1, dtype=float64)[:, None] * share
        terms.append(factor * off / scale)
    pooled, unit = np.concatenate(terms), np.unique(np.concatenate(units), return_inverse=True)[1]
    if unit.max() + 1 < len(unit):
        pooled = np.stack([np.bincount(unit, column) for column in pooled.T], axis=1)
    covariance = pooled.T @ pooled
    squares = float((covariance**2).sum())
    variance = 2 * squares + 4 * max(float(z @ covariance @ z) - squares, 0.0)
    return Estimate(value.value, math.sqrt(variance) / k), float(np.trace(covariance)) / k


def _filled(
    comparison: Comparison, system: HasReferenceHistograms, empty: Literal["zero", "excluded"]
) -> list[Histogram]:
    """Return all histograms of all samples, of the rows that count."""
    batches = {
        role: comparison.samples[role][torch.from_numpy(selected.rows)]
        for role, selected in comparison.once(select).items()
    }
    values = {role: _quantities(system, batch, empty) for role, batch in batches.items()}
    kinds = _kinds(batches["truth"])
    if kinds is not None:
        for role, batch in batches.items():
            values[role] |= _at_each(values[role], batch, kinds)
    histograms = []
    for name, truth in values["truth"].items():
        histogram = _histogram(system, name, truth, empty)
        for role in batches:
            histogram.bins[role] = bin_numbers(values[role][name], histogram.edges)
        histograms.append(histogram)
    extremes: dict[str, Array] = {}
    for part in in_blocks(batches["truth"]):
        for name, spectrum in system.reference_spectra(part).items():
            ends = _ends(spectrum.double().cpu().numpy())
            extremes[name] = _ends(np.append(extremes.get(name, ends), ends))
    spectra = {name: _histogram(system, name, ends, empty) for name, ends in extremes.items()}
    for role, batch in batches.items():
        blocks: dict[str, list[NDArray[np.uint16]]] = {name: [] for name in spectra}
        for part in in_blocks(batch):
            for name, spectrum in system.reference_spectra(part).items():
                blocks[name].append(_contents(spectrum.cpu().numpy(), spectra[name].edges))
        for name, parts in blocks.items():
            spectra[name].contents[role] = np.concatenate(parts)
    return [*histograms, *spectra.values()]


def _quantities(
    system: HasReferenceHistograms, batch: Batch, empty: Literal["zero", "excluded"]
) -> dict[str, Array]:
    with torch.no_grad():
        parts = [system.reference_quantities(part, empty) for part in in_blocks(batch)]
    return {
        name: torch.cat([part[name] for part in parts]).double().cpu().numpy() for name in parts[0]
    }


def _kinds(truth: Batch) -> Array | None:
    """Return the values of a condition that has several, but few."""
    if truth.condition is None or truth.condition.shape[1] != 1:
        return None
    kinds = np.unique(truth.condition.double().cpu().numpy())
    return kinds if 1 < len(kinds) <= FEW_VALUES else None


def _at_each(values: dict[str, Array], batch: Batch, kinds: Array) -> dict[str, Array]:
    name = next(iter(values))
    at = np.full(len(values[name]), math.nan)
    if batch.condition is not None:
        at = batch.condition[:, 0].double().cpu().numpy()
    return {
        f"{name} at {kind:g} MeV": np.where(np.isclose(at, kind), values[name], math.nan)
        for kind in kinds
    }


def _histogram(
    system: HasReferenceHistograms,
    name: str,
    truth: Array,
    empty: Literal["zero", "excluded"],
) -> Histogram:
    edges, logarithmic, unit = system.reference_bins(name, truth)
    finite = truth[np.isfinite(truth)]
    note = ""
    if not logarithmic and len(finite) and finite.min() < finite.max():
        outside = float(((finite < edges[0]) | (finite > edges[-1])).mean())
        if outside > OUTSIDE:
            edges = np.linspace(finite.min(), finite.max(), len(edges))
            note = f"{outside:.0%} of the truth outside of the reference's bins: own ones"
    moment = name.startswith(("centre", "width"))
    if moment:
        note = f"empty layers: {empty}" + (f"; {note}" if note else "")
    return Histogram(name, edges, logarithmic, unit, note)


def _ends(values: Array) -> Array:
    """Return the least and the largest value above 0."""
    energies = values[values > 0]
    return np.array([energies.min(), energies.max()]) if len(energies) else np.empty(0)


def _contents(values: NDArray[np.floating[Any]], edges: Array) -> NDArray[np.uint16]:
    """Return (B, bins), how many of (B, k) values each bin has."""
    numbers = bin_numbers(values.astype(float64), edges)
    rows, columns = np.nonzero(numbers >= 0)
    n_bins = len(edges) - 1
    flat = rows * n_bins + numbers[rows, columns]
    return np.bincount(flat, minlength=len(values) * n_bins).reshape(-1, n_bins).astype(np.uint16)
