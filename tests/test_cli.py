"""The command line: what a user sees when something is wrong, and that help is quick to come by."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from physgen import cli, pipeline
from physgen.components import system_of
from physgen.errors import RecipeError
from physgen.recipe import read


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "physgen", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def call(monkeypatch, capsys, *arguments):
    """Run the command in this process; return (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["physgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_help_needs_none_of_the_heavy_packages():
    code = (
        "import sys, physgen.cli; "
        "print([n for n in ('torch', 'mlflow', 'uproot', 'matplotlib') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_verb_has_an_example_in_its_help(monkeypatch, capsys):
    names = [c.name or c.callback.__name__ for c in cli.app.registered_commands]
    for name in [*names, "track sync"]:
        code, out, _ = call(monkeypatch, capsys, *name.split(), "--help")
        assert code == 0
        assert "xample" in out, name


def test_errors_are_one_message_and_exit_code_2():
    result = run("train", "ising-rmb")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "ising-rbm" in result.stderr


SLOW_VERB = """
import os, signal, sys
from pathlib import Path
from physgen import cli
from physgen.export.base import new_folder

def app(**options):
    with new_folder(Path("model")) as folder:
        (folder / "half").touch()
        os.kill(os.getpid(), signal.SIGTERM)

cli.app = app
cli.main()
"""


def test_what_sigterm_ends_leaves_nothing_half_written(tmp_path):
    command = [sys.executable, "-c", SLOW_VERB]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "error: ended by a signal\n")
    assert list(tmp_path.iterdir()) == []
    # Where it is ignored, as below `nohup` a hangup is, it goes on.
    ignored = ["bash", "-c", 'trap "" TERM; exec "$@"', "_", *command]
    subprocess.run(ignored, cwd=tmp_path, check=True)
    assert (tmp_path / "model" / "half").exists()


def test_debug_shows_the_traceback():
    result = run("--debug", "train", "ising-rmb")
    assert result.returncode != 0
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "ising-rbm", "engine.stps=1"], "steps"),
        (["train", "ising-rbm", "nonsense"], "key=value"),
        (["train", "ising-rbm", "--preset", "quick"], "quickstart"),
        (["train", "ising-rbm", "data.path=absent.h5"], "absent.h5"),
        (["validate", "nowhere.h5"], "nowhere.h5"),
        (["inspect", "nowhere.h5"], "nowhere.h5"),
        (["generate", "nowhere", "-n", "10", "-o", "x.h5"], "nowhere"),
        (["generate", "nowhere", "-n", "ten", "-o", "x.h5"], "ten"),
    ],
)
def test_bad_input_names_what_and_where(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert not list(tmp_path.glob("*.h5"))


def test_inspect_prints_json(monkeypatch, capsys, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(6.0).reshape(3, 2)
    code, out, _ = call(monkeypatch, capsys, "inspect", path, "--json")
    assert code == 0
    assert json.loads(out)


def test_simulate_then_judge_two_files(monkeypatch, capsys, tmp_path):
    truth, other = tmp_path / "a.hdf5", tmp_path / "b.hdf5"
    for path, seed in ((truth, 1), (other, 2)):
        arguments = ["simulate", "calo-flow", "-n", "400", "-o", path, "--seed", seed]
        code, _, err = call(monkeypatch, capsys, *arguments)
        assert code == 0, err
    arguments = ["validate", other, "--against", truth, "--binning", "calo-368.xml", "--json"]
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    card = json.loads(out)
    assert any("E_tot/E_inc" in row["name"] for row in card["rows"])
    assert (card["verdict"], card["warnings"]) == ("pass", [])
    # A file against itself: the same events in both, which is no confirmation.
    metrics = ["--set", "validation.metrics=[{kind: means}, {kind: response}]", "--strict"]
    own = ["validate", truth, "--against", truth, "--binning", "calo-368.xml", *metrics]
    code, out, err = call(monkeypatch, capsys, *own)
    assert code == 1
    assert "fail" in out
    assert "are copies of true ones" in err
    page = ["-o", tmp_path / "scores"]
    assert call(monkeypatch, capsys, *arguments[:-1], *metrics, *page)[0] == 0
    assert "<title>b.hdf5</title>" in (tmp_path / "scores/report.html").read_text()


@pytest.mark.parametrize("verb", ["validate", "train"])
def test_a_binning_that_does_not_fit_is_told_by_its_voxels(monkeypatch, capsys, tmp_path, verb):
    """Its only particle is taken, so that the message is about what is wrong."""
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, capsys, "simulate", "calo-flow", "-n", "9", "-o", "a.hdf5")[0] == 0
    arguments = {
        "validate": ["a.hdf5", "--against", "a.hdf5", "--binning", "calo-6480.xml"],
        "train": ["calo-flow", "data.path=a.hdf5", "data.binning=calo-6480.xml", "--no-track"],
    }
    code, _, err = call(monkeypatch, capsys, verb, *arguments[verb])
    assert code == 2
    assert "368 voxels, but the binning has 6480" in err


def test_a_spin_ensemble_is_analysed(monkeypatch, capsys, tmp_path):
    path = tmp_path / "spins.h5"
    arguments = ["simulate", "ising-rbm", "-n", "500", "-o", path, "system.shape=[4,4]"]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 0, err
    code, out, err = call(monkeypatch, capsys, "validate", path, "--json")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert rows["link energy"]["exact"] is None
    assert rows["tau_int link energy"]["value"] > 0

    arguments = ["--system", "ising-rbm", "--set", "system.shape=[4,4]"]
    code, out, err = call(monkeypatch, capsys, "validate", path, "--json", *arguments)
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert rows["E/N"]["exact"] == pytest.approx(-1.565623787638)
    assert abs(rows["E/N"]["pull"]) < 5


def test_what_cannot_start_leaves_nothing_behind(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "ising-rbm", "data.path=absent.h5", "--no-track"]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "absent.h5" in err
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()
    assert call(monkeypatch, capsys, *arguments)[0] == 2
    assert not list((tmp_path / "runs").iterdir())


def test_a_folder_beside_does_not_hide_a_recipe(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits-pca").mkdir()
    trained = pipeline.train("digits-pca", runs=".", track=False, score=False)
    assert trained.finished
    assert trained.path.parent.name == "digits-pca"
    with pytest.raises(RecipeError, match=f"take one in it: {trained.path.name}"):
        pipeline.load(trained.path.parent)


def test_a_folder_that_is_no_run_is_left_alone(monkeypatch, capsys, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    code, _, err = call(monkeypatch, capsys, "train", tmp_path)
    assert code == 2
    assert "not a run directory" in err
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "nowhere", "-n", "inf", "-o", "x.h5"], "inf"),
        (["simulate", "ising-rbm", "-n", "0", "-o", "x.h5"], "one sample"),
        (["simulate", "calo-flow", "-n", "10", "-o", "x.npz"], ".hdf5"),
        (["train", "phi4-flow", "--runs", "/proc/nothing", "--no-track"], "/proc/nothing"),
    ],
)
def test_impossible_requests_are_refused(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err


def test_a_scan_of_temperatures_is_one_file_that_says_where_it_is_from(
    monkeypatch, capsys, tmp_path
):
    path, scan = tmp_path / "scan.h5", "system.temperature=[2.0,2.5,3.0]"
    words = ["simulate", "ising-rbm", "-n", "300", "-o", path, "system.shape=[4,4]", scan]
    assert call(monkeypatch, capsys, *words, "--seed", "5")[0] == 0
    with h5py.File(path) as file:
        provenance = json.loads(file.attrs["physgen_provenance"])
        assert np.bincount((2 * file["temperature"][:]).astype(int)).tolist()[4:] == [100] * 3
    assert provenance["seed"] == 5
    assert provenance["system"]["temperature"] == [2.0, 2.5, 3.0]
    rows = system_of(read("ising-rbm", {"system.shape": [4, 4], "system.temperature": [2.0, 3.0]}))
    batch = rows.open(path).read(0, 300)
    assert sorted(set(batch.condition[:, 0].tolist())) == [2.0, 2.5, 3.0]
    assert "temperature=[2,2.5,3]" in call(monkeypatch, capsys, "inspect", path)[1]


def test_simulate_overwrites_only_when_asked(monkeypatch, capsys, tmp_path):
    path = tmp_path / "spins.h5"
    arguments = ["simulate", "ising-rbm", "-n", "5", "-o", path, "system.shape=[4,4]"]
    assert call(monkeypatch, capsys, *arguments)[0] == 0
    before = path.read_bytes()
    assert call(monkeypatch, capsys, *arguments, "--seed", 2)[0] == 2
    assert path.read_bytes() == before
    assert call(monkeypatch, capsys, *arguments, "--seed", 2, "--overwrite")[0] == 0
    assert path.read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["spins.h5"]


def test_two_ensembles_are_judged_without_a_surrogate(monkeypatch, capsys, tmp_path):
    for name, seed in (("a.h5", 1), ("b.h5", 2)):
        arguments = ["simulate", "phi4-flow", "-n", "9000", "-o", tmp_path / name, "--seed", seed]
        assert call(monkeypatch, capsys, *arguments, "system.shape=[4,4]")[0] == 0
    arguments = ["validate", tmp_path / "a.h5", "--against", tmp_path / "b.h5", "--json"]
    options = ["--system", "phi4-flow", "--set", "system.shape=[4,4]"]
    code, out, err = call(monkeypatch, capsys, *arguments, *options)
    assert code == 0, err
    assert json.loads(out)["verdict"] == "pass"


def test_columns_that_are_named_are_those_of_the_true_file(monkeypatch, capsys, tmp_path):
    """Not of the file that the recipe reads if nobody says another one."""
    for name, seed in (("a.h5", 1), ("b.h5", 2)):
        with h5py.File(tmp_path / name, "w") as file:
            file["a"], file["b"] = np.random.default_rng(seed).normal(size=(2, 400))
    arguments = ["validate", tmp_path / "a.h5", "--against", tmp_path / "b.h5", "--json"]
    options = ["--system", "events-flow", "--set", "validation.metrics=[{kind: means}]"]
    fields = ["--set", "data.fields=[a,b]"]
    code, out, err = call(monkeypatch, capsys, *arguments, *options, *fields)
    assert code == 0, err
    assert {"a", "b"} <= {row["name"] for row in json.loads(out)["rows"]}
    other = ["--set", f"data.path={tmp_path / 'no.h5'}"]
    code, _, err = call(monkeypatch, capsys, *arguments, *options, *fields, *other)
    assert code == 2
    assert "no.h5: no such file" in err


def test_the_reference_evaluation_is_a_preset_of_two_files(monkeypatch, capsys, tmp_path):
    from physgen.systems.calorimeter import Calorimeter

    monkeypatch.setattr("physgen.validation.classifier_networks.WIDTH", 16)
    monkeypatch.setattr("physgen.validation.classifier_networks.EPOCHS", 2)
    monkeypatch.setattr("physgen.validation.classifier.EPOCHS", 2)
    system = Calorimeter(energies_mev=(500.0, 1000.0))
    for name, n in (("generated", 150), ("truth", 300)):
        with system.writer(tmp_path / f"{name}.hdf5", n) as append:
            append(system.simulate(n, seed=n))
    files = (tmp_path / "generated.hdf5", "--against", tmp_path / "truth.hdf5", "--json")
    code, out, _ = call(monkeypatch, capsys, "validate", *files, "--preset", "reference")
    assert code == 0
    text = json.dumps(json.loads(out))
    for name in (
        "FPD",
        "KPD, robust",
        "separation E_tot/E_inc, reference bins",
        "precision of voxels",
        "AUC, neural classifier, normalised level, reference settings",
        "balanced accuracy, neural classifier, high level, reference settings",
        "AUC of calibrated scores, neural classifier, high level, reference settings",
    ):
        assert f'"{name}"' in text, name
    cut = {
        row["name"]
        for row in json.loads(out)["rows"]
        if "neural classifier" in row["name"] and "taken for 0" not in row["note"]
    }
    assert cut == set()  # Each row says what threshold it stands for.
    code, _, error = call(monkeypatch, capsys, "validate", *files, "--preset", "refrence")
    assert code == 2
    assert "reference" in error
    code, _, error = call(monkeypatch, capsys, "validate", files[0], "--preset", "reference")
    assert code == 2
    assert "--against" in error
