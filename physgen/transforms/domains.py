"""What comes out of a network, brought to where the variables can be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.batch import Schema, Variable
from physgen.sampling.manifold import nearest_unitary


def to_domain(x: Tensor, schema: Schema) -> Tensor:
    """Return samples (B, *shape) within the ranges of their variables, in the same type.

    Integers are rounded, angles wrapped, spins get their sign, vectors the length one, matrices
    become the next ones of SU(N); what is still out of range goes to the end of it, but for columns
    that may be absent.
    """
    if len(schema.variables) == 1:
        return _to_domain(x, schema.variables[0])
    columns = zip(x.unbind(-1), schema.variables, strict=True)
    return torch.stack([_to_domain(column, variable) for column, variable in columns], -1)


def _to_domain(x: Tensor, variable: Variable) -> Tensor:
    low, high = variable.range
    if variable.domain == "spin":
        return torch.where(x >= 0, 1.0, -1.0).to(x)
    if variable.domain == "unit-vector":
        unit: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return unit
    if variable.domain == "special-unitary":
        return nearest_unitary(x)
    if variable.domain in ("integer", "binary"):
        x = x.round()
    if variable.domain == "angle":
        wrapped = low + (x - low).remainder(high - low)
        x = torch.where((x < low) | (x > high), wrapped, x)
    if variable.present is not None or (math.isinf(low) and math.isinf(high)):
        return x
    return x.clamp(low, high)
