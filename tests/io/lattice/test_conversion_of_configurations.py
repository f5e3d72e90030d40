"""Gauge configurations from format to format: exact to the last bit, whole or absent."""

import re

import h5py
import numpy as np
import pytest
import torch
from by_hand import ildg, nersc, openqcd, random_links
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from physgen.batch import Batch
from physgen.conversion import convert
from physgen.ensembles import score_ensemble
from physgen.errors import FormatError, InputError
from physgen.io.inspect import inspect_all
from physgen.io.joined import expand
from physgen.io.lattice.configuration import Given
from physgen.io.lattice.content import read
from physgen.io.lattice.conversion import ConfigurationOptions
from physgen.io.lattice.source import ConfigurationSource
from physgen.io.lattice.writing import write_configuration
from physgen.systems.gauge import Gauge

SHAPE = (2, 4, 2, 2)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 4),
    n=st.integers(2, 4),
    bits=st.sampled_from([32, 64]),
    key=st.sampled_from(["nersc", "ildg"]),
    seed=st.integers(0, 2**20),
)
def test_what_is_written_is_read_bit_by_bit(tmp_path, shape, n, bits, key, seed):
    links = random_links(shape, n, seed).astype(np.complex64 if bits == 32 else complex)
    path = tmp_path / "a"
    write_configuration(path, links, key, bits=bits, facts={"note": "<a> & b"}, overwrite=True)
    found = read(path)
    assert found.links.dtype == links.dtype
    assert found.links.tobytes() == links.tobytes()
    assert found.header.group == f"SU({n})"
    assert all(check.passed for check in found.checks)


def test_the_bytes_are_those_of_a_file_made_by_hand(tmp_path):
    links = random_links(SHAPE)
    for key, by_hand, marker in (("nersc", nersc, b"END_HEADER\n"), ("ildg", ildg, b"binary-data")):
        write_configuration(tmp_path / key, links, key)
        content, other = ((tmp_path / key).read_bytes(), by_hand(tmp_path / "b", links))
        size = links.nbytes
        start = content.index(marker) + len(marker)
        expected = other.read_bytes()
        begin = expected.index(marker) + len(marker)
        if key == "ildg":
            start, begin = (at + 128 - len("ildg-binary-data") for at in (start, begin))
            sums = expected[expected.index(b"<suma>") : expected.index(b"</sumb>")]
            assert sums in content
        assert content[start : start + size] == expected[begin : begin + size]


def test_through_all_formats_and_back(tmp_path):
    links = random_links(SHAPE)
    path = openqcd(tmp_path / "a", links)
    for step, name in enumerate(("b.nersc", "c.h5", "d.lime", "e.hdf5", "f.ildg"), 1):
        report = convert(path, tmp_path / name)
        assert (report["configurations"], report["lost"]) == (1, [])
        path = tmp_path / name
        assert read(path).links.tobytes() == links.tobytes(), step
    report = convert(path, tmp_path / "g.nersc", configurations=ConfigurationOptions(bits=32))
    assert report["lost"] == ["numbers of 64 bits are rounded to 32"]
    assert (read(tmp_path / "g.nersc").links == links.astype(np.complex64)).all()
    facts = read(tmp_path / "g.nersc").header.facts
    assert facts["CONVERTED_FROM"] == "f.ildg, ILDG gauge configuration (LIME)"
    with pytest.raises(InputError, match="exists"):
        convert(path, tmp_path / "g.nersc")
    with pytest.raises(InputError, match="is the file to convert"):
        convert(path, path, overwrite=True)
    with pytest.raises(InputError, match=r"say --to, one of nersc, ildg, hdf5"):
        convert(path, tmp_path / "g.what")
    with pytest.raises(InputError, match="no format of gauge configurations that is written"):
        convert(path, tmp_path / "g", to="milc")


@pytest.fixture
def ensemble(tmp_path):
    folder = tmp_path / "cfg"
    folder.mkdir()
    for name, seed in (("r1n10", 1), ("r1n30", 2), ("r1n40", 3), ("r2n10", 4)):
        nersc(folder / f"{name}.nersc", random_links(SHAPE, seed=seed), ">f4")
    return folder


def test_an_ensemble_through_one_file_and_back_into_a_folder(tmp_path, ensemble):
    report = convert(ensemble, tmp_path / "all.h5")
    assert (report["configurations"], report["precision"]) == (4, "32 bits")
    whole, files = ConfigurationSource([tmp_path / "all.h5"]), ConfigurationSource(expand(ensemble))
    assert whole.replica.tolist() == files.replica.tolist() == [0, 0, 0, 1]
    assert whole.times.tolist() == files.times.tolist() == [0, 2, 3, 0]
    assert whole.trajectory.tolist() == [10, 30, 40, 10]
    assert whole.digest() == files.digest()
    assert "1 trajectories are missing" in whole.notes()[0]
    convert(tmp_path / "all.h5", tmp_path / "ildg", to="ildg")
    assert sorted(path.name for path in (tmp_path / "ildg").iterdir()) == [
        f"{name}.ildg" for name in ("r0n10", "r0n30", "r0n40", "r1n10")
    ]
    assert ConfigurationSource(expand(tmp_path / "ildg")).digest() == whole.digest()
    convert(ensemble, tmp_path / "lime", to="ildg")
    assert (tmp_path / "lime" / "r2n10.ildg").exists()
    with pytest.raises(InputError, match="choose a new folder"):
        convert(ensemble, tmp_path / "lime", to="ildg")
    with pytest.raises(InputError, match="4 configurations, one a file; name a folder"):
        convert(ensemble, tmp_path / "one.ildg")


