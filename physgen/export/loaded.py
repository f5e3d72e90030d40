"""An exported surrogate in Python, run by onnxruntime: no torch, and nothing of its training."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from physgen.arguments import user_path, whole
from physgen.errors import DomainError, InputError, printable, suggest
from physgen.export import card as cards
from physgen.export.needed import needed
from physgen.export.noise import normal
from physgen.tables import html_table

AT_ONCE = 4096
"""Rows that are run together, which bounds the memory."""


class Samples(NamedTuple):
    """What an exported surrogate returns.

    Attributes:
        x: (n, *shape), in the units of the card.
        outside: (n,), which are of conditions outside the domain: nothing is known of these.

    >>> samples = Samples(np.array([[1.5], [2.5]]), np.array([False, True]))
    >>> samples.x[~samples.outside]
    array([[1.5]])
    """

    x: NDArray[Any]
    outside: NDArray[np.bool_]


class ExportedSurrogate:
    """A model and its card.

    Attributes:
        card: what it is, in which units, where it is valid.

    Args:
        folder: that `physgen export --to onnx` wrote.
        threads: of onnxruntime within an operator; 0 is all cores.
        block: see `load`.
    """

    def __init__(self, folder: Path, threads: int = 1, block: int | None = None) -> None:
        runtime = needed("onnxruntime")
        self._block = block
        self.card = cards.read(folder)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        # It warns of constants that it does not fold.
        options.log_severity_level = 3
        model = folder / self.card.model.file
        providers = ["CPUExecutionProvider"]
        self._session = runtime.InferenceSession(str(model), options, providers=providers)
        self._kinds = {one.name: np.dtype(one.dtype) for one in self.card.inputs}
        (self._real,) = {kind for kind in self._kinds.values() if kind.kind == "f"} or {
            np.dtype(self.card.outputs[0].dtype)
        }

    def __repr__(self) -> str:
        """Say what is sampled, and how it was judged."""
        scores = "not scored" if self.card.scores is None else self.card.scores.verdict
        given = ", ".join(f"{one.name} [{one.unit}]" for one in self.card.conditions)
        shape = "x".join(map(str, self.card.outputs[0].shape))
        given = f", given {given}" if given else ""
        return f"<ExportedSurrogate: {self.card.recipe}, {shape}{given}, {scores}>"

    def _repr_html_(self) -> str:
        """Return what it samples, where it is valid and how it was judged, for notebooks."""
        card = self.card
        facts = {
            "recipe": f"{card.recipe} ({card.surrogate}, {card.model.parameters:,} parameters)",
            "samples": f"{card.outputs[0].shape}: "
            + ", ".join(f"{one.name} [{one.unit}]" for one in card.outputs[0].quantities),
            "noise": f"{card.noise.rule}, {card.noise.shape}",
            "verdict": "not scored" if card.scores is None else card.scores.verdict,
        }
        for one in card.conditions:
            ends = f"[{one.low}, {one.high}]" if one.labels is None else str(one.labels)
            facts[f"condition {one.name}"] = ends if one.unit == "1" else f"{ends} {one.unit}"
        rows = [(key, printable(value)) for key, value in facts.items()]
        return html_table("Exported surrogate", rows)

    def sample(
        self,
        n: int,
        condition: Mapping[str, ArrayLike] | ArrayLike | None = None,
        *,
        seed: int | NDArray[np.int64] | None = None,
        noise: ArrayLike | None = None,
        allow_outside_domain: bool = False,
    ) -> Samples:
        """Return `n` samples in physical units.

        Args:
            n: how many.
            condition: in the card's units: by name, a number or `n` of them each; or (n, C), or
                (C,) for all samples, in the card's order.
            seed: one less than 2^31, for seeds seed * 2^32 + i of samples i; or `n` seeds, such as
                numbers of events: a sample depends on its own seed alone. Whether the model draws
                its noise or is given it, the same seed means the same noise.
            noise: (n, *noise shape), standard normal, in the place of a seed, for a model that is
                given it.
            allow_outside_domain: accept conditions outside their domains; `outside` tells which.

        Raises:
            DomainError: a condition is unknown, missing or outside its domain.
            InputError: `n`, seed or noise cannot be understood.
        """
        n = whole("n", n)
        if n < 0:
            raise InputError(f"n = {n}: how many samples, 0 or more")
        given = self._conditions(condition, n)
        outside = self._outside(given)
        if outside.any() and not allow_outside_domain:
            self._refuse(given)
        seeds = self._seeds(n, seed, noise)
        drawn = None if noise is None else self._checked(noise, n)
        output = self.card.outputs[0]
        samples = np.empty((n, *output.shape), output.dtype)
        step = self._block or AT_ONCE
        for first in range(0, n, step):
            # The last row fills the block.
            rows = np.arange(first, first + step if self._block else min(first + step, n))
            rows = rows.clip(max=n - 1)
            part = self._run(given[rows], seeds[rows], None if drawn is None else drawn[rows])
            samples[first : first + step] = part[: n - first]
        return Samples(samples, outside)

    def _run(
        self, given: NDArray[Any], seeds: NDArray[np.int64], noise: NDArray[Any] | None
    ) -> NDArray[Any]:
        card, feed = self.card, dict[str, NDArray[Any]]()
        if card.noise.rule == "seed":
            feed["seed"] = seeds[:, None]
        else:
            size = int(np.prod(card.noise.shape))
            flat = normal(seeds, size) if noise is None else noise.reshape(len(given), size)
            feed["noise"] = flat.reshape(len(given), *card.noise.shape)
        names = [one.name for one in card.conditions]
        feed |= {name: given[:, [i]] for i, name in enumerate(names)}
        if card.inputs[0].role == "vector":
            columns = [feed["noise"].reshape(len(given), -1), given]
            feed = {card.inputs[0].name: np.concatenate(columns, 1)}
        feed = {name: value.astype(self._kinds[name]) for name, value in feed.items()}
        samples: NDArray[Any] = self._session.run([card.outputs[0].name], feed)[0]
        return samples

    def _conditions(
        self, condition: Mapping[str, ArrayLike] | ArrayLike | None, n: int
    ) -> NDArray[np.float64]:
        """Return (n, C) conditions in the card's order."""
        names = [one.name for one in self.card.conditions]
        units = ", ".join(f"{one.name} [{one.unit}]" for one in self.card.conditions) or "none"
        if condition is None:
            if names:
                raise DomainError(f"these samples need conditions: {units}")
            return np.empty((n, 0))
        if isinstance(condition, Mapping):
            for name in condition:
                if name not in names:
                    raise DomainError(f"no condition is called {name!r}{suggest(name, names)}")
            missing = [name for name in names if name not in condition]
            if missing:
                raise DomainError(f"condition {missing[0]} is missing: these are {units}")
            columns = [np.asarray(condition[name], np.float64) for name in names]
            try:
                return np.stack([np.broadcast_to(column, (n,)) for column in columns], 1)
            except ValueError as error:
                raise InputError(
                    f"conditions of shapes {[c.shape for c in columns]}: a number or {n} each"
                ) from error
        try:
            return np.broadcast_to(np.asarray(condition, np.float64), (n, len(names)))
        except ValueError as error:
            raise InputError(
                f"condition of shape {np.shape(condition)}: expected ({n}, {len(names)}), the "
                f"columns being {units}"
            ) from error

    def _outside(self, given: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return (n,), which rows lie outside the domain."""
        outside = np.zeros(len(given), bool)
        for one, column in zip(self.card.conditions, given.T, strict=True):
            outside |= ~_inside(one, column)
        return outside

    def _refuse(self, given: NDArray[np.float64]) -> None:
        """Raise `DomainError` of the first condition outside its domain."""
        for one, column in zip(self.card.conditions, given.T, strict=True):
            beyond = np.flatnonzero(~_inside(one, column))
            if len(beyond):
                unit = "" if one.unit == "1" else f" {one.unit}"
                ends = f"[{one.low}, {one.high}]{unit}" if one.labels is None else str(one.labels)
                raise DomainError(
                    f"condition {one.name} = {column[beyond[0]]:g}{unit} (row {beyond[0]}) is "
                    f"outside its domain {ends}, where nothing is known of the samples; "
                    "allow_outside_domain=True draws them nevertheless, and marks them"
                )

    def _seeds(
        self, n: int, seed: int | NDArray[np.int64] | None, noise: ArrayLike | None
    ) -> NDArray[np.int64]:
        if (seed is None) == (noise is None):
            raise InputError("sample takes either a seed or noise")
        if seed is None:
            if self.card.noise.rule == "seed":
                raise InputError("this model draws its noise inside: give a seed")
            return np.zeros(n, np.int64)
        if isinstance(seed, np.ndarray):
            if seed.shape != (n,) or seed.dtype.kind not in "iu":
                raise InputError(f"seeds of shape {seed.shape}, {seed.dtype}: {n} integers wanted")
            return seed.astype(np.int64)
        number = whole("seed", seed)
        if not 0 <= number < 2**31:
            raise InputError(f"seed = {number}: from 0 to 2^31 - 1, or one 64-bit integer a sample")
        return np.int64(number) * 2**32 + np.arange(n, dtype=np.int64)

    def _checked(self, noise: ArrayLike, n: int) -> NDArray[Any]:
        values = np.asarray(noise, self._real)
        if values.shape != (n, *self.card.noise.shape):
            raise InputError(
                f"noise of shape {values.shape}: expected {(n, *self.card.noise.shape)}"
            )
        finite = np.isfinite(values).reshape(n, -1).all(1)
        if not finite.all():
            raise InputError(
                f"noise of row {np.flatnonzero(~finite)[0]} is not finite: standard normal numbers "
                "are wanted"
            )
        return values


def load(
    folder: str | PathLike[str], threads: int = 1, *, block: int | None = None
) -> ExportedSurrogate:
    """Return an exported surrogate, checked against its card.

    Args:
        folder: that `physgen export --to onnx` wrote.
        threads: of onnxruntime within an operator; 0 is all cores.
        block: rows that the model is run with at a time, as many every time, so that the bytes of a
            sample do not depend on how many others are asked for; `None` is as many as these.

    Raises:
        CheckpointError: card or model is missing, was changed, or is of another version.
        InputError: onnxruntime is not installed.
    """
    return ExportedSurrogate(user_path(folder), threads, block)


def _inside(one: cards.Condition, column: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where a column of conditions lies in its domain; NaN does not."""
    low, high = one.ends
    inside = np.isfinite(column) & (column >= low) & (column <= high)
    return inside if one.labels is None else inside & np.isin(column, one.labels)
