"""A scan trains what is not trained yet, and says of each point what has become of it."""

import json
import sqlite3
import sys

import pytest
from distributed import Client
from typer.testing import CliRunner

from physgen import Scan, cli, pipeline
from physgen.errors import InputError, RecipeError
from physgen.scale.scan import main_row, parse_scan
from physgen.validation.scorecard import Row, Scorecard

SHARED = {
    "system.shape": [4, 4],
    "data.n": 200,
    "engine.device": "cpu",
    "sampling.n": 200,
    "validation.metrics": [{"kind": "means"}],
}


def scan(folder, values, **options):
    return Scan("ising-pca", values, SHARED, runs=folder / "runs", **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    work, calls = scan(folder, {"surrogate.components": [4, 99, 8]}), []
    points = work.train(progress=lambda *given: calls.append(given))
    return folder, work, points, calls


def test_a_point_that_fails_is_listed_and_the_others_are_trained(done):
    _, _, points, calls = done
    assert [dict(point.settings) for point in points] == [
        {"surrogate.components": n} for n in (4, 99, 8)
    ]
    first, wrong, last = points
    assert "99" in wrong.failure
    assert wrong.verdict == "failed"
    assert wrong.value is None
    for point in (first, last):
        card = pipeline.Run(point.run).scorecard
        assert (point.verdict, point.failure) == (card.verdict, "")
        assert point.value == card[point.score].value
        assert point.error == card[point.score].error
        assert point.error > 0
    assert first.run != last.run
    assert [n for _, n in calls] == [3] * 3


def test_what_is_done_is_not_trained_again(done, monkeypatch):
    folder, _, points, _ = done
    monkeypatch.setattr(pipeline, "train_run", lambda *given, **how: pytest.fail("trained again"))
    monkeypatch.setattr(pipeline, "score_run", lambda *given, **how: pytest.fail("scored again"))
    again = scan(folder, {"surrogate.components": [4, 8]}).train()
    assert again == [points[0], points[2]]
    assert len(list((folder / "runs").glob("*/*/"))) == 2


def test_dasks_workers_give_the_same_table(done):
    _, work, points, _ = done
    with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
        assert work.train(client=client) == points


def test_optuna_chooses_the_same_points_again(done):
    folder, _, points, _ = done
    work = scan(folder, {"surrogate.components": [4, 99, 8]}, score=points[0].score)
    found = work.search(6)
    assert {point.verdict for point in found} >= {points[0].verdict}
    assert 1 <= len(found) <= 3
    assert work.search(6) == found
    with pytest.raises(InputError, match="optuna needs a score"):
        scan(folder, {"surrogate.components": [4, 8]}).search(2)


def test_wrong_scans_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match="nothing to scan"):
        scan(tmp_path, {}).train()
    with pytest.raises(RecipeError, match="ising-pac"):
        Scan("ising-pac", {"data.n": [1, 2]}, runs=tmp_path / "runs").train()
    with pytest.raises(RecipeError, match=r"not of the form key=a,b,c"):
        parse_scan(["surrogate.components"])
    (point,) = scan(tmp_path, {"surrogate.component": [4]}).train()
    assert "components" in point.failure
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [["--points", "3"], ["--maximise"]])
def test_a_grid_has_no_options_of_optuna(words, tmp_path):
    command = ["scan", "ising-pca", "surrogate.components=4,8", "--runs", str(tmp_path / "runs")]
    done = CliRunner().invoke(cli.app, [*command, *words])
    assert "of --sampler optuna" in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_the_main_score_is_the_first_row_with_a_limit():
    rows = [Row(name="a", metric="m", value=1.0), Row(name="b", metric="m", value=2.0, tolerance=1)]
    assert main_row(Scorecard(rows=tuple(rows))).name == "b"
    assert main_row(Scorecard(rows=tuple(rows)), "a").name == "a"
    with pytest.raises(InputError, match="no row 'c'; there are a, b"):
        main_row(Scorecard(rows=tuple(rows)), "c")


@pytest.mark.slow
def test_the_command_prints_a_table_and_nests_the_runs(done, monkeypatch, capsys):
    folder, _, points, _ = done
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shared = [f"{key}={json.dumps(value)}" for key, value in SHARED.items()]
    words = ["scan", "ising-pca", "surrogate.components=4,99,8", *shared]
    monkeypatch.setattr(sys, "argv", ["physgen", *words, "--runs", str(folder / "runs")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["surrogate.components", "verdict", "score", "value", "run"]
    assert points[0].run in lines[1]
    assert "failed" in lines[2]
    with sqlite3.connect(folder / "runs/mlflow.db") as database:
        tags = database.execute("select run_uuid, value from tags where key = ?", MLFLOW).fetchall()
        (parent,) = database.execute("select run_uuid from tags where key = 'physgen.scan'")
    assert len(tags) == 2
    assert {value for _, value in tags} == set(parent)


MLFLOW = ("mlflow.parentRunId",)
