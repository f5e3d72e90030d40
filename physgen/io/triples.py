"""Showers in an npz of three arrays: `E` (N,), `layers` (N, L) and `showers`, energies in MeV.

`showers` are voxels, layer by layer: (N, n_voxels) in the order of CaloChallenge, or (N, L, ...).
What they add up to is the energies of the layers, or 1 in each layer (or nothing): then, which
needs the axis of layers, they are multiplied by these.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.errors import FormatError, InputError
from physgen.io.npz import read_arrays
from physgen.io.showers import check_energies, voxel_schema
from physgen.io.source import ArraySource, as_batch, check_finite
from physgen.io.writer import Append, atomic

NAME = "npz of E, layers, showers"
_NAMES = ("E", "layers", "showers")
_CLOSE = 1e-3
"""Relative difference of sums that are one."""


def is_triple(names: set[str]) -> bool:
    """Return whether these are the arrays of such a file."""
    return names >= set(_NAMES)


def open_triple(path: Path, _: int = 1) -> ArraySource:
    """Open an archive of showers, flat voxels; it is held in memory, as npz must be.

    Raises:
        FormatError: it is not such an archive, a value is not finite or negative, or voxels do not
            add up to the energies of their layers; array and row are named.
    """
    arrays = read_arrays(path, _NAMES)
    for name, array in arrays.items():
        where = f"{path}: array {name!r}"
        if array.dtype.kind not in "iuf" or array.ndim == 0:
            raise FormatError(f"{where} holds {array.dtype}, not rows of numbers")
        if len(array) != len(arrays["E"]):
            raise FormatError(f"{where} has {len(array)} rows, and 'E' {len(arrays['E'])}")
        check_finite(array, 0, where)
        rows = array.reshape(len(array), -1)
        check_energies(where, rows, 0, positive=name == "E")
    energy, layers, showers = (arrays[name] for name in _NAMES)
    if len(energy) == 0:
        raise FormatError(f"{path} holds no showers: its arrays are empty")
    if energy.size != len(energy) or layers.ndim != 2:
        raise FormatError(
            f"{path}: 'E' has shape {energy.shape} and 'layers' {layers.shape}; expected (N,) and "
            "(N, layers)"
        )
    x = _in_mev(path, layers.astype(np.float64), showers)
    batch = as_batch({"x": x, "condition": energy.reshape(-1, 1).astype(np.float32)})
    return ArraySource(batch, voxel_schema(x.shape[1]), name=str(path))


def _in_mev(path: Path, layers: NDArray[np.float64], showers: NDArray[Any]) -> NDArray[np.float32]:
    """Return (N, n_voxels) energies of voxels, which add up to those of the layers."""
    n, n_layers = layers.shape
    by_layer = showers.ndim > 2 and showers.shape[1] == n_layers
    voxels = showers.reshape(n, n_layers if by_layer else 1, -1)
    sums = voxels.sum(2, dtype=np.float64)
    wanted = layers if by_layer else layers.sum(1, keepdims=True)
    if _agree(sums, wanted).all():
        return np.asarray(voxels.reshape(n, -1), np.float32)
    shares = (layers > 0).astype(np.float64)
    if by_layer and (_agree(sums, shares) | _agree(sums, np.ones_like(shares))).all():
        return np.asarray((voxels * layers[..., None]).reshape(n, -1), np.float32)
    if not by_layer and _agree(sums[:, 0], shares.sum(1)).all():
        raise FormatError(
            f"{path}: 'showers' {showers.shape} add up to 1 in each of {n_layers} layers, and it "
            "is not known which voxel lies in which; give them an axis of layers, (N, layers, ...)"
        )
    row = int((~_agree(sums, wanted)).any(1).argmax())
    raise FormatError(
        f"{path}: row {row} of 'showers' adds up to {sums[row].sum():g}, and that of 'layers' to "
        f"{layers[row].sum():g}; the two are not of one unit, or not of one sample"
    )


def _agree(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isclose(a, b, rtol=_CLOSE, atol=1e-6)


@contextmanager
def triple_writer(
    path: Path,
    layer_sizes: Sequence[int],
    *,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Iterator[Append]:
    """Write showers of voxels, piece by piece, atomically; arrays grow on disk until the end.

    Args:
        path: of the output.
        layer_sizes: how many voxels each layer has.
        facts: become arrays of one text each.
        overwrite: replace an existing file.
    """
    if not layer_sizes:
        raise InputError(
            f"{path}: energies of layers need a geometry, which says what voxels they have: "
            "--binning"
        )
    with atomic(path, overwrite) as part, ExitStack() as stack:
        files = {n: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for n in _NAMES}
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_NAMES, (0,))

        def append(batch: Batch) -> None:
            if batch.condition is None:
                raise InputError("showers without the energies of their particles")
            x = batch.x.numpy().astype(np.float32)
            parts = np.split(x, np.cumsum(layer_sizes)[:-1], axis=1)
            sums = np.stack([layer.sum(1, dtype=np.float64) for layer in parts], 1)
            columns = batch.condition[:, 0].numpy(), sums, x
            for name, values in zip(_NAMES, columns, strict=True):
                files[name].write(np.ascontiguousarray(values, np.float32).tobytes())
                shapes[name] = (shapes[name][0] + len(values), *values.shape[1:])

        yield append
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in _NAMES:
                header = {"descr": "<f4", "fortran_order": False, "shape": shapes[name]}
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_2_0(member, header)
                    files[name].seek(0)
                    while piece := files[name].read(2**22):
                        member.write(piece)
            for name, value in (facts or {}).items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(str(value)), allow_pickle=False)
