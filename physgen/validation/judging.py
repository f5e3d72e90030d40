"""From metrics to a judged scorecard.

How a row is judged (a pull alone grows with the number of samples, so it cannot judge a surrogate
that is known to be approximate):

- a stated tolerance decides: |bias| + 2 sigma <= limit for what should equal something,
  value + 2 sigma <= limit for a distance, AUC + 2 sigma <= limit for a classifier,
  value - 2 sigma >= limit for what must not be small. A limit below what so few samples can show is
  neither passed nor failed, and this is said;
- samples that claim to be exact (corrected ones, or a file set against another) are tested: all
  p-values on the card are one family (Holm 1979, step-down) at a family-wise level of three sigma,
  to which each metric contributes the same, however many rows it has;
- all else informs; what differs beyond chance (p < 1e-4) is a warning, shown beside the verdict.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from physgen.errors import NotMeasurable
from physgen.memory import release
from physgen.validation.alarms import alarms
from physgen.validation.comparison import Comparison
from physgen.validation.scorecard import Row, Scorecard
from physgen.validation.threshold import threshold_alarm

SIGNIFICANCE = math.erfc(3 / math.sqrt(2))
"""Family-wise probability of failing a perfect sampler: two-sided three sigma."""

FEWEST = 50
"""Rows of each sample without which nothing passes."""


MAIN_TEST = "combined-test"
"""The metric that tests whether two samples are of one distribution; others see parts of it."""


class Metric(Protocol):
    """One kind of question a scorecard answers."""

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return the rows, judged as far as their own tolerance goes."""
        ...


def judge(
    comparison: Comparison,
    metrics: Sequence[Metric],
    *,
    tested: bool = False,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scorecard:
    """Ask every metric, and judge what only the whole card can.

    A metric that needs more independent samples than there are gives no number, and says so.

    Args:
        comparison: of the samples.
        metrics: what is asked of them; alarms about copies, repeated values and units are always.
        tested: whether the samples are said to be of the same distribution as the truth, as those
            corrected to be exact always are.
        provenance: where the samples come from.
        progress: called with how many metrics are done, and how many there are.
    """
    rows = []
    for done, metric in enumerate(metrics, 1):
        release()
        rows += _rows(metric, comparison)
        if progress is not None:
            progress(done, len(metrics))
    rows += alarms(comparison)
    rows += threshold_alarm(comparison, rows)
    if comparison.corrected or tested:
        rows = judge_family(rows)
    if tested and any(row.metric == MAIN_TEST and row.p_value is None for row in rows):
        rows = [_without_main_test(row) for row in rows]
    rows = refuse_unreliable(rows)
    fewest = min(len(batch) for batch in (comparison.generated, comparison.truth) if batch)
    rows = [_with_power(row, fewest) for row in rows]
    if "generated" in comparison.paired and comparison.floor and "floor" not in comparison.paired:
        rows = [_with_unpaired_floor(row) for row in rows]
    return Scorecard(rows=tuple(rows), provenance=dict(provenance or {}))


def _rows(metric: Metric, comparison: Comparison) -> list[Row]:
    try:
        return metric.rows(comparison)
    except NotMeasurable as error:
        name = _kind(metric)
        return [Row(name=name, metric=name, value=None, warning=str(error))]


def _kind(metric: Metric) -> str:
    """Return what recipes call a metric.

    >>> from physgen.validation.combined import CombinedTest
    >>> _kind(CombinedTest())
    'combined-test'
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(metric).__name__).lower()
    return {"classifier-test": "classifier", "maximum-mean-discrepancy": "mmd"}.get(words, words)


def _without_main_test(row: Row) -> Row:
    """Return the row, which passes by its own limit only: what looks at everything could not."""
    if row.metric == MAIN_TEST:
        warning = f"{row.warning}; without this test nothing passes that has no limit of its own"
        return row.model_copy(update={"warning": warning})
    passes = row.verdict == "pass" and row.tolerance is None
    return row.model_copy(update={"verdict": "info"}) if passes else row


def _with_unpaired_floor(row: Row) -> Row:
    """Return the row with a word on its floor, of two samples at different conditions."""
    if row.floor is None:
        return row
    word = "floor of samples at other conditions: a perfect one at those of the truth is closer"
    return row.model_copy(update={"note": f"{row.note}; {word}" if row.note else word})


def _with_power(row: Row, n: int) -> Row:
    """Return the row without a verdict for which its rows are too few, and say so."""
    if row.verdict == "pass" and n < FEWEST:
        warning = f"{n} rows are too few for a verdict: give at least {FEWEST}"
    elif row.verdict == "info" and row.tolerance is not None and not row.warning:
        warning = (
            "neither passed nor failed: even a perfect sample of this size might exceed the limit "
            f"of {row.tolerance:.3g}; give more rows, or a wider limit"
        )
    else:
        return row
    return row.model_copy(update={"verdict": "info", "warning": warning})


def judge_family(rows: Iterable[Row]) -> list[Row]:
    """Test all rows that have a p-value and no stated tolerance as one family (Holm).

    Each metric has the same share of the level, divided evenly among its rows: one row that looks
    at everything is not outvoted by a hundred histograms.
    """
    result = list(rows)
    family = [
        i
        for i, row in enumerate(result)
        if row.p_value is not None
        and row.tolerance is None
        and row.verdict == "info"
        and row.metric != "mixing"  # A truth that does not mix is no fault of the samples.
    ]
    sizes = Counter(result[i].metric for i in family)
    weights = [1 / sizes[result[i].metric] for i in family]
    rejected = holm([result[i].p_value or 0.0 for i in family], SIGNIFICANCE, weights)
    for i, reject in zip(family, rejected, strict=True):
        result[i] = result[i].model_copy(update={"verdict": "fail" if reject else "pass"})
    return result


def refuse_unreliable(rows: Iterable[Row]) -> list[Row]:
    """Return the rows, of which none passes by samples that show nothing.

    Such are chains that have not mixed, and weights of a few rows. With those of the generated
    sample no row passes but those of importance weights; with those of the truth none that is
    compared with it.
    """
    rows = list(rows)
    doubts = [row for row in rows if row.metric == "weights"]
    doubts += [row for row in rows if row.metric == "mixing" and row.p_value is not None]
    truth = any(row.name.endswith("of the truth") for row in doubts)
    generated = any(row.name in ("mixing", "weights") for row in doubts)

    def judged(row: Row) -> Row:
        by_truth = row.exact_source not in ("exact", "reference")
        doubtful = generated or (truth and by_truth)
        if row.verdict != "pass" or row.metric == "importance" or not doubtful:
            return row
        limited = row.tolerance is not None and not row.warning
        warning = f"not judged, see {doubts[0].name}" if limited else row.warning
        return row.model_copy(update={"verdict": "info", "warning": warning})

    return [judged(row) for row in rows]


def holm(
    p_values: Sequence[float], level: float, weights: Sequence[float] | None = None
) -> list[bool]:
    """Return which hypotheses are rejected at family-wise `level` (Holm 1979, step-down).

    Args:
        p_values: of the hypotheses.
        level: probability of rejecting any that is true.
        weights: shares of the level (Holm's section 4); equal ones by default.

    >>> holm([0.01, 0.2, 0.03], 0.05)
    [True, False, False]
    """
    w = np.ones(len(p_values)) if weights is None else np.asarray(weights, dtype=float)
    order = np.argsort(np.asarray(p_values) / w)
    rejected = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level * w[index] / w[order[rank:]].sum():
            break
        rejected[index] = True
    return rejected
