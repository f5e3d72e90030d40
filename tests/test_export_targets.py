"""What else models are exported to: folders of Triton, and libraries of DDML."""

import json
from dataclasses import replace

import h5py
import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from small_showers import GEOMETRY, trained
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from typer.testing import CliRunner

from physgen import export
from physgen.cli import app
from physgen.errors import DomainError, InputError
from physgen.export.base import new_folder
from physgen.export.ddml import DDML
from physgen.export.triton import Triton
from physgen.generation import generate
from physgen.io.layouts import layout_of, open_points
from physgen.systems.geometry import Geometry
from physgen.systems.voxelisation import Cells, Losses, to_cells, to_points

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64", "tensor(bool)": "TYPE_BOOL"}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["seed", "incident_energies"]),
        ({"noise": "input"}, ["noise", "incident_energies"]),
        ({"single_input": True, "max_batch_size": 7}, ["vector"]),
    ],
)
def test_the_configuration_is_that_of_the_model(tmp_path, options, names):
    Triton(**options).write(trained(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "config.pbtxt"]
    config = text_format.Parse((tmp_path / "config.pbtxt").read_text(), ModelConfig())
    assert (config.name, config.backend) == ("", "onnxruntime")
    assert config.max_batch_size == options.get("max_batch_size", 4096)
    assert config.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(tmp_path / "1" / config.default_model_filename)
    assert [one.name for one in config.input] == names
    for said, known in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [one.name for one in said] == [one.name for one in known]
        assert [list(one.dims) for one in said] == [one.shape[1:] for one in known]
        assert [DataType.Name(one.data_type) for one in said] == [TYPES[x.type] for x in known]
    card = config.parameters["card"].string_value
    assert card == (tmp_path / "1" / "card.json").read_text()
    assert json.loads(card)["conditions"][0]["unit"] == "MeV"
    found = export.load(tmp_path / "1").sample(3, [5e3], seed=1)
    assert found.x.shape == (3, GEOMETRY.n_voxels)


def test_options_of_triton_are_checked():
    with pytest.raises(InputError, match="max_batch_size = 0: one row or more"):
        Triton(max_batch_size=0)
    with pytest.raises(InputError, match="leave one of the two out"):
        Triton(noise="seed", single_input=True)


def test_what_does_not_export_leaves_no_folder(tmp_path):
    other = replace(trained(), correction="metropolis")
    for exporter in (Triton(), DDML(energies=(5e3,))):
        with (
            pytest.raises(InputError, match=r"--set sampling\.correction=none"),
            new_folder(tmp_path / "model") as folder,
        ):
            exporter.write(other, folder)
    with (
        pytest.raises(DomainError, match="outside the trained domain"),
        pytest.warns(UserWarning, match="showers-5000MeV"),
        new_folder(tmp_path / "model") as folder,
    ):
        DDML(energies=(5e3, 5e5), n=3, cells=(1, 2, 2)).write(trained(), folder)
    assert list(tmp_path.iterdir()) == []


def test_a_library_has_the_showers_of_generate_in_cells(tmp_path):
    cells = (3, 30, 49)
    small = trained()
    exporter = DDML(energies=(5e3, 2.5e4), n=300, seed=3, cells=cells, cell_mm=1.5)
    with pytest.warns(UserWarning, match=r"MeV\.h5: energy: .* in layers without voxels \(3\)"):
        exporter.write(small, tmp_path)
    names = ["showers-25000MeV.h5", "showers-5000MeV.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for energy, name in zip((2.5e4, 5e3), names, strict=True):
        batch = generate(small.surrogate, 300, seed=3, condition={"incident_energies": energy})
        points = to_points(batch, GEOMETRY, Losses())
        expected = to_cells(points, Cells(*cells, 1.5), Losses())
        assert layout_of(tmp_path / name).key == "ddml"
        with h5py.File(tmp_path / name) as file:
            np.testing.assert_array_equal(file["layers"], expected.x)
            assert file["incident_energies"][:].tolist() == [[energy]] * 300
            said = json.loads(file.attrs["physgen_provenance"])
        assert (said["incident_energies"], said["verdict"], said["seed"]) == (
            energy,
            "not scored",
            3,
        )
        read = open_points(tmp_path / name).read(0, 300)
        inside = read.x[..., 3].sum(1)
        torch.testing.assert_close(inside, expected.x.sum((1, 2, 3)))
        assert inside.mean() > 0.3 * batch.x.sum(1).mean()


@pytest.mark.filterwarnings("ignore:showers-.*points")
def test_a_library_beyond_the_domain_says_so(tmp_path):
    small = trained()
    small.surrogate.conditions.extrapolate = True
    exporter = DDML(energies=(5e3, 5e5), n=3, cells=(30, 60, 98))
    with pytest.warns(UserWarning, match=r"500000MeV\.h5: 3 of 3 samples are outside the trained"):
        exporter.write(small, tmp_path)
    said = []
    for energy in (5000, 500000):
        with h5py.File(tmp_path / f"showers-{energy}MeV.h5") as file:
            said.append(json.loads(file.attrs["physgen_provenance"]).get("outside_domain"))
    assert said[0] is None
    assert said[1].startswith("3 of 3 samples are outside the trained domain: incident_energies [")


@pytest.mark.filterwarnings("ignore:showers-.*points")
def test_energies_have_files_of_their_own(tmp_path):
    with pytest.raises(InputError, match="may be named once"):
        DDML(energies=(5e3, 5e3))
    DDML(energies=(12345.67, 12345.68), n=1, cells=(30, 90, 98)).write(trained(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "showers-12345.67MeV.h5",
        "showers-12345.68MeV.h5",
    ]


def test_a_library_is_of_showers(tmp_path):
    small = trained()
    message = "small is not exported to DDML: its samples are no showers"
    with pytest.raises(InputError, match=message):
        DDML(energies=(5e3,)).write(replace(small, geometry=None), tmp_path)
    unplaced = Geometry(GEOMETRY.layers, placed=False)
    with pytest.raises(InputError, match=message):
        DDML(energies=(5e3,)).write(replace(small, geometry=unplaced), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"energies": ()}, {"n": 0}, {"cells": (30, 0, 49)}, {"cell_mm": -1.0}]
)
def test_options_of_ddml_are_checked(options):
    with pytest.raises(InputError, match="one energy and shower or more"):
        DDML(**{"energies": (5e3,)} | options)


def test_the_command_hands_over_options(tmp_path):
    words = ["export", "none", "-o", str(tmp_path / "x"), "--to", "ddml"]
    for option, message in (
        ("energy=[5000]", "--to ddml: key 'energies' is missing"),
        ("energies", "is not of the form key=value"),
        ("energies=[5000]", "none"),  # Then there is no run.
    ):
        done = CliRunner().invoke(app, [*words, "--set", option])
        assert done.exit_code != 0
        assert message in f"{done.output} {done.exception}"
    assert list(tmp_path.iterdir()) == []
