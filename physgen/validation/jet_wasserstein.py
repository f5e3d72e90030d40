"""W1 of jets as JetNet quotes it: of the mass, of the particles' features, of polynomials.

W1M is the one-dimensional Wasserstein distance of the relative mass, W1N, which JetNet does not
quote, that of the number of particles; W1P that of the features of
all particles that are there (those with a feature other than 0), the mean of eta, phi and pT; W1EFP
that of the energy-flow polynomials of four vertices and four edges, the mean of the five (Kansal et
al., arXiv:2106.11535). In the units of the observables, which are relative to the jet's pT.

The published numbers are means over five batches of 50,000 jets drawn with replacement, with the
standard deviation of the batches: `samples=50000` does that, from a seed. By default all jets count
once, and errors are those of random halves. Either is larger than 0 for samples of one
distribution, as the floor shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.systems.jet_observables import DEGREES, vertices
from physgen.systems.jet_sets import JetSets
from physgen.validation.comparison import Comparison, Role
from physgen.validation.half_sampling import half_sampling
from physgen.validation.independence import select
from physgen.validation.means import refuse_unknown
from physgen.validation.scorecard import Row, floor_of, row_by_role, verdict_within
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]
Rows = NDArray[np.int64]

POLYNOMIALS = tuple(g for g, degree in DEGREES.items() if degree == 4 and vertices(g) == 4)
"""The five that W1EFP is the mean of."""

_NAMES = ("W1M", "W1N", "W1P", "W1P etarel", "W1P phirel", "W1P ptrel", "W1EFP")


@dataclass(frozen=True, kw_only=True)
class JetWasserstein:
    """W1M, W1N, W1P (also of each feature) and W1EFP of jets.

    Attributes:
        samples: jets a batch, drawn with replacement; `None` takes all jets once.
        batches: how many batches.
        tolerance: limit on value + 2 sigma by name of the row.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.jets import Jets
    >>> x = 0.1 * torch.rand(3, 40, 5, 3, generator=torch.Generator().manual_seed(0))
    >>> mask = torch.ones(40, 5, dtype=torch.bool)
    >>> samples = Comparison(Jets(particles=5), *(Batch(one, mask=mask) for one in x))
    >>> [row.name for row in JetWasserstein().rows(samples)]
    ['W1M', 'W1N', 'W1P', 'W1P etarel', 'W1P phirel', 'W1P ptrel', 'W1EFP']
    """

    samples: int | None = None
    batches: int = 5
    tolerance: dict[str, float] | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row a distance.

        Raises:
            RecipeError: the samples are no jets, or a tolerance is stated for something else.
            InputError: there is no truth.
        """
        limits = self.tolerance or {}
        refuse_unknown(limits, _NAMES)
        truth = _jets_of(comparison, "truth")
        estimates = {
            role: self._estimates(truth, _jets_of(comparison, role), comparison.seed)
            for role in comparison.measured
            if role != "truth"
        }
        how = f"{len(truth.unit)} jets of the truth"
        if self.samples is not None:
            how = f"mean and deviation of {self.batches} batches of {self.samples} jets"
        rows = []
        for index, name in enumerate(_NAMES):
            by_role: dict[Role, Estimate] = {r: found[index] for r, found in estimates.items()}
            ours, limit = by_role["generated"], limits.get(name)
            rows.append(
                row_by_role(
                    name,
                    "jet-wasserstein",
                    by_role,
                    tolerance=limit,
                    verdict=verdict_within(ours.value, ours.error, limit, floor_of(by_role)),
                    note=how,
                )
            )
        return rows

    def _estimates(self, truth: _Jets, other: _Jets, seed: int) -> list[Estimate]:
        """Return the distances in the order of `_NAMES`."""
        pools = [
            _Pool(first, second) for first, second in zip(truth.columns, other.columns, strict=True)
        ]

        def distances(i: Rows, j: Rows) -> Array:
            first = np.bincount(i, minlength=len(truth.unit)) * truth.weight
            second = np.bincount(j, minlength=len(other.unit)) * other.weight
            mass, number, *rest = (pool.distance(first, second) for pool in pools)
            return np.array([mass, number, np.mean(rest[:3]), *rest[:3], np.mean(rest[3:])])

        everyone = np.arange(len(truth.unit)), np.arange(len(other.unit))
        if self.samples is None:
            result = half_sampling(distances, everyone, (truth.unit, other.unit), seed=seed)
            return [result.estimate(index) for index in range(len(_NAMES))]
        generator = np.random.default_rng(seed)
        drawn = [
            distances(*(generator.choice(rows, self.samples) for rows in everyone))
            for _ in range(self.batches)
        ]
        return [Estimate(*pair) for pair in zip(np.mean(drawn, 0), np.std(drawn, 0), strict=True)]


@dataclass(frozen=True)
class _Jets:
    """The jets of one sample that count.

    Attributes:
        columns: what is compared: values, and the number of the jet that each is of.
        weight, unit: (n,) of the jets.
    """

    columns: list[tuple[Array, Rows]]
    weight: Array
    unit: Rows


def _jets_of(comparison: Comparison, role: Role) -> _Jets:
    if not isinstance(comparison.system, JetSets):
        raise RecipeError(
            "validation.metrics: jet-wasserstein is for jets: it needs system.kind=jets or "
            f"tracks, not a system of {type(comparison.system).__name__}"
        )
    measured = comparison.measured_truth if role == "truth" else comparison.measured[role]
    selected = comparison.once(select)[role]
    names = ["relative mass", "number of particles", *(f"EFP {graph}" for graph in POLYNOMIALS)]
    jets = np.arange(len(selected.rows))
    mass, number, *polynomials = ((measured.values[name][selected.rows], jets) for name in names)
    x, jet = particles(comparison.samples[role][torch.from_numpy(selected.rows)])
    weight = np.ones(len(jets)) if measured.weight is None else measured.weight[selected.rows]
    return _Jets(
        [mass, number, *((column, jet) for column in x.T), *polynomials], weight, selected.unit
    )


def particles(batch: Batch) -> tuple[Array, Rows]:
    """Return (n, 3) features of all particles that are there, and (n,) the jets they are of.

    >>> x = torch.tensor([[[0.0, 0.0, 1.0], [0.1, 0.2, 0.0]], [[0.0, 0.0, 0.0], [3.0, 3.0, 3.0]]])
    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> particles(Batch(x, mask=mask))[1]
    array([0, 0])
    """
    there = (batch.x != 0).any(2)
    if batch.mask is not None:
        there &= batch.mask
    jet = there.nonzero()[:, 0].cpu().numpy()
    return batch.x[there].double().cpu().numpy(), jet


class _Pool:
    """Values of two samples, sorted once for any weights of the jets that they are of."""

    def __init__(self, first: tuple[Array, Rows], second: tuple[Array, Rows]) -> None:
        values = np.concatenate([first[0], second[0]])
        order = np.argsort(values, kind="stable")
        self._steps = np.diff(values[order])
        self._parts = first[1], second[1]
        self._order = order

    def distance(self, first: Array, second: Array) -> float:
        """Return W1, the integral of |F - G|, with weights of the jets of either sample."""
        a, b = (weight[jets] for weight, jets in zip((first, second), self._parts, strict=True))
        if not (a.sum() > 0 and b.sum() > 0):
            return float("inf")
        difference = np.concatenate([a / a.sum(), -b / b.sum()])[self._order]
        return float(np.abs(np.cumsum(difference)[:-1]) @ self._steps)
