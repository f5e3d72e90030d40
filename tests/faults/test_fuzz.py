"""What reads files never answers with a traceback, a crash, or by never answering."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent
# The same mutations every time, some two minutes of processor time for each target; `make
# reliability` writes them down. Known by name here, so that the collection imports no readers.
TRIES = {
    "hdf5": 2500,
    "spins": 3000,
    "showers": 3000,
    "ensemble": 3000,
    "npz": 36_000,
    "idx": 80_000,
    "idx.gz": 86_000,
    "root": 9600,
    "geometry": 100_000,
    "recipe": 22_000,
    "comparison": 68_000,
    "overrides": 20_000,
    "card": 5600,
    "scorecard": 100_000,
    "journal": 110_000,
    "weights": 90_000,
}


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
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TRIES)
def test_mutated_files_are_read_or_refused(target, tmp_path, record_property):
    (result,) = fuzz(target, "--tries", str(TRIES[target]), "--keep", str(tmp_path))
    for name, value in (
        ("cases", result["tries"]),
        ("seconds", result["seconds"]),
        ("failures", len(result["failures"])),
    ):
        record_property(name, value)
    assert result["tries"] == TRIES[target]
    assert result["failures"] == {}
