"""Batches as columns: one a variable, in the type that the variable has in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from physgen.batch import Batch, Schema, Variable


def branches(batch: Batch, schema: Schema, weight: str = "weight") -> dict[str, Any]:
    """Return branch names to columns: numpy arrays (B,), awkward arrays where `batch` is masked.

    Jagged columns whose names share a first word (before `_`) are zipped under it, so that they
    share one counter.

    Args:
        batch: x of shape (B, F), (B, items, F) with a mask (B, items), or any fixed shape, which
            becomes one branch of fixed-size arrays if `schema` has a single variable.
        schema: names and types.
        weight: name of the column of event weights.
    """
    columns: dict[str, Any] = {}
    if batch.mask is not None:
        columns |= _jagged(batch.x, batch.mask, schema)
    elif len(schema.shape) == 1 and schema.shape[0] == len(schema.variables):
        for index, variable in enumerate(schema.variables):
            columns[variable.name] = as_written(batch.x[:, index], variable)
    elif len(schema.variables) == 1:
        variable = schema.variables[0]
        columns[variable.name] = as_written(batch.x.flatten(1), variable)
    else:
        raise FormatError(
            f"samples of shape {schema.shape} with {len(schema.variables)} variables and no mask "
            "have no form as branches; write HDF5 instead"
        )
    if batch.condition is not None:
        for index, variable in enumerate(schema.condition):
            columns[variable.name] = as_written(batch.condition[:, index], variable)
    if batch.weight is not None:
        columns[weight] = batch.weight.detach().cpu().numpy()
    for name in ("log_weight", "chain"):
        value = getattr(batch, name)
        if value is not None:
            columns.setdefault(name, value.detach().cpu().numpy())
    return columns


def as_written(value: Tensor, variable: Variable) -> NDArray[Any]:
    """Cast to the type of the file; integers are rounded and kept in range, never wrapped.

    ROOT has no half precision: float16 becomes float32.
    """
    array = value.detach().cpu().numpy()
    dtype = np.dtype(variable.dtype)
    if dtype == np.float16:
        dtype = np.dtype(np.float32)
    if dtype.kind == "b":
        return array if array.dtype == dtype else array > 0.5
    if dtype.kind in "iu" and array.dtype.kind == "f":
        # The float next to the largest int64 lies above it, so the bounds are floats within range.
        info = np.iinfo(dtype)
        high = float(info.max) if float(info.max) <= info.max else np.nextafter(float(info.max), 0)
        return np.rint(array.astype(np.float64)).clip(float(info.min), high).astype(dtype)
    return array.astype(dtype)


def branch_types(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the type of each branch, as `uproot` wants them to declare a tree."""
    return {
        name: np.dtype((value.dtype, value.shape[1:]))
        if isinstance(value, np.ndarray)
        else value.type.content
        for name, value in columns.items()
    }


def _jagged(x: Tensor, mask: Tensor, schema: Schema) -> dict[str, Any]:
    import awkward as ak

    counts = mask.sum(1).cpu().numpy()
    items = x[mask]
    columns = {
        variable.name: ak.unflatten(as_written(items[:, index], variable), counts)
        for index, variable in enumerate(schema.variables)
    }
    parts = {name: name.partition("_") for name in columns}
    prefixes = {prefix for prefix, _, _ in parts.values()}
    if len(columns) < 2 or len(prefixes) > 1 or not all(rest for _, _, rest in parts.values()):
        return columns
    return {prefixes.pop(): ak.zip({parts[name][2]: column for name, column in columns.items()})}


def to_awkward(batch: Batch, schema: Schema) -> Any:
    """Return an `awkward.Array` of records, one field a variable; masked samples are jagged."""
    import awkward as ak

    columns = branches(batch, schema)
    if batch.mask is None and len(schema.variables) == 1 and len(schema.shape) > 1:
        name = schema.variables[0].name
        columns[name] = columns[name].reshape(-1, *schema.shape)
    return ak.zip(
        {name: ak.from_numpy(c) if isinstance(c, np.ndarray) else c for name, c in columns.items()},
        depth_limit=1,
    )


def to_pandas(batch: Batch, schema: Schema) -> Any:
    """Return a `pandas.DataFrame`, one column a number of a sample: "phi_0_1" is phi[0, 1].

    Raises:
        InputError: pandas is not installed, or the samples are of different lengths.
    """
    try:
        import pandas
    except ImportError as error:
        raise InputError("pandas is not installed: `pip install pandas`") from error
    if batch.mask is not None:
        raise InputError("samples of different lengths are no table: use `to_awkward`")
    columns: dict[str, Any] = {}
    for name, column in branches(batch, schema).items():
        if column.ndim == 1:
            columns[name] = column
            continue
        for place, index in enumerate(np.ndindex(*schema.shape)):
            columns["_".join([name, *map(str, index)])] = column[:, place]
    return pandas.DataFrame(columns)
