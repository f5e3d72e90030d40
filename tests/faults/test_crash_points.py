"""Killed at every file operation of the last steps of a training: the same command repairs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_kill_at_any_write_of_the_end_is_repaired_by_the_same_command(tmp_path, record_property):
    script = Path(__file__).with_name("finished.py")
    process = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    trials = json.loads(process.stdout)
    assert len(trials) >= 12
    record_property("cases", len(trials))
    states = [(trial["finished"], trial["scored"]) for trial in trials]
    assert states == sorted(states), "a later kill leaves less"
    assert {(False, False), (True, False)} <= set(states)
    for trial in trials:
        expected = ["load"] * trial["finished"] + ["report"] * trial["scored"]
        assert trial["taken"] == expected, "what is not whole was taken for whole"
    repaired = [trial for trial in trials if "equal" in trial]
    assert len(repaired) >= 4
    for trial in repaired:
        assert trial["equal"]
        assert trial["repaired"] == ["load", "report"]
        assert trial["parts"] == []
