"""What validation finds: rows of (value, error, floor, exact, pull, verdict), as JSON or a table.

How a row is judged (a pull alone grows with the number of samples, so it cannot judge a surrogate
that is known to be approximate):

- a stated tolerance decides: |bias| + 2 sigma <= limit for what should equal something,
  value + 2 sigma <= limit for a distance, value <= limit for an AUC;
- samples corrected to be exact are tested: p-values of pulls and of permutation tests, with Holm's
  step-down correction over the whole card (Holm 1979), at a family-wise level of three sigma;
- all else informs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from physgen.errors import FormatError, TooFewIndependent, printable
from physgen.html import html_table
from physgen.io.documents import parse_json

if TYPE_CHECKING:
    from rich.table import Table

    from physgen.validation.comparison import Comparison, Role

Verdict = Literal["pass", "fail", "info"]
Curve = tuple[tuple[float, ...], tuple[float, ...]]

SIGNIFICANCE = math.erfc(3 / math.sqrt(2))
"""Family-wise probability of failing a perfect sampler: two-sided three sigma."""


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
        concern: what is wrong with the samples and what to do; said wherever the card is shown.
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
    concern: str = ""
    curves: dict[str, Curve] = {}

    @field_validator(
        *("value", "error", "floor", "floor_error", "baseline", "exact", "exact_error"),
        *("pull", "p_value", "tolerance"),
    )
    @classmethod
    def _finite(cls, number: float | None) -> float | None:
        return number if number is not None and math.isfinite(number) else None


class Scorecard(BaseModel):
    """All rows of a validation, and where they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[Row, ...]
    provenance: dict[str, Any] = {}

    @property
    def verdict(self) -> Verdict:
        """Return "fail" if any row failed, "pass" if any passed, "info" if none was judged."""
        verdicts = {row.verdict for row in self.rows}
        return "fail" if "fail" in verdicts else "pass" if "pass" in verdicts else "info"

    @property
    def concerns(self) -> list[str]:
        """What is wrong with the samples, a sentence each."""
        return [f"{row.name}: {row.concern}" for row in self.rows if row.concern]

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> str:
        """Return JSON, without NaN or infinities; the overall verdict is written for readers."""
        content = {"verdict": self.verdict, **self.model_dump(mode="json")}
        return json.dumps(content, indent=1, allow_nan=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> Scorecard:
        """Inverse of `to_json`; raises `FormatError` for anything that is not a scorecard."""
        content = parse_json(text, "not a scorecard: it")
        try:
            if not isinstance(content, dict):
                raise ValueError("it is not a JSON object")
            stated = content.pop("verdict", None)
            card = cls.model_validate(content)
        except (ValueError, ValidationError) as error:
            said = " ".join(str(error).split())[:300]
            raise FormatError(f"not a scorecard: {said}; run `physgen validate` again") from error
        if stated != card.verdict:
            raise FormatError(
                f"a scorecard that says {stated!r} but whose rows say {card.verdict!r}: it was "
                "edited; run `physgen validate` again"
            )
        return card

    def _repr_html_(self) -> str:
        """Return verdict, rows and concerns as a table, for notebooks."""
        columns = ("observable", "value", "floor", "exact", "pull", "verdict")
        cells = [row_cells(row) for row in self.rows]
        rows = [[printable(row[column]) for column in columns] for row in cells]
        rows += [["concern", printable(concern)] for concern in self.concerns]
        return html_table(f"Scorecard: {self.verdict}", rows, columns)

    def __str__(self) -> str:
        """Return the table of `summary` as text."""
        from rich.console import Console

        console = Console(width=110, color_system=None)
        with console.capture() as capture:
            console.print(summary({"": self}))
        return capture.get()


def summary(cards: Mapping[str, Scorecard]) -> Table:
    """Return one table of several scorecards, for a terminal of 100 columns.

    It has what was judged, means beside a known value or beside nothing, the classifiers, and
    whatever is more than three sigma off. Everything else is in the report.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    columns = ("observable", "value", "floor", "exact", "pull", "verdict")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in columns:
        table.add_column(column, justify="left" if column == "observable" else "right")
    colour = {"pass": "green", "fail": "bold red", "info": "dim"}
    for title, card in cards.items():
        verdict = f"[{colour[card.verdict]}]{card.verdict}[/]"
        if title:
            table.add_section()
            table.add_row(f"[bold]{escape(printable(title))}[/]", "", "", "", "", verdict)
        shown = [row for row in card.rows if _prominent(row)]
        for row in shown:
            cells = row_cells(row)
            texts = [escape(printable(cells[column])) for column in columns]
            texts[-1] = f"[{colour[row.verdict]}]{row.verdict}[/]"
            table.add_row(*texts)
        if len(shown) < len(card.rows):
            table.add_row(f"[dim]and {len(card.rows) - len(shown)} more in the report[/]")
    return table


def _prominent(row: Row) -> bool:
    return (
        row.verdict != "info"
        or row.exact_source in ("exact", "reference")
        or (row.metric == "means" and row.exact_source is None)
        or row.metric not in ("means", "histograms", "correlations")
        or abs(row.pull or 0.0) > 3
    )


class Metric(Protocol):
    """One kind of question a scorecard answers."""

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return the rows, judged as far as their own tolerance goes."""
        ...


def judge(
    comparison: Comparison,
    metrics: Sequence[Metric],
    *,
    provenance: Mapping[str, Any] | None = None,
) -> Scorecard:
    """Ask every metric, and judge what only the whole card can.

    A metric that needs more independent samples than there are gives no number, and says so.
    """
    rows = [row for metric in metrics for row in _rows(metric, comparison)]
    if comparison.corrected:
        rows = judge_family(rows)
    return Scorecard(rows=tuple(rows), provenance=dict(provenance or {}))


def _rows(metric: Metric, comparison: Comparison) -> list[Row]:
    try:
        return metric.rows(comparison)
    except TooFewIndependent as error:
        name = type(metric).__name__
        return [Row(name=name, metric=name, value=None, concern=str(error))]


def judge_family(rows: Iterable[Row]) -> list[Row]:
    """Test all rows that have a p-value and no stated tolerance as one family (Holm)."""
    result = list(rows)
    family = [i for i, r in enumerate(result) if r.p_value is not None and r.verdict == "info"]
    rejected = holm([result[i].p_value or 0.0 for i in family], SIGNIFICANCE)
    for i, reject in zip(family, rejected, strict=True):
        result[i] = result[i].model_copy(update={"verdict": "fail" if reject else "pass"})
    return result


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Return which hypotheses are rejected at family-wise `level` (Holm 1979, step-down)."""
    order = np.argsort(p_values)
    rejected = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def within(bias: float, error: float, limit: float | None, floor: float = 0.0) -> Verdict:
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


def at_least(value: float, error: float, minimum: float | None) -> Verdict:
    """Judge value - 2 sigma of what must not be small; what is not finite fails."""
    if minimum is None:
        return "info"
    return "pass" if value - 2 * error >= minimum else "fail"


def beside(
    name: str, metric: str, value: Mapping[Role, float], error: Mapping[Role, float], **content: Any
) -> Row:
    """Return the row of the generated sample's score, beside those of the floor and the baseline.

    Args:
        name: of the row.
        metric: which makes it.
        value: by role.
        error: by role.
        content: what else the row says.
    """
    return Row(
        name=name,
        metric=metric,
        value=value["generated"],
        error=error["generated"],
        floor=value.get("floor"),
        floor_error=error.get("floor"),
        baseline=value.get("baseline"),
        **content,
    )


def row_cells(row: Row) -> dict[str, str]:
    """Return the texts of a row by column: what terminal and report print alike."""
    unit = "" if row.unit == "1" else f" {row.unit}"
    known = row.exact is not None and row.exact_source is not None
    exact = with_error(row.exact, row.exact_error) if known else ""
    # What is tested by permutation has a p-value in the place of a pull.
    chance = "" if row.p_value is None else f"p={row.p_value:.2g}"
    exact += {"reference": " ref", "truth": " truth"}.get(row.exact_source or "", "")
    return {
        "observable": row.name,
        "value": with_error(row.value, row.error) + unit,
        "floor": with_error(row.floor, row.floor_error) if row.floor is not None else "",
        "baseline": f"{row.baseline:.3g}" if row.baseline is not None else "",
        "exact": exact if known else "",
        "pull": f"{row.pull:+.1f}" if row.pull is not None else chance,
        "limit": f"{row.tolerance:.3g}" if row.tolerance is not None else "",
        "verdict": row.verdict,
    }


def with_error(value: float | None, error: float | None) -> str:
    """Print a number to two digits of its error: 0.1434(12), or 1.230(12)e-06 where it is small.

    Errors above 10 are written out, as in 5120(34); without an error, five digits are shown.
    """
    if value is None:
        return "none"
    if error is None or error <= 0 or not math.isfinite(error):
        return f"{value:.5g}"
    largest = max(abs(value), error)
    exponent = math.floor(math.log10(largest))
    if exponent < -3 or exponent > 5:
        return f"{_brackets(value / 10.0**exponent, error / 10.0**exponent)}e{exponent:+03d}"
    return _brackets(value, error)


def _brackets(value: float, error: float) -> str:
    digits = 1 - math.floor(math.log10(error))
    if round(error * 10**digits) >= 100:  # 0.0996 is 0.10, not 0.100.
        digits -= 1
    if digits <= 0:
        scale = 10**-digits
        return f"{round(value / scale) * scale:d}({round(error / scale) * scale:d})"
    if error >= 1:
        return f"{value:.{digits}f}({error:.{digits}f})"
    return f"{value:.{digits}f}({round(error * 10**digits):d})"
