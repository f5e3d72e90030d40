"""Features of events by which `physgen.validation.equivalent` asks what samples are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtri
from scipy.stats import qmc

from physgen.errors import NotMeasurable
from physgen.validation.comparison import Comparison, Role, varies
from physgen.validation.independence import Selection

Array = NDArray[float64]
Rows = NDArray[np.int64]
Features = Any
"""(n, F): an array, or a sparse matrix, of which SciPy states no types."""

FREQUENCIES = 256
FEWEST = 50
"""True events in a region without which nothing can be said of it."""

FLOORED = 1e-6
"""Eigenvalues of a covariance, of the largest, below which whitening does not amplify."""
PER_COMPONENT = 50
"""Independent true events that each whitened component is worth at least.

Rows that a covariance was estimated from look nearer to each other by it than any others, the more
components there are: of 500 rows of 145 observables, others of the same law seemed worth 50."""


def binned(
    comparison: Comparison, selected: Mapping[Role, Selection], bins: int
) -> tuple[dict[Role, Features], dict[str, slice]]:
    """Return one-hot bins of every observable, over sqrt(p), by role; and the columns of each.

    An observable that is not defined for some events has a bin of these: where the truth has none,
    it counts as if half an event of it were there.
    """
    truth = comparison.measured["truth"]
    weight = np.ones(truth.n) if truth.weight is None else truth.weight
    weight = weight[selected["truth"].rows]
    blocks: dict[Role, list[Features]] = {role: [] for role in selected}
    columns: dict[str, slice] = {}
    begin = 0
    for name, values in truth.scalars.items():
        reference = values[selected["truth"].rows]
        if varies(reference):
            edges = _edges(reference, bins)
        elif np.isfinite(reference).any() and _differs(comparison, selected, name, reference):
            only = reference[np.isfinite(reference)][0]
            edges = np.array([only, np.nextafter(only, np.inf)])
        else:
            continue
        share = np.bincount(_bin_of(reference, edges), weight, len(edges) + 2) / weight.sum()
        scale = 1 / np.sqrt(np.maximum(share, 0.5 / len(reference)))
        # V_P of each observable is one, so that 1 / N of all is the mean of their 1 / N.
        scale /= np.sqrt(max(1, int(np.count_nonzero(share)) - 1))
        for role, chosen in selected.items():
            place = _bin_of(comparison.measured[role].values[name][chosen.rows], edges)
            n = len(place)
            blocks[role].append(
                sparse.csr_matrix((scale[place], (np.arange(n), place)), shape=(n, len(scale)))
            )
        columns[name] = slice(begin, begin := begin + len(scale))
    if not columns:
        raise NotMeasurable("no observable varies: nothing says what the sample is worth")
    return {role: sparse.hstack(parts, format="csr") for role, parts in blocks.items()}, columns


def _differs(
    comparison: Comparison, selected: Mapping[Role, Selection], name: str, reference: Array
) -> bool:
    """Return whether events of any sample have another value than the only one of the truth."""
    only = reference[np.isfinite(reference)][0]
    return any(
        bool((comparison.measured[role].values[name][one.rows] != only).any())
        for role, one in selected.items()
    )


def in_region(
    comparison: Comparison,
    selected: Mapping[Role, Selection],
    name: str,
    region: tuple[float, float],
    bins: int,
) -> dict[Role, Features]:
    """Return one-hot bins of an observable between two values, over sqrt(p), by role.

    Raises:
        NotMeasurable: fewer than `FEWEST` true events are there.
    """
    truth = comparison.measured["truth"]
    reference = truth.values[name][selected["truth"].rows]
    inside = reference[(reference >= region[0]) & (reference < region[1])]
    if len(inside) < FEWEST:
        raise NotMeasurable(
            f"{len(inside)} true events have {name} from {region[0]:g} to {region[1]:g}, and "
            f"{FEWEST} are the fewest"
        )
    edges = np.concatenate([region[:1], _edges(inside, bins), region[1:]])
    weight = np.ones(truth.n) if truth.weight is None else truth.weight
    weight = weight[selected["truth"].rows]
    share = np.bincount(_bin_of(reference, edges), weight, len(edges) + 2)[1 : len(edges)]
    scale = np.sqrt(1 / np.maximum(share / weight.sum(), 0.5 / len(reference)))
    result: dict[Role, Features] = {}
    for role, chosen in selected.items():
        place = _bin_of(comparison.measured[role].values[name][chosen.rows], edges) - 1
        rows = np.flatnonzero((place >= 0) & (place < len(scale)))
        result[role] = sparse.csr_matrix(
            (scale[place[rows]], (rows, place[rows])), shape=(len(place), len(scale))
        )
    return result


def _edges(values: Array, bins: int) -> Array:
    """Return the inner edges of bins of equal probability; fewer of discrete values.

    Nearly all values may be the least one, as of a layer that few showers reach: then the others
    are the second bin.
    """
    finite = values[np.isfinite(values)]
    edges = np.unique(np.quantile(finite, np.arange(1, bins) / bins))
    above = edges[edges > finite.min()]
    others = finite[finite > finite.min()]
    rare = bins > 1 and not len(above) and len(others) > 0
    return np.asarray([others.min()] if rare else above)


def _bin_of(values: Array, edges: Array) -> Rows:
    """Return (n,) numbers of bins; what is not finite has the last one."""
    place = np.searchsorted(edges, values, side="right")
    return np.where(np.isfinite(values), place, len(edges) + 1)


def fourier(
    comparison: Comparison, selected: Mapping[Role, Selection]
) -> tuple[dict[Role, Features], str]:
    """Return random Fourier features of the whitened observables, by role, and what they are of.

    Features are (n, FREQUENCIES), of as many principal components as the true events bear.
    """
    scalars, chosen = comparison.measured["truth"].scalars, selected["truth"].rows
    names = sorted(name for name, values in scalars.items() if varies(values[chosen]))
    if not names:
        raise NotMeasurable(
            "no observable of the truth varies: nothing says what the sample is worth"
        )
    rows = {
        role: np.stack([comparison.measured[role].values[n][one.rows] for n in names], 1)
        for role, one in selected.items()
    }
    truth = np.where(np.isfinite(rows["truth"]), rows["truth"], np.nan)
    centre, width = np.nanmean(truth, 0), np.nanstd(truth, 0)
    z = {role: _with_undefined((x - centre) / width) for role, x in rows.items()}
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(z["truth"].T)))
    events = len(np.unique(selected["truth"].unit))
    borne = max(1, events // PER_COMPONENT)
    of = "all observables" if borne >= len(names) else f"the {borne} largest principal components"
    if borne < len(names):
        values, vectors = values[-borne:], vectors[:, -borne:]
    # Of all whitenings the one that turns nothing: eigenvectors turn at random where values are
    # nearly the same, and N with them.
    root = (vectors / np.sqrt(np.maximum(values, FLOORED * values[-1]))) @ vectors.T
    # N depends on the frequencies as it does on K: they are always the same.
    generator = np.random.default_rng(0)
    some = z["truth"][generator.integers(len(truth), size=(2, 2000))] @ root
    scale = float(np.median(np.sqrt(np.square(some[0] - some[1]).sum(1)))) or 1.0
    # Points that fill the space evenly see all directions alike, as random ones do not.
    points = qmc.Sobol(len(root) + 1, seed=generator).random(FREQUENCIES).T
    frequency = ndtri(np.clip(points[1:], 1e-9, 1 - 1e-9)) / scale
    # Half of them look at half that distance.
    frequency[:, points[0] < 0.5] *= 2
    phase = 2 * np.pi * (2 * points[0] % 1)
    return {role: np.cos(x @ root @ frequency + phase) for role, x in z.items()}, of


def _with_undefined(z: Array) -> Array:
    """Return (n, 2 F), what is not finite as 0, and a column of which values these were."""
    finite = np.isfinite(z)
    return np.concatenate([np.where(finite, z, 0.0), ~finite], 1)
