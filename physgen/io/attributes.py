"""What the attributes of an HDF5 dataset say about its numbers: unit, packing, missing values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError


def attribute(node: Any, *names: str) -> Any:
    """Return the first attribute of these names, as text, a number or an array of them.

    What is empty, or of a type that has no counterpart here, is as if it were absent: `None`.
    """
    for name in names:
        try:
            value = None if overlapping(node.attrs.get_id(name).dtype) else node.attrs[name]
        except (OSError, KeyError, TypeError, ValueError, RuntimeError):
            continue
        if value is None or isinstance(value, h5py.Empty):
            continue
        array = np.asarray(value)
        if array.dtype.kind in "biuf" and array.size:
            return array.reshape(-1)[0] if array.size == 1 else array
        if array.dtype.kind in "SUO" and array.size == 1:
            text = array.reshape(-1)[0]
            return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return None


def overlapping(kind: np.dtype[Any]) -> bool:
    """Return whether fields of a record share bytes, or do not fit into it.

    h5py gives floating-point numbers of a kind that NumPy does not know the next wider type, but
    leaves the fields of records where they were (h5py 3.16): to read them overwrites memory.
    """
    end = 0
    for field, offset, *_ in sorted((kind.base.fields or {}).values(), key=lambda field: field[1]):
        if offset < end or overlapping(field):
            return True
        end = offset + field.itemsize
    return end > kind.base.itemsize


def unit_of(node: h5py.Dataset) -> str:
    """Return the unit that a dataset says it is in, "1" if it says none."""
    unit = attribute(node, "unit", "units")
    return unit.strip() or "1" if isinstance(unit, str) else "1"


@dataclass(frozen=True)
class Packing:
    """How stored numbers become values: stored * scale + offset (CF conventions 1.11, section 8.1).

    Attributes:
        scale, offset: of the attributes `scale_factor` and `add_offset`.
        dtype: of the values: that of the two attributes, or float64 if they are integers.
    """

    scale: float
    offset: float
    dtype: np.dtype[Any]

    def unpack(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the values."""
        return np.asarray((stored.astype(np.float64) * self.scale + self.offset).astype(self.dtype))


def packing(node: h5py.Dataset) -> Packing | None:
    """Return how a dataset is packed, `None` if its numbers are the values.

    Raises:
        FormatError: `scale_factor` or `add_offset` is no number.
    """
    stated = {name: attribute(node, name) for name in ("scale_factor", "add_offset")}
    given = {name: value for name, value in stated.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, str) or np.ndim(value) or not np.isfinite(value):
            raise FormatError(
                f"{node.file.filename}: dataset {node.name.strip('/')!r} has the attribute {name} "
                f"= {value!r}, which is not a number; correct or remove it"
            )
    if not given:
        return None
    common = np.result_type(*(np.asarray(value).dtype for value in given.values()))
    kind = common if common.kind == "f" else np.dtype(np.float64)
    return Packing(float(given.get("scale_factor", 1.0)), float(given.get("add_offset", 0.0)), kind)


def check_filled(node: h5py.Dataset, values: NDArray[Any], start: int, where: str) -> None:
    """Refuse values that stand for missing ones.

    Args:
        node: the dataset.
        values: rows of it as they are stored.
        start: number of the first of them.
        where: names file and dataset.

    Raises:
        FormatError: there is one; the message names its row.
    """
    fill = attribute(node, "_FillValue", "missing_value")
    if fill is None or isinstance(fill, str) or np.ndim(fill):
        return
    missing = (values == fill).reshape(len(values), -1).any(1)
    if missing.any():
        raise FormatError(
            f"{where}: row {start + int(missing.argmax())} holds {fill}, which stands for a "
            "missing value (attribute _FillValue); remove such rows"
        )
