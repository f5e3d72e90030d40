"""IDX files: the format of MNIST and its relatives, plain or compressed with gzip.

Two zero bytes, one for the type of number, one for the number d of dimensions, d big-endian 32-bit
lengths, then the numbers, big-endian, the last index running fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physgen.errors import FormatError

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> NDArray[Any]:
    """Read an IDX file.

    Raises:
        FormatError: there is no such file, it is not IDX, or it is cut short or too long.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (EOFError, zlib.error) as error:
        raise FormatError(f"{path}: a damaged gzip file ({error}); get it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise FormatError(
            f"{path}: not an IDX file (it begins with {content[:4].hex(' ')}); images are read "
            "from IDX (plain or .gz), .npz or .h5 files"
        )
    dimensions, dtype = content[3], np.dtype(_TYPES[content[2]])
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise FormatError(f"{path}: cut short within its header; get it again")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    wanted = start + math.prod(shape) * dtype.itemsize
    if len(content) != wanted:
        raise FormatError(
            f"{path}: {len(content)} bytes, but an IDX file of shape {shape} has {wanted}; it is "
            "damaged: get it again"
        )
    numbers = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return numbers.astype(dtype.newbyteorder("="), copy=False)
