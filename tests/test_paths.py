"""Paths start at the file that says them; "~" is home; what is kept is absolute."""

import os

import h5py
import numpy as np
import pytest
import torch

import physgen
from physgen import comparing, recipe
from physgen.batch import Batch
from physgen.components import system_of
from physgen.conversion import ShowerOptions, convert
from physgen.io.calochallenge import calochallenge_writer
from physgen.io.shipped import shipped
from physgen.run import Run

CARD = "read: {path: numbers.h5, fields: [a, b]}\n"
BASE = """
extends: events-flow
data: {path: card.yaml, split: [0.4, 0.2, 0.4]}
engine: {steps: 2, batch_size: 64, evaluate_every: 2}
"""


def numbers(path, mean):
    path.parent.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["a"], file["b"] = draws.normal(mean, 1, (2, 200)).astype("f4")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with recipe, base, card and data; the command runs in another, with others."""
    folder = tmp_path / "project"
    numbers(folder / "data/numbers.h5", 10)
    (folder / "data/card.yaml").write_text(CARD)
    (folder / "data/base.yaml").write_text(BASE)
    (folder / "mine.yaml").write_text("extends: data/base.yaml\nname: mine\n")
    elsewhere = tmp_path / "elsewhere"
    numbers(elsewhere / "numbers.h5", -10)
    (elsewhere / "card.yaml").write_text(CARD)
    (elsewhere / "base.yaml").write_text("extends: ising-rbm\n")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def test_recipe_base_card_and_data_are_found_from_anywhere(project, monkeypatch):
    run = physgen.train("../project/mine.yaml", runs="runs", track=False, score=False)
    assert run.path.is_absolute()
    assert float(run.data.source.read(0, 200).x.mean()) == pytest.approx(10, abs=0.3)
    monkeypatch.chdir(project)
    assert len(physgen.generate(run, 5)) == 5
    assert torch.equal(physgen.load(os.fspath(run)).sample(5).x, physgen.generate(run.path, 5).x)
    assert physgen.train(run, track=False, score=False).path == run.path


def test_home_is_home(project, tmp_path):
    changes = {"data.path": "~/project/data/card.yaml"}
    run = physgen.train("~/project/mine.yaml", changes, runs="~/kept", track=False, score=False)
    assert run.path.parent == tmp_path / "kept/mine"
    out = physgen.load(run).write("~/kept/five.h5", 5)
    assert out == tmp_path / "kept/five.h5"
    assert out.exists()
    assert Run("~/kept/mine").path == tmp_path / "kept/mine"
    assert not (tmp_path / "elsewhere/~").exists()


def test_an_override_starts_where_it_is_given(project, tmp_path):
    changed = recipe.read(project / "mine.yaml", {"data.path": "numbers.h5"})
    assert changed.data.path == str(tmp_path / "elsewhere/numbers.h5")
    nested = recipe.read(project / "mine.yaml", {"data": {"path": "numbers.h5"}})
    assert nested.data.path == changed.data.path


def test_a_missing_file_is_not_looked_for_elsewhere(project):
    (project / "mine.yaml").write_text(
        "extends: data/base.yaml\ndata: {path: numbers.h5, fields: [a, b]}\n"
    )
    assert recipe.read(project / "mine.yaml").data.path == str(project / "numbers.h5")
    with pytest.raises(physgen.errors.InputError, match=str(project / "numbers.h5")):
        physgen.train(project / "mine.yaml", runs="runs", track=False, score=False)


def test_presets_actions_and_comparisons_start_at_their_files(project, tmp_path):
    (project / "action.py").write_text("def action(x):\n    return x.square().sum((1, 2))\n")
    (project / "field.yaml").write_text(
        "extends: lattice-flow\nname: field\nsystem: {action: 'action.py:action', shape: [4, 4]}\n"
        "presets: {other: {system.action: './action.py:other'}}\n"
    )
    assert recipe.read("../project/field.yaml").system.options["action"] == (
        f"{project}/action.py:action"
    )
    other = recipe.read("../project/field.yaml", preset="other")
    assert other.system.options["action"] == f"{project}/action.py:other"
    (project / "plan.yaml").write_text(
        "title: t\nrecipes: [mine.yaml, digits-pca]\ncolumns: {}\n"
        "overrides: {data.path: data/card.yaml}\n"
    )
    plan = comparing.read_plan("~/project/plan.yaml")
    assert plan.recipes == (f"{project}/mine.yaml", "digits-pca")
    assert plan.overrides == {"data.path": f"{project}/data/card.yaml"}


def test_shipped_names_stay_names_whatever_lies_in_the_working_folder(project, tmp_path):
    (tmp_path / "elsewhere/calo-368.xml").write_text("<nothing/>")
    (tmp_path / "elsewhere/digits.yaml").write_text("read: {path: nothing.npz}")
    calo, digits = recipe.read("calo-flow"), recipe.read("digits-pca")
    assert system_of(calo).schema.shape == (368,)
    assert digits.data.path == "digits.yaml"
    assert system_of(digits).schema.shape == (8, 8)


def test_one_own_file_that_is_called_like_a_shipped_one_is_never_taken_for_it(project, tmp_path):
    own = tmp_path / "elsewhere/calo-368.xml"
    content = shipped("datasets", "calo-368.xml").read_bytes()
    own.write_bytes(content)
    assert recipe.read("calo-flow", {"data.binning": own.name}).data.binning == own.name
    own.write_text("<nothing/>")
    remedy = rf"'\./calo-368\.xml', or the latter as '.*datasets{os.sep}calo-368\.xml'"
    with pytest.raises(physgen.errors.InputError, match=remedy):
        recipe.read("calo-flow", {"data.binning": own.name})
    for name in (f"./{own.name}", str(own)):
        changed = recipe.read("calo-flow", {"data.binning": name})
        assert changed.data.binning == str(own)
        with pytest.raises(physgen.errors.FormatError, match="<nothing>"):
            system_of(changed).schema  # noqa: B018
    with calochallenge_writer(tmp_path / "v.h5") as append:
        append(Batch(torch.ones(2, 368), condition=torch.full((2, 1), 500.0)))
    for name, fault in ((own.name, remedy), (f"./{own.name}", "<nothing>")):
        by = ShowerOptions(binning=name)
        with pytest.raises(physgen.errors.InputError, match=fault):
            convert(tmp_path / "v.h5", tmp_path / "p.h5", to="showerdata", showers=by)
