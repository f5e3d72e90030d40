"""Exported models: their card, their noise, how they are called from Python, and bad input."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import physgen
from physgen import export
from physgen.cli import app
from physgen.errors import CheckpointError, DomainError, InputError
from physgen.export import card as cards
from physgen.export import needed
from physgen.export.base import Trained, new_folder
from physgen.export.describe import scores_of, voxels_of
from physgen.export.domain import mark_outside
from physgen.export.loaded import _inside
from physgen.export.noise import draw_inside, normal, philox
from physgen.export.onnx import mappable
from physgen.exporting import _geometry, _licence
from physgen.exporting import export as write
from physgen.io.shipped import shipped
from physgen.recipe import read
from physgen.run import Run
from physgen.systems.geometry import read_geometry
from physgen.validation.scorecard import Row, Scorecard

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = {"engine.steps": 2, "engine.batch_size": 16, "sampling.n": 100}
    runs = tmp_path_factory.mktemp("runs")
    return physgen.train("digits-conditional-vae", small, runs=runs, score=False, track=False)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return write(run.path, "onnx", tmp_path_factory.mktemp("exported") / "input")


@pytest.fixture
def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def test_the_card_says_what_a_host_needs(run, folder):
    card = cards.read(folder)
    assert [(one.name, one.role, one.shape) for one in card.inputs] == [
        ("noise", "noise", (card.noise.shape)),
        ("label", "condition", (1,)),
    ]
    samples, outside = card.outputs
    assert (outside.name, outside.role, outside.dtype) == ("outside_domain", "outside", "bool")
    assert (samples.name, samples.shape) == ("samples", (8, 8))
    (label,) = card.conditions
    assert (label.name, label.labels) == ("label", tuple(range(10)))
    description = json.loads((run.path / "surrogate" / "card.json").read_text())
    assert card.data.sha256 == description["data"]["sha256"]
    assert card.data.name == Path(description["data"]["name"]).name  # No folder of this machine.
    assert card.data.licence.startswith("CC BY 4.0")
    assert card.scores is None
    assert card.geometry is None
    assert (card.noise.rule, card.outside_domain) == ("input", "error")
    assert card.model.parity < 1e-5
    told = export.load(folder)._repr_html_()
    assert "<td>condition label</td><td>(0, 1, 2" in told
    assert "not scored" in told


def test_samples_are_those_of_torch(run, folder):
    model = export.load(folder)
    surrogate = physgen.load(run.path).surrogate
    rng = np.random.default_rng(1)
    for n in (1, 3, 200):
        noise = rng.standard_normal((n, *model.card.noise.shape)).astype("f4")
        labels = rng.integers(0, 10, n)
        found = model.sample(n, {"label": labels}, noise=noise)
        given = torch.tensor(labels[:, None], dtype=torch.float32)
        expected = surrogate.from_noise(torch.from_numpy(noise), given).detach().numpy()
        np.testing.assert_allclose(found.x, expected, rtol=1e-5, atol=1e-5 * expected.max())
        assert not found.outside.any()


def test_a_seed_means_the_same_samples_wherever_noise_is_drawn(run, folder, tmp_path):
    given = export.load(folder)
    drawn = export.load(write(run.path, "onnx", tmp_path / "seed", {"noise": "seed"}))
    vector = export.load(write(run.path, "onnx", tmp_path / "one", {"single_input": True}))
    assert [one.role for one in drawn.card.inputs] == ["seed", "condition"]
    assert [one.role for one in vector.card.inputs] == ["vector"]
    first = given.sample(5, [3], seed=7).x
    for model in (drawn, vector):
        np.testing.assert_allclose(model.sample(5, [3], seed=7).x, first, atol=1e-4)
    assert (drawn.sample(5, [3], seed=8).x != drawn.sample(5, [3], seed=7).x).any()
    # A sample depends on its own seed alone.
    seeds = np.array([5, -1, 2**62, 5])
    whole = drawn.sample(4, [3], seed=seeds).x
    alone = np.concatenate([drawn.sample(1, [3], seed=seeds[[i]]).x for i in range(4)])
    np.testing.assert_allclose(whole, alone, rtol=1e-5, atol=1e-4)
    assert (whole[0] == whole[3]).all()


def test_a_condition_outside_its_domain_is_an_error_unless_allowed(folder):
    model = export.load(folder)
    with pytest.raises(DomainError, match=r"label = 11 \(row 1\) is outside its domain"):
        model.sample(2, {"label": [3, 11]}, seed=1)
    found = model.sample(2, {"label": [3, 11]}, seed=1, allow_outside_domain=True)
    assert found.outside.tolist() == [False, True]
    with pytest.raises(DomainError, match=r"label = 2\.5 "):
        model.sample(1, [2.5], seed=1)
    with pytest.raises(DomainError, match="label = nan"):
        model.sample(1, [np.nan], seed=1)
    with pytest.raises(DomainError, match="did you mean 'label'"):
        model.sample(1, {"labels": 1}, seed=1)
    with pytest.raises(DomainError, match="need conditions: label"):
        model.sample(1, seed=1)


def test_noise_and_seeds_are_checked(folder):
    model = export.load(folder)
    with pytest.raises(InputError, match="either a seed or noise"):
        model.sample(1, [1])
    with pytest.raises(InputError, match="noise of shape"):
        model.sample(1, [1], noise=np.zeros((1, 3)))
    with pytest.raises(InputError, match="n = -1: how many"):
        model.sample(-1, [1], seed=1)
    with pytest.raises(InputError, match="noise of row 1 is not finite"):
        model.sample(2, [1], noise=np.full((2, *model.card.noise.shape), [[0.0], [np.nan]]))
    with pytest.raises(InputError, match="2 integers wanted"):
        model.sample(2, [1], seed=np.arange(3))
    with pytest.raises(InputError, match=r"2\^31"):
        model.sample(2, [1], seed=2**31)


def edited(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_card_that_was_edited_is_refused(copied):
    condition = json.loads((copied / "card.json").read_text())["conditions"][0]
    edited(copied, conditions=[condition | {"high": 99.0}])
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        export.load(copied)


def test_a_card_with_other_keys_is_refused(copied):
    edited(copied, licence="mine")
    with pytest.raises(CheckpointError, match="unknown key 'licence'"):
        export.load(copied)


def test_a_card_of_another_version_is_refused(copied):
    edited(copied, version=3)
    with pytest.raises(CheckpointError, match="version 3 of cards"):
        export.load(copied)


def test_a_card_of_something_else_is_refused(run):
    with pytest.raises(CheckpointError, match="not the card of an exported surrogate"):
        export.load(run.path / "surrogate")


def test_a_model_without_its_card_is_refused(copied):
    (copied / "card.json").unlink()
    with pytest.raises(CheckpointError, match=r"no card\.json beside model\.onnx"):
        export.load(copied)


def test_a_model_that_was_changed_or_lost_is_refused(copied):
    with (copied / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="not the file its card was written for"):
        export.load(copied)
    (copied / "model.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"model\.onnx is missing"):
        export.load(copied)


def test_nothing_partial_is_left(tmp_path):
    def half():
        with new_folder(tmp_path / "model") as folder:
            (folder / "model.onnx").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(InputError, match="nothing was left behind"):
        half()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_or_cannot_be_written_is_refused(run, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match=r"there exists; choose another folder"):
        write(run.path, "onnx", tmp_path / "there")

    def read_only(self, *arguments, **options):
        raise OSError(errno.EROFS, "read-only", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(InputError, match="Read-only file system; choose another folder"):
        write(run.path, "onnx", tmp_path / "model")


def test_targets_and_options_are_checked(run, tmp_path):
    with pytest.raises(InputError, match="no exporter is called 'onxx'; did you mean 'onnx'"):
        write(run.path, "onxx", tmp_path / "x")
    with pytest.raises(InputError, match="unknown key 'noise'"):
        write(run.path, "pyfunc", tmp_path / "x", {"noise": "seed"})
    with pytest.raises(InputError, match="noise = 'seeds'"):
        write(run.path, "onnx", tmp_path / "x", {"noise": "seeds"})
    with pytest.raises(InputError, match="leave one of the two out"):
        write(run.path, "onnx", tmp_path / "x", {"noise": "seed", "single_input": True})
    with pytest.raises(InputError, match="holds the run as it is"):
        write(run.path, "pyfunc", tmp_path / "x", {"sampling.n": 5})
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(needed, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'physgen\[export\]'"):
        needed.needed("onnxruntime")


def test_the_command(run, tmp_path):
    target = tmp_path / "model"
    done = CliRunner().invoke(app, ["export", str(run.path), "-o", str(target), "--noise", "seed"])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{target}\n"
    begun = [line for line in done.stderr.splitlines() if line.endswith(": begins")]
    steps = ("trace", "translate to ONNX", "compare with torch")
    assert begun == [f"{run.recipe.name}: {step}: begins" for step in steps]
    assert len(done.stderr.splitlines()) == 2 * len(steps)
    assert sorted(path.name for path in target.iterdir()) == ["card.json", "model.onnx"]


def test_to_pyfunc(run, tmp_path):
    target = write(run.path, "pyfunc", tmp_path / "model")
    assert (target / "MLmodel").exists()
    assert (target / "artifacts" / "run" / "surrogate" / "weights.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_samples_of_a_markov_chain_are_not_exported():
    trained = Trained(torch.nn.Identity(), Path("run"), "phi4-flow", "flow", {}, {}, "metropolis")
    with pytest.raises(InputError, match=r"--set sampling\.correction=none"):
        mappable(trained)


def test_the_card_has_the_scores():
    rows = (
        Row(name="m", metric="means", value=1.0, verdict="pass"),
        Row(name="N_equiv E", metric="equivalent-events", value=500.0, error=20.0),
        Row(name="ms a sample, batch 100", metric="timing", value=0.5, unit="ms", note="one core"),
    )
    found = scores_of(Scorecard(rows=rows, provenance={"samples": "as they are"}))
    assert (found.verdict, found.of) == ("pass", "samples as they are")
    assert found.n_equiv == (cards.Worth(name="N_equiv E", value=500.0, error=20.0),)
    assert found.latency == (cards.Latency(batch=100, ms=0.5, note="one core"),)


def test_what_a_recipe_says_of_its_detector_and_data(tmp_path):
    run, _ = Run.create(read("calo-vae"), tmp_path)
    assert _geometry(run).n_voxels == 368
    assert _licence(run.recipe) == "BSD-3-Clause (simulated by physgen)"
    other, _ = Run.create(read("phi4-flow"), tmp_path)
    assert _geometry(other) is None
    assert _licence(other.recipe) is None  # There are no data.
    assert _licence(read("events-flow")) == "BSD-3-Clause (scikit-hep-testdata)"


def test_the_card_says_where_voxels_are():
    geometry = read_geometry(shipped("datasets", "calo-368.xml"))
    found = voxels_of(geometry)
    assert [one.first_voxel for one in found.layers] == [0, 8, 152, 344, 356]
    assert [one.id for one in found.layers] == [0, 1, 2, 3, 12]
    assert (found.layers[1].n_alpha, found.phi_offset_rad) == (12, -np.pi)
    # As the card says: voxel = first_voxel + i_alpha * n_r + i_r.
    layer, i_alpha, i_r = found.layers[1], 7, 5
    voxel = layer.first_voxel + i_alpha * (len(layer.r_edges_mm) - 1) + i_r
    middle = found.phi_offset_rad + (i_alpha + 0.5) * 2 * np.pi / layer.n_alpha
    assert geometry.alpha[voxel] == pytest.approx(middle)
    assert geometry.radius[voxel] == sum(layer.r_edges_mm[i_r : i_r + 2]) / 2
    assert (found.pdg, found.sha256) == (22, geometry.sha256)


@pytest.mark.parametrize("single_input", [False, True])
def test_the_model_says_which_samples_are_outside_the_domain(single_input):
    """As the card has it, of numbers with two ends, one, or none, and of labels."""
    some = {"unit": "1", "domain": "real"}
    conditions = (
        cards.Condition(name="both", low=-1.0, high=3.0, **some),
        cards.Condition(name="one", low=2.0, high=None, **some),
        cards.Condition(name="none", low=None, high=None, **some),
        cards.Condition(name="class", low=0.0, high=9.0, labels=(1, 4), **some),
    )
    inside = [[0, 2, -1e30, 1], [3, 9, 0, 4], [3 + 1e-6, 9, 0, 4]]
    beyond = [[-1.01, 2, 0, 1], [0, 1.9, 0, 1], [0, 2, np.inf, 1]]
    other = [[np.nan, 2, 0, 1], [0, 2, 0, 2], [0, np.inf, 0, 1]]
    rows = np.array(inside + beyond + other)
    names = ["vector"] if single_input else [one.name for one in conditions]
    columns = [np.concatenate([rows + 7, rows], 1)] if single_input else np.split(rows, 4, 1)
    kind = onnx.TensorProto.DOUBLE
    inputs = [
        onnx.helper.make_tensor_value_info(name, kind, ["batch", column.shape[1]])
        for name, column in zip(names, columns, strict=True)
    ]
    graph = onnx.helper.make_graph([], "graph", inputs, [])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    mark_outside(model, conditions)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString())
    (found,) = session.run(["outside_domain"], dict(zip(names, columns, strict=True)))
    assert found[:, 0].tolist() == [False] * 3 + [True] * 6
    expected = np.any([~_inside(c, x) for c, x in zip(conditions, rows.T, strict=True)], 0)
    np.testing.assert_array_equal(found[:, 0], expected)


def words(text):
    return [np.array([[int(word, 16)]], np.uint64) for word in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # of the authors' own tests (Random123, kat_vectors)
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_is_that_of_its_authors(counter, key, expected):
    assert [int(w.item()) for w in philox(words(counter), words(key))] == [
        int(w.item()) for w in words(expected)
    ]


def drawn(seeds, shape, kind=onnx.TensorProto.DOUBLE):
    """Noise that a graph draws of seeds."""
    noise, out = (
        onnx.helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name in ("noise", "y")
    )
    node = onnx.helper.make_node("Identity", ["noise"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [noise], [out])
    opset = onnx.helper.make_opsetid("", 20)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    draw_inside(model, shape)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString())
    return session.run(None, {"seed": seeds[:, None]})[0]


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 5)])
def test_the_graph_draws_the_noise_of_numpy(shape):
    seeds = np.array([0, 1, -1, 2**40, 2**63 - 1, -(2**63)])
    found = drawn(seeds, shape).reshape(len(seeds), -1)
    np.testing.assert_allclose(found, normal(seeds, found.shape[1]), rtol=1e-12, atol=1e-12)
    single = drawn(seeds, shape, onnx.TensorProto.FLOAT)
    np.testing.assert_allclose(single.reshape(found.shape), found, atol=1e-5)


def test_noise_is_standard_normal_and_independent():
    """4e5 numbers, of seeds that follow one another: within five standard errors."""
    z = normal(np.arange(20_000), 20)
    n = z.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 5 * np.sqrt(variance / n), power
    among = np.corrcoef(z.T) - np.eye(20)
    assert np.abs(among).max() < 5 / np.sqrt(len(z))
    # And of squares, of neighbours in a sample and of neighbouring seeds.
    square = (z**2 - 1) / np.sqrt(2)
    assert abs((square[:, 1:] * square[:, :-1]).mean()) < 5 / np.sqrt(n)
    assert abs((square[1:] * square[:-1]).mean()) < 5 / np.sqrt(n)
    assert abs((z[1:] * z[:-1]).mean()) < 5 / np.sqrt(n)
    from scipy.stats import kstest

    assert kstest(z.ravel(), "norm").pvalue > 1e-4
