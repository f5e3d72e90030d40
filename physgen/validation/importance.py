"""How well a model with a density covers its target: ESS, ln Z, acceptance.

From independent samples of the model with w = exp(log_weight), the acceptance of independence
Metropolis in equilibrium is, over all pairs of them,

    A = sum_ij min(w_i, w_j) / (N sum_i w_i),

which needs no chain: with the weights sorted it is one sum.

Samples of the model are blind to what the model never visits, and then everything above looks good:
a model of one of two equal modes has an ESS of 1 and a ln Z that is ln 2 too low. Samples of the
truth are not blind, and their (forward) ESS tends to 0. So a verdict needs both.

Samples of a theory at several couplings are judged at each of them: "ESS at lam=5".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.sampling.reweighting import (
    ENOUGH,
    FewSamplesWarning,
    effective_sample_size,
    forward_effective_sample_size,
    log_partition_function,
)
from physgen.sampling.reweighting import Estimate as Estimated
from physgen.systems.base import HasTemperature
from physgen.systems.family import Family
from physgen.validation.comparison import Comparison
from physgen.validation.estimates import USABLE, estimate, pull
from physgen.validation.mixing import disagrees
from physgen.validation.scorecard import Row, at_least
from physgen.validation.uncertainty import Estimate

Known = tuple[float, float, Literal["exact", "reference"]]
"""A value, its error, and whether theory or the literature has it."""

_BLOCKS = 64
_TAIL = 1e-3
"""Share of the samples, those of the smallest weights, that the first bin of a histogram holds."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Effective sample size, partition function and acceptance from importance weights.

    Of spins at a temperature the free energy F/N too, -T ln Z / N.

    Attributes:
        minimum_ess: fail below this effective sample size, a sample, of the model or of the truth.
        minimum_acceptance: fail below this acceptance of independence Metropolis.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> proposals = Batch(x, log_weight=0.1 * x[:, 0])  # ln p - ln q
    >>> rows = Importance().rows(Comparison(Phi4(shape=(4,)), proposals))
    >>> [row.name for row in rows], rows[0].value > 0.9
    (['ESS', 'acceptance', 'ln Z'], True)
    """

    minimum_ess: float | None = None
    minimum_acceptance: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return the rows of what is known; the forward ESS where the truth has log-weights.

        Weights that leave fewer than `USABLE` effective samples give no numbers, and fail. A
        minimum holds for the ESS on the truth too, without which nothing passes.

        Raises:
            InputError: there are no log-weights.
        """
        return [row for suffix, part in _by_target(comparison) for row in self._rows(part, suffix)]

    def _rows(self, comparison: Comparison, suffix: str) -> list[Row]:
        source = comparison.proposals or comparison.generated
        if source.log_weight is None:
            raise InputError(
                "importance needs samples with log-weights: a surrogate that knows its density, "
                "and a system with an action (sampling.correction in the recipe)"
            )
        log_weight = source.log_weight
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamplesWarning)  # It becomes a note of the row.
            reverse = effective_sample_size(log_weight)
            forward, mixes = _on_truth(comparison, suffix)
        ln_z, known = _name_and_value(comparison, suffix)
        effective = reverse.value * len(log_weight)
        if effective < USABLE:
            names = [name + suffix for name in ("ESS", "acceptance", ln_z)]
            return [_unusable(name, effective, len(log_weight)) for name in names]
        missing = forward is not None and forward.value < reverse.value / 2
        rows = [
            self._ess(reverse, log_weight, _doubt(missing, mixes)),
            _acceptance(log_weight, self.minimum_acceptance, reliable=mixes and not missing),
            _without_a_sector(ln_z) if missing else _log_partition(ln_z, known, log_weight),
        ]
        if forward is not None:
            note = "sees the modes that the model misses"
            row = _at_least("ESS on truth", forward, self.minimum_ess, note)
            rows.append(row if mixes else _not_judged(row))
        system = _member(comparison.system, suffix)
        if isinstance(system, HasTemperature) and not missing and comparison.reference is None:
            # F = - T ln Z, a site.
            factor = -system.temperature / system.n_sites
            row = _log_partition("F/N", comparison.known("F/N" + suffix), log_weight, factor)
            rows.append(row)
        return [row.model_copy(update={"name": row.name + suffix}) for row in rows]

    def _ess(self, ess: Estimated, log_weight: Tensor, warning: str) -> Row:
        n = len(log_weight)
        few = f"; fewer than {ENOUGH} samples read too high" if n < ENOUGH else ""
        row = _at_least("ESS", ess, self.minimum_ess, f"from {n} samples{few}", log_weight)
        verdict = "info" if warning and row.verdict == "pass" else row.verdict
        warning = warning if self.minimum_ess is not None or "missing" in warning else ""
        return row.model_copy(update={"verdict": verdict, "warning": warning})


def _by_target(comparison: Comparison) -> Iterator[tuple[str, Comparison]]:
    """Yield what names a target of a family, and what is known of its samples."""
    source, system = comparison.proposals or comparison.generated, comparison.system
    if source.condition is None or not isinstance(system, Family):
        yield "", comparison
        return
    for point in torch.unique(source.condition.double(), dim=0):
        label = system.label(point)

        yield (
            f" at {label}",
            Comparison(
                system=comparison.system,
                generated=_rows_at(point, comparison.generated),
                truth=None if comparison.truth is None else _rows_at(point, comparison.truth),
                proposals=_rows_at(point, source),
                reference=comparison.reference,
            ),
        )


