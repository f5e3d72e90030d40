"""IDX files: what they hold comes back, damaged ones are refused with what is wrong."""

import gzip
import struct

import numpy as np
import pytest

from physgen.errors import FormatError
from physgen.io.idx import read_idx


def idx(array, code):
    """The bytes of an IDX file."""
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(("dtype", "code"), [("uint8", 0x08), ("int16", 0x0B), ("float32", 0x0D)])
@pytest.mark.parametrize("packed", [False, True])
def test_arrays_come_back(tmp_path, dtype, code, packed):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    content = idx(array, code)
    path = tmp_path / "a-idx3"
    path.write_bytes(gzip.compress(content) if packed else content)
    read = read_idx(path)
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-1], "shape (2, 3, 4) has 24 bytes of numbers, here are 23"),
        (lambda content: content + b"\0", "here are more"),
        (lambda content: content[:9], "cut short within its header"),
        (lambda content: b"GIF8" + content, "not an IDX file"),
        (lambda content: b"", "not an IDX file"),
        (lambda content: gzip.compress(content)[:-9], "is cut short, damaged"),
        (lambda content: gzip.compress(content)[:12] + b"xx", "is cut short, damaged"),
    ],
)
def test_damage_is_named(tmp_path, change, said):
    path = tmp_path / "a-idx3"
    path.write_bytes(change(idx(np.zeros((2, 3, 4), np.uint8), 0x08)))
    with pytest.raises(FormatError) as error:
        read_idx(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(FormatError, match="none-idx3: no such file"):
        read_idx(tmp_path / "none-idx3")
