"""What validation finds: rows of (value, error, floor, exact, pull, verdict), as JSON or a table.

How a row is judged by its own limit is here; what only the whole card can say is in `judging`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from physgen.errors import FormatError, printable
from physgen.io.documents import parse_json
from physgen.tables import html_table, text_table
from physgen.validation.table import COLUMNS, row_cells, rows_in_short

if TYPE_CHECKING:
    from physgen.validation.comparison import Role
    from physgen.validation.uncertainty import Estimate

Verdict = Literal["pass", "fail", "info"]
Curve = tuple[tuple[float, ...], tuple[float, ...]]

ALARM = 1e-4
"""Rows without a limit whose p-value is lower are a warning."""


class Row(BaseModel):
    """One line of a scorecard. Numbers that are not finite, or not known, are stored as `None`.

    Attributes:
        name: of the observable or the distance.
        metric: which metric made the row.
        value, error: what was found on the generated samples, in `unit`.
        floor, floor_error: the same statistic between two independent truth samples of the same
            size; for a mean, the difference of the two.
        baseline: the same as `value` for the baseline's samples.
        exact, exact_error, exact_source: what the value should be, and how that is known.
        pull: (value - exact) / sqrt(error^2 + exact_error^2); of samples that are paired with the
            truth, over the error of the paired difference, which the note states.
        p_value: of the hypothesis that the samples are perfect, before Holm's correction.
        tolerance: the limit that decides, in `unit`.
        note: what a reader must know besides.
        warning: what is wrong with the samples and what to do; said wherever the card is shown.
        curves: pairs (x, y) that a report may draw, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    metric: str
    value: float | None
    error: float | None = None
    floor: float | None = None
    floor_error: float | None = None
    baseline: float | None = None
    exact: float | None = None
    exact_error: float | None = None
    exact_source: Literal["exact", "reference", "truth"] | None = None
    pull: float | None = None
    p_value: float | None = None
    tolerance: float | None = None
    unit: str = "1"
    verdict: Verdict = "info"
    note: str = ""
    warning: str = ""
    curves: dict[str, Curve] = {}

    @property
    def alarming(self) -> bool:
        """Whether nothing decides this row, nor is said of it, and yet it differs beyond chance."""
        undecided = self.verdict == "info" and self.tolerance is None and not self.warning
        return undecided and self.p_value is not None and self.p_value < ALARM

    @property
    def departure(self) -> tuple[float, float]:
        """What rows are ordered by: how improbable they are, and how many sigma off."""
        p = 1.0 if self.p_value is None else self.p_value
        return -p, abs(self.pull or 0.0)

    @property
    def has_warning(self) -> bool:
        """Whether a reader is to look at this row, whatever its verdict."""
        return bool(self.warning) or self.alarming

    @field_validator(
        *("value", "error", "floor", "floor_error", "baseline", "exact", "exact_error"),
        *("pull", "p_value", "tolerance"),
    )
    @classmethod
    def _finite(cls, number: float | None) -> float | None:
        return number if number is not None and math.isfinite(number) else None


