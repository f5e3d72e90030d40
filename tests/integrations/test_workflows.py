"""The examples for Snakemake and law: each makes its files, and nothing twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["system.shape=[4,4]", "engine.steps=5", "engine.batch_size=16", "sampling.n=200"]


def called(folder, *words, **environment):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        words,
        cwd=folder,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def made(results):
    """Check the files of results; return when they were made."""
    assert json.loads((results / "scorecard.json").read_text())["verdict"] in ("pass", "fail")
    (samples,) = results.glob("samples*.h5")
    with h5py.File(samples) as file:
        assert len(next(iter(file.values()))) == 100
    assert Path((results / "run.txt").read_text().strip(), "MANIFEST.sha256").exists()
    return {path.name: path.stat().st_mtime_ns for path in results.iterdir()}


def test_snakemake(tmp_path):
    words = ["snakemake", "-s", str(EXAMPLES / "snakemake/Snakefile"), "--cores", "1", "--config"]
    words += ["recipe=phi4-coupling", f"changes={' '.join(SHORT)}", "samples=100"]
    done = called(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    first = made(tmp_path / "results/phi4-coupling")
    again = called(tmp_path, *words)
    assert "Nothing to be done" in again.stdout + again.stderr
    assert made(tmp_path / "results/phi4-coupling") == first
    # A run that is gone on with is the same run.
    (tmp_path / "results/phi4-coupling/run.txt").unlink()
    assert called(tmp_path, *words).returncode == 0
    assert len(list((tmp_path / "runs/phi4-coupling").iterdir())) == 1


def test_law(tmp_path):
    environment = {
        "PYTHONPATH": str(EXAMPLES / "law"),
        "LAW_CONFIG_FILE": str(EXAMPLES / "law/law.cfg"),
        "LAW_HOME": str(tmp_path / "home"),
    }
    words = ["law", "run", "tasks.Generate", "--recipe", "phi4-coupling", "--n", "100"]
    words += ["--changes", ",".join(SHORT).replace("4,4", r"4\,4")]
    done = called(tmp_path, *words, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (tmp_path / "results").iterdir()
    first = made(results)
    again = called(tmp_path, *words, **environment)
    assert again.returncode == 0, again.stderr
    assert made(results) == first
    failed = called(tmp_path, *words[:3], "--recipe", "phi4-couplin", **environment)
    assert failed.returncode != 0
    assert "did you mean 'phi4-coupling'" in failed.stdout + failed.stderr
