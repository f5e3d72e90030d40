"""One theory at several couplings, which are then the conditions of its samples.

A coupling of a system (see its `couplings`) may be a list of numbers: `temperature: [2.0, 2.3]` of
an Ising model. Lists of several couplings are read side by side, so that each row is a point. What
is measured and what is known exactly stands at every point: "E/N at temperature=2". A surrogate of
such a system can be asked for any coupling in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.io.conditioned import Conditioned
from physgen.io.source import Source
from physgen.io.writer import Append
from physgen.systems.base import Derived, Distribution, HasDistributions

_SAME = 1e-5
"""Relative difference of couplings below which they are the same: files may be in float32."""
_MOST = 1024
"""Different couplings that are simulated at once: each needs chains of its own."""

Value = TypeVar("Value")


class Theory(Protocol):
    """A system of which couplings may vary from sample to sample."""

    couplings: ClassVar[tuple[Variable, ...]]
    """Those parameters of the constructor that may be lists."""

    @property
    def schema(self) -> Schema:
        """What one sample is."""
        ...

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Quantities made of means of `observables`."""
        ...

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return per-sample quantities by name."""
        ...

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,)."""
        ...

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return (B, F)."""
        ...

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Return `n` samples."""
        ...

    def exact(self) -> dict[str, float]:
        """Return exact values by name."""
        ...

    def reference(self) -> dict[str, tuple[float, float]]:
        """Return (value, error) by name."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        ...

    def open(self, path: Path, *, varying: Sequence[str] = ()) -> Source:
        """Open a file; what it says of the `varying` couplings is not compared."""
        ...

    def writer(
        self,
        path: Path,
        n: int,
        facts: Mapping[str, Any] | None = None,
        *,
        varying: Sequence[str] = (),
    ) -> AbstractContextManager[Append]:
        """Open an output; conditions are columns that are called as the `varying` couplings."""
        ...


class Family:
    """A theory at several points in the space of its couplings.

    Args:
        theory: makes the system at given couplings.
        couplings: those that vary, the conditions of the samples.
        points: (K, C) values of the couplings.

    Raises:
        DomainError: there are no points, two are the same, or there is no such theory at one.

    >>> from physgen.systems.ising import Ising
    >>> from physgen.systems.family import family
    >>> heated = family(Ising, {"shape": (4, 4), "temperature": (2.0, 3.0)})
    >>> [name for name in heated.exact() if name.startswith("E/N")]
    ['E/N at temperature=2', 'E/N at temperature=3']
    """

    def __init__(
        self,
        theory: Callable[..., Theory],
        couplings: Sequence[Variable],
        points: Sequence[Sequence[float]],
    ) -> None:
        self._theory, self.couplings = theory, tuple(couplings)
        self._names = tuple(variable.name for variable in couplings)
        self._points = torch.tensor(points, dtype=torch.float64).reshape(-1, len(couplings))
        self.members = {self.label(point): self._at(point) for point in self._points}
        if len(self.members) < len(self._points) or not self.members:
            raise DomainError(
                f"system.{self._names[0]}: {len(self._points)} points of which "
                f"{len(self.members)} differ; list each once"
            )
        self._first = next(iter(self.members.values()))

    @property
    def schema(self) -> Schema:
        """One sample, and the couplings as its conditions."""
        return replace(self._first.schema, condition=self.couplings)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest value (C,) of each coupling among the points."""
        return self._points.amin(0), self._points.amax(0)

    def label(self, point: Tensor) -> str:
        """Return what a point (C,) is called: "lam=5", the name of its member if it is one."""
        values = zip(self._names, point.tolist(), strict=True)
        return ", ".join(f"{name}={value:.6g}" for name, value in values)

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Those of the theory at every point."""
        return {
            f"{name} at {label}": Derived(
                tuple(f"{mean} at {label}" for mean in d.means), d.function
            )
            for label, member in self.members.items()
            for name, d in member.derived.items()
        }

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the action of (B, *shape) samples at (B, C) couplings."""
        given = self._given(condition, len(x))
        result: Tensor | None = None
        for point, rows in _groups(given):
            part = self._at(point).action(x[rows.to(x.device)])
            if result is None:
                result = part.new_zeros(len(x))
            result = result.index_put((rows.to(x.device),), part)
        return x.new_zeros(0) if result is None else result

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return those of the theory at every point, (B,) or (B, bins), NaN at other couplings."""
        given = self._given(batch.condition, len(batch))
        result: dict[str, Tensor] = {}
        for point, (label, member) in zip(self._points, self.members.items(), strict=True):
            here = ((given - point).abs() <= _SAME * point.abs() + 1e-12).all(1).to(batch.x.device)
            for name, value in member.observables(batch[here]).items():
                whole = value.new_full((len(batch), *value.shape[1:]), math.nan)
                whole[here] = value
                result[f"{name} at {label}"] = whole
        return result

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return those of the theory at its first point, (B, F), behind the (B, C) couplings."""
        features = self._first.features(batch, level)
        given = self._given(batch.condition, len(batch))
        return torch.cat([given.to(features), features], 1)

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` samples at (n, C) couplings, by default at all points in turns.

        Chains of different couplings are different ones.

        Raises:
            DomainError: there is no such theory, or more than 1024 couplings are asked for.
        """
        if condition is None:
            condition = self._points[torch.arange(n) % len(self._points)]
        given = self._given(condition, n)
        parts, order, chains = [], [], 0
        for number, (point, rows) in enumerate(_groups(given)):
            if number == _MOST:
                raise DomainError(
                    f"more than {_MOST} different values of {', '.join(self._names)}: each needs "
                    "Markov chains of its own; ask for fewer"
                )
            key = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            part = self._at(point).simulate(len(rows), key)
            if part.chain is not None:
                renumbered = part.chain + chains
                part, chains = part.replace(chain=renumbered), int(renumbered.max()) + 1
            parts.append(part)
            order.append(rows)
        if not parts:
            return self._first.simulate(0, seed).replace(condition=given)
        return Batch.concatenate(parts)[torch.cat(order).argsort()].replace(condition=given)

    def exact(self) -> dict[str, float]:
        """Return what is known exactly at every point."""
        return dict(self._everywhere(lambda member: member.exact()))

    def distributions(self) -> dict[str, Distribution]:
        """Return what distributions are known exactly, at every point."""
        return dict(
            self._everywhere(
                lambda member: (
                    member.distributions() if isinstance(member, HasDistributions) else {}
                )
            )
        )

    def reference(self) -> dict[str, tuple[float, float]]:
        """Return published values at every point."""
        return dict(self._everywhere(lambda member: member.reference()))

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return self._first.suffixes

    def open(self, path: Path) -> Source:
        """Open a file whose rows, or which as a whole, says at which couplings it was made."""
        return Conditioned(self._first.open(path, varying=self._names), path, self.couplings)

    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Append]:
        """Write samples piece by piece, each coupling as a column of its name."""
        return self._first.writer(path, n, facts, varying=self._names)

    def _everywhere(
        self, of: Callable[[Theory], Mapping[str, Value]]
    ) -> Iterator[tuple[str, Value]]:
        for label, member in self.members.items():
            for name, value in of(member).items():
                yield f"{name} at {label}", value

    def _at(self, point: Tensor) -> Theory:
        return self._theory(**dict(zip(self._names, point.tolist(), strict=True)))

    def _given(self, condition: Tensor | None, n: int) -> Tensor:
        """Return (n, C) couplings on the CPU, in double precision."""
        if condition is None or condition.shape != (n, len(self._names)):
            shape = None if condition is None else tuple(condition.shape)
            raise DomainError(
                f"conditions of shape {shape}: expected ({n}, {len(self._names)}), the columns "
                f"being {', '.join(self._names)}"
            )
        return condition.detach().to("cpu", torch.float64)


def refuse_lists(system: Any) -> None:
    """Raise `DomainError` if a coupling of a system at one point is a list of several."""
    for variable in type(system).couplings:
        if not isinstance(getattr(system, variable.name), Real):
            name = type(system).__name__
            raise DomainError(
                f"{variable.name} of {name} is one number; several make a family, "
                f"physgen.systems.family.family({name}, {{'{variable.name}': [...], ...}})"
            )


def refuse_condition(condition: Tensor | None, system: object) -> None:
    """Raise `DomainError` if conditions are given to a system at one point of its couplings."""
    if condition is None:
        return
    couplings: tuple[Variable, ...] = getattr(type(system), "couplings", ())
    names = " or ".join(f"system.{variable.name}" for variable in couplings)
    remedy = f"make {names} a list, or leave the condition out" if names else "leave it out"
    raise DomainError(
        f"{type(system).__name__} of one set of couplings takes no condition; {remedy}"
    )


def family(theory: type[Any], options: Mapping[str, Any]) -> Any:
    """Construct a system, or the family of it where couplings are lists.

    Raises:
        DomainError: lists have different lengths.
    """
    varying = [
        variable
        for variable in getattr(theory, "couplings", ())
        if isinstance(options.get(variable.name), tuple)
    ]
    if not varying:
        return theory(**options)
    columns = {variable.name: options[variable.name] for variable in varying}
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"system.{name} has {len(c)}" for name, c in columns.items())
        raise DomainError(f"couplings are read side by side: {lengths}; make them equally many")
    fixed = {name: value for name, value in options.items() if name not in columns}

    def at(**point: float) -> Any:
        return theory(**fixed, **point)

    return Family(at, varying, list(zip(*columns.values(), strict=True)))


def _groups(given: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each different row of (N, C) and where it is, as ascending row numbers."""
    values, which = torch.unique(given, dim=0, return_inverse=True)
    for number, point in enumerate(values):
        yield point, (which == number).nonzero()[:, 0]
