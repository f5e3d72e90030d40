"""A surrogate as an ONNX model that maps noise and conditions to samples in physical units.

All transforms are inside, samplers are unrolled step by step, and the batch is dynamic. The inputs
of `model.onnx` are rows, (batch, ...): `noise`, or `seed`, and one input (batch, 1) a condition, by
its name, in physical units; or with `single_input` one `vector`, (batch, noise + conditions), as
Par04 of Geant4 calls its models. `card.json` beside it says all about them: `physgen.export.card`.
"""

from __future__ import annotations

import logging
import math
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from physgen.errors import InputError
from physgen.export import card as cards
from physgen.export.base import Trained
from physgen.export.describe import conditions_of, describe
from physgen.export.domain import OUTPUT, mark_outside
from physgen.export.needed import needed
from physgen.export.noise import draw_inside
from physgen.export.operators import TRANSLATED, decomposed
from physgen.surrogates.base import FromNoise, Surrogate

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""Of operators; onnxruntime 1.18 and later run it."""
MODEL = "model.onnx"
LARGE = 4000
"""Operators from which on torch would take minutes to optimise a graph, as onnxruntime does too."""
TRIED = 3
"""Rows that the export is traced with."""
COMPARED = (1, 256)
"""Rows that are compared with torch: a few do not show how far single precision is off."""
ROUNDED, MOST_ROUNDED = 1e-4, 0.01
"""Difference from torch, in units of the largest entry of the samples, that at most such a share
of the entries may exceed: single precision, and integers that are rounded another way."""


class ONNX:
    """Export to ONNX.

    Args:
        noise: "input": the host gives standard normal noise; "seed": it gives an integer a sample,
            of which the model draws it (`physgen.export.noise`).
        single_input: one vector, noise and then conditions, in the place of inputs by name.

    Raises:
        InputError: the two exclude each other.

    >>> ONNX(noise="seed").single_input
    False
    """

    def __init__(
        self, *, noise: Literal["input", "seed"] = "input", single_input: bool = False
    ) -> None:
        if noise == "seed" and single_input:
            raise InputError(
                "--single-input: the vector holds the noise, and integers of --noise seed are no "
                "numbers of it; leave one of the two out"
            )
        self.noise, self.single_input = noise, single_input

    def write(self, trained: Trained, folder: Path) -> None:
        """Write `model.onnx` and `card.json`.

        Raises:
            InputError: its samples are no map of noise, or torch and the model disagree.
        """
        for name in ("onnx", "onnxscript", "onnxruntime"):
            needed(name)
        surrogate = mappable(trained)
        if not self.single_input:
            _check_names(surrogate)
        model = exported(surrogate, single_input=self.single_input, step=trained.step)
        with trained.step("compare with torch"):
            difference = _parity(model, surrogate)
        if self.noise == "seed":
            draw_inside(model, tuple(surrogate.noise_shape))
        mark_outside(model, conditions_of(surrogate.conditions))
        path = folder / MODEL
        path.write_bytes(model.SerializeToString())
        cards.write(folder, describe(trained, model, path, difference))


class MappedNoise(Surrogate, FromNoise):
    """What exports: for type checkers alone."""


def mappable(trained: Trained) -> MappedNoise:
    """Return a surrogate whose samples are a map of noise of one shape.

    Raises:
        InputError: they are not; why, and what to do, is said by its part `not_exported`.
    """
    surrogate = trained.surrogate
    if trained.correction != "none":
        raise InputError(
            f"{trained.recipe}: its samples are made exact by {trained.correction}, which is no "
            "map of noise; export the surrogate's own with --set sampling.correction=none: what "
            "the scorecard says is not of them"
        )
    for part in surrogate.modules():
        if reason := getattr(part, "not_exported", ""):
            raise InputError(f"surrogate {trained.kind} is not exported to ONNX: {reason}")
    if not isinstance(surrogate, FromNoise):
        raise InputError(
            f"surrogate {trained.kind} is not exported to ONNX: its samples are no map of noise of "
            "one shape; export to pyfunc, or generate files"
        )
    return typing.cast("MappedNoise", surrogate)


def exported(
    surrogate: MappedNoise,
    *,
    single_input: bool = False,
    step: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> onnx.ModelProto:
    """Return the ONNX model of a map of noise, whose noise and conditions are inputs.

    Args:
        surrogate: whose samples are this map.
        single_input: one vector, noise and then conditions.
        step: entered with the name of each step, which takes a minute for large surrogates.

    Raises:
        InputError: torch cannot trace it, for a dimension or a branch that depends on values.
    """
    noise, conditions = tried(surrogate)
    rows = [torch.cat([noise.flatten(1), *conditions], 1)] if single_input else [noise, *conditions]
    names = [variable.name for variable in surrogate.schema.condition]
    batch = torch.export.Dim("batch")
    with torch.no_grad(), _quiet():
        try:
            with step("trace"):
                traced = torch.export.export(
                    _Rows(surrogate, single_input),
                    tuple(rows),
                    dynamic_shapes=(tuple({0: batch} for _ in rows),),
                    strict=False,
                )
                program = decomposed(traced)
            with step("translate to ONNX"):
                result = torch.onnx.export(
                    program,
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=["vector"] if single_input else ["noise", *names],
                    output_names=["samples"],
                    custom_translation_table=TRANSLATED,
                    verbose=False,
                    optimize=len(program.graph.nodes) < LARGE,
                )
        except Exception as error:
            # Torch raises errors of many types for what it cannot trace or translate.
            line = next(iter(str(error).strip().splitlines()), "")
            raise InputError(
                f"{type(surrogate).__name__} cannot be exported to ONNX{_place(error)}: torch says "
                f"{type(error).__name__}: {line[:300]}"
            ) from error
    assert result is not None
    model = result.model_proto
    for one in (model.graph, *model.functions):
        for node in one.node:
            # Stack traces, with paths of this machine.
            del node.metadata_props[:]
            node.ClearField("doc_string")
    del model.graph.value_info[:]
    return model


def _place(error: Exception) -> str:
    """Name the innermost part of the surrogate, such as a transform, that an error came from."""
    selves = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    parts = [type(one) for one in selves if isinstance(one, nn.Module)]
    own = [part.__name__ for part in parts if part.__module__.partition(".")[0] != "torch"]
    return f", for its part {own[-1]}" if own[1:] else ""


def tried(surrogate: MappedNoise, n: int = TRIED) -> tuple[Tensor, list[Tensor]]:
    """Return noise (n, *noise_shape), and conditions (n, 1) each, within their domains."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, *surrogate.noise_shape, generator=generator, dtype=surrogate.dtype)
    prior = surrogate.conditions
    if not prior.variables:
        return noise, []
    if len(prior.values):
        drawn = prior.draw(n, generator)
    else:
        drawn = torch.where(prior.low.isfinite(), prior.low, 1.0).expand(n, -1)
    assert drawn is not None
    return noise, list(torch.split(drawn.to(surrogate.dtype), 1, 1))


