"""Coverage and minimum matching distance of jets by the energy mover's distance.

With n generated and n true jets, drawn at random, and all n^2 distances between them (Achlioptas et
al., arXiv:1707.02392; Kansal et al., 2106.11535),

    COV = the share of true jets that are the nearest to some generated one,
    MMD = the mean over true jets of the distance to the nearest generated one,

the means over several such draws. COV is about 1 - 1/e or less where the distributions agree, as
the floor shows, and drops where modes are missing. JetNet quotes n = 100 and 10 draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import InputError, NotMeasurable, RecipeError
from physgen.systems.jet_sets import JetSets
from physgen.systems.kernels.energy_mover import energy_mover
from physgen.validation.comparison import Comparison, Role
from physgen.validation.independence import Selection, select
from physgen.validation.scorecard import Row, at_least, floor_of, row_by_role, verdict_within
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]


@dataclass(frozen=True, kw_only=True)
class EnergyMover:
    """COV and MMD of jets; their errors are those of the mean over the draws.

    Attributes:
        n: jets of either sample in a draw; fewer where draws would share some.
        draws: how many.
        radius: R of the distance, in radian.
        minimum: fail below this COV.
        tolerance: limit on MMD + 2 sigma.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.jets import Jets
    >>> x = 0.1 * torch.rand(3, 40, 5, 3, generator=torch.Generator().manual_seed(0))
    >>> mask = torch.ones(40, 5, dtype=torch.bool)
    >>> samples = Comparison(Jets(particles=5), *(Batch(one, mask=mask) for one in x))
    >>> [row.name for row in EnergyMover(n=10, draws=2).rows(samples)]
    ['COV, energy mover', 'MMD, energy mover']
    """

    n: int = 100
    draws: int = 10
    radius: float = 1.0
    minimum: float | None = None
    tolerance: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return two rows.

        Raises:
            RecipeError: the samples are no jets.
            InputError: there is no truth, or samples carry weights.
            NotMeasurable: there are too few jets.
        """
        if not isinstance(comparison.system, JetSets):
            raise RecipeError(
                "validation.metrics: energy-mover is for jets: it needs system.kind=jets or "
                f"tracks, not a system of {type(comparison.system).__name__}"
            )
        _ = comparison.measured_truth
        for role, measured in comparison.measured.items():
            if measured.weight is not None:
                raise InputError(
                    f"the {role} sample is weighted, and energy-mover knows no weights: leave the "
                    "metric out, or unweight the sample"
                )
        selected = comparison.once(select)
        n = min(self.n, min(len(s.rows) for s in selected.values()) // self.draws)
        if n < 2:
            raise NotMeasurable(
                f"energy-mover: too few jets for {self.draws} draws; give at least "
                f"{2 * self.draws}, or state fewer draws"
            )
        drawn = {role: self._draw(comparison, role, one, n) for role, one in selected.items()}
        truth = drawn.pop("truth")
        covered: dict[Role, Estimate] = {}
        distance: dict[Role, Estimate] = {}
        for role, own in drawn.items():
            pairs = zip(truth, own, strict=True)
            scores = [coverage_and_distance(*pair, self.radius) for pair in pairs]
            covered[role], distance[role] = map(_mean, zip(*scores, strict=True))
        note = f"{self.draws} draws of {n} jets of each sample"
        share, ours = covered["generated"], distance["generated"]
        return [
            row_by_role(
                "COV, energy mover",
                "energy-mover",
                covered,
                tolerance=self.minimum,
                verdict=at_least(share.value, share.error, self.minimum),
                note=note + ("; the limit is a minimum" if self.minimum is not None else ""),
            ),
            row_by_role(
                "MMD, energy mover",
                "energy-mover",
                distance,
                tolerance=self.tolerance,
                verdict=verdict_within(ours.value, ours.error, self.tolerance, floor_of(distance)),
                note=note + ", in units of the jet's pT",
            ),
        ]

    def _draw(self, comparison: Comparison, role: Role, selected: Selection, n: int) -> list[Batch]:
        """Return the draws of a sample, which have no jet in common."""
        generator = np.random.default_rng([comparison.seed, 0 if role == "truth" else 1])
        rows = generator.permutation(selected.rows)[: n * self.draws].reshape(self.draws, n)
        return [comparison.samples[role][torch.from_numpy(part)] for part in rows]


def coverage_and_distance(
    truth: Batch, generated: Batch, radius: float = 1.0
) -> tuple[float, float]:
    """Return COV and MMD of (N, P, 3) true and (M, Q, 3) generated jets.

    >>> z = torch.tensor([[[0.0, 0.0, 1.0]], [[0.5, 0.0, 1.0]]])
    >>> there = torch.ones(2, 1, dtype=torch.bool)
    >>> both, one = Batch(z, mask=there), Batch(z[:1].repeat(2, 1, 1), mask=there)
    >>> coverage_and_distance(both, both), coverage_and_distance(both, one)
    ((1.0, 0.0), (0.5, 0.25))
    """
    threads = torch.get_num_threads()
    distances = energy_mover(*_arrays(generated), *_arrays(truth), radius, threads)
    covered = len(np.unique(distances.argmin(1))) / distances.shape[1]
    return covered, float(distances.min(0).mean())


def _arrays(batch: Batch) -> tuple[Array, NDArray[np.bool_]]:
    if batch.mask is None:
        raise InputError("jets are sets of particles, and their mask is missing")
    return batch.x.double().cpu().numpy(), batch.mask.cpu().numpy()


def _mean(values: Sequence[float]) -> Estimate:
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))))
