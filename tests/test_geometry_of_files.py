"""Showers of 368 voxels lie in more than one geometry: what files say, and what is assumed."""

import h5py
import pytest
import torch

from physgen.against import Against, Criteria
from physgen.batch import Batch
from physgen.conversion import ShowerOptions, convert
from physgen.errors import FormatError, InputError
from physgen.io.calochallenge import ASSUMED, ASSUMED_LAYERS, PUBLISHED_LAYERS, stated_geometry
from physgen.io.inspect import inspect
from physgen.io.shipped import shipped
from physgen.recipe import read
from physgen.run import Run
from physgen.scoring import read_as_assumed
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.geometry import Geometry, Layer, read_geometry, write_geometry
from physgen.validation.geometries import assumed_geometry

METRICS = [{"kind": "means", "tolerance": {"E_tot/E_inc": 1.0}}]


@pytest.fixture
def public(tmp_path):
    """The layers of published CaloChallenge set 1 photons."""
    sizes = ((8, 1), (16, 10), (19, 10), (5, 1), (5, 1))
    layers = [Layer(i, tuple(map(float, range(n + 1))), a) for i, (n, a) in enumerate(sizes)]
    write_geometry(tmp_path / "public.xml", Geometry(tuple(layers)))
    return tmp_path / "public.xml"


def showers(path, seed, n=120):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, 368), generator=generator)
    with h5py.File(path, "w") as file:
        file["showers"], file["incident_energies"] = x.numpy(), x.sum(1, keepdim=True).numpy() * 2
    return path


def card_of(truth, generated, **overrides):
    overrides = {"validation.metrics": METRICS, **overrides}
    return Against(truth, Criteria(overrides=overrides)).score(generated)[1]


def test_an_assumed_geometry_is_a_warning_and_stands_in_the_provenance(tmp_path, public):
    files = [showers(tmp_path / name, i) for i, name in enumerate(("t.h5", "g.h5"))]
    card = card_of(*files)
    [warning] = [row.warning for row in card.rows if row.name == "geometry"]
    for words in (
        *map(str, files),
        ASSUMED,
        ASSUMED_LAYERS,
        PUBLISHED_LAYERS,
        "--binning FILE.xml",
    ):
        assert words in warning
    assert card.provenance["geometry"] == {
        "binning": ASSUMED,
        "voxels": "8+144+192+12+12",
        "given": "default",
    }
    assert card.verdict == "pass"
    named = card_of(*files, **{"data.binning": str(public)})
    assert "geometry" not in {row.name for row in named.rows}
    assert named.provenance["geometry"] == {
        "binning": str(public),
        "voxels": "8+160+190+5+5",
        "given": "given",
    }
    hints = "\n".join(inspect(files[0])["hints"])
    assert PUBLISHED_LAYERS in hints
    assert "--binning FILE.xml" in hints


def test_a_run_whose_file_was_read_in_an_assumed_geometry_says_so(tmp_path):
    path = showers(tmp_path / "mine.h5", 1, n=600)

    def rows_with(**more):
        changes = {"data.path": str(path), **more}
        run = Run.create(read("calo-vae", changes), tmp_path / "runs")[0]
        return assumed_geometry(run.system, read_as_assumed(run))

    [row] = rows_with()
    assert str(path) in row.warning
    assert PUBLISHED_LAYERS in row.warning
    assert rows_with(**{"data.binning": ASSUMED}) == []
    simulated = Run.create(read("calo-vae"), tmp_path / "runs")[0]
    assert read_as_assumed(simulated) == []


def test_files_that_physgen_writes_say_their_geometry(tmp_path, public):
    system, own = Calorimeter(), Calorimeter(binning=public)
    batch = Batch(torch.ones((120, 368)), condition=torch.full((120, 1), 400.0))
    paths = {name: tmp_path / f"{name}.h5" for name in ("shipped", "own")}
    for path, one in zip(paths.values(), (system, own), strict=True):
        with one.writer(path, 120) as append:
            append(batch)
    assert stated_geometry(paths["shipped"]) == (ASSUMED, system.geometry.sha256)
    assert stated_geometry(paths["own"]) == ("public.xml", own.geometry.sha256)
    report = inspect(paths["own"])
    assert report["showers"]["geometry"] == "public.xml"
    assert PUBLISHED_LAYERS not in "\n".join(report["hints"])
    card = card_of(paths["shipped"], paths["shipped"])
    assert "geometry" not in {row.name for row in card.rows}
    with pytest.raises(FormatError, match=r"own\.h5: says .* 'public\.xml' .* not that of calo"):
        card_of(paths["own"], paths["own"])
    named = card_of(paths["own"], paths["own"], **{"data.binning": str(public)})
    assert named.provenance["geometry"]["given"] == "given"


def test_converted_files_say_their_geometry(tmp_path, public):
    path, points, back = (tmp_path / name for name in ("a.h5", "points.h5", "back.h5"))
    with Calorimeter().writer(path, 3) as append:
        append(Batch(torch.ones((3, 368)), condition=torch.full((3, 1), 400.0)))
    assert stated_geometry(path) == (ASSUMED, Calorimeter().geometry.sha256)
    wrong = ShowerOptions(binning=public)
    with pytest.raises(FormatError, match=r"not that of .*public\.xml"):
        convert(path, points, to="showerdata", showers=wrong)
    convert(path, points, to="showerdata", showers=ShowerOptions(binning=ASSUMED))
    convert(points, back, to="calochallenge", showers=wrong)
    assert stated_geometry(back)[0] == "public.xml"


def test_a_binning_for_a_truth_of_points_is_said_to_be_one_of_voxels(tmp_path):
    voxels = showers(tmp_path / "v.h5", 1, n=2)
    convert(voxels, tmp_path / "p.h5", to="showerdata", showers=ShowerOptions(binning=ASSUMED))
    with pytest.raises(InputError, match=r"p\.h5 .*holds showers of points, and a binning is one"):
        card_of(tmp_path / "p.h5", voxels, **{"data.binning": ASSUMED})


def test_what_is_said_of_layers_is_what_they_are(public):
    assert read_geometry(shipped("datasets", ASSUMED)).in_short == ASSUMED_LAYERS
    assert read_geometry(public).in_short == PUBLISHED_LAYERS
