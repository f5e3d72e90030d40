"""A scorecard in print: which rows are shown, and their numbers with errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from physgen.validation.permutation import MOST

if TYPE_CHECKING:
    from physgen.validation.scorecard import Row, Scorecard

COLUMNS = ("observable", "value", "floor", "exact", "pull", "verdict")
"""What is shown of a row where there are 100 characters for it."""

MOST_ALARMS = 10
"""Rows shown in a terminal only because they differ beyond chance."""
FEWEST_ROWS = 5
"""Rows shown in a terminal at least, if so many have a pull."""


_MANY = (
    "means",
    "histograms",
    "correlations",
    "response",
    "copies",
    "values",
    "classifier-weights",
)
"""Metrics whose rows are shown in a terminal only if something is to be said of them."""


def rows_in_short(card: Scorecard) -> list[Row]:
    """Return what failed, what a limit decided, what has a warning, and the largest departures.

    Means beside a known value, or beside nothing, and the classifiers are always shown; of the rows
    that only differ beyond chance those that differ most; if all this is hardly anything, the
    largest pulls. Everything else is in the report.
    """
    alarms = [row for row in card.rows if row.alarming]
    alarms.sort(key=lambda row: row.departure, reverse=True)
    shown = {row.name for row in alarms[:MOST_ALARMS]}
    shown |= {row.name for row in card.rows if _prominent(row)}
    others = [row for row in card.rows if row.pull is not None and row.name not in shown]
    others.sort(key=lambda row: abs(row.pull or 0.0), reverse=True)
    shown |= {row.name for row in others[: max(0, FEWEST_ROWS - len(shown))]}
    return [row for row in card.rows if row.name in shown]


def _prominent(row: Row) -> bool:
    if row.verdict == "fail" or row.warning or row.tolerance is not None:
        return True
    return (
        not (row.metric in _MANY or row.name.startswith("N_equiv "))
        or row.exact_source in ("exact", "reference")
        or (row.metric == "means" and row.exact_source is None)
    )


def row_cells(row: Row) -> dict[str, str]:
    """Return the texts of a row by column: what terminal and report print alike."""
    unit = "" if row.unit == "1" else f" {row.unit}"
    known = row.exact is not None and row.exact_source is not None
    exact = with_error(row.exact, row.exact_error) if known else ""
    # What is tested by permutation has a p-value in the place of a pull.
    chance = "" if row.p_value is None else f"p={row.p_value:.2g}"
    if row.p_value is not None and math.isclose(row.p_value, 1 / (MOST + 1)):
        chance = f"p<={1 / MOST:.0e}"  # As far as so many relabellings can tell.
    exact += {"reference": " ref", "truth": " truth"}.get(row.exact_source or "", "")
    return {
        "observable": row.name,
        "value": with_error(row.value, row.error) + unit,
        "floor": with_error(row.floor, row.floor_error) if row.floor is not None else "",
        "baseline": f"{row.baseline:.3g}" if row.baseline is not None else "",
        "exact": exact if known else "",
        "pull": f"{row.pull:+.1f}" if row.pull is not None else chance,
        "limit": f"{row.tolerance:.3g}" if row.tolerance is not None else "",
        "verdict": row.verdict + (" !" if row.has_warning else ""),
    }


def with_error(value: float | None, error: float | None) -> str:
    """Print a number to two digits of its error: 0.1434(12), or 1.230(12)e-06 where it is small.

    Errors above 10 are written out, as in 5120(34); without an error, five digits are shown.
    """
    if value is None:
        return "none"
    if error is None or not math.isfinite(error) or error <= 1e-12 * abs(value):
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


def row_digits(row: Row) -> dict[str, str]:
    """Return the numbers of a row by column with more digits than `row_cells` has.

    >>> from physgen.validation.scorecard import Row
    >>> row_digits(Row(name="E/N", metric="means", value=-1.451234, error=0.00261))
    {'value': '-1.451234 ± 0.00261'}
    """
    pairs = {
        "value": (row.value, row.error),
        "floor": (row.floor, row.floor_error),
        "baseline": (row.baseline, None),
        "exact": (row.exact, row.exact_error),
        "limit": (row.tolerance, None),
    }
    digits = {
        column: f"{value:.7g}" if error is None else f"{value:.7g} ± {error:.3g}"
        for column, (value, error) in pairs.items()
        if value is not None
    }
    pull = [f"pull {row.pull:+.3f}"] if row.pull is not None else []
    pull += [f"p = {row.p_value:.3g}"] if row.p_value is not None else []
    return digits | ({"pull": ", ".join(pull)} if pull else {})
