"""The C++ example deposits what Python has for the same noise, and refuses bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_showers import GEOMETRY, trained

from physgen import export
from physgen.export import card as cards
from physgen.export.onnx import ONNX

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[1] / "examples" / "geant4"
HEADERS = Path(sys.prefix) / "headers" / "usr"
EVENTS = np.repeat([3, 5, 6, 9], [4, 1, 7, 5])
ENERGIES = np.geomspace(1e3, 1e5, len(EVENTS))
VARIANTS = {"input": {}, "seed": {"noise": "seed"}, "vector": {"single_input": True}}


def no_headers():
    """Say what is missing to build the example; nothing if it is all there."""
    roots = (HEADERS, Path("/usr"), Path("/usr/local"))
    if not any((root / "include/onnxruntime/onnxruntime_cxx_api.h").exists() for root in roots):
        return f"no headers of onnxruntime: run examples/geant4/get-headers.sh {HEADERS.parent}"
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    return f"not installed: {missing[0]}" if missing else ""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small model of showers in each form in which noise is given."""
    found = {}
    for name, options in VARIANTS.items():
        found[name] = tmp_path_factory.mktemp(name)
        ONNX(**options).write(trained(), found[name])
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The example's program, built by CMake."""
    if no_headers():
        pytest.skip(no_headers())
    import onnxruntime

    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    build = tmp_path_factory.mktemp("build")
    prefix, found = f"-DCMAKE_PREFIX_PATH={HEADERS}", f"-DONNXRUNTIME_LIBRARY={library}"
    configure = ["-S", EXAMPLE, "-B", build, prefix, found, "-DCMAKE_CXX_FLAGS=-Werror"]
    for words in (configure, ["--build", build]):
        done = subprocess.run(["cmake", *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "showers"


@pytest.fixture
def run(program, folders, tmp_path):
    """Runs the program, with defaults for all that it needs."""

    def called(*options, model=folders["input"], particles=None, output="deposits.csv"):
        table = tmp_path / "particles.csv"
        lines = [f"{e},22,{energy!r}" for e, energy in zip(EVENTS, ENERGIES.tolist(), strict=True)]
        table.write_text(particles or "\n".join(["event,pdg,energy_MeV", *lines]) + "\n")
        words = [program, model, table, "-o", tmp_path / output, *options]
        return subprocess.run(list(map(str, words)), capture_output=True, text=True)

    return called


def deposited(path):
    """Voxels (n, n_voxels) and flags (n,) of a table of deposits."""
    table = np.genfromtxt(path, delimiter=",", names=True)
    offsets = {
        layer.id: first for layer, first in zip(GEOMETRY.layers, GEOMETRY.offsets, strict=False)
    }
    rings = {layer.id: layer.n_r for layer in GEOMETRY.layers}
    sectors = {layer.id: layer.n_alpha for layer in GEOMETRY.layers}
    voxels = np.zeros((len(EVENTS), GEOMETRY.n_voxels))
    outside = np.zeros(len(EVENTS), bool)
    for row in table:
        layer, shower = int(row["layer"]), int(row["track"]) - 1
        voxel = int(offsets[layer] + row["i_alpha"] * rings[layer] + row["i_r"])
        assert row["r_mm"] == GEOMETRY.radius[voxel]
        if sectors[layer] > 1:
            assert row["alpha_rad"] == pytest.approx(GEOMETRY.alpha[voxel])
        else:
            assert abs(row["alpha_rad"]) <= np.pi
        assert row["event"] == EVENTS[shower]
        voxels[shower, voxel] = row["energy_MeV"]
        outside[shower] = row["outside_domain"]
    return voxels, outside


@pytest.mark.parametrize("name", VARIANTS)
def test_deposits_are_those_of_python_for_the_same_seed(run, folders, tmp_path, name):
    done = run("--seed", 7, model=folders[name])
    assert (done.returncode, done.stderr) == (0, "")
    found, outside = deposited(tmp_path / "deposits.csv")
    energies = {"incident_energies": ENERGIES}
    expected = export.load(folders[name]).sample(len(EVENTS), energies, seed=7).x
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert not outside.any()
    other = export.load(folders[name]).sample(len(EVENTS), energies, seed=8).x
    assert np.abs(found - other).max() > 0.01 * np.abs(expected).max()


def test_deposits_are_those_of_python_for_the_same_noise(run, folders, tmp_path):
    model = export.load(folders["input"])
    noise = np.random.default_rng(1).standard_normal((len(EVENTS), *model.card.noise.shape))
    noise.astype("f4").tofile(tmp_path / "noise")
    done = run("--noise", tmp_path / "noise")
    assert (done.returncode, done.stderr) == (0, "")
    expected = model.sample(len(EVENTS), {"incident_energies": ENERGIES}, noise=noise).x
    found, _ = deposited(tmp_path / "deposits.csv")
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_deposits_of_whole_rings_lie_to_no_side(run, folders, tmp_path):
    assert run("--seed", 7, model=folders["input"]).returncode == 0
    table = np.genfromtxt(tmp_path / "deposits.csv", delimiter=",", names=True)
    rings = table[np.isin(table["layer"], [one.id for one in GEOMETRY.layers if one.n_alpha == 1])]
    alpha, n = rings["alpha_rad"], len(rings)
    assert n > 20
    assert abs(np.exp(1j * alpha).mean()) < 3 / n**0.5
    assert len(np.unique(alpha)) == n


def test_a_particle_outside_the_domain_is_an_error_unless_allowed(run, tmp_path):
    lines = [f"{event},22,{2e5 if i == 8 else 5e3}" for i, event in enumerate(EVENTS)]
    particles = "\n".join(["event,pdg,energy_MeV", *lines])
    done = run(particles=particles)
    refused(
        done,
        tmp_path,
        "row 9: incident_energies = 200000 MeV is outside its domain [1000, 100000] MeV",
    )
    done = run("--allow-outside-domain", particles=particles)
    assert (done.returncode, done.stderr) == (0, "")
    _, outside = deposited(tmp_path / "deposits.csv")
    assert np.flatnonzero(outside).tolist() == [8]


def refused(done, folder, message, code=1):
    """Ends with an error that says what is wrong, and writes nothing."""
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert [path.name for path in folder.iterdir() if path.name.startswith("deposits")] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sede", 7], "no option is called --sede"),
        (["--seed", -1], "an integer from 0 to 2^31 - 1"),
        (["--seed", "7x"], "an integer from 0 to 2^31 - 1"),
        (["--noise"], "--noise needs a value"),
        (["another"], "a model, particles and -o"),
    ],
)
def test_options_are_checked(run, tmp_path, words, message):
    refused(run(*words), tmp_path, message, code=2)


