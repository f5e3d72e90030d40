"""MLflow gets everything once, whatever happens to it, and training never notices."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from physgen.against import Criteria
from physgen.engine.journal import Journal
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import InputError, PhysgenError
from physgen.io import manifest
from physgen.tracking import Tracker, default_uri, sync, sync_apart
from physgen.tracking.mirror import Deleted
from physgen.tracking.place import shown, sqlite_uri
from physgen.validation.scorecard import Row, Scorecard

sys.path.insert(0, str(Path(__file__).parent / "engine"))

from toys import Numbers, make


def run_directory(runs, name="abc"):
    directory = runs / "toy" / name
    directory.mkdir(parents=True)
    recipe = "name: toy\nengine: {steps: 30, clip: 1.0}\nvalidation: {metrics: [{kind: means}]}\n"
    (directory / "recipe.yaml").write_text(recipe)
    data = {"name": "/data/y.h5", "sha256": "a" * 64, "rows": 5}
    (directory / "provenance.json").write_text(
        json.dumps({"physgen": "0.1", "format": 2, "data": data})
    )
    (directory / "plots").mkdir()
    (directory / "plots" / "energy.png").write_bytes(b"png")
    return directory


def surrogate_of_toy(directory):
    """Make the directory hold a surrogate that is not trained."""
    from physgen import card
    from physgen.run import Run

    (directory / "recipe.yaml").write_text(
        "name: toy\n"
        "system: {kind: phi4, shape: [4, 4], m2: -4, lam: 8}\n"
        "surrogate: {kind: checkerboard-flow, n_layers: 2}\n"
        "method: {kind: reverse-kl}\n"
    )
    torch.manual_seed(0)
    surrogate = Run(directory).build_surrogate()
    card.save(surrogate, directory / "surrogate", {"recipe": "toy"})
    return surrogate


def measured(directory, steps, n_metrics=2):
    journal = Journal(directory)
    for step in steps:
        journal.measure(step, {f"m{i}/<E>": step + i for i in range(n_metrics)})


def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def history(uri, run_id, name="m0/_E_"):
    return [(m.step, m.value) for m in client(uri).get_metric_history(run_id, name)]


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Return a database with the tables MLflow needs, which take it seconds to make."""
    runs = tmp_path_factory.mktemp("template")
    directory = run_directory(runs)
    (directory / "recipe.yaml").write_text("name: template\n")
    Journal(directory).note("start", 0)
    sync(directory)
    return runs / "mlflow.db"