class _Rows(nn.Module):
    """Rows of inputs to samples."""

    def __init__(self, surrogate: MappedNoise, single_input: bool) -> None:
        super().__init__()
        self.surrogate, self.single_input = surrogate, single_input

    def forward(self, *rows: Tensor) -> Tensor:
        """Map (B, *noise_shape) noise and (B, 1) conditions, or (B, all of these), to samples."""
        noise, *conditions = rows
        shape = self.surrogate.noise_shape
        if self.single_input:
            size = math.prod(shape)
            conditions = [noise[:, size:]] if self.surrogate.schema.condition else []
            noise = noise[:, :size].reshape(-1, *shape)
        condition = torch.cat(conditions, 1) if conditions else None
        return self.surrogate.from_noise(noise, condition)


def _parity(model: onnx.ModelProto, surrogate: MappedNoise) -> float:
    """Return the largest difference between model and torch, in units of the largest entry.

    Raises:
        InputError: they disagree in more than what rounding may turn over.
    """
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    # It warns of constants that it does not fold.
    options.log_severity_level = 3
    content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    session = InferenceSession(content, options, providers=providers)
    worst, off, total = 0.0, 0, 0
    for n in COMPARED:
        noise, conditions = tried(surrogate, n)
        rows = [noise, *conditions]
        names = [one.name for one in session.get_inputs()]
        if names == ["vector"]:
            rows = [torch.cat([noise.flatten(1), *conditions], 1)]
        found = session.run(None, dict(zip(names, (row.numpy() for row in rows), strict=True)))[0]
        with torch.no_grad():
            condition = torch.cat(conditions, 1) if conditions else None
            expected = surrogate.from_noise(noise, condition).numpy()
        difference = np.abs(found - expected) / max(np.abs(expected).max(), np.finfo("f4").tiny)
        worst = max(worst, float(difference.max()))
        off, total = off + int((difference > ROUNDED).sum()), total + difference.size
    if not off <= MOST_ROUNDED * total or not math.isfinite(worst):
        raise InputError(
            f"{type(surrogate).__name__} is not exported to ONNX: {off} of {total} entries of "
            f"samples differ between torch and onnxruntime, by {worst:.1g} of the largest one"
        )
    return worst


def _check_names(surrogate: Surrogate) -> None:
    """Refuse conditions that are called like other inputs."""
    for variable in surrogate.schema.condition:
        if variable.name in ("noise", "seed", "samples", OUTPUT):
            raise InputError(
                f"the condition {variable.name!r} is called like another input or output of the "
                "model; pass --single-input"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch tells the developers of exporters to itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.__trace", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
