"""Several samples that were judged by one truth: which of them is the best in which score.

Let o be how far a score is from its best value: |value - exact| where that is known, |AUC - 1/2|,
1 / N_equiv, |value - floor| for coverage and its like, otherwise the score itself (a distance). One
sample is ahead of another in a score if

    o_2 - o_1 > 2 sqrt(e_1^2 + e_2^2),

e being the errors of the scores. The error of a value that is only known from the truth cancels,
both being compared with the same truth, unless they lie on different sides of it: then it counts
twice. The rank of a sample is 1 + the number of samples ahead of it, so that samples that differ by
less than their errors share one. The mean rank, by which they are ordered, gives each metric the
same share, however many scores it has; scores without an error have no rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from physgen.errors import printable
from physgen.tables import text_table
from physgen.validation.scorecard import Row, Scorecard, Verdict
from physgen.validation.table import rows_in_short, with_error

SIGMAS = 2.0
"""Standard deviations of the difference that put one sample ahead of another."""

_TO_THE_FLOOR = ("coverage", "inception-score", "likelihood")
"""Metrics whose scores should be what a perfect sample gets."""

_UNRANKED = ("weights", "units", "mixing", "alarms", "values", "importance", "regions")
"""Metrics that warn, or whose rows are about something else in each sample."""

_WORST: dict[Verdict, int] = {"fail": 0, "info": 1, "pass": 2}


@dataclass(frozen=True)
class Standing:
    """A score of one sample.

    Attributes:
        value, error: as in its scorecard.
        floor, floor_error: what a perfect sample would get.
        off: how far it is from the best value; `None` where that is not known.
        rank: 1 is the best; `None` where there is none.
        verdict: of the row.
    """

    value: float | None
    error: float | None
    floor: float | None
    floor_error: float | None
    off: float | None
    rank: int | None
    verdict: Verdict


@dataclass(frozen=True)
class Line:
    """A score of all samples that have it.

    Attributes:
        name, metric, unit: of the row.
        exact, exact_error: what the value should be, where that is known.
        samples: by name.
    """

    name: str
    metric: str
    unit: str
    exact: float | None
    exact_error: float | None
    samples: Mapping[str, Standing]

    @property
    def floor(self) -> str:
        """The floor of the first sample that has one, in print."""
        known = [one for one in self.samples.values() if one.floor is not None]
        return with_error(known[0].floor, known[0].floor_error) if known else ""


@dataclass(frozen=True)
class Place:
    """How one sample does in all.

    Attributes:
        name: of the sample.
        rank: by the mean rank; equal ones share it.
        mean_rank: over the metrics of the means over their scores; `None` if nothing is ranked.
        first: in how many scores no other sample is ahead.
        ranked: of how many.
        failed: rows.
        verdict, headline: of its scorecard.
    """

    name: str
    rank: int
    mean_rank: float | None
    first: int
    ranked: int
    failed: int
    verdict: Verdict
    headline: str


@dataclass(frozen=True)
class Ranking:
    """Scorecards of several samples side by side.

    Attributes:
        cards: by the name of the sample, in the user's order.

    >>> def card(x):
    ...     row = {"name": "W1 x", "metric": "histograms", "error": 0.1, "floor": 0.3}
    ...     return Scorecard(rows=(Row(value=x, **row),))
    >>> ranking = Ranking({"a": card(2.0), "b": card(1.0), "c": card(1.1)})
    >>> [place.name for place in ranking.order], [place.rank for place in ranking.order]
    (['b', 'c', 'a'], [1, 1, 3])
    >>> print(ranking.lines[0].samples["a"].rank)
    3
    """

    cards: Mapping[str, Scorecard]

    @property
    def verdict(self) -> Verdict:
        """The worst one."""
        return min((card.verdict for card in self.cards.values()), key=lambda v: _WORST[v])

    @cached_property
    def lines(self) -> list[Line]:
        """A line for each score that two samples have at least, in the order of the scorecards."""
        rows: dict[str, dict[str, Row]] = {}
        for sample, card in self.cards.items():
            for row in card.rows:
                if row.metric != "regions":
                    rows.setdefault(_common_name(row), {})[sample] = row
        return [_line(name, of) for name, of in rows.items() if len(of) > 1]

    @cached_property
    def order(self) -> list[Place]:
        """The samples, the best one first."""
        means = {name: self._mean_rank(name) for name in self.cards}
        known = {name: math.inf if mean is None else mean for name, mean in means.items()}
        places = []
        for name, card in self.cards.items():
            ranks = [r for line in self.lines if (r := _rank(line, name)) is not None]
            places.append(
                Place(
                    name=name,
                    rank=1 + sum(other < known[name] for other in known.values()),
                    mean_rank=means[name],
                    first=sum(rank == 1 for rank in ranks),
                    ranked=len(ranks),
                    failed=sum(row.verdict == "fail" for row in card.rows),
                    verdict=card.verdict,
                    headline=card.headline,
                )
            )
        return sorted(places, key=lambda place: place.rank)

    def _mean_rank(self, name: str) -> float | None:
        by_metric: dict[str, list[int]] = {}
        for line in self.lines:
            if (rank := _rank(line, name)) is not None:
                by_metric.setdefault(line.metric, []).append(rank)
        means = [sum(ranks) / len(ranks) for ranks in by_metric.values()]
        # Sums in another order would differ by rounding.
        return round(sum(means) / len(means), 9) if means else None

    @property
    def in_short(self) -> list[Line]:
        """The lines that the scorecard of any sample shows in a terminal."""
        shown = {_common_name(row) for card in self.cards.values() for row in rows_in_short(card)}
        return [line for line in self.lines if line.name in shown]

    def to_json(self) -> str:
        """Return JSON: see `docs/judging.md`."""
        content: dict[str, Any] = {
            "verdict": self.verdict,
            "order": [asdict(place) for place in self.order],
            "scores": [asdict(line) for line in self.lines],
            "scorecards": {name: json.loads(card.to_json()) for name, card in self.cards.items()},
        }
        return json.dumps(content, indent=1, allow_nan=False)

    def __str__(self) -> str:
        """Return the order, and the scores that matter most, as tables."""
        head = ("rank", "sample", "mean rank", "first in", "failed", "verdict")
        lines = text_table(map(_summary, self.order), head)
        names = [place.name for place in self.order]
        shown = self.in_short
        cells = (
            [printable(c) for c in (line.name, line.floor, *texts(line, names))] for line in shown
        )
        lines += ["", *text_table(cells, ("score", "floor", *map(printable, names)))]
        if len(shown) < len(self.lines):
            lines.append(f"and {len(self.lines) - len(shown)} more in the report")
        found = [f"{name}: {one}" for name in names for one in regions_of(self.cards[name])]
        return "\n".join([*lines, *([""] if found else []), *map(printable, found)])


def regions_of(card: Scorecard) -> list[str]:
    """Return where a sample has too many rows, or too few, in words."""
    rows = [row for row in card.rows if row.metric == "regions" and row.name != "regions"]
    return [f"{row.name}: {row.note.partition(';')[0]}" for row in rows]


def texts(line: Line, names: Sequence[str]) -> list[str]:
    """Return value, error and rank of the samples in print, as in "0.134(12) #2".

    What a sample does not have is empty, and a failed row says so.
    """
    cells = []
    for name in names:
        one = line.samples.get(name)
        if one is None:
            cells.append("")
            continue
        rank = "" if one.rank is None else f" #{one.rank}"
        cells.append(f"{with_error(one.value, one.error)}{rank}{_FAILED[one.verdict]}")
    return cells


_FAILED: dict[Verdict, str] = {"fail": " fail", "info": "", "pass": ""}


def _summary(place: Place) -> list[str]:
    mean = "" if place.mean_rank is None else f"{place.mean_rank:.2f}"
    first = f"{place.first} of {place.ranked}"
    name, headline = printable(place.name), printable(place.headline)
    return [str(place.rank), name, mean, first, str(place.failed), headline]


def _rank(line: Line, name: str) -> int | None:
    return line.samples[name].rank if name in line.samples else None


def _common_name(row: Row) -> str:
    """Return the name of a row without the bin of a profile, which is another in each sample."""
    name, bins, _ = row.name.partition(", bin ")
    return f"{name}, worst bin" if bins else name


@dataclass(frozen=True)
class _Off:
    """How far a score is from its best value.

    Attributes:
        size: less is better.
        error: its own.
        above: on which side of the value that it is compared with.
        common: the error of that value.
    """

    size: float
    error: float
    above: bool = True
    common: float = 0.0

    def ahead_of(self, other: _Off) -> bool:
        """Whether this is better beyond the errors."""
        common = 0.0 if self.above == other.above else 2 * max(self.common, other.common)
        sigma = math.hypot(self.error, other.error, common)
        return other.size - self.size > SIGMAS * sigma


def _off(row: Row) -> _Off | None:
    value, error = row.value, row.error
    if value is None or row.metric in _UNRANKED:
        return None
    if row.metric == "response":
        return _Off(value, 1.0)  # In standard deviations.
    if row.metric == "copies":
        return _Off(value, math.sqrt(max(value, 1.0)))
    if ", bin " in row.name:
        return None if row.pull is None else _Off(abs(row.pull), 1.0)
    if error is None:
        return None
    if row.metric == "equivalent-events":
        return _Off(1 / value, error / value**2)
    if row.exact is not None:
        common = row.exact_error or 0.0
        return _Off(abs(value - row.exact), error, value > row.exact, common)
    if " less elsewhere" in row.name:
        return _Off(abs(value), error)  # A difference of two areas.
    if row.name.startswith(("AUC", "balanced accuracy")):
        return _Off(abs(value - 0.5), error)
    if row.metric in _TO_THE_FLOOR or row.name.startswith("COV"):
        if row.floor is None:
            return None
        common = row.floor_error or 0.0
        return _Off(abs(value - row.floor), error, value > row.floor, common)
    return _Off(value, error)


def _line(name: str, rows: Mapping[str, Row]) -> Line:
    offs = {sample: off for sample, row in rows.items() if (off := _off(row)) is not None}
    standings = {}
    for sample, row in rows.items():
        own = offs.get(sample)
        rank = None
        if own is not None and len(offs) > 1:
            rank = 1 + sum(other.ahead_of(own) for other in offs.values())
        standings[sample] = Standing(
            value=row.value,
            error=row.error,
            floor=row.floor,
            floor_error=row.floor_error,
            off=None if own is None else own.size,
            rank=rank,
            verdict=row.verdict,
        )
    first = next(iter(rows.values()))
    in_bins = ", bin " in first.name
    return Line(
        name=name,
        metric=first.metric,
        unit=first.unit,
        exact=None if in_bins else first.exact,
        exact_error=None if in_bins else first.exact_error,
        samples=standings,
    )
