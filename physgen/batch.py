"""The one thing that flows through physgen, and the description of what it holds."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from physgen import columns
from physgen.errors import DomainError, FormatError
from physgen.tables import html_table

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

Domain = Literal[
    "real",
    "non-negative",
    "integer",
    "binary",
    "spin",
    "angle",
    "unit-vector",
    "special-unitary",
]
CONSTRAINED: tuple[Domain, ...] = ("unit-vector", "special-unitary")
"""Domains of several numbers together, of which none is free of the others."""

_RANGES: dict[Domain, tuple[float, float]] = {
    "non-negative": (0.0, math.inf),
    "binary": (0.0, 1.0),
    "spin": (-1.0, 1.0),
    "angle": (-math.pi, math.pi),
    "unit-vector": (-1.0, 1.0),
    "special-unitary": (-1.0, 1.0),
}

_NUMBERS = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64|96|128)|bfloat16")
"""Names of types of numbers in files."""


_FLOAT32_HOLDS = {"bool", "int8", "uint8", "int16", "uint16", "float16", "float32"}


def fit_single(dtypes: Iterable[str]) -> bool:
    """Whether single precision holds all values of some numpy types exactly."""
    return set(dtypes) <= _FLOAT32_HOLDS


@dataclass(frozen=True)
class Variable:
    """One physical quantity.

    Attributes:
        name: as in the file it comes from.
        unit: "1" for a pure number, "MeV", "GeV", "mm", ...
        domain: which values it may take; "spin" is -1 or +1, "binary" is 0 or 1, an "angle" comes
            back after 2 pi, "unit-vector" are the components of vectors of length one on the last
            axis of a sample, and "special-unitary" are the real and imaginary parts (N, N, 2) of
            matrices of SU(N), the last three axes of a sample.
        dtype: numpy name of the type it has in files, so that it is written back as it was read.
        low, high: the range it was seen in, or may take; `None` is unbounded.
        present: the rule on another column of the same row, such as "njets >= 2", that says when
            this column means anything; elsewhere it holds a constant. `None` is always.
        classes: names of the integers 0, 1, ..., which then are classes.

    >>> Variable("phi", "rad", "angle").range
    (-3.141592653589793, 3.141592653589793)
    """

    name: str
    unit: str = "1"
    domain: Domain = "real"
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None
    present: str | None = None
    classes: tuple[str, ...] = ()

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value it may take, from what is said of it and its domain.

        >>> Variable("phi", domain="angle").range  # in radian
        (-3.141592653589793, 3.141592653589793)
        """
        least, greatest = _RANGES.get(self.domain, (-math.inf, math.inf))
        kind = np.dtype(self.dtype)
        if self.domain == "integer" and kind.kind in "iu":
            least, greatest = float(np.iinfo(kind).min), float(np.iinfo(kind).max)
        if self.domain == "angle":  # By another convention, from 0 to 2 pi.
            return least if self.low is None else self.low, (
                greatest if self.high is None else self.high
            )
        low = least if self.low is None else max(least, self.low)
        return low, greatest if self.high is None else min(greatest, self.high)


