"""What reads files never answers with a traceback, a crash, or by never answering."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent
TRIES = 500
"""The same mutations every time; `make reliability` tries each target for minutes."""

# Known by name here, so that the collection of tests imports none of what they read with.
TARGETS = (
    *("hdf5", "spins", "showers", "ensemble", "npz", "idx", "idx.gz", "root", "geometry"),
    *("recipe", "comparison", "overrides", "card", "scorecard", "journal", "weights"),
)


def fuzz(*arguments):
    done = subprocess.run(
        [sys.executable, str(FAULTS / "fuzz.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_once_failed_is_refused_in_one_line():
    results = {result["target"]: result for result in fuzz("corpus")}
    assert sum(result["tries"] for result in results.values()) >= 15
    assert {name: r["failures"] for name, r in results.items() if r["failures"]} == {}


def test_a_traceback_a_crash_and_a_loop_are_seen():
    """The hunt itself can find something."""
    failures = fuzz("self-test")[0]["failures"]
    said = " ".join(failures.values())
    for word in ("ZeroDivisionError", "SIGSEGV", "MemoryError", "several lines", "took"):
        assert word in said, failures


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", TARGETS)
def test_mutated_files_are_read_or_refused(target, tmp_path, record_property):
    (result,) = fuzz(target, "--tries", str(TRIES), "--keep", str(tmp_path))
    record_property("cases", result["tries"])
    assert result["tries"] == TRIES
    assert result["failures"] == {}
