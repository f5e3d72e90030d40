"""Finished runs that were damaged, tampered with, or come from a stranger."""

import json
import random
import shutil

import pytest
import torch
import yaml

import physgen
from physgen.errors import CheckpointError, InputError
from physgen.io import manifest
from physgen.run import Run
from physgen.validation.report import report

SMALL = {
    "system.shape": [4, 4],
    "data.n": 200,
    "engine.steps": 2,
    "engine.batch_size": 50,
    "sampling.n": 100,
    "validation.metrics": [{"kind": "means"}],
    "baseline": None,
}


def draw_nothing(comparison, scorecard, folder, **others):
    """Leave what the drawing of a report leaves, without its time."""
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(bytes(50))
    index = [{"file": "a.png", "title": "a", "caption": "b"}]
    (folder / "index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("physgen.written_scores.draw", draw_nothing)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return physgen.train("ising-rbm", SMALL, runs=tmp_path_factory.mktemp("runs"), track=False).path


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "ising-rbm" / trained.name)


def loads(run):
    return physgen.load(run)


def reports(run):
    return report(run, run.parent / "page.html")


def validates(run):
    """The checks that stand before a validation."""
    return Run(run).check_trained()


LOOKS = {"load": loads, "report": reports, "validate": validates}
SEEN_BY = {
    "recipe.yaml": {"load", "report", "validate"},
    "provenance.json": {"load", "report", "validate"},
    "surrogate/card.json": {"load", "validate"},
    "surrogate/weights.safetensors": {"load", "validate"},
    "scorecard.json": {"load", "report"},
    "samples.h5": {"report"},
    "plots/index.json": {"report"},
    "journal.jsonl": {"validate"},
    "data.h5": {"validate"},
    manifest.NAME: {"load", "report", "validate"},
}


def flips(run, each=24):
    """Yield names, and one bit of each file: at both ends and at random between."""
    generator = random.Random(1)
    for name in SEEN_BY:
        bits = 8 * (run / name).stat().st_size
        for bit in [0, bits - 1, *(generator.randrange(bits) for _ in range(each - 2))]:
            yield name, bit


def test_each_flipped_bit_of_a_finished_run_is_found(run, record_property):
    tried = 0
    for name, bit in flips(run):
        content = (run / name).read_bytes()
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (run / name).write_bytes(damaged)
        found = set()
        for verb, look in LOOKS.items():
            try:
                look(run)
            except InputError as error:
                found.add((verb, len(str(error).splitlines())))
        (run / name).write_bytes(content)
        expected = {(verb, 1) for verb in SEEN_BY[name]}
        assert found >= expected, f"bit {bit} of {name} was seen by {found} only"
        tried += 1
    assert tried >= 200
    record_property("cases", tried)
    for look in LOOKS.values():
        look(run)


def test_every_file_that_is_shown_or_used_is_in_the_manifest(trained):
    listed = set(manifest.read(trained))
    made = {file.relative_to(trained).as_posix() for file in trained.rglob("*") if file.is_file()}
    free = {name for name in made - listed if not name.startswith(("checkpoints/", "pictures/"))}
    assert free == {manifest.NAME, ".lock"}
    assert listed <= made


def test_generate_finds_a_flipped_card(run, tmp_path):
    card = run / "surrogate" / "card.json"
    card.write_bytes(card.read_bytes().replace(b'"steps": 2', b'"steps": 3'))
    with pytest.raises(CheckpointError, match=r"card\.json is damaged.*restore it"):
        physgen.load(run).write(tmp_path / "x.h5", 3)
    assert not (tmp_path / "x.h5").exists()


def test_validate_makes_a_damaged_scorecard_again(run):
    (run / "scorecard.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"scorecard\.json is damaged"):
        physgen.load(run)
    physgen.validate(run)
    assert Run(run).scored
    physgen.load(run)


def test_links_out_of_a_run_are_refused(run, tmp_path):
    secret = tmp_path / "elsewhere"
    weights = run / "surrogate" / "weights.safetensors"
    weights.rename(secret)
    weights.symlink_to(secret)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors leads out of"):
        physgen.load(run)
    weights.unlink()
    secret.rename(weights)
    (run / "surrogate").rename(tmp_path / "folder")
    (run / "surrogate").symlink_to(tmp_path / "folder")
    with pytest.raises(CheckpointError, match="leads out of"):
        physgen.load(run)


def test_a_manifest_that_leads_elsewhere_is_refused(run, tmp_path):
    (tmp_path / "ising-rbm" / "secret").write_text("x")
    sums = manifest.read(run) | {"surrogate/../../secret": {manifest.digest(b"x")}}
    manifest.write(run, sums)
    with pytest.raises(CheckpointError, match="leads out of"):
        physgen.load(run)


HOSTILE_CARDS = {
    "list": [],
    "no schema": {"dtype": "float32"},
    "dtype": {"dtype": "load"},
    "shape": {"schema": {"shape": [], "variables": [], "condition": []}},
    "negative": {"schema": {"shape": [-1], "variables": [{"name": "x"}]}},
    "text": {"schema": "x"},
    "object": {"schema": {"shape": [1], "variables": [{"name": "x", "dtype": "O"}]}},
}


@pytest.mark.parametrize("change", HOSTILE_CARDS.values(), ids=HOSTILE_CARDS)
def test_a_card_that_makes_no_sense_is_one_line(run, change):
    path = run / "surrogate" / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(change if isinstance(change, list) else card | change))
    if "dtype" in change and "schema" not in change and change["dtype"] == "float32":
        path.write_text(json.dumps({k: v for k, v in card.items() if k != "schema"}))
    manifest.write(run, manifest.sums_of(run, manifest.read(run)))
    with pytest.raises(CheckpointError, match=r"card\.json"):
        physgen.load(run)