class Scorecard(BaseModel):
    """All rows of a validation, and where they come from.

    >>> row = Row(name="m", metric="means", value=0.1, error=0.2, tolerance=1.0, verdict="pass")
    >>> print(Scorecard(rows=(row,)))
    Scorecard: pass
    observable  value     floor  exact  pull  verdict
    m           0.10(20)                      pass
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[Row, ...]
    provenance: dict[str, Any] = {}

    @property
    def verdict(self) -> Verdict:
        """Return "fail" if any row failed, "pass" if any passed, "info" if none was judged."""
        verdicts = {row.verdict for row in self.rows}
        return "fail" if "fail" in verdicts else "pass" if "pass" in verdicts else "info"

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the samples, a sentence each; rows that only differ share one."""
        stated = [f"{row.name}: {row.warning}" for row in self.rows if row.warning]
        differ = [row for row in self.rows if row.alarming]
        differ.sort(key=lambda row: row.departure, reverse=True)
        if not differ:
            return stated
        names = ", ".join(row.name for row in differ[:5])
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        without = sum(row.tolerance is None and row.p_value is not None for row in self.rows)
        return [
            *stated,
            f"{len(differ)} of {without} rows without a limit differ beyond chance "
            f"(p < {ALARM:g}): {names}{more}",
        ]

    @property
    def headline(self) -> str:
        """The verdict with the number of rows that are a warning, as in "pass, 2 warnings"."""
        n = sum(row.has_warning for row in self.rows)
        return self.verdict + ("" if n == 0 else f", {n} warning{'s' if n > 1 else ''}")

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> str:
        """Return JSON, without NaN or infinities; verdict and warnings are written for readers."""
        stated = {"verdict": self.verdict, "warnings": self.warnings}
        content = {**stated, **self.model_dump(mode="json")}
        return json.dumps(content, indent=1, allow_nan=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> Scorecard:
        """Inverse of `to_json`; raises `FormatError` for anything that is not a scorecard."""
        content = parse_json(text, "not a scorecard: it")
        try:
            if not isinstance(content, dict):
                raise ValueError("it is not a JSON object")
            stated = content.pop("verdict", None)
            warnings = content.pop("warnings", None)
            card = cls.model_validate(content)
        except (ValueError, ValidationError) as error:
            reason = " ".join(str(error).split())[:300]
            raise FormatError(f"not a scorecard: {reason}; run `physgen validate` again") from error
        if stated != card.verdict:
            raise FormatError(
                f"a scorecard that says {stated!r} but whose rows say {card.verdict!r}: it was "
                "edited; run `physgen validate` again"
            )
        if warnings != card.warnings:
            raise FormatError(
                "a scorecard whose warnings are not those of its rows: it was edited; run `physgen "
                "validate` again"
            )
        return card

    def _repr_html_(self) -> str:
        """Return verdict, rows and warnings as a table, for notebooks."""
        rows = [*map(_texts, self.rows), *(["warning", printable(w)] for w in self.warnings)]
        return html_table(f"Scorecard: {self.headline}", rows, COLUMNS)

    def __str__(self) -> str:
        """Return the verdict, and the rows that matter most as a table."""
        shown = rows_in_short(self)
        lines = [f"Scorecard: {self.headline}", *text_table(map(_texts, shown), COLUMNS)]
        if len(shown) < len(self.rows):
            lines.append(f"and {len(self.rows) - len(shown)} more in the report")
        return "\n".join(lines)


def _texts(row: Row) -> list[str]:
    cells = row_cells(row)
    return [printable(cells[column]) for column in COLUMNS]


def verdict_within(bias: float, error: float, limit: float | None, floor: float = 0.0) -> Verdict:
    """Judge |bias| + 2 sigma against a stated limit; what is not finite fails.

    Samples so few that even a perfect surrogate would not pass (floor + 2 sigma is above the limit)
    show nothing as long as the bias may lie within the limit: neither pass nor fail.

    Args:
        bias: of what should be 0, or a distance.
        error: its standard deviation.
        limit: what |bias| may be; `None` is none.
        floor: what a perfect surrogate would get from as many samples.
    """
    if limit is None:
        return "info"
    if abs(bias) + 2 * error <= limit:
        return "pass"
    unresolved = floor + 2 * error > limit and abs(bias) - floor - 2 * error <= limit
    return "info" if unresolved else "fail"


def floor_of(scores: Mapping[Role, Estimate]) -> float:
    """Return what a perfect surrogate's score would be, 0 where that was not measured."""
    return scores["floor"].value if "floor" in scores else 0.0


def at_least(value: float, error: float, minimum: float | None) -> Verdict:
    """Judge value - 2 sigma of what must not be small; what is not finite fails."""
    if minimum is None:
        return "info"
    return "pass" if value - 2 * error >= minimum else "fail"


def row_by_role(name: str, metric: str, scores: Mapping[Role, Estimate], **content: Any) -> Row:
    """Return the row of the generated sample's score, beside those of the floor and the baseline.

    Args:
        name: of the row.
        metric: which makes it.
        scores: by role.
        content: what else the row says.
    """
    ours, floor, baseline = scores["generated"], scores.get("floor"), scores.get("baseline")
    return Row(
        name=name,
        metric=metric,
        value=ours.value,
        error=ours.error,
        floor=None if floor is None else floor.value,
        floor_error=None if floor is None else floor.error,
        baseline=None if baseline is None else baseline.value,
        **content,
    )
