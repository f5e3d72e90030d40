"""IDX files: the format of MNIST and its relatives, plain or compressed with gzip.

Two zero bytes, one for the type of number, one for the number d of dimensions, d big-endian 32-bit
lengths, then the numbers, big-endian, the last index running fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError
from physgen.io.guard import library, refuse_bomb, regular

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> NDArray[Any]:
    """Read an IDX file.

    Raises:
        FormatError: there is no such file, it is not IDX, or it is cut short or too long.
    """
    packed = regular(path).stat().st_size
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with library(str(path)), (gzip.open if zipped else open)(path, "rb") as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES:
            raise FormatError(
                f"{path}: not an IDX file (it begins with {head.hex(' ')}); images are read from "
                "IDX (plain or .gz), .npz or .h5 files"
            )
        dimensions, dtype = head[3], np.dtype(_TYPES[head[2]])
        if dimensions == 0:
            raise FormatError(f"{path}: an IDX file of no dimensions; get it again")
        extents = file.read(4 * dimensions)
        if len(extents) < 4 * dimensions:
            raise FormatError(f"{path}: cut short within its header; get it again")
        shape = struct.unpack(f">{dimensions}I", extents)
        if 0 in shape:
            raise FormatError(
                f"{path}: an IDX file of shape {shape} holds no numbers; get it again"
            )
        wanted = math.prod(shape) * dtype.itemsize
        if zipped:
            refuse_bomb(str(path), wanted, packed)
        # One byte more than there should be, and no more than a plain file can hold.
        content = file.read(min(wanted, wanted if zipped else packed) + 1)
    if len(content) != wanted:
        more = "more" if len(content) > wanted else str(len(content))
        raise FormatError(
            f"{path}: an IDX file of shape {shape} has {wanted} bytes of numbers, here are {more}; "
            "it is damaged: get it again"
        )
    numbers = np.frombuffer(content, dtype).reshape(shape)
    return numbers.astype(dtype.newbyteorder("="), copy=False)
