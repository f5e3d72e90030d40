"""Jets of several classes, which one surrogate learns and generates by class."""

import json

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import physgen
from physgen.cli.app import app
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.scoring import truth_of
from physgen.systems import jet_simulation
from physgen.systems.base import open_files
from physgen.systems.jets import Jets
from physgen.validation.comparison import Comparison
from physgen.validation.condition_bins import ConditionBins

WIDTHS = {"gluon": 0.05, "top": 0.2}
"""Of the positions of particles in toy jets, by class."""


def write(path, kinds, types=None, names=None, seed=1, particles=6):
    """Write toy jets of some classes, and the numbers of these if there are any."""
    generator = np.random.default_rng(seed)
    width = np.array([WIDTHS[kind] for kind in kinds])[:, None, None]
    n = len(kinds)
    pt = -np.sort(-generator.dirichlet(np.full(particles, 3.0), n), axis=1)
    position = width * generator.normal(size=(n, particles, 2))
    x = np.concatenate([position, pt[..., None], np.ones((n, particles, 1))], 2)
    with h5py.File(path, "w") as file:
        file["particle_features"] = x.astype("f4")
        file["jet_features"] = np.tile(np.float32([1000, 0, 80, particles]), (n, 1))
        if types is not None:
            file["jet_type"] = np.asarray(types)
        if names is not None:
            file.attrs["jet_classes"] = names
    return path