@dataclass(frozen=True)
class Schema:
    """What one sample is.

    Attributes:
        shape: of one sample, without the batch dimension.
        variables: one for the whole array (a lattice, a voxel grid), or one a column of the last
            axis (an event table).
        condition: the variables of `Batch.condition`, in the order of its columns.
        masked: whether samples (n_items, F) have fewer items than that, as `Batch.mask` says.

    >>> import torch
    >>> schema = Schema((1,), (Variable("energy", "GeV", "non-negative", low=0.0),))
    >>> schema.check(torch.tensor([[1.5], [-2.0]]))
    Traceback (most recent call last):
    physgen.errors.DomainError: energy is declared to have low = 0, and the data hold -2; ...
    """

    shape: tuple[int, ...]
    variables: tuple[Variable, ...]
    condition: tuple[Variable, ...] = ()
    masked: bool = False

    def __post_init__(self) -> None:
        if len(self.variables) != 1 and len(self.variables) != self.shape[-1]:
            raise DomainError(
                f"a schema of shape {self.shape} needs 1 variable or {self.shape[-1]} (one a "
                f"column), not {len(self.variables)}"
            )
        if self.masked and len(self.shape) != 2:
            raise DomainError(f"masked samples have items and columns, not the shape {self.shape}")

    @property
    def items(self) -> Schema:
        """One item of a masked sample, as a row of a table; itself for samples without a mask."""
        return Schema(self.shape[1:], self.variables, self.condition) if self.masked else self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(variable.name for variable in self.variables)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that holds the values of all variables."""
        import torch

        single = fit_single(variable.dtype for variable in self.variables)
        return torch.float32 if single else torch.float64

    def check(self, x: Tensor) -> None:
        """Refuse samples (B, *shape) of which a value lies outside what is said of its variable.

        Of masked samples their items are checked, (N, F).

        Raises:
            DomainError: naming the variable, the value and the bound.
        """
        columns = x.reshape(-1, len(self.variables)).unbind(1)
        for variable, column in zip(self.variables, columns, strict=True):
            for side, bound in (("low", variable.low), ("high", variable.high)):
                if variable.present is not None or bound is None or not len(column):
                    continue
                worst = (column.amin() if side == "low" else column.amax()).item()
                # A bound may be written with fewer digits than the file has.
                slack = 1e-6 * max(abs(bound), abs(worst))
                if worst < bound - slack if side == "low" else worst > bound + slack:
                    raise DomainError(
                        f"{variable.name} is declared to have {side} = {bound:g}, and the data "
                        f"hold {worst:g}; correct the range (data.fields of tables), or the data"
                    )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Schema:
        """Inverse of `to_dict`; raises `FormatError` for anything that is not a schema."""
        from pydantic import TypeAdapter, ValidationError

        try:
            schema = TypeAdapter(cls).validate_python(data)
        except (ValidationError, IndexError) as error:
            raise FormatError(f"not a schema: {' '.join(str(error).split())[:200]}") from error
        if any(extent < 1 for extent in schema.shape):
            raise FormatError(f"not a schema: shape {schema.shape}")
        for variable in (*schema.variables, *schema.condition):
            if not _NUMBERS.fullmatch(variable.dtype):
                raise FormatError(f"not a schema: {variable.name!r} of type {variable.dtype!r}")
        return schema


@dataclass(frozen=True)
class Batch:
    """Samples, and what belongs to each of them. The first axis of every tensor is the sample.

    Attributes:
        x: (B, *shape).
        condition: (B, C), what the samples were drawn for.
        weight: (B,), event weights as the experiment defines them (negative ones too).
        mask: (B, ...), true where an entry of a padded sample is real.
        chain: (B,), which Markov chain a sample belongs to, in the order of Monte Carlo time.
        log_weight: (B,), log importance weight; never mixed up with `weight`.
        schema: what the columns are called, where that is known.

    >>> import torch
    >>> batch = Batch(torch.eye(3), weight=torch.tensor([1.0, -1.0, 2.0]))
    >>> positive = batch[batch.weight > 0]
    >>> len(positive), positive.weight.tolist()
    (2, [1.0, 2.0])
    """

    x: Tensor
    condition: Tensor | None = None
    weight: Tensor | None = None
    mask: Tensor | None = None
    chain: Tensor | None = None
    log_weight: Tensor | None = None
    schema: Schema | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def fields(self) -> dict[str, Tensor]:
        """Return the tensors that are present, by name."""
        pairs = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: v for name, v in pairs if v is not None and name != "schema"}

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        return self.replace(**{name: value[rows] for name, value in self.fields().items()})

    def replace(self, **changes: Any) -> Batch:
        """Return a copy with some tensors exchanged."""
        return dataclasses.replace(self, **changes)

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Batch:
        """Move to a device; `dtype` changes floating-point tensors only (never masks, chains)."""

        def move(value: Tensor) -> Tensor:
            kind = dtype if value.is_floating_point() else None
            return value.to(device=device, dtype=kind, non_blocking=non_blocking)

        return self.replace(**{name: move(value) for name, value in self.fields().items()})

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return x for `np.asarray(batch)`, (B, *shape)."""
        return np.array(self.x.detach().cpu().numpy(), dtype=dtype, copy=copy)

    def to_awkward(self) -> Any:
        """Return an `awkward.Array` of records: variables, conditions, weights by their names."""
        return columns.to_awkward(self, self._named())

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`: variables, conditions, weights by their names.

        Raises:
            InputError: pandas is not installed, or samples have different lengths.
        """
        return columns.to_pandas(self, self._named())

    def _named(self) -> Schema:
        """Return the schema, or one that calls variables "x" and conditions by their number."""
        if self.schema is not None:
            return self.schema
        n = 0 if self.condition is None else self.condition.shape[1]
        dtype = str(self.x.dtype).removeprefix("torch.")
        shape = tuple(self.x.shape[1:]) or (1,)
        condition = tuple(Variable(f"condition_{i}", dtype=dtype) for i in range(n))
        return Schema(shape, (Variable("x", dtype=dtype),), condition)

    def _repr_html_(self) -> str:
        """Return what it holds as a table, for notebooks."""
        shapes = {
            name: f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
            for name, value in self.fields().items()
        }
        if self.schema is not None:
            for key, variables in (
                ("x", self.schema.variables),
                ("condition", self.schema.condition),
            ):
                if key in shapes:
                    named = [f"{v.name} [{v.unit}]" for v in variables[:20]]
                    shapes[key] += ": " + ", ".join(named) + (", ..." if variables[20:] else "")
        return html_table(f"Batch of {len(self)} samples", shapes.items())

    @staticmethod
    def concatenate(batches: Sequence[Batch]) -> Batch:
        """Join batches that hold the same tensors."""
        # Schemas are read without torch, which takes longer to import than most files to look at.
        import torch

        names = batches[0].fields().keys()
        joined = {name: torch.cat([getattr(b, name) for b in batches]) for name in names}
        return batches[0].replace(**joined)


def product_of_weights(*batches: Batch) -> Tensor | None:
    """Return the weights of rows that several batches weigh, (N,); `None` if none of them does.

    >>> import torch
    >>> weighted = Batch(torch.zeros(2, 1), weight=torch.tensor([1.0, 3.0]))
    >>> product_of_weights(weighted, Batch(torch.zeros(2, 1))).tolist()
    [1.0, 3.0]
    """
    import torch

    weights = [batch.weight.double() for batch in batches if batch.weight is not None]
    return torch.stack(weights).prod(0) if weights else None