ACTION = """\
from pathlib import Path
Path(__file__).with_name("ran").touch()

def action(phi):
    return (phi**4 + phi**2).flatten(1).sum(1)
"""


@pytest.fixture(scope="module")
def hers(tmp_path_factory):
    """A run with code in it, in the folder of the user who trained it."""
    folder = tmp_path_factory.mktemp("hers")
    (folder / "action.py").write_text(ACTION)
    changes = {
        "system.action": f"{folder / 'action.py'}:action",
        "system.shape": [4, 4],
        "engine.steps": 1,
        "engine.batch_size": 8,
        "sampling.n": 64,
        "validation.metrics": [{"kind": "means"}],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHYSGEN_DATA", str(folder / "agreed"))
        path = physgen.train("lattice-flow", changes, runs=folder / "runs", track=False).path
        physgen.load(path).write(folder / "mine.h5", 2)  # She has agreed by training.
    return path


@pytest.fixture
def strangers(hers, tmp_path, monkeypatch):
    """A copy of the run in the hands of another user, and the mark that its code leaves."""
    ran = hers.parents[2] / "ran"
    ran.unlink(missing_ok=True)
    monkeypatch.setenv("PHYSGEN_DATA", str(tmp_path / "his"))
    return shutil.copytree(hers, tmp_path / "lattice-flow" / hers.name), ran


def test_code_of_a_stranger_is_not_run(strangers, tmp_path):
    run, ran = strangers

    def resume(run):
        (run / manifest.NAME).unlink()
        return physgen.train(run, track=False, score=False)

    for verb in (
        physgen.validate,
        lambda run: physgen.load(run).write(tmp_path / "his.h5", 2),
        resume,
    ):
        with pytest.raises(InputError, match=r"action\.py.*not agreed to.*--trust"):
            verb(run)
        assert not ran.exists()
    before = {path.name for path in run.parents[1].iterdir()}
    with pytest.raises(InputError, match=r"action\.py.*not agreed to.*--trust"):
        physgen.train(run)
    assert {path.name for path in run.parents[1].iterdir()} == before, "nothing of it in MLflow"
    physgen.train(run, track=False, score=False, trust=True)
    assert ran.exists()


def test_changed_code_is_asked_for_again(hers, strangers, monkeypatch):
    run, ran = strangers
    monkeypatch.setenv("PHYSGEN_DATA", str(hers.parents[2] / "agreed"))
    action = hers.parents[2] / "action.py"
    before = action.read_text()
    action.write_text(before + "# changed\n")
    with pytest.raises(InputError, match="not agreed to"):
        physgen.validate(run)
    action.write_text(before)
    assert not ran.exists()


def test_a_report_runs_nothing(strangers):
    run, ran = strangers
    reports(run)
    assert not ran.exists()


def test_a_recipe_that_was_exchanged_is_found(run):
    recipe = run / "recipe.yaml"
    tree = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**tree, "summary": "mine"}))
    with pytest.raises(CheckpointError, match=r"recipe\.yaml is damaged"):
        physgen.validate(run)


def test_weights_of_another_shape_are_one_line(run):
    from safetensors.torch import save_file

    weights = run / "surrogate" / "weights.safetensors"
    save_file({"weight": torch.zeros(1)}, weights)
    card = json.loads((run / "surrogate" / "card.json").read_text())
    card["weights_sha256"] = manifest.digest(weights.read_bytes())
    (run / "surrogate" / "card.json").write_text(json.dumps(card))
    manifest.write(run, manifest.sums_of(run, manifest.read(run)))
    with pytest.raises(CheckpointError, match="does not fit the surrogate") as caught:
        physgen.load(run)
    assert "\n" not in str(caught.value)
