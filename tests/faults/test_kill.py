"""A killed run goes on as if nothing had happened, wherever the kill struck."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    process = subprocess.run(
        [sys.executable, str(TESTS / "faults/killed.py"), str(tmp_path_factory.mktemp("killed"))],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS / "engine")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_sigkill_then_resume_is_bitwise_exact(outcome):
    assert [trial["case"] for trial in outcome["middle"]] == ["plain", "chains", "accumulate-ema"]
    for trial in outcome["middle"]:
        assert trial["signal"] == signal.SIGKILL
        assert trial["resumed_at"] == 6
        assert trial["equal"], trial["case"]
        assert trial["journal"] == list(range(1, 11)), "a measurement is missing or there twice"


def test_sigkill_at_every_file_operation_of_a_save(outcome, record_property):
    trials = outcome["saves"]
    loaded = [trial["loaded"] for trial in trials]
    assert len(trials) >= 15
    record_property("cases", len(trials))
    assert loaded == sorted(loaded)
    assert set(loaded) == {6, 9}, "the kills must strike before and after the rename"
    for trial in trials:
        assert trial["resumed_at"] == trial["loaded"]
        assert trial["hash"] == outcome["whole"]
        assert trial["left"] == ["step-000000009", "step-000000010"]
