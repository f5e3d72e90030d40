"""Damaged gauge configurations are refused, with what is stored and what was found."""

import re
import struct

import numpy as np
import pytest
from by_hand import ildg, milc, nersc, openqcd, random_links, record

from physgen.errors import FormatError
from physgen.io.inspect import inspect
from physgen.io.lattice.configuration import Given
from physgen.io.lattice.content import read
from physgen.io.lattice.writing import write_configuration

WRITERS = {"nersc": nersc, "ildg": ildg, "milc": milc, "openqcd": openqcd}


@pytest.fixture(scope="module")
def links():
    return random_links((2, 2, 2, 4))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_is_cut_short_or_too_long(tmp_path, links, kind):
    path = WRITERS[kind](tmp_path / "a", links)
    whole = path.read_bytes()
    for cut in (whole[:-8], whole[: len(whole) // 2], whole + bytes(8)):
        path.write_bytes(cut)
        with pytest.raises(FormatError, match=r"cut short|others than|begins with|no gauge"):
            read(path)
        assert inspect(path)["reader"] == "no"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nersc", r"checksum [0-9a-f]{8} is not the stored [0-9a-f]{8}"),
        ("ildg", r"checksum suma [0-9a-f]{8} is not the stored [0-9a-f]{8}; checksum sumb"),
        ("milc", r"checksum sum29 [0-9a-f]{8} is not the stored [0-9a-f]{8}; checksum sum31"),
    ],
)
def test_any_flipped_bit_of_the_links_is_found_by_the_checksum(tmp_path, links, kind, message):
    path = WRITERS[kind](tmp_path / "a", links)
    whole = path.read_bytes()
    size = {"nersc": 18432, "ildg": 18432, "milc": 9216}[kind]
    start = whole.index(b"END_HEADER\n") + 11 if kind == "nersc" else 96
    if kind == "ildg":
        start = whole.index(b"ildg-binary-data") + 128
    for at, bit in ((start, 0), (start + size - 1, 7), (start + size // 2 + 3, 4)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=message):
            read(path)
        forced = read(path, force=True)
        assert any(not check.passed for check in forced.checks)


def test_a_flipped_bit_of_openqcd_is_found_by_plaquette_or_group(tmp_path, links):
    path = openqcd(tmp_path / "a", links)
    damaged = bytearray(path.read_bytes())
    damaged[24 + 1152 * 3 + 6] ^= 16  # of the exponent of a number
    path.write_bytes(damaged)
    with pytest.raises(FormatError, match=r"plaquette \S+ is not the stored .*direction [xyzt]"):
        read(path)


@pytest.mark.parametrize("size", [1e-6, 1e-9, 1e-11])
def test_a_link_that_stands_out_in_double_precision(tmp_path, links, size):
    broken = links.copy()
    broken[1, 0, 1, 2, 3, 1, 1] += size
    path = openqcd(tmp_path / "a", broken)
    where = r"at \(t, z, y, x\) = \(1, 0, 1, 2\), direction t"
    with pytest.raises(FormatError, match=rf"distance from the group \S+ {where} is not that of"):
        read(path)
    read(nersc(tmp_path / "b", links, ">f4"))
    # What was computed in single precision is as far from the group everywhere.
    assert read(openqcd(tmp_path / "c", links.astype("c8").astype("c16"))).measured.typical > 1e-8


def test_a_plaquette_with_all_digits_is_compared_with_all(tmp_path, links):
    path = openqcd(tmp_path / "a", links)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack("<d", struct.unpack("<d", content[16:24])[0] + 1e-8)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"plaquette .* is not the stored"):
        read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PLAQUETTE": 0.5}, r"plaquette -?0\.\d+ is not the stored 0\.5"),
        ({"LINK_TRACE": 0.5}, r"link trace -?0\.\d+ is not the stored 0\.5"),
        ({"CHECKSUM": "12ab"}, "is not the stored 000012ab"),
        ({"CHECKSUM": "so"}, "CHECKSUM = 'so' is no number"),
        ({"CHECKSUM": None}, "has no CHECKSUM"),
        ({"FLOATING_POINT": "IEEE64LITTLE"}, "is not 0"),
        ({"FLOATING_POINT": "IEEE32BIG"}, "takes 9216 bytes, and the file has 18432"),
        ({"FLOATING_POINT": "VAX"}, "IEEE32 or IEEE64 with BIG or LITTLE"),
        ({"DIMENSION_4": 4}, "takes 36864 bytes, and the file has 18432: it is cut short"),
        ({"DIMENSION_1": -4}, "extent x = -4 is that of no lattice"),
        ({"DIMENSION_1": 10**9}, "extent x = 1000000000 is that of no lattice"),
        ({"DATATYPE": "4D_SU3_GAUGE"}, "takes 12288 bytes"),
        ({"DATATYPE": "4D_SU4_GAUGE_4x4"}, r"SU\(4\) with 64 bits takes 32768"),
        ({"DATATYPE": "4D_U1"}, "4D_SU3_GAUGE and 4D_SU3_GAUGE_3x3 are read"),
    ],
)
def test_a_header_of_nersc_that_contradicts_the_links(tmp_path, links, changes, message):
    with pytest.raises(FormatError, match=message):
        read(nersc(tmp_path / "a", links, **changes))


