"""How well a model with a density covers its target: ESS, ln Z, acceptance.

From independent samples of the model with w = exp(log_weight), the acceptance of independence
Metropolis in equilibrium is, over all pairs of them,

    A = sum_ij min(w_i, w_j) / (N sum_i w_i),

which needs no chain: with the weights sorted it is one sum.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from physgen.errors import InputError
from physgen.sampling.reweighting import (
    ENOUGH,
    FewSamplesWarning,
    effective_sample_size,
    forward_effective_sample_size,
    log_partition_function,
)
from physgen.validation.comparison import Comparison
from physgen.validation.means import pull
from physgen.validation.scorecard import Row
from physgen.validation.uncertainty import Estimate

_BLOCKS = 64


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Effective sample size, partition function and acceptance from importance weights.

    Attributes:
        minimum_ess: fail below this effective sample size, a sample.
        minimum_acceptance: fail below this acceptance of independence Metropolis.
    """

    minimum_ess: float | None = None
    minimum_acceptance: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return the rows of what is known; the forward ESS where the truth has log-weights.

        Raises:
            InputError: there are no log-weights.
        """
        source = comparison.proposals or comparison.generated
        if source.log_weight is None:
            raise InputError(
                "importance needs samples with log-weights: a surrogate that knows its density, "
                "and a system with an action (sampling.correction in the recipe)"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamplesWarning)  # It becomes a note of the row.
            rows = [
                _ess("ESS", source.log_weight, self.minimum_ess),
                _acceptance(source.log_weight, self.minimum_acceptance),
                _log_partition(comparison, source.log_weight),
            ]
            if comparison.truth is not None and comparison.truth.log_weight is not None:
                found = forward_effective_sample_size(comparison.truth.log_weight)
                rows.append(
                    Row(
                        name="ESS on truth",
                        metric="importance",
                        value=found.value,
                        error=found.error,
                        note="sees the modes that the model misses",
                    )
                )
        return rows


def _ess(name: str, log_weight: Tensor, minimum: float | None) -> Row:
    found = effective_sample_size(log_weight)
    n = len(log_weight)
    few = f"; fewer than {ENOUGH} samples read too high" if n < ENOUGH else ""
    return _at_least(name, found.value, found.error, minimum, f"from {n} samples{few}", log_weight)


def _acceptance(log_weight: Tensor, minimum: float | None) -> Row:
    weights = np.exp((log_weight - log_weight.max()).double().cpu().numpy())
    found = acceptance(weights)
    return _at_least("acceptance", found.value, found.error, minimum, "over all pairs of samples")


def _at_least(
    name: str,
    value: float,
    error: float,
    minimum: float | None,
    note: str,
    log_weight: Tensor | None = None,
) -> Row:
    """Make a row of something that must not be small, with the log-weights' histogram."""
    curves: dict[str, Any] = {}
    if log_weight is not None:
        centred = (log_weight - log_weight.logsumexp(0)).double().cpu().numpy()
        centred = centred[np.isfinite(centred)] + math.log(len(log_weight))
        counts, edges = np.histogram(centred, bins=60)
        curves["log weights"] = (tuple(edges.tolist()), tuple(counts.astype(float).tolist()))
    return Row(
        name=name,
        metric="importance",
        value=value,
        error=error,
        tolerance=minimum,
        verdict="info" if minimum is None else "pass" if value >= minimum else "fail",
        note=note if minimum is None else f"{note}; the limit is a minimum",
        curves=curves,
    )


def _log_partition(comparison: Comparison, log_weight: Tensor) -> Row:
    found = log_partition_function(log_weight)
    content: dict[str, Any] = {}
    known = comparison.known("ln Z")
    if known is not None:
        exact, error, source = known
        content = {"exact": exact, "exact_error": error, "exact_source": source}
        content["pull"], content["p_value"] = pull(
            found.value - exact, math.hypot(found.error, error)
        )
    return Row(name="ln Z", metric="importance", value=found.value, error=found.error, **content)


def acceptance(weights: NDArray[float64]) -> Estimate:
    """Return the acceptance of independence Metropolis with (N,) weights; blocked jackknife."""
    labels = np.arange(len(weights)) % min(_BLOCKS, len(weights))
    order = np.argsort(weights)
    ordered, labels = weights[order], labels[order]
    value = _acceptance_of_sorted(ordered)
    n_blocks = int(labels.max()) + 1
    parts = np.array([_acceptance_of_sorted(ordered[labels != b]) for b in range(n_blocks)])
    spread = (n_blocks - 1) * float(np.mean((parts - parts.mean()) ** 2))
    return Estimate(value, math.sqrt(spread))


def _acceptance_of_sorted(weights: NDArray[float64]) -> float:
    # Pairs i != j only: the k-th smallest weight is the minimum with all larger ones, twice.
    n = len(weights)
    if n < 2 or weights.sum() == 0:
        return math.nan
    larger = np.arange(n - 1, -1, -1)
    return float(2 * (weights * larger).sum() / ((n - 1) * weights.sum()))