@pytest.mark.parametrize(
    ("particles", "message"),
    [
        ("event,pdg,energy\n1,22,5e3", "no column is called energy_MeV"),
        ("event,pdg,energy_MeV\n1,22,5e3\n1,22,much", "row 2: no number in energy_MeV"),
        ("event,pdg,energy_MeV\n1,22", "row 1: no number in energy_MeV"),
        ("event,pdg,energy_MeV\n1,22,nan", "row 1: incident_energies = nan MeV is outside"),
        ("event,pdg,energy_MeV\n1.5,22,5e3", "row 1: event is no whole number"),
        ("event,pdg,energy_MeV\n\n1,22.9,5e3", "row 1: pdg is no whole number"),
        ("event,pdg,energy_MeV\n1,11,5e3", "row 1: particles of pdg 11 are none of this model"),
    ],
)
def test_particles_are_checked(run, tmp_path, particles, message):
    refused(run(particles=particles), tmp_path, message)


def test_files_are_checked(run, tmp_path, folders):
    (tmp_path / "short").write_bytes(b"1234")
    refused(run("--noise", tmp_path / "short"), tmp_path, "numbers of float32 are wanted")
    refused(run("--noise", tmp_path / "none"), tmp_path, "numbers of float32 are wanted")
    refused(run(output="none/deposits.csv"), tmp_path, "cannot write")
    long = np.zeros((len(EVENTS), GEOMETRY.n_voxels + 3), "f4")
    long.tofile(tmp_path / "noise")
    done = run("--noise", tmp_path / "noise", model=folders["seed"])
    refused(done, tmp_path, "draws its noise inside: give a seed")


def rewritten(folder, **changes):
    """Write a card anew, hash included."""
    cards.write(folder, cards.read(folder).model_copy(update=changes))


def edited(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=1))


def double(folder):
    noise, *rest = cards.read(folder).inputs
    rewritten(folder, inputs=(noise.model_copy(update={"dtype": "float64"}), *rest))


def other_condition(folder):
    (one,) = cards.read(folder).conditions
    rewritten(folder, conditions=(one.model_copy(update={"unit": "GeV"}),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: edited(folder, recipe="mine"), "was changed after it was written"),
        (lambda folder: edited(folder, version=3), "is of version 3 of cards"),
        (lambda folder: edited(folder, card_sha256=""), "was changed after it was written"),
        (lambda folder: (folder / "card.json").write_text("{}"), "not the card of an exported"),
        (lambda folder: (folder / "card.json").write_text('{"version"'), "card.json: [json"),
        (lambda folder: (folder / "card.json").unlink(), "no card.json; give a folder that"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "not the file its card was"),
        (lambda folder: rewritten(folder, geometry=None), "so its samples are no showers"),
        (double, "this example feeds numbers of single precision, and noise is float64"),
        (other_condition, "incident_energies [GeV] is none that this program knows"),
    ],
)
def test_cards_and_models_are_checked(run, folders, tmp_path, change, message):
    folder = Path(shutil.copytree(folders["input"], tmp_path / "model"))
    assert run(model=folder).returncode == 0
    (tmp_path / "deposits.csv").unlink()
    change(folder)
    refused(run(model=folder), tmp_path, message)
