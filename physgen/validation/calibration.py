r"""Whether posteriors are calibrated: ranks, TARP and expected coverage.

Of N pairs (theta, x) from prior and simulator, and L draws of the estimated posterior at each x,
three questions are asked, each by numbers in [0, 1] that are uniform for the exact posterior:

- SBC: the rank of theta among the draws, parameter by parameter (Talts et al., arXiv 1804.06788);
- TARP: the share of draws that are nearer than theta to a random point (Lemos et al., arXiv
  2302.03026, Algorithm 2), which holds for the exact posterior alone as the points depend on x;
- expected coverage: the share of draws that are more probable than theta under the estimate, the
  credibility of the smallest region that holds theta (Hermans et al., arXiv 2110.06581).

The value of a row is the Kolmogorov-Smirnov distance of these numbers from the uniform
distribution: the largest error of a coverage at any level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgen.errors import InputError
from physgen.validation.comparison import Comparison
from physgen.validation.ranks import calibrations
from physgen.validation.scorecard import Row, verdict_within


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Ranks, TARP and expected coverage of estimated posteriors.

    Attributes:
        n: at most so many simulations.
        draws: of the posterior for each of them.
        maximum: limit of each distance, an error of the coverage; `None` is none.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> Calibration().rows(samples)
    Traceback (most recent call last):
    physgen.errors.InputError: calibration is of estimated posteriors: ...
    """

    n: int = 1000
    draws: int = 100
    maximum: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return a row a parameter, one of TARP, and one of coverage where the density is known.

        Raises:
            InputError: the samples are no parameters given data.
        """
        from scipy.stats import kstest

        if comparison.posterior is None:
            raise InputError(
                "calibration is of estimated posteriors: it needs a run of the system posterior"
            )
        names = comparison.system.schema.names
        rows = []
        for name, values in calibrations(comparison.posterior, names, comparison.seed).items():
            n, test = len(values), kstest(values, "uniform")
            # Of the Kolmogorov distribution: mean 0.8687, standard deviation 0.2603.
            floor, error = 0.8687 / np.sqrt(n), 0.2603 / np.sqrt(n)
            levels = np.linspace(0, 1, 51)
            found = np.searchsorted(np.sort(values), levels, side="right") / n
            rows.append(
                Row(
                    name=name,
                    metric="calibration",
                    value=test.statistic,
                    error=error,
                    floor=floor,
                    floor_error=error,
                    p_value=test.pvalue,
                    tolerance=self.maximum,
                    verdict=verdict_within(test.statistic, error, self.maximum, floor),
                    note=f"{n} simulations, {comparison.posterior.draws.shape[1]} draws each",
                    curves={"coverage": (tuple(levels), tuple(found))},
                )
            )
        return rows