@pytest.fixture
def directory(tmp_path, template, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = run_directory(tmp_path, "run")
    shutil.copy(template, tmp_path / "mlflow.db")
    Journal(found).note("start", 0)
    return found


def test_a_run_arrives_whole_and_once(directory):
    measured(directory, range(1, 6))
    first = sync(directory)
    uri = default_uri(directory)
    assert first.uri == uri == f"sqlite:///{directory.parent.parent / 'mlflow.db'}"
    assert (first.measurements, first.files) == (5, 3)
    run = client(uri).get_run(first.run_id)
    assert run.data.params["engine.clip"] == "1.0"
    assert run.data.params["validation.metrics.0.kind"] == "means"
    assert run.info.status == "RUNNING"
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == "a" * 36
    assert history(uri, first.run_id) == [(step, step) for step in range(1, 6)]
    stored = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (stored / "plots/energy.png").read_bytes() == b"png"

    Journal(directory).note("finish", 5)
    (directory / "report.html").write_text("late")
    second = sync(directory)
    assert (second.run_id, second.measurements, second.files) == (first.run_id, 0, 1)
    run = client(uri).get_run(first.run_id)
    assert run.info.status == "FINISHED"


def test_replay_without_the_cursor_finds_the_run_and_duplicates_nothing(directory):
    measured(directory, range(1, 4))
    first = sync(directory)
    (directory / "tracking.json").unlink()
    second = sync(directory)
    assert second.run_id == first.run_id
    assert second.measurements == 3
    assert history(second.uri, second.run_id) == [(1, 1), (2, 2), (3, 3)]


def test_steps_measured_again_after_a_resume_are_not_sent_again(directory):
    measured(directory, range(1, 6))
    sync(directory)
    journal = Journal(directory)
    journal.truncate(3)
    journal.note("resume", 3)
    measured(directory, range(4, 8))
    result = sync(directory)
    assert result.measurements == 2
    assert [step for step, _ in history(result.uri, result.run_id)] == list(range(1, 8))
    tags = client(result.uri).get_run(result.run_id).data.tags
    assert tags["physgen.restarts"] == "1"
    assert tags["physgen.restart.1"] == "step 3"


def test_batches_are_bounded_and_a_failure_between_them_loses_nothing(directory, monkeypatch):
    from mlflow import MlflowClient

    measured(directory, range(1, 30), n_metrics=120)
    log_batch, sizes = MlflowClient.log_batch, []

    def failing(self, run_id, metrics=(), **keywords):
        sizes.append(len(metrics))
        if len(sizes) == 4:
            raise ConnectionError("gone")
        return log_batch(self, run_id, metrics=metrics, **keywords)

    monkeypatch.setattr(MlflowClient, "log_batch", failing)
    with pytest.raises(PhysgenError, match=r"failed: gone.*physgen track sync"):
        sync(directory)
    result = sync(directory)
    assert max(sizes) <= 1000
    assert 0 < result.measurements < 29, "what was sent before the failure is not sent again"
    assert len(history(result.uri, result.run_id, "m119/_E_")) == 29


def test_a_run_deleted_in_mlflow_is_sent_anew_and_said(directory):
    measured(directory, range(1, 4))
    first = sync(directory)
    client(first.uri).delete_run(first.run_id)
    second = sync(directory)
    assert second.run_id != first.run_id
    assert second.measurements == 3
    assert first.run_id in second.note
    assert "was deleted" in second.note
    assert len(history(second.uri, second.run_id)) == 3
    assert sync(directory).note == ""


def test_a_deleted_experiment_is_said_with_the_remedy_and_goes_on_when_restored(directory):
    first = sync(directory)
    there = client(first.uri)
    experiment = there.get_run(first.run_id).info.experiment_id
    there.delete_experiment(experiment)
    with pytest.raises(Deleted, match=f"'toy' was deleted.*restore --experiment-id {experiment}"):
        sync(directory)
    there.restore_experiment(experiment)
    measured(directory, [1])
    assert sync(directory).run_id == first.run_id


def test_a_run_is_found_by_recipe_and_data_wherever_it_is_by_now(directory, tmp_path):
    first = sync(directory)
    there = client(first.uri)
    there.rename_experiment(there.get_run(first.run_id).info.experiment_id, "renamed")
    moved = tmp_path / "moved/other"
    moved.parent.mkdir()
    directory.rename(moved)
    (moved / "tracking.json").unlink()
    assert sync(moved, first.uri).run_id == first.run_id
    (moved / "tracking.json").unlink()
    (moved / "recipe.yaml").write_text("name: toy\nengine: {steps: 31}\n")
    assert sync(moved, first.uri).run_id != first.run_id


def test_a_new_database_gets_everything(directory, template):
    measured(directory, range(1, 4))
    first = sync(directory)
    # As if the server had been restarted with another database.
    database = directory.parent.parent / "new.db"
    shutil.copy(template, database)
    cursor = json.loads((directory / "tracking.json").read_text())[first.uri]
    (directory / "tracking.json").write_text(json.dumps({sqlite_uri(database): cursor}))
    second = sync(directory, sqlite_uri(database))
    assert second.run_id != first.run_id
    assert second.measurements == 3
    assert second.files == first.files
    assert "is not there any more" in second.note


def test_any_name_of_the_folder_of_runs_holds_the_database(tmp_path, template, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "a?b=c d%20e#f"
    directory = run_directory(runs)
    # An experiment that the template has not.
    directory = directory.parent.rename(runs / "another") / directory.name
    Journal(directory).note("start", 0)
    shutil.copy(template, runs / "mlflow.db")
    result = sync(directory)
    info = client(result.uri).get_run(result.run_id).info
    assert info.status == "RUNNING"
    assert info.artifact_uri.startswith((runs / "mlartifacts").as_uri())
    with closing(sqlite3.connect(runs / "mlflow.db")) as database:
        (found,) = database.execute("select count(*) from runs where status = 'RUNNING'").fetchone()
    assert found == 2, "that of the template, and this one"
    assert [path.name for path in tmp_path.iterdir()] == [runs.name]
    assert sqlite_uri(Path("/plain dir/mlflow.db")) == "sqlite:////plain dir/mlflow.db"


def test_classifiers_that_judge_are_not_logged_in_the_hosts_run(tmp_path, template, monkeypatch):
    import h5py
    import mlflow
    import mlflow.sklearn
    import numpy as np

    from physgen import pipeline

    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["a"] = np.random.default_rng(0).normal(size=200).astype("f4")
    recipe = tmp_path / "table.yaml"
    recipe.write_text(
        "extends: events-flow\nname: table\ndata: {path: table.h5, fields: [a]}\n"
        "validation: {metrics: [{kind: classifier, model: boosted, level: low}]}\n"
    )
    shutil.copy(template, tmp_path / "host.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(sqlite_uri(tmp_path / "host.db"))
    mlflow.sklearn.autolog(log_models=False, silent=True)
    try:
        with mlflow.start_run() as run:
            file = tmp_path / "table.h5"
            pipeline.validate_files(file, file, Criteria(recipe=str(recipe)))
            assert mlflow.active_run().info.run_id == run.info.run_id
            from mlflow.utils import autologging_utils

            assert not autologging_utils._AUTOLOGGING_GLOBALLY_DISABLED
        data = mlflow.get_run(run.info.run_id).data
        assert (data.params, data.metrics) == ({}, {})
    finally:
        mlflow.sklearn.autolog(disable=True)
        mlflow.set_tracking_uri(before)


def test_passwords_are_not_printed():
    assert shown("http://me:secret@server:5000/x@y") == "http://server:5000/x@y"


def test_scores_verdict_and_a_model_with_the_verdict_on_its_card(directory):
    surrogate_of_toy(directory)
    manifest.write(directory, {})
    early = sync(directory, final=False)
    assert early.model == ""
    assert not (directory / "export").exists()
    rows = (
        Row(
            name="E/N",
            metric="means",
            value=-1.5,
            error=0.25,
            pull=1.0,
            tolerance=1,
            verdict="pass",
            warning="still drifting",
        ),
        Row(name="never", metric="means", value=None),
    )
    (directory / "scorecard.json").write_text(Scorecard(rows=rows).to_json())
    card = directory / "surrogate/card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"verdict": "pass"}))
    result = sync(directory)
    there = client(result.uri)
    run = there.get_run(result.run_id)
    assert run.data.metrics["scores/E/N"] == -1.5
    assert run.data.metrics["scores/E/N/error"] == 0.25
    assert run.data.metrics["scores/E/N/pull"] == 1.0
    assert "scores/never" not in run.data.metrics
    assert run.data.tags["physgen.verdict"] == "pass"
    assert result.model == "toy, version 1"
    version = there.get_model_version("toy", "1")
    assert version.tags["physgen.verdict"] == "pass"
    assert version.tags["physgen.warnings"] == run.data.tags["physgen.warnings"]
    assert "E/N: still drifting" in version.tags["physgen.warnings"]
    assert version.run_id == result.run_id
    folder = Path(version.source.removeprefix("file://"))
    kept = json.loads((folder / "artifacts/run/surrogate/card.json").read_text())
    assert kept["verdict"] == "pass"
    assert "verdict: pass" in (folder / "MLmodel").read_text()
    # Scored again: the same version says the new verdict, in MLflow and on its card.
    failed = rows[0].model_copy(update={"verdict": "fail"})
    (directory / "scorecard.json").write_text(Scorecard(rows=(failed,)).to_json())
    card.write_text(card.read_text().replace('"pass"', '"fail"'))
    assert sync(directory).model == "toy, version 1"
    assert there.get_model_version("toy", "1").tags["physgen.verdict"] == "fail"
    kept = json.loads((folder / "artifacts/run/surrogate/card.json").read_text())
    assert kept["verdict"] == "fail"
    assert sync(directory).files == 0


def test_a_process_apart_does_the_same_and_raises_the_same(directory):
    measured(directory, [1])
    environment = dict(os.environ)
    result = sync_apart(directory)
    assert result.measurements == 1
    assert dict(os.environ) == environment
    there = client(result.uri)
    there.delete_experiment(there.get_run(result.run_id).info.experiment_id)
    with pytest.raises(InputError, match="was deleted"):
        sync_apart(directory)


def test_the_end_of_a_training_says_what_mlflow_refused(directory, caplog):
    first = sync(directory)
    client(first.uri).delete_experiment(client(first.uri).get_run(first.run_id).info.experiment_id)
    with Tracker(directory, patience=60.0):
        pass
    assert "was deleted" in caplog.text
    assert "physgen track sync" in caplog.text


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no journal.jsonl"):
        sync(tmp_path)


@pytest.fixture
def broken_server():
    class Broken(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(500)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_with_errors_is_named(directory, broken_server):
    measured(directory, [1])
    with pytest.raises(PhysgenError, match=f"MLflow at {broken_server} failed"):
        sync(directory, broken_server)
    assert sync(directory).measurements == 1


def test_training_does_not_notice_a_server_that_never_answers(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        surrogate, method = make()
        options = Engine(steps=20, batch_size=8, log_every=1, device="cpu")
        with Tracker(tmp_path, uri, patience=0.0) as tracker:
            result = fit(surrogate, method, {"data": Numbers()}, tmp_path, options)
        assert not tracker.close()
    assert result.finished
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 22


def test_modules_of_the_users_folder_do_not_stand_for_those_of_python(tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("open('imported', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    with Tracker(tmp_path / "run", "http://127.0.0.1:9", patience=60.0) as tracker:
        assert tracker.close()
    assert not (tmp_path / "imported").exists()


def test_a_tracker_that_cannot_start_is_silent(tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise OSError("no processes left")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with Tracker(tmp_path, "http://127.0.0.1:9") as tracker:
        pass
    assert not tracker.close()


def test_the_surrogate_is_served_without_pickle(tmp_path, monkeypatch):
    from physgen.export import pyfunc
    from physgen.generation import generate

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    surrogate = surrogate_of_toy(tmp_path)
    folder = pyfunc.save(tmp_path)
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pt", ".pth")]

    import mlflow
    import pandas

    model = mlflow.pyfunc.load_model(folder.as_uri())
    rows = pandas.DataFrame({"n": [3]})
    samples = model.predict(rows, params={"seed": 7})
    assert samples.shape == (3, 4, 4)
    assert (samples == generate(surrogate.eval(), 3, seed=7).x.numpy()).all()
    assert (samples != model.predict(rows, params={"seed": 8})).any()
    # Without a seed every call draws anew.
    assert (model.predict(rows) != model.predict(rows)).any()
    # With a column of seeds each row has its own.
    columns = pandas.DataFrame({"n": [3, 1, 2], "seed": [8, 7, 8]})
    drawn = model.predict(columns)
    assert (drawn[3] == samples[0]).all()
    assert (drawn[[0, 1, 2, 4, 5]] == generate(surrogate, 5, seed=8).x.numpy()).all()


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back(tmp_path):
    """The outage costs training nothing; the later sync is complete and has no duplicates."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    def serve():
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        while True:
            assert process.poll() is None
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=1):
                    return process
            except OSError:
                continue

    directory = run_directory(tmp_path / "runs")
    server = serve()
    died_at = []

    def progress(step, metrics):
        # As soon as the first measurements are there, the server dies.
        nonlocal server
        path = directory / "tracking.json"
        if not died_at and path.exists():
            cursor = json.loads(path.read_text())[uri]
            if cursor["step"] > 0:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
                died_at.append(step)
        if died_at and step >= died_at[0] + 20:
            os.kill(os.getpid(), signal.SIGTERM)

    surrogate, method = make()
    options = Engine(steps=10**9, batch_size=8, log_every=20, device="cpu")
    with Tracker(directory, uri, patience=0.0):
        result = fit(surrogate, method, {"data": Numbers()}, directory, options, progress=progress)
    assert died_at
    with pytest.raises(PhysgenError, match="physgen track sync"):
        sync(directory, uri)
    server = serve()
    try:
        first, second = sync(directory, uri), sync(directory, uri)
        assert first.measurements > 0
        assert second.measurements == second.files == 0
        entries = map(json.loads, (directory / "journal.jsonl").read_text().splitlines())
        steps = [entry["step"] for entry in entries if "metrics" in entry]
        assert [step for step, _ in history(uri, first.run_id, "loss")] == steps
        assert steps[-1] == result.step
        assert len(client(uri).search_runs(["1"])) == 1
        assert client(uri).get_run(first.run_id).info.status == "KILLED"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