def test_a_wrong_byte_order_of_milc(tmp_path, links):
    path = milc(tmp_path / "a", links)
    whole = path.read_bytes()
    path.write_bytes(struct.pack(">5i", *struct.unpack("<5i", whole[:20])) + whole[20:])
    with pytest.raises(FormatError, match="checksum sum29"):
        read(path)
    path.write_bytes(whole[:4] + whole[:20][4:][::-1] + whole[20:])
    with pytest.raises(FormatError, match="is that of no lattice: the byte order is another one"):
        read(path)
    path.write_bytes(whole[:84] + struct.pack("<i", 31) + whole[88:])
    with pytest.raises(FormatError, match="only the natural order"):
        read(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"<precision>64", b"<precision>16", "precision '16'"),
        (b"<lt>2<", b"<lt>4<", "takes 36864 bytes, and the record"),
        (b"ildg-binary-data", b"ildg-binary-dada", "no record ildg-binary-data"),
        (b"<suma>", b"<suma>hm", "is no checksum"),
    ],
)
def test_records_that_contradict_the_links(tmp_path, links, old, new, message):
    path = ildg(tmp_path / "a", links, dims=False)
    whole = path.read_bytes()
    assert whole.count(old) == 1
    changed = whole.replace(old, new)
    if len(new) != len(old):
        at = whole.rindex(bytes.fromhex("456789ab"))
        size = struct.unpack(">Q", whole[at + 8 : at + 16])[0]
        text = changed[at + 144 : at + 144 + size + 2]
        changed = whole[: at + 8] + struct.pack(">Q", size + 2) + whole[at + 16 : at + 144] + text
        changed += bytes(-(size + 2) % 8)
    path.write_bytes(changed)
    with pytest.raises(FormatError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<lx>2<", "<lx>3<", r"\[3, 2, 2, 4\] \(ildg-format\) and \[2, 2, 2, 4\] \(<dims>"),
        ("<lx>2</lx><ly>2</ly><lz>2</lz><lt>4<", "<lx>4</lx><ly>2</ly><lz>2</lz><lt>2<", "<dims>"),
        ("<dims>2 2 2 4 </dims>", "<dims>2 2 2 </dims>", r"\[2, 2, 2\] \(<dims>"),
        ("<spacetime>4<", "<spacetime>3<", "<spacetime> 3 and extents"),
        ("<precision>64<", "<precision>32<", r"number 4 \(ildg-format\) and 8 \(<precision>"),
        ("<precision>D<", "<precision>F<", r"number 8 \(ildg-format\) and 4 \(<precision>"),
        ("QDP_D3_", "QDP_F3_", r"number 8 \(ildg-format\) and 4 \(<datatype>"),
        ("QDP_D3_", "QDP_D2_", r"N of SU\(N\) 3 \(<field>.* and 2 \(<datatype>"),
        ("<colors>3<", "<colors>2<", r"N of SU\(N\) 3 \(<field> of ildg-format\) and 2 \(<colors>"),
        ("<typesize>144<", "<typesize>72<", "bytes of a site 576 .* and 288 .*<typesize>"),
        ("<datacount>4<", "<datacount>1<", "bytes of a site 576 .* and 144 .*<typesize>"),
    ],
)
def test_records_that_contradict_one_another(tmp_path, old, new, message):
    path = tmp_path / "a.ildg"
    write_configuration(path, random_links((4, 2, 2, 2)), "ildg")
    read(path)
    whole = path.read_bytes()
    assert whole.count(old.encode()) == 1
    path.write_bytes(whole.replace(old.encode(), new.ljust(len(old)).encode()))
    with pytest.raises(FormatError, match=message):
        read(path)
    assert inspect(path, force=True)["reader"] == "no"


def test_two_records_of_a_name_must_say_the_same(tmp_path, links):
    path = ildg(tmp_path / "a", links)
    whole = path.read_bytes()
    path.write_bytes(whole + record("ildg-format", b"<ildgFormat><lx>4</lx></ildgFormat>"))
    with pytest.raises(FormatError, match="two records 'ildg-format' that differ"):
        read(path)
    path.write_bytes(whole + whole[whole.rindex(bytes.fromhex("456789ab")) :])
    read(path)


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_given_and_contradicts_the_file(tmp_path, links, kind):
    path = WRITERS[kind](tmp_path / "a", links)
    read(path, Given(shape=(2, 2, 2, 4), n=3))
    with pytest.raises(FormatError, match=r"\[2, 2, 2, 4\] \(t, z, y, x\), and \[4, 2, 2, 2\] was"):
        read(path, Given(shape=(4, 2, 2, 2)))
    with pytest.raises(FormatError, match=r"it is 3, N of SU\(N\), and 2 was given"):
        read(path, Given(n=2))
    for given in (Given(dataset="u"), Given(order="t z y x mu(x y z t) a b")):
        with pytest.raises(FormatError, match=f"a file of {kind} has its one field"):
            read(path, given)


def test_two_fields_in_one_file(tmp_path, links):
    path = ildg(tmp_path / "a", links)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(FormatError, match="several fields"):
        read(path)


def test_links_that_are_of_no_group_are_named(tmp_path, links):
    broken = links.copy()
    broken[1, 0, 1, 3, 2] *= np.exp(0.1j)
    with pytest.raises(FormatError) as refused:
        read(ildg(tmp_path / "a", broken))
    assert re.search(
        r"\|det U - 1\| 0\.299 at \(t, z, y, x\) = \(1, 0, 1, 3\), direction z", str(refused.value)
    )
    broken[1, 0, 1, 3, 2, 0, 0] = np.nan
    with pytest.raises(FormatError, match=r"\|U U\^\+ - 1\| nan at"):
        read(ildg(tmp_path / "a", broken))


def test_by_force_the_result_is_marked(tmp_path, links):
    path = nersc(tmp_path / "a", links, PLAQUETTE=0.5)
    found = inspect(path, force=True)
    assert found["reader"] == "by force"
    assert "is not the stored 0.5" in found["problem"]
    assert found["contents"]["checksum"] == "agrees"


def test_small_numbers_are_no_configuration_of_openqcd(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<200i", *[2, 4, 4, 2] * 50))
    assert inspect(path)["format"] == "unknown"