def _rows_at(point: Tensor, batch: Batch) -> Batch:
    """Return the samples of one condition (C,); of float32 and float64 it is the same."""
    assert batch.condition is not None  # A family's samples have their couplings.
    rows = torch.isclose(batch.condition.double(), point, rtol=1e-6, atol=1e-12).all(1)
    return batch[rows.nonzero()[:, 0]]


def _on_truth(comparison: Comparison, suffix: str) -> tuple[Estimated | None, bool]:
    """Return the ESS on samples of the truth, and whether these can be trusted.

    Chains that do not mix can show that a sector is missing, and never that none is.
    """
    truth = comparison.truth
    if truth is None or truth.log_weight is None:
        return None, False
    measured = comparison.measured["truth"]
    names = [name for name in measured.scalars if name.endswith(suffix)]
    stuck = any(disagrees(estimate(comparison, measured, name)) for name in names)
    return forward_effective_sample_size(truth.log_weight), not stuck


def _doubt(missing: bool, mixes: bool) -> str:
    if missing:
        return (
            "a sector is missing, or hardly covered: samples of the truth lie where the model has "
            "next to nothing (see ESS on truth); train longer, give the model the symmetry of the "
            "action if it lacks it, or train it with samples of all sectors"
        )
    if not mixes:
        return (
            "the verdict is not backed by samples of the truth whose chains mix: a sector that the "
            "model misses would not be seen"
        )
    return ""


def _unusable(name: str, effective: float, n: int) -> Row:
    return Row(
        name=name,
        metric="importance",
        value=None,
        verdict="fail",
        note=f"no usable weights: {n} samples are worth {effective:.3g}",
        warning=(
            f"no usable weights: {n} samples are worth {effective:.3g}, fewer than {USABLE}; "
            "train the model longer, or make it larger"
            if name.startswith("ESS")
            else ""
        ),
    )


def _without_a_sector(name: str) -> Row:
    return Row(
        name=name,
        metric="importance",
        value=None,
        note="not known: a sector is missing, to which ln Z of these samples is blind",
    )


def _acceptance(log_weight: Tensor, minimum: float | None, *, reliable: bool) -> Row:
    weights = np.exp((log_weight - log_weight.max()).double().cpu().numpy())
    row = _at_least("acceptance", acceptance(weights), minimum, "over all pairs of samples")
    return row if reliable else _not_judged(row)


def _not_judged(row: Row) -> Row:
    """Return a row that does not pass, for want of samples of the truth that would show it."""
    if row.verdict != "pass":
        return row
    return row.model_copy(update={"verdict": "info", "warning": "not judged: see ESS"})


def _at_least(
    name: str,
    estimate: Estimated | Estimate,
    minimum: float | None,
    note: str,
    log_weight: Tensor | None = None,
) -> Row:
    """Make a row of something that must not be small, with the log-weights' histogram."""
    curves: dict[str, Any] = {}
    if log_weight is not None:
        centred = (log_weight - log_weight.logsumexp(0)).double().cpu().numpy()
        centred = centred[np.isfinite(centred)] + math.log(len(log_weight))
        low = np.quantile(centred, _TAIL) if len(centred) else 0.0
        # A far tail of small weights, which decide nothing, would leave all others one bin.
        counts, edges = np.histogram(centred.clip(low), bins=60)
        curves["log weights"] = (tuple(edges.tolist()), tuple(counts.astype(float).tolist()))
    return Row(
        name=name,
        metric="importance",
        value=estimate.value,
        error=estimate.error,
        tolerance=minimum,
        verdict=at_least(estimate.value, estimate.error, minimum),
        note=note if minimum is None else f"{note}; the limit is a minimum",
        curves=curves,
    )


def _name_and_value(comparison: Comparison, suffix: str) -> tuple[str, Known | None]:
    """Return what the logarithm of the mean weight is called, and what it should be, if known."""
    known, reference = comparison.known("ln Z" + suffix), comparison.reference
    if reference is None:
        return "ln Z", known
    if known is None or reference.log_partition is None:
        return f"ln Z/{reference.name}", None
    value, error, source = known
    return f"ln Z/{reference.name}", (value - reference.log_partition, error, source)


def _member(system: object, suffix: str) -> object:
    """Return the system of a target, by what names it."""
    return system.members.get(suffix.removeprefix(" at ")) if isinstance(system, Family) else system


def _log_partition(name: str, known: Known | None, log_weight: Tensor, factor: float = 1.0) -> Row:
    """Make a row of ln Z times a factor."""
    log_z = log_partition_function(log_weight)
    log_z = Estimated(factor * log_z.value, abs(factor) * log_z.error)
    content: dict[str, Any] = {}
    if known is not None:
        exact, error, source = known
        content = {"exact": exact, "exact_error": error, "exact_source": source}
        content["pull"], content["p_value"] = pull(
            log_z.value - exact, math.hypot(log_z.error, error)
        )
    return Row(name=name, metric="importance", value=log_z.value, error=log_z.error, **content)


def acceptance(weights: NDArray[float64]) -> Estimate:
    """Return the acceptance of independence Metropolis with (N,) weights; blocked jackknife.

    >>> acceptance(np.ones(100)).value
    1.0
    """
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
