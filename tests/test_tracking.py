"""MLflow gets everything once, whatever happens to it, and training never notices."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from physgen.engine.journal import Journal
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import InputError, PhysgenError
from physgen.tracking import Tracker, default_uri, sync

sys.path.insert(0, str(Path(__file__).parent / "engine"))

from toys import Numbers, make


def run_directory(runs, name="abc"):
    directory = runs / "toy" / name
    directory.mkdir(parents=True)
    recipe = "name: toy\nengine: {steps: 30, clip: 1.0}\nvalidation: {metrics: [{kind: means}]}\n"
    (directory / "recipe.yaml").write_text(recipe)
    data = {"name": "/data/y.h5", "sha256": "a" * 64, "rows": 5}
    (directory / "provenance.json").write_text(json.dumps({"physgen": "0.1", "data": data}))
    (directory / "plots").mkdir()
    (directory / "plots" / "energy.png").write_bytes(b"png")
    return directory


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
    from physgen.engine.device import choose_device
    from physgen.export import card, pyfunc
    from physgen.generation import generate
    from physgen.run import Run

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    (tmp_path / "recipe.yaml").write_text(
        "name: toy\n"
        "system: {kind: ising, shape: [4, 4]}\n"
        "surrogate: {kind: rbm, hidden: 8}\n"
        "method: {kind: persistent-contrastive-divergence}\n"
    )
    torch.manual_seed(0)
    surrogate = Run(tmp_path).build_surrogate().to(choose_device("cpu"))
    card.save(surrogate, tmp_path / "surrogate", {"recipe": "toy"})
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
