"""NumPy archives as samples; nothing in them is unpickled."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError, suggest
from physgen.io.source import ArraySource, check_finite, to_tensor

_FIELDS = ("condition", "weight", "mask", "chain", "log_weight")
_LARGEST = 2**34


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of a `.npz` by name.

    Raises:
        FormatError: not an archive of plain arrays, or one of them is larger than 16 GiB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.filelist:
                if info.file_size > _LARGEST:
                    raise FormatError(
                        f"{path}: array {info.filename.removesuffix('.npy')!r} has "
                        f"{info.file_size:.3g} bytes, too large for an archive that must be read "
                        "at once; write it as HDF5"
                    )
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file") from error
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise FormatError(
            f"{path}: not an archive of plain arrays ({error}); arrays of Python objects are "
            "refused, since loading them could run code"
        ) from error


def open_npz(path: Path | str, *, x: str = "x", chain: str | None = None) -> ArraySource:
    """Read a `.npz` into memory: `x` and, where present, what else a `Batch` holds by name.

    Args:
        path: of the archive.
        x: name of the array of samples (N, ...).
        chain: name of the (N,) chain numbers; `None` takes "chain" if it is there.

    Raises:
        FormatError: not an archive of numeric arrays, `x` or `chain` is absent, lengths differ, an
            array is larger than 16 GiB, or a value is not finite (its row is named).
    """
    path = Path(path)
    found = read_arrays(path)
    for name in (x, chain):
        if name is not None and name not in found:
            raise FormatError(f"{path}: no array {name!r}{suggest(name, found)}")
    arrays = {key: found[key] for key in (*_FIELDS, "physgen_schema") if key in found}
    if chain is not None:
        arrays["chain"] = found[chain]
    arrays["x"] = found[x]
    text = arrays.pop("physgen_schema", None)
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            raise FormatError(f"{path}: array {name!r} holds {array.dtype}, not rows of numbers")
        if len(array) != len(arrays["x"]):
            raise FormatError(
                f"{path}: arrays of unequal length: {name!r} has {len(array)} rows, {x!r} has "
                f"{len(arrays['x'])}"
            )
        check_finite(array, 0, f"{path}: array {name!r}")
    fields = {name: to_tensor(array) for name, array in arrays.items()}
    for name in {"x", "condition"} & fields.keys():
        if fields[name].ndim == 1:
            fields[name] = fields[name].unsqueeze(1)
    batch = Batch(**fields)
    if text is not None:
        schema = Schema.from_dict(json.loads(str(text)))
    else:
        width = 0 if batch.condition is None else batch.condition.shape[1]
        schema = Schema(
            shape=tuple(batch.x.shape[1:]),
            variables=(Variable(x, dtype=arrays["x"].dtype.name),),
            condition=tuple(
                Variable(f"condition_{i}", dtype=arrays["condition"].dtype.name)
                for i in range(width)
            ),
        )
    return ArraySource(batch, schema, name=str(path))
