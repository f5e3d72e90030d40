"""From a trained run to its student of few steps, at the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import physgen
from physgen import pipeline
from physgen.cli import main
from physgen.errors import CheckpointError, InputError, RecipeError
from physgen.io.writer import sha256
from physgen.run import Run

TINY = {
    "system": {"kind": "ising", "shape": [4, 4]},
    "data.n": 400,
    "surrogate.network": {"kind": "residual", "hidden": 16, "depth": 1},
    "engine.steps": 6,
    "engine.batch_size": 64,
    "sampling.n": 300,
    "validation.metrics": [{"kind": "means"}],
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return physgen.train("ising-flow-matching", TINY, runs=runs, track=False, score=False)


def student_of(teacher, **changes):
    return {
        **TINY,
        "method": {"kind": "distillation", "teacher": str(teacher)},
        "sampling.sampler": {"kind": "ddim", "steps": 2, "spacing": "even"},
        **changes,
    }


def distil(teacher, runs, **changes):
    changes = student_of(teacher.path, **changes)
    return physgen.train("ising-flow-matching", changes, runs=runs, track=False, score=False)


def call(capsys, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["physgen", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_recipe_at_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["surrogate.network.hidden=16", "engine.steps=6", "data.n=600", "--no-track"]
    call(capsys, monkeypatch, "train", "calo-flow-matching", *small, "--no-score")
    (teacher,) = Path("runs/calo-flow-matching").iterdir()
    named = [f"method.teacher={teacher}", *small]  # relative to where one is
    call(capsys, monkeypatch, "train", "calo-flow-distilled", *named, "--preset", "smoke")
    (student,) = Path("runs/calo-flow-distilled").iterdir()
    assert Run(student).recipe.method.options["teacher"] == str(teacher.resolve())
    assert Run(student).scored
    call(capsys, monkeypatch, "generate", student, "-n", 20, "-o", "a.h5")
    assert Path("a.h5").exists()


def test_a_card_says_what_was_distilled_and_a_student_needs_its_teacher_no_longer(
    teacher, tmp_path, capsys, monkeypatch
):
    copy = tmp_path / "teacher"
    shutil.copytree(teacher.path, copy)
    student = distil(Run(copy), tmp_path / "runs").path
    card = json.loads((student / "surrogate" / "card.json").read_text())
    assert card["distilled_from"] == {
        "recipe": "ising-flow-matching",
        "run": "teacher",
        "weights_sha256": sha256(copy / "surrogate" / "weights.safetensors"),
    }
    shutil.rmtree(copy)
    call(capsys, monkeypatch, "generate", student, "-n", 20, "-o", tmp_path / "a.h5")
    assert (tmp_path / "a.h5").exists()


def test_a_student_goes_on_where_it_was_cut(teacher, tmp_path):
    def weights(runs, progress=None):
        often = {"engine.log_every": 1, "engine.checkpoint_every": 2}
        changes = student_of(teacher.path, **often)
        run = physgen.train(
            "ising-flow-matching", changes, runs=runs, track=False, score=False, progress=progress
        )
        return (run.path / "surrogate" / "weights.safetensors").read_bytes()

    def cut(stage, done, total, figures):
        if "train" in stage and done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights(tmp_path / "cut", cut)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_student_has_the_space_of_its_teacher_whatever_its_own_data(teacher, tmp_path):
    student = distil(teacher, tmp_path, **{"data.seed": 9, "data.n": 150})
    ours, theirs = (run.load().state_dict() for run in (student, teacher))
    differing = {name for name in theirs if not torch.equal(ours[name], theirs[name])}
    assert differing
    assert all(name.startswith("denoiser.body.") for name in differing)


def test_a_student_is_sampled_by_its_own_sampler_alone(teacher, tmp_path):
    student = distil(teacher, tmp_path)
    assert pipeline.load(student).surrogate.sampler.steps == 2
    for changes in ({"sampler.steps": 4}, {"sampler": {"kind": "heun"}}):
        with pytest.raises(RecipeError, match=r"for the sampler of its recipe"):
            pipeline.load(student, sampling=changes)
    assert pipeline.validate(student, sampling={"n": 100}).rows
    with pytest.raises(RecipeError, match="is distilled itself"):
        distil(student, tmp_path, **{"engine.steps": 5})


RBM = {"surrogate": {"kind": "rbm"}, "sampling.sampler": None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"system.shape": [6, 6]}, r"system\.shape is \(6, 6\), and \(4, 4\) in method\.teacher"),
        ({"surrogate.network.hidden": 8}, r"surrogate\.network is .*'hidden': 8.*method\.teacher"),
        ({"surrogate.schedule": "cosine"}, r"surrogate\.schedule is 'cosine', and 'straight'"),
        ({"transform": []}, r"transform\.0\.kind is None, and 'rescale'"),
        (RBM, r"surrogate\.kind is 'rbm', and 'diffusion'"),
    ],
)
def test_a_teacher_of_something_else_is_refused_by_the_key(teacher, tmp_path, changes, said):
    with pytest.raises(RecipeError, match=said):
        distil(teacher, tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_a_teacher_that_is_no_finished_run_is_refused(teacher, tmp_path):
    for path, said in (
        (tmp_path / "nosuch", r"method\.teacher: .*nosuch is not a run directory"),
        (teacher.path.parent, rf"take one in it: {teacher.path.name}"),
    ):
        with pytest.raises(InputError, match=said):
            distil(Run(path), tmp_path / "runs")
    with pytest.raises(RecipeError, match=r"method\.teacher is missing"):
        physgen.train("calo-flow-distilled", preset="smoke", runs=tmp_path / "runs", track=False)
    copy = tmp_path / "copy"
    shutil.copytree(teacher.path, copy)
    (copy / "MANIFEST.sha256").unlink()
    with pytest.raises(CheckpointError, match="is not a finished run"):
        distil(Run(copy), tmp_path / "runs")


def test_a_student_of_another_teacher_is_another_run(teacher, tmp_path):
    copy = tmp_path / "teacher"
    shutil.copytree(teacher.path, copy)
    student = distil(Run(copy), tmp_path / "runs")
    shutil.rmtree(copy)
    other = {**TINY, "engine.steps": 7}
    other = physgen.train("ising-flow-matching", other, runs=tmp_path, track=False, score=False)
    shutil.copytree(other.path, copy)
    with pytest.raises(CheckpointError, match="trained with another teacher"):
        distil(Run(copy), tmp_path / "runs")
    assert student.finished
