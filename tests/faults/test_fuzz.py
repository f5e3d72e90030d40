"""What reads files never answers with a traceback, a crash, or by never answering."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent
# Known by name here, so that the collection imports no readers.
TARGETS = (
    *(
        "hdf5",
        "spins",
        "showers",
        "jetnet",
        "parquet",
        "arrow",
        "points",
        "records",
        "ensemble",
        "npz",
        "idx",
        "idx.gz",
        "root",
        "rntuple",
        "geometry",
    ),
    *("nersc", "ildg", "milc", "openqcd", "links"),
    *("recipe", "comparison", "overrides", "dataset card", "image card", "card", "scorecard"),
    *("journal", "weights"),
)
# Of each target at least; the same mutations in the same order every time.
TRIES, SECONDS = 2000, 120


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


def test_all_targets_are_named_here():
    from fuzz_targets import TARGETS as READ

    assert set(TARGETS) == set(READ)


def test_what_once_failed_is_refused_in_one_line(record_property):
    results = {result["target"]: result for result in fuzz("corpus")}
    tried = sum(result["tries"] for result in results.values())
    record_property("cases", tried)
    assert tried == len(list((FAULTS / "corpus").iterdir()))
    assert {name: r["failures"] for name, r in results.items() if r["failures"]} == {}


def test_a_traceback_a_crash_and_a_loop_are_seen():
    """The hunt itself can find something."""
    failures = fuzz("self-test")[0]["failures"]
    said = " ".join(failures.values())
    for word in ("ZeroDivisionError", "SIGSEGV", "MemoryError", "several lines", "took"):
        assert word in said, failures


def test_tries_and_seconds_are_both_the_least():
    (quick,) = fuzz("journal", "--tries", "30", "--seconds", "1")
    assert quick["tries"] > 30
    assert quick["seconds"] >= 1
    (none,) = fuzz("journal", "--tries", "30")
    assert none["tries"] == 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
def test_mutated_files_are_read_or_refused(target, tmp_path, record_property):
    least = ("--tries", str(TRIES), "--seconds", str(SECONDS))
    (result,) = fuzz(target, *least, "--keep", str(tmp_path))
    for name, value in (
        ("cases", result["tries"]),
        ("seconds", result["seconds"]),
        ("failures", len(result["failures"])),
    ):
        record_property(name, value)
    assert result["tries"] >= TRIES
    assert result["seconds"] >= SECONDS
    assert result["failures"] == {}