@pytest.mark.parametrize("group", ["SU(2)", "SU(3)"])
def test_what_a_theory_writes_becomes_files_of_the_field(tmp_path, group):
    theory = Gauge(group=group, shape=SHAPE, beta=1.0)
    x = theory.arbitrary(3, torch.Generator().manual_seed(0))
    with theory.writer(tmp_path / "e.h5", 3) as append:
        append(Batch(x=x, chain=torch.tensor([0, 0, 1])))
    convert(tmp_path / "e.h5", tmp_path / "cfg", to="ildg")
    source = theory.open_ensemble(expand(tmp_path / "cfg"))
    batch = source.read(0, 3)
    assert (batch.x == x).all()
    assert batch.chain.tolist() == [0, 0, 1]
    plaquettes = [source.configuration(row).measured.plaquette for row in range(3)]
    expected = theory.observables(Batch(x=x))["plaquette"]
    np.testing.assert_allclose(plaquettes, expected, atol=1e-14)


def test_nothing_is_left_of_an_ensemble_in_which_one_is_damaged(tmp_path, ensemble):
    path = ensemble / "r2n10.nersc"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    for output, to in ((tmp_path / "all.h5", None), (tmp_path / "out", "ildg")):
        with pytest.raises(FormatError, match=r"r2n10\.nersc: checksum"):
            convert(ensemble, output, to=to)
    assert [one.name for one in tmp_path.iterdir()] == ["cfg"]
    report = convert(
        path, tmp_path / "forced.nersc", configurations=ConfigurationOptions(force=True)
    )
    assert "read by force: checksum" in report["notes"][0]
    assert (
        read(tmp_path / "forced.nersc")
        .header.facts["READ_BY_FORCE"]
        .startswith("r2n10.nersc: checksum")
    )


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_the_mark_of_force_goes_through_all_formats(tmp_path, ensemble):
    forced = ConfigurationOptions(force=True)
    flipped(ensemble / "r1n30.nersc")
    flipped(ensemble / "r2n10.nersc")
    convert(ensemble, tmp_path / "a.h5", configurations=forced)
    convert(tmp_path / "a.h5", tmp_path / "b.h5")
    convert(tmp_path / "b.h5", tmp_path / "ildg", to="ildg")
    convert(tmp_path / "ildg", tmp_path / "nersc", to="nersc")
    convert(tmp_path / "nersc", tmp_path / "c.h5")
    for name in ("a.h5", "b.h5", "ildg", "nersc", "c.h5"):
        source = ConfigurationSource(expand(tmp_path / name))
        assert [source.configuration(row).mark != "" for row in range(4)] == [
            False,
            True,
            False,
            True,
        ], name
        marks = list(source.marked.values())
        assert [mark.partition(":")[0] for mark in marks] == ["r1n30.nersc", "r2n10.nersc"], name
        assert all("is not the stored" in mark for mark in marks)
        assert sum("2 of 4 were read by force when" in note for note in source.notes()) == 1
        (report,) = inspect_all(expand(tmp_path / name)).values()
        assert report["reader"] == "yes"
        assert "2 of 4 were read by force when they were converted" in report["problem"]
        shown = report["contents"]["read by force when converted"]
        assert list(shown.values()) == marks
        card = score_ensemble(tmp_path / name, None, {}).card
        assert any("2 of 4 were read by force when" in row.warning for row in card.rows), name
    theory = Gauge(group="SU(3)", shape=SHAPE)
    (fault,) = theory.open(tmp_path / "c.h5").faults().values()
    assert "row 1 (r1n30.nersc: checksum" in fault


def test_a_second_force_adds_to_the_mark(tmp_path, ensemble):
    forced = ConfigurationOptions(force=True)
    flipped(ensemble / "r2n10.nersc")
    convert(ensemble / "r2n10.nersc", tmp_path / "a.nersc", configurations=forced)
    flipped(tmp_path / "a.nersc")
    convert(tmp_path / "a.nersc", tmp_path / "b.ildg", configurations=forced)
    assert re.fullmatch(
        r"r2n10\.nersc: checksum .*; a\.nersc: checksum \w+ is not .*",
        read(tmp_path / "b.ildg").mark,
    )


def test_what_is_forced_and_has_no_fault_has_no_mark(tmp_path, ensemble):
    forced = ConfigurationOptions(force=True)
    convert(ensemble, tmp_path / "a.h5", configurations=forced)
    assert ConfigurationSource([tmp_path / "a.h5"]).marked == {}
    convert(tmp_path / "a.h5", tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        assert "read_by_force" not in file


def test_what_has_no_place_in_a_format(tmp_path):
    np.save(tmp_path / "a.npy", random_links((4, 4, 3)))
    with pytest.raises(InputError, match="in four dimensions: write HDF5"):
        convert(tmp_path / "a.npy", tmp_path / "a.nersc")
    convert(tmp_path / "a.npy", tmp_path / "a.h5")
    assert (read(tmp_path / "a.h5").links == np.load(tmp_path / "a.npy")).all()
    turned = np.moveaxis(random_links(SHAPE), (5, 6), (0, 1))
    np.save(tmp_path / "b.npy", turned)
    given = Given(order="a b t z y x mu(x y z t)")
    convert(
        tmp_path / "b.npy", tmp_path / "b.ildg", configurations=ConfigurationOptions(given=given)
    )
    assert (read(tmp_path / "b.ildg").links == random_links(SHAPE)).all()
