"""Registered models: given an alias, loaded by it, and served over HTTP without a pickle."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import physgen
import physgen.pipeline
from physgen.cli import app
from physgen.errors import InputError, PhysgenError
from physgen.run import Run
from physgen.tracking import registered, sync

CONDITION = {"GenJet_pt": [50.0, 120.0], "GenJet_eta": [0.5, -1.0]}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def store(run, tmp_path_factory):
    """A registry in which the run is version 1 of the model `jets`, its champion."""
    folder = tmp_path_factory.mktemp("store")
    copied = Run(shutil.copytree(run.path, folder / "runs" / "jets" / "0123"))
    uri = f"sqlite:///{folder}/runs/mlflow.db"
    sync(copied.path, uri, alias="champion")
    return folder


@pytest.fixture
def uri(store, monkeypatch):
    uri = f"sqlite:///{store}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_a_model_is_loaded_by_its_alias_or_version(run, store, uri, monkeypatch, tmp_path):
    expected = physgen.load(run).sample(2, 5, CONDITION).x
    for model in ("models:/jets@champion", "models:/jets/1"):
        sampler = physgen.load(model)
        assert torch.equal(sampler.sample(2, 5, CONDITION).x, expected)
        assert sampler.facts["run"] == model
    out = tmp_path / "jets.root"
    words = ["generate", "models:/jets@champion", "-n", "3", "-o", str(out)]
    words += ["--condition", "GenJet_pt=50", "--condition", "GenJet_eta=0"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert out.exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(store)
    assert torch.equal(physgen.generate("models:/jets@champion", 2, 5, CONDITION).x, expected)


def test_what_is_not_registered_is_refused_by_name(store, uri, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"alias 'champ'; did you mean 'champion'\?"):
        physgen.load("models:/jets@champ")
    with pytest.raises(InputError, match=r"no model 'jet'; did you mean 'jets'\?"):
        physgen.load("models:/jet@champion")
    with pytest.raises(InputError, match="no version 7 of 'jets'"):
        physgen.load("models:/jets/7")
    for wrong in ("models:/jets", "models:/jets@a/b", "models:/jets/latest"):
        with pytest.raises(InputError, match="write models:/NAME@ALIAS"):
            physgen.load(wrong)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"There is no runs/mlflow\.db here"):
        physgen.load("models:/jets@champion")
    assert list(tmp_path.iterdir()) == []


def test_an_alias_moves_to_the_version_that_is_given_it(store, uri, tmp_path):
    from mlflow import MlflowClient

    run = Run(store / "runs" / "jets" / "0123")
    found = sync(run.path, uri, alias="candidate")
    assert found.model == "jets, version 1, alias candidate"
    client = MlflowClient(tracking_uri=uri)
    aliases = client.get_registered_model("jets").aliases
    assert {name: int(version) for name, version in aliases.items()} == {
        "candidate": 1,
        "champion": 1,
    }
    with pytest.raises(InputError, match="alias 'v1': "):
        sync(run.path, uri, alias="v1")
    unfinished = Run(shutil.copytree(run.path, tmp_path / "jets" / "4567"))
    (unfinished.path / "MANIFEST.sha256").unlink()
    (unfinished.path / "tracking.json").unlink()
    with pytest.raises(InputError, match="not a finished run, and has no model"):
        sync(unfinished.path, f"sqlite:///{store}/runs/mlflow.db", alias="champion")


def test_the_files_of_another_machine_are_copied_once(store, uri, monkeypatch):
    source = registered.Registered("models:/jets@champion").run.parents[1]
    first = registered._copied(source.as_uri(), uri)
    assert first != source
    assert (first / "artifacts/run/recipe.yaml").exists()
    assert registered._copied(source.as_uri(), uri) == first
    (store / "empty").mkdir()
    monkeypatch.setattr(registered.Registered, "_folder", lambda *_, **__: store / "empty")
    with pytest.raises(InputError, match="was not made by physgen"):
        registered.Registered("models:/jets@champion")
    monkeypatch.setattr(registered.Registered, "_folder", lambda *_, **__: store / "gone")
    with pytest.raises(InputError, match="not on this machine"):
        registered.Registered("models:/jets@champion")


def test_a_server_that_does_not_answer_is_named(monkeypatch):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(PhysgenError, match=rf"MLflow at http://127\.0\.0\.1:{port} failed"):
        physgen.load("models:/jets@champion")


def test_a_model_holds_no_pickle(store, uri):
    folder = registered.Registered("models:/jets@champion").run.parents[1]
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".py", ".yaml", ".json", ".txt", ".safetensors", ".sha256"}


def started(words, health, **environment):
    """Start a command of MLflow, in a session of its own; return it when it answers."""
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        env=os.environ | settings | environment,
        start_new_session=True,
    )
    while True:
        assert process.poll() is None
        try:
            urllib.request.urlopen(health, timeout=5).close()
            return process
        except OSError:
            continue


def ended(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_model_is_loaded_from_a_server(run, tmp_path, monkeypatch):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    words = ["server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    words += ["--artifacts-destination", str(tmp_path / "artifacts")]
    copied = shutil.copytree(run.path, tmp_path / "runs" / "jets" / "0123")
    server = started(words, f"{uri}/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    try:
        physgen.pipeline.track(copied, uri, alias="champion")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        sampler = physgen.load("models:/jets@champion")
        with pytest.raises(InputError, match="no version of 'jets' has the alias 'other'"):
            physgen.load("models:/jets@other")
    finally:
        ended(server)
    expected = physgen.load(run).sample(2, 5, CONDITION).x
    assert torch.equal(sampler.sample(2, 5, CONDITION).x, expected)


@pytest.mark.slow
def test_a_served_model_answers_over_http(run, uri):
    """`mlflow models serve` in this environment, on loopback, with pickle off."""
    port = free_port()
    words = ["models", "serve", "-m", "models:/jets@champion", "--env-manager", "local"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    off = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    server = started(words, f"http://127.0.0.1:{port}/ping", **off)
    try:
        rows = {"columns": list(CONDITION), "data": np.array([*CONDITION.values()]).T.tolist()}
        asked = {"dataframe_split": rows, "params": {"seed": 5}}
        found = np.array(_post(port, asked)["predictions"], np.float32)
        np.testing.assert_array_equal(found, physgen.generate(run, 2, 5, CONDITION).x.numpy())
        rows["data"][1][0] = 900.0
        with pytest.raises(urllib.error.HTTPError) as refused:
            _post(port, asked)
        said = json.loads(refused.value.read())
        assert said["error_code"] == "BAD_REQUEST"
        assert "condition GenJet_pt = 900" in said["message"]
    finally:
        ended(server)


def _post(port, content):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(content).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
