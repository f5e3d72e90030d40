"""Files that others wrote, and the plaquettes that are known of them."""

from pathlib import Path

import pytest

from physgen.errors import FormatError
from physgen.io.inspect import inspect
from physgen.io.lattice.content import read

FILES = Path(__file__).resolve().parents[4] / "shared" / "data" / "lattice"
pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="there are no files of others here")


@pytest.mark.parametrize(
    ("name", "plaquette", "shape", "digits"),
    [
        ("nersc.l8t4b3360", 0.5038664469, (4, 8, 8, 8), 1e-10),
        ("milc.l4444", 0.5948501589, (4, 4, 4, 4), 1e-10),
        ("ildg.l4444", 0.5948501589, (4, 4, 4, 4), 1e-10),
        ("scidac.l4444", 0.5948501589, (4, 4, 4, 4), 1e-10),
    ],
)
def test_plaquettes(name, plaquette, shape, digits):
    found = read(FILES / name)
    assert found.measured.plaquette == pytest.approx(plaquette, abs=digits)
    assert found.header.shape == shape
    assert inspect(FILES / name)["contents"]["checksum"] == "agrees"


def test_one_configuration_in_three_formats_is_one_configuration():
    first, *others = (read(FILES / f"{kind}.l4444").links for kind in ("milc", "ildg", "scidac"))
    assert all((first == other).all() for other in others)


def test_the_damaged_one_is_refused():
    with pytest.raises(FormatError, match=r"sum29 72d77a0a is not the stored 2e218ab1.*\|U U\^\+"):
        read(FILES / "milc.bad-checksum.5p7")
