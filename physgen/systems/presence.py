"""Rules such as "njets >= 2" that say when a column of a table is present."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence

from torch import Tensor

from physgen.batch import Schema
from physgen.errors import RecipeError, suggest

Rule = Callable[[Sequence[Tensor]], Tensor]
"""Maps the columns of a table, each (B,), to (B,): whether a column is present."""

_RULE = re.compile(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(-?[\d.]+(?:[eE][+-]?\d+)?)\s*")
_COMPARISONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def presence_rules(schema: Schema) -> list[Rule | None]:
    """Return the rule of every column, `None` for those that are always present.

    Raises:
        RecipeError: a rule cannot be read, or names a column that the table has not.
    """
    return [_rule(variable.present, schema.names) for variable in schema.variables]


def parsed(text: str) -> tuple[str, str, float] | None:
    """Return column, comparison and number of a rule, `None` if it is not of that form."""
    match = _RULE.fullmatch(text)
    if match is None:
        return None
    name, sign, number = match.groups()
    try:
        return name, sign, float(number)
    except ValueError:  # Such as "1.2.3".
        return None


def _rule(text: str | None, names: tuple[str, ...]) -> Rule | None:
    if text is None:
        return None
    result = parsed(text)
    if result is None:
        raise RecipeError(f"present: {text!r} is not of the form 'column >= number'")
    name, sign, value = result
    if name not in names:
        raise RecipeError(f"present: {text!r} names no column of the table{suggest(name, names)}")
    column, holds = names.index(name), _COMPARISONS[sign]
    return lambda columns: holds(columns[column], value)
