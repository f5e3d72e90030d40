"""Operators of torch that ONNX, or onnxruntime, has not, made of those it has.

Each is a function of the same meaning, which an exported program has in the place of the original.
The error function in double precision is that of Cody (Math. Comp. 23 (1969) 631), by three
rational functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

aten = torch.ops.aten

NEAR = (
    (
        *(1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2),
        *(3.77485237685302021e2, 3.20937758913846947e3),
    ),
    (
        *(1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3),
        *(2.84423683343917062e3,),
    ),
)
"""erf(x) / x for |x| <= 0.46875, in x^2: numerator and denominator, highest power first."""
MIDDLE = (
    (
        *(2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0),
        *(6.61191906371416295e1, 2.98635138197400131e2, 8.81952221241769090e2),
        *(1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3),
    ),
    (
        *(1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2),
        *(1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3),
        *(3.43936767414372164e3, 1.23033935480374942e3),
    ),
)
"""exp(x^2) erfc(x) for x up to 4, in x."""
FAR = (
    (
        *(1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1),
        *(1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4),
    ),
    (
        *(1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1),
        *(6.05183413124413191e-2, 2.33520497626869185e-3),
    ),
)
"""(1 / sqrt(pi) - x exp(x^2) erfc(x)) x^2 beyond, in 1 / x^2."""


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """Return a program with these operators in the places of those that do not export."""
    used = {node.target for node in program.graph.nodes if node.op == "call_function"}
    table = {operator: REPLACED[operator] for operator in REPLACED if operator in used}
    return program.run_decompositions(table) if table else program


def erfc(x: Tensor) -> Tensor:
    """Return 1 - erf(x), to 1e-15 of itself."""
    size = x.abs()
    inner = _ratio(NEAR, x.square()) * x
    medium = _ratio(MIDDLE, size.clamp(max=4))
    inverse = 1 / size.clamp(min=4).square()
    outer = (1 / math.sqrt(math.pi) - inverse * _ratio(FAR, inverse)) / size.clamp(min=4)
    # exp(-x^2) of a rounded x^2 would lose digits: the square of few digits is exact.
    coarse = (size * 16).floor() / 16
    gauss = (-coarse.square()).exp() * (-(size - coarse) * (size + coarse)).exp()
    tail = torch.where(size <= 4, medium, outer) * gauss
    return torch.where(size <= 0.46875, 1 - inner, torch.where(x < 0, 2 - tail, tail))


def ndtr(x: Tensor) -> Tensor:
    """Return the distribution function of the standard normal."""
    return 0.5 * erfc(-x / math.sqrt(2))


def searchsorted(
    edges: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Any:
    """Return how many of (K,) ascending edges lie below values, or `right`: at most at them."""
    if edges.ndim > 1 or sorter is not None:
        return NotImplemented
    count = edges.shape[0]
    place = torch.zeros_like(values, dtype=torch.int64)
    step = 1 << (count.bit_length() - 1)
    while step:
        trial = place + step
        edge = edges[trial.clamp(max=count) - 1]
        under = edge <= values if right or side == "right" else edge < values
        place = torch.where(under & (trial <= count), trial, place)
        step //= 2
    return place.to(torch.int32) if out_int32 else place


def sort(x: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> Any:
    """Return sorted values and their places; of equal ones ONNX puts the first one first."""
    return torch.topk(x, x.shape[dim], dim, largest=descending, sorted=True)


def nan_to_num(
    x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """Replace NaN, and infinities by the largest numbers, in three operators instead of ten."""
    if posinf is not None or neginf is not None:
        return NotImplemented
    most = torch.finfo(x.dtype).max
    return torch.where(x == x, x, nan or 0.0).clamp(-most, most)


def indexed(x: Any, indices: Sequence[Any]) -> Any:
    """Translate x[indices]; by one tensor of integers in a single operator of ONNX.

    The translation of the general case is some twenty operators, most of them of shapes.
    """
    from onnx_ir import DataType
    from onnxscript import opset20
    from onnxscript.function_libs.torch_lib.ops.core import aten_index

    given = [axis for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or indices[given[0]].dtype == DataType.BOOL:
        return aten_index(x, indices)
    return opset20.Gather(x, indices[given[0]], axis=given[0])


def _ratio(polynomials: tuple[tuple[float, ...], tuple[float, ...]], x: Tensor) -> Tensor:
    above, below = polynomials
    top, bottom = torch.full_like(x, above[0]), torch.full_like(x, below[0])
    for coefficient in above[1:]:
        top = top * x + coefficient
    for coefficient in below[1:]:
        bottom = bottom * x + coefficient
    return top / bottom


def _in_double(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Replace an operator in double precision only: onnxruntime has it in single precision."""
    return lambda x: function(x) if x.dtype == torch.float64 else NotImplemented


REPLACED: dict[Any, Callable[..., Any]] = {
    aten.searchsorted.Tensor: searchsorted,
    aten.sort.stable: sort,
    aten.nan_to_num.default: nan_to_num,
    aten.special_ndtr.default: _in_double(ndtr),
    aten.erfc.default: _in_double(erfc),
    aten.erf.default: _in_double(lambda x: 1 - erfc(x)),
}
"""By operator; what they return for other types or arguments is `NotImplemented`."""

TRANSLATED: dict[Callable[..., Any], Callable[..., Any]] = {aten.index.Tensor: indexed}
"""Operators of torch whose translation to those of ONNX is another than torch's."""
