"""All commands and code of docs/hosts.md, with short trainings."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "hosts.md").read_text()
SHORT = {
    "physgen train": "engine.steps=20 sampling.n=200",
    "snakemake": 'changes="engine.steps=5 engine.batch_size=16 sampling.n=200"',
    "law run": "--changes engine.steps=5,engine.batch_size=16,sampling.n=200",
}
"""What is added to commands that would take long."""
WRITTEN = (
    *("jets-onnx/card.json", "jets-50.root", "runs/mlflow.db"),
    *("results/phi4-coupling/samples.h5", "results/phi4-coupling/scorecard.json"),
)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.S)


def script(port):
    lines = []
    for line in "".join(blocks("sh")).replace("5001", str(port)).splitlines():
        added = [words for command, words in SHORT.items() if line.startswith(command)]
        lines.append(" ".join([line, *added]))
    return "\n".join(lines)


@pytest.mark.timeout(1800)
def test_commands_and_code_of_the_docs(recipe, nanoaod, tmp_path):
    for file in (recipe, recipe.with_name("jets.root"), nanoaod):
        shutil.copy(file, tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LAW_HOME": str(tmp_path / "law"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (tmp_path / "output.log").open("w+") as output:
        shell = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", script(port)],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # The server that it leaves is ended with all of it.
        )
        try:
            assert shell.wait() == 0, Path(output.name).read_text()[-5000:]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        assert '{"predictions": [[' in Path(output.name).read_text()
    for name in WRITTEN:
        assert (tmp_path / name).exists(), name
    assert len(list(tmp_path.glob("results/phi4-coupling-*/samples-1000-1.h5"))) == 1
    analysis, estimator = blocks("python")
    run_in(tmp_path, f"{analysis}\nassert found['jets above 30 GeV'] > 100")
    run_in(tmp_path, f"{estimator}\nassert new.shape == X.shape")


def run_in(folder, code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
