"""Conditions as users give them: numbers by position or by name, or the rows of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from physgen.batch import Batch, Variable
from physgen.errors import DomainError, FormatError, InputError, suggest
from physgen.io.source import Source

Condition = ArrayLike | Tensor | Mapping[str, ArrayLike | Tensor] | Batch
"""Conditions in physical units: numbers in the order of the schema, or by name; or rows of a file,
whose event weights are then those of what is generated."""


def conditions(variables: Sequence[Variable], given: Condition | None, n: int) -> Tensor | None:
    """Return what a user gave as (n, C) conditions in the order of a surrogate's; `None` as it is.

    Args:
        variables: the conditions of a surrogate.
        given: by name, a number or `n` of them each, of classes also their names; or (n, C)
            numbers, (C,) for all samples, for one condition also (n,) or a number; or rows of a
            file.
        n: how many samples.

    Raises:
        DomainError: a name is unknown or missing, or there are not as many as samples.
        InputError: there are things other than numbers.
    """
    if given is None:
        return None
    if isinstance(given, Batch):
        given = given.condition
        if given is None:
            raise InputError("these rows have no conditions: read them by `Sampler.conditions_in`")
    names = [variable.name for variable in variables]
    if not names:
        raise DomainError("this surrogate was trained without conditions: leave `condition` out")
    fields = _fields(given)
    if fields is not None:
        for name in fields:
            if name not in names:
                raise DomainError(f"no condition is called {name!r}{suggest(str(name), names)}")
        missing = [name for name in names if name not in fields]
        if missing:
            raise DomainError(f"the condition {missing[0]!r} is missing: give {', '.join(names)}")
        columns = [_column(v.name, _numbered(v, fields[v.name]), n) for v in variables]
        return torch.stack(columns, 1)
    values = _numbers("condition", given)
    if values.ndim == 0 or (values.ndim == 1 and len(names) == 1):
        if values.ndim == 0 and len(names) > 1:
            raise DomainError(f"one number for {len(names)} conditions: give {', '.join(names)}")
        return _column(names[0], values, n)[:, None]
    if values.ndim == 1:
        values = values.expand(n, -1)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise DomainError(
            f"condition of shape {tuple(values.shape)}: expected (n, {len(names)}), the columns "
            f"being {', '.join(names)}"
        )
    if len(values) != n:
        raise DomainError(f"{len(values)} conditions for {n} samples: give one for each")
    return values


def rows_as_conditions(
    source: Source,
    variables: Sequence[Variable],
    *,
    of_samples: bool,
    rows: tuple[int, int] | None = None,
) -> Batch:
    """Return rows of a file as conditions, (N, 0) samples, with their event weights.

    Args:
        source: of the rows.
        variables: the conditions that are wanted.
        of_samples: whether the samples of the file are the conditions, and not its conditions.
        rows: which ones, (start, stop); all without.

    Raises:
        FormatError: it does not hold them all, or has no such rows.
    """
    given, weights = [], []
    if not len(source):
        raise FormatError(f"{source.name}: there are no events in it; name a file that has some")
    start, stop = rows or (0, len(source))
    if stop > len(source):
        raise FormatError(f"{source.name} has only {len(source)} rows, and row {stop - 1} is asked")
    for first in range(start, stop, source.block):
        batch = source.read(first, min(first + source.block, stop))
        columns = batch.x.flatten(1) if of_samples else batch.condition
        if columns is None or columns.shape[1] != len(variables):
            names = ", ".join(variable.name for variable in variables)
            raise FormatError(f"{source.name} does not hold all conditions: {names}")
        given.append(columns)
        weights += [] if batch.weight is None else [batch.weight]
    weight = torch.cat(weights) if weights else None
    return Batch(torch.empty(stop - start, 0), torch.cat(given), weight=weight)


def _fields(given: Any) -> Mapping[str, Any] | None:
    """Return conditions by name: those of a mapping, a data frame or a structured array."""
    if isinstance(given, Mapping):
        return given
    names = getattr(given, "columns", None)
    if names is None:
        names = getattr(getattr(given, "dtype", None), "names", None)
    return None if names is None else {name: given[name] for name in names}


def _numbered(variable: Variable, given: Any) -> Any:
    """Return the numbers of classes that are given by their names; all else as it is."""
    words = np.asarray(given) if variable.classes and not isinstance(given, Tensor) else None
    if words is None or words.dtype.kind not in "OU":
        return given
    for word in words.flat:
        if word not in variable.classes:
            raise DomainError(
                f"condition {variable.name} = {word}: no such class"
                f"{suggest(str(word), variable.classes)}"
            )
    return np.vectorize(variable.classes.index)(words)


def _column(name: str, given: Any, n: int) -> Tensor:
    """Return (n,) numbers of one condition: those given, or the one given for all."""
    values = _numbers(f"condition {name!r}", given)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim > 1:
        raise DomainError(f"condition {name!r} of shape {tuple(values.shape)}: expected (n,)")
    if values.numel() not in (1, n):
        raise DomainError(f"{values.numel()} conditions for {n} samples: give one for each")
    return values.expand(n)


def _numbers(name: str, given: Any) -> Tensor:
    """Return numbers in double precision, on the CPU."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
    try:
        values = np.asarray(given)
        if values.dtype.kind not in "fiub":
            raise TypeError(f"they are of type {values.dtype}")
        return torch.from_numpy(values.astype(np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: not numbers ({error}); give numbers or arrays") from error