def both(path, n=800):
    """Write gluons and tops in turns, by their numbers."""
    return write(path, ["gluon", "top"] * (n // 2), [0, 2] * (n // 2))


def test_files_named_as_those_of_jetnet_hold_one_class(tmp_path):
    write(tmp_path / "t150.hdf5", ["top"] * 4)
    write(tmp_path / "g.hdf5", ["gluon"] * 3)
    system = Jets(
        path=(str(tmp_path / "g.hdf5"), str(tmp_path / "t150.hdf5")), condition=("class",)
    )
    source = open_files(system, system.path)
    assert source.read(0, 7).condition[:, 0].tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert system.schema.condition[0].classes == ("gluon", "light-quark", "top", "w", "z")
    beside = Jets(condition=("pt", "class", "eta")).open(tmp_path / "t150.hdf5").read(0, 1)
    assert beside.condition.tolist() == [[1000, 2, 0]]


def test_a_file_names_classes_of_its_own(tmp_path):
    path = write(tmp_path / "a.h5", ["gluon", "top"], [1, 0], "heavy, light")
    system = Jets(path=str(path), condition=("class",))
    assert system.schema.condition[0].classes == ("heavy", "light")
    with system.writer(tmp_path / "b.h5", 2) as append:
        append(system.open(path).read(0, 2))
    again = system.open(tmp_path / "b.h5")
    assert again.schema.condition[0].classes == ("heavy", "light")
    assert again.read(0, 2).condition.tolist() == [[1], [0]]
    plain = both(tmp_path / "c.h5", 2)
    with pytest.raises(FormatError, match="read files of different layouts separately"):
        open_files(system, [str(path), str(plain)])


@pytest.mark.parametrize(
    ("types", "said"),
    [
        (None, "what class its jets are is not known: write it as dataset 'jet_type'"),
        ([0, 7], "'jet_type': row 1 is 7, and classes are numbers from 0 to 4: gluon"),
        ([0.5, 1], r"'jet_type': row 0 is 0\.5"),
        ([0], "'jet_type' has 1 rows, the jets 2"),
        ([0, 1, 2], "'jet_type' has 3 rows, the jets 2"),
    ],
)
def test_classes_that_are_none_are_refused(tmp_path, types, said):
    path = write(tmp_path / "jets.h5", ["gluon", "top"], types)
    with pytest.raises(FormatError, match=said):
        Jets(condition=("class",)).open(path)


@pytest.fixture
def numbered(monkeypatch):
    """Jets that say their process and number, in the place of simulated ones."""

    def simulate(process, n, seed, particles, workers, *, multiparton):
        number = np.arange(n, dtype="f4")[:, None]
        x = np.full((n, particles, 3), 1.0 if process == "top" else 0.5, "f4")
        return {"x": x, "mask": x[..., 0] > 0, "jet": np.repeat(number, 4, 1)}

    monkeypatch.setattr(jet_simulation, "simulate", simulate)


@pytest.mark.usefixtures("numbered")
def test_processes_take_turns():
    batch = Jets(process=("top", "gluon"), condition=("class", "pt")).simulate(5, 1)
    assert batch.condition.tolist() == [[2, 0], [0, 0], [2, 1], [0, 1], [2, 2]]
    assert batch.x[:, 0, 0].tolist() == [1, 0.5, 1, 0.5, 1]
    with pytest.raises(RecipeError, match=r"system\.process: name each class once"):
        Jets(process=("top", "top"))


@pytest.mark.usefixtures("numbered")
def test_jets_are_simulated_of_given_classes():
    system = Jets(process=("gluon", "top"), condition=("class",))
    batch = system.simulate(4, 1, torch.tensor([[2.0], [2.0], [0.0], [2.0]]))
    assert batch.condition.tolist() == [[2], [2], [0], [2]]
    assert batch.x[:, 0, 0].tolist() == [1, 1, 0.5, 1]
    with pytest.raises(DomainError, match="simulated are jets of gluon, top, no others"):
        system.simulate(1, 1, torch.tensor([[1.0]]))


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize("condition", ["class", "pt"])
def test_simulated_jets_with_conditions_have_a_truth_and_a_floor(tmp_path, condition):
    changes = {
        "system.process": ["gluon", "top"],
        "data.condition": [condition],
        "data.n": 300,
        "surrogate.network": {"kind": "epic", "hidden": 8, "n_global": 4, "depth": 1},
        "transform": [{"kind": "standardise"}],
        "engine.steps": 2,
        "engine.warmup": 1,
        "sampling.n": 50,
    }
    run = physgen.train("jets-classes-flow", changes, runs=tmp_path, track=False, score=False)
    truth = truth_of(run)
    assert len(truth.truth) == len(truth.floor) == 50
    assert truth.paired == ({"floor"} if condition == "class" else set())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    changes = {
        "data.path": str(both(folder / "jets.h5")),
        "surrogate.network": {"kind": "epic", "hidden": 8, "n_global": 4, "depth": 1},
        "engine.steps": 100,
        "engine.batch_size": 64,
        "engine.warmup": 10,
        "sampling.sampler.steps": 2,
    }
    return physgen.train("jets-classes-flow", changes, runs=folder, track=False, score=False)


def test_a_class_decides_what_is_generated(trained, tmp_path):
    """Masses go with the widths, which differ by a factor of four."""
    sampler = physgen.load(trained.path)
    masses = {}
    for kind in WIDTHS:
        path = tmp_path / f"{kind}.h5"
        words = ["generate", str(trained.path), "-n", "300", "-o", str(path)]
        result = CliRunner().invoke(app, [*words, "--condition", f"class={kind}"])
        assert result.exit_code == 0, result.output
        batch = Jets(condition=("class",)).open(path).read(0, 300)
        masses[kind] = Jets().observables(batch)["relative mass"].mean().item()
        assert set(batch.condition[:, 0].tolist()) == {["gluon", "", "top"].index(kind)}
    assert masses["top"] > 2 * masses["gluon"]
    mixed = sampler.sample(2, seed=1, condition={"class": ["top", "gluon"]})
    assert mixed.condition[:, 0].tolist() == [2, 0]
    assert set(sampler.sample(50, seed=1).condition[:, 0].tolist()) == {0, 2}


def test_scores_are_given_by_class(tmp_path):
    system = Jets(path=str(both(tmp_path / "a.h5")), condition=("class",))
    truth, same = (
        system.open(path).read(0, 800) for path in (system.path, both(tmp_path / "b.h5"))
    )
    metric = ConditionBins(observable="relative mass", classify=False)
    rows = {row.name: row for row in metric.rows(Comparison(system, same, truth))}
    assert list(rows) == [
        f"{what} at class {kind}" for what in ("response", "resolution") for kind in WIDTHS
    ]
    gluon, top = (rows[f"response at class {kind}"].value for kind in WIDTHS)
    assert top > 3 * gluon


def test_classes_that_were_not_trained_are_refused_by_name(trained, tmp_path):
    sampler = physgen.load(trained.path)
    said = r"class = w \(row 1\) is not a class of the training data, which had gluon, top"
    with pytest.raises(DomainError, match=said):
        sampler.sample(2, seed=1, condition={"class": ["top", "w"]})
    with pytest.raises(DomainError, match=r"class = 9 .* which had gluon, top"):
        sampler.sample(1, seed=1, condition=torch.tensor([[9.0]]))
    with pytest.raises(DomainError, match=r"class = tpo: no such class; did you mean 'top'"):
        sampler.sample(1, seed=1, condition={"class": "tpo"})
    card = json.loads((trained.path / "surrogate" / "card.json").read_text())
    assert card["condition_domain"]["class"]["classes"] == ["gluon", "top"]
    write(tmp_path / "w.h5", ["gluon", "gluon"], [0, 3])
    words = ["generate", str(trained.path), "--condition-from", str(tmp_path / "w.h5")]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "made.h5")])
    assert "w.h5: condition class = w (row 1) is not a class" in str(result.exception)
