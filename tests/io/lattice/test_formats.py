"""Gauge configurations written by hand, as their formats are described, and what is read."""

import h5py
import numpy as np
import pytest
from by_hand import ildg, milc, nersc, openqcd, plaquette_of, random_links

from physgen.errors import FormatError
from physgen.io.lattice.configuration import Given
from physgen.io.lattice.content import read
from physgen.io.lattice.loops import measure
from physgen.io.lattice.source import in_files, in_memory


@pytest.fixture(scope="module")
def links():
    return random_links()


def single(links):
    return links.astype(np.complex64)


@pytest.mark.parametrize("kind", [">f4", "<f4", ">f8", "<f8"])
@pytest.mark.parametrize("rows", [2, 3])
def test_nersc(tmp_path, links, kind, rows):
    found = read(nersc(tmp_path / "a", links, kind, rows))
    expected = links if kind[2] == "8" else single(links)
    assert found.links.dtype == expected.dtype
    assert (found.links[..., :rows, :] == expected[..., :rows, :]).all()
    np.testing.assert_allclose(found.links, links, atol=1e-14 if kind[2] == "8" else 3e-7)
    assert [check.name for check in found.checks][:3] == ["checksum", "plaquette", "link trace"]


def test_nersc_with_a_plain_ieee32_is_big_endian(tmp_path, links):
    path = nersc(tmp_path / "a", links, ">f4", FLOATING_POINT="IEEE32")
    assert (read(path).links == single(links)).all()


@pytest.mark.parametrize("kind", [">f4", ">f8"])
@pytest.mark.parametrize("prefix", ["", "0x"])
@pytest.mark.parametrize("data", ["ildg-binary-data", "scidac-binary-data"])
def test_ildg_and_scidac(tmp_path, links, kind, prefix, data):
    form = data.startswith("ildg")
    found = read(ildg(tmp_path / "a", links, kind, prefix, form=form, data=data))
    assert (found.links == (links if kind[2] == "8" else single(links))).all()
    assert [check.name for check in found.checks][:2] == ["checksum suma", "checksum sumb"]


def test_lime_without_extents_is_read_when_they_are_given(tmp_path, links):
    path = ildg(tmp_path / "a", links, ">f4", form=False, dims=False)
    with pytest.raises(FormatError, match=r"does not say its extents.*--shape"):
        read(path)
    assert (read(path, Given(shape=(4, 2, 6, 2))).links == single(links)).all()
    with pytest.raises(FormatError, match="and the record 'ildg-binary-data' has"):
        read(path, Given(shape=(4, 2, 6, 4)))
    with pytest.raises(FormatError, match=r"says that it is \[4, 2, 6, 2\].*was given"):
        read(ildg(tmp_path / "b", links), Given(shape=(2, 2, 6, 4)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_milc(tmp_path, links, order):
    found = read(milc(tmp_path / "a", links, order))
    assert (found.links == single(links)).all()
    assert [check.name for check in found.checks][:2] == ["checksum sum29", "checksum sum31"]


def test_openqcd(tmp_path, links):
    found = read(openqcd(tmp_path / "a", links))
    assert (found.links == links).all()
    assert found.checks[0].name == "plaquette"


@pytest.mark.parametrize("n", [2, 4])
def test_other_groups(tmp_path, n):
    links = random_links((2, 2, 4, 2), n)
    for write in (nersc, ildg):
        path = tmp_path / write.__name__
        found = read(write(path, links, rows=n) if write is nersc else write(path, links))
        assert found.header.group == f"SU({n})"
        np.testing.assert_array_equal(found.links, links)
    if n == 2:
        rebuilt = read(nersc(tmp_path / "one row", links, rows=1))
        np.testing.assert_allclose(rebuilt.links, links, atol=1e-14)
    else:
        with pytest.raises(FormatError, match="cannot be rebuilt"):
            read(nersc(tmp_path / "three rows", links, rows=3))


def test_arrays_in_any_order_of_axes(tmp_path, links):
    np.save(tmp_path / "a.npy", links)
    np.savez(tmp_path / "a.npz", u=single(links), other=np.arange(3))
    real = np.stack([links.real, links.imag], -1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["gauge/u"] = real.astype(">f8")
    with h5py.File(tmp_path / "stated.h5", "w") as file:
        file["u"] = np.moveaxis(links, 4, 0).transpose(0, 4, 3, 2, 1, 5, 6)[::-1]
        file["u"].attrs["axes"] = "mu(t z y x) x y z t a b"
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["configurations"] = np.stack([in_memory(links.conj()), in_memory(links)])
    for name in ("a.npy", "a.npz", "a.h5", "stated.h5"):
        expected = single(links) if name == "a.npz" else links
        np.testing.assert_array_equal(read(tmp_path / name).links, expected)
    np.testing.assert_array_equal(read(tmp_path / "own.h5", row=1).links, links)
    turned = np.moveaxis(links, (5, 6), (0, 1))
    np.savez(tmp_path / "b.npz", u=turned)
    given = Given(dataset="u", order="a b t z y x mu(x y z t)")
    np.testing.assert_array_equal(read(tmp_path / "b.npz", given).links, links)
    for order, said in (("t z y x mu(x y z) a b", "no order of axes"), ("t x mu(t x) a b", "not")):
        with pytest.raises(FormatError, match=said):
            read(tmp_path / "b.npz", Given(dataset="u", order=order))
    with pytest.raises(FormatError, match="no gauge configuration"):
        read(tmp_path / "b.npz")


def test_what_is_measured_agrees_with_loops_one_by_one(links):
    found = measure(links)
    expected = plaquette_of(links)
    got = (found.plaquette_space, found.plaquette_time, found.plaquette)
    np.testing.assert_allclose(got, expected, atol=1e-14)
    assert found.link_trace == pytest.approx(np.einsum("...ii", links).real.mean() / 3, abs=1e-14)
    assert max(found.unitarity, found.determinant) < 1e-14
    broken = links.copy()
    broken[1, 0, 5, 1, 2] *= 1.01
    found = measure(broken)
    assert found.worst == (1, 0, 5, 1, 2)
    assert found.unitarity == pytest.approx(0.0201)
    assert found.determinant == pytest.approx(0.030301)
    broken[0, 1, 2, 0, 3, 0, 0] = np.nan
    assert measure(broken).worst == (0, 1, 2, 0, 3)
    assert np.isnan(measure(broken).unitarity)


def test_in_memory_a_direction_goes_along_its_axis(links):
    x = in_memory(links)
    assert x.shape == (4, 4, 2, 6, 2, 3, 3, 2)
    np.testing.assert_array_equal(x[0, ..., 0], links[..., 3, :, :].real)  # time
    np.testing.assert_array_equal(x[3, ..., 1], links[..., 0, :, :].imag)  # x
    np.testing.assert_array_equal(in_files(x), links)
