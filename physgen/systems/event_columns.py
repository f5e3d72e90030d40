"""What recipes and data set cards say of the columns of an event table, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from torch import Tensor

from physgen.batch import CONSTRAINED, Domain, Variable
from physgen.errors import RecipeError, suggest
from physgen.io.documents import shown
from physgen.io.source import Source, blocks
from physgen.sampling.manifold import wrapped
from physgen.systems.presence import parsed

_AZIMUTH = re.compile(r"(.*[_.\d])?(d|delta_?)?(phi|azimuth)(_?\d+)?", re.IGNORECASE)
"""Names of columns that may be azimuths, such as phi, jet1_phi, dphi."""
_ROUNDING = 1e-5
"""By how much an angle in single precision may lie beyond its end."""

_OPTIONS = ("unit", "domain", "dtype", "low", "high", "present")


def checked(fields: Sequence[str | Mapping[str, Any]], where: str) -> dict[str, dict[str, Any]]:
    """Return the options of every column by its name.

    Args:
        fields: columns, each a name or a mapping {name, unit, domain, dtype, low, high, present}.
        where: key, and file if it is not a recipe, in which they stand.

    Raises:
        RecipeError: a name is missing or taken, or an option is unknown or has a wrong value.
    """
    columns: dict[str, dict[str, Any]] = {}
    for field in fields:
        options = {"name": field} if isinstance(field, str) else dict(field)
        name = options.pop("name", None)
        if not isinstance(name, str) or name in columns:
            raise RecipeError(f"{where}: {shown(field)} has no name, or one that is taken")
        for key, value in options.items():
            if key not in _OPTIONS:
                raise RecipeError(f"{where}: unknown key {key!r} of {name}{suggest(key, _OPTIONS)}")
            fault = _fault(key, value)
            if fault is not None:
                raise RecipeError(f"{where}: {name} has {key} = {shown(value)}{fault}")
        bounds = {
            side: float(options[side]) for side in ("low", "high") if _is_stated(options, side)
        }
        columns[name] = options | bounds
    return columns


def described(
    name: str, options: Mapping[str, Any], found: Variable | None, where: str
) -> Variable:
    """Return a column by what is said of it, else by what the file says.

    Args:
        name: of the column.
        options: of it, checked.
        found: the column of the file, if it was looked at.
        where: key, and file if it is not a recipe, in which the options stand.

    Raises:
        RecipeError: its bounds leave no values.
    """
    known = {} if found is None else vars(found)
    dtype = options.get("dtype", known.get("dtype", "float32"))
    kind = np.dtype(dtype).kind
    domain: Domain = "binary" if kind == "b" else "integer" if kind in "iu" else "real"
    if known.get("domain", "real") != "real":
        domain = known["domain"]
    variable = Variable(**{**known, "domain": domain, **options, "name": name, "dtype": dtype})
    if variable.low is not None and variable.high is not None and variable.low > variable.high:
        raise RecipeError(
            f"{where}: {name} has low = {variable.low:g} above high = {variable.high:g}"
        )
    return variable


def all_described(
    columns: Mapping[str, Mapping[str, Any]], known: Sequence[Variable], where: str
) -> list[Variable]:
    """Return `described` of all columns; `known` are those of the file, if it was looked at."""
    by_name = {variable.name: variable for variable in known}
    return [described(name, o, by_name.get(name), where) for name, o in columns.items()]


def with_azimuths(
    items: Sequence[Variable], undecided: Container[str], source: Source, n_flat: int = 0
) -> list[Variable]:
    """Return columns, of which those of the undecided that are called and lie like azimuths are so.

    Args:
        items: the columns.
        undecided: names of those of which nobody said what values they take.
        source: of the values, which are read if there are such columns.
        n_flat: how many items are its first conditions.
    """
    asked = [
        column
        for column, item in enumerate(items)
        if item.name in undecided and may_be_azimuth(item)
    ]
    if not asked:
        return list(items)
    least, greatest = [math.inf] * len(asked), [-math.inf] * len(asked)
    for batch in blocks(source):
        x = batch.x if batch.mask is None else batch.x[batch.mask]
        for i, column in enumerate(asked):
            if column >= n_flat:
                values = x[:, column - n_flat]
            elif batch.condition is not None:
                values = batch.condition[:, column]
            if len(values):
                least[i] = min(least[i], float(values.amin()))
                greatest[i] = max(greatest[i], float(values.amax()))
    result = list(items)
    for column, low, high in zip(asked, least, greatest, strict=True):
        result[column] = as_azimuth(result[column], low, high)
    return result


def may_be_azimuth(variable: Variable) -> bool:
    """Return whether a column is called like an azimuth, in a unit that it may have."""
    named = _AZIMUTH.fullmatch(variable.name) is not None
    return named and variable.unit in ("1", "rad") and variable.dtype.startswith("float")


def as_azimuth(variable: Variable, least: float, greatest: float) -> Variable:
    """Return a column as an angle if its values lie in [-pi, pi] or [0, 2 pi], else as it is."""
    for low, high in ((-math.pi, math.pi), (0.0, 2 * math.pi)):
        if low - _ROUNDING <= least <= greatest <= high + _ROUNDING:
            return replace(variable, domain="angle", low=low, high=high)
    return variable


def comparisons(variables: Sequence[Variable], columns: Sequence[Tensor]) -> list[Tensor]:
    """Return differences, or log ratios, of all pairs of comparable columns, (B,) each.

    Comparable are real numbers of the same unit and type. Angles differ by the shorter way round;
    of what is never negative the ratio of x + 1 is taken.
    """
    pairs = []
    for i, a in enumerate(variables):
        for j, b in enumerate(variables[:i]):
            if a.unit != b.unit or a.domain != b.domain or a.dtype != b.dtype:
                continue
            if a.domain == "non-negative":
                pairs.append((columns[i] + 1).log() - (columns[j] + 1).log())
            elif a.domain == "real":
                pairs.append(columns[i] - columns[j])
            elif a.domain == "angle":
                pairs.append(wrapped(columns[i] - columns[j]))
    return pairs


def _is_stated(options: Mapping[str, Any], key: str) -> bool:
    return options.get(key) is not None


def _fault(key: str, value: Any) -> str | None:
    """Return what is wrong with the value of an option, `None` if nothing is."""
    if key in ("low", "high"):
        return None if value is None or _is_number(value) else ", which is not a number"
    if key == "present" and value is None:
        return None
    if not isinstance(value, str):
        return ", which is not text"
    if key == "domain" and value not in (known := set(get_args(Domain)) - set(CONSTRAINED)):
        return suggest(value, sorted(known))
    if key == "dtype" and not _is_numeric(value):
        return "; take one such as float32"
    if key == "present" and parsed(value) is None:
        return "; it is not of the form 'column >= number'"
    return None


def _is_number(value: Any) -> bool:
    """Return whether a bound is a number: YAML takes 1e3 and -1e1, which have no dot, for text."""
    try:
        return not math.isnan(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _is_numeric(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf"
    except (TypeError, ValueError, SyntaxError, OverflowError):
        return False
