"""Two ranks of B/2 are one rank of B, the same on both, and neither outlives the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import train

from physgen.engine.distributed import World, launched
from physgen.errors import InputError

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}


def ranks(directory):
    return [json.loads((directory / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def check_equal(found, tmp_path):
    first, second = found
    assert first["hash"] == second["hash"]
    alone, _ = train(tmp_path / "alone")
    expected = torch.cat([p.flatten() for p in alone.parameters()])
    torch.testing.assert_close(torch.tensor(first["weights"]), expected.detach())
    assert first["chains"] != second["chains"], "chains are per rank"
    for rank in found:
        assert rank["chains"] == rank["chains of one part"], "chains must survive a resume"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    base = tmp_path_factory.mktemp("ranks")
    process = subprocess.run(
        [sys.executable, str(HERE / "ranks.py"), str(base), "equal", "fails", "drifts"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return base, json.loads(process.stdout)


def test_two_ranks_equal_one(outcome, tmp_path):
    base, codes = outcome
    assert codes["equal"] == [0, 0]
    check_equal(ranks(base / "equal"), tmp_path)


def test_one_rank_failing_ends_the_other_with_a_reason(outcome):
    base, codes = outcome
    assert codes["fails"] == [1, 1]
    first, second = ranks(base / "fails")
    assert second["error"] == "ValueError: this rank fails on purpose"
    assert "another process of this run has stopped" in first["error"]


def test_ranks_that_drift_apart_are_noticed_before_a_save(outcome):
    base, codes = outcome
    assert codes["drifts"] == [1, 1]
    for rank in ranks(base / "drifts"):
        assert "parameters on rank 1 are not those on rank 0" in rank["error"]
    assert not list((base / "drifts/parts/checkpoints").glob("*"))


def test_unequal_shares_are_refused():
    with pytest.raises(InputError, match="multiple of 3"):
        World(rank=1, size=3).slice(8)


@pytest.mark.slow
def test_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, str(HERE / "ranks.py"), str(tmp_path), "equal"], env=ENVIRONMENT, check=True
    )
    check_equal(ranks(tmp_path), tmp_path)


LAUNCHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "4"}, "RANK is not set: start them with torchrun, or unset WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: not a whole number"),
        (dict(zip(LAUNCHER, ("2", "2", "0", "localhost", "1"), strict=True)), "RANK=2 is not one"),
    ],
)
def test_a_launcher_that_says_half_is_told_the_other_half(variables, said, monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        launched()


@pytest.mark.parametrize("variables", [{}, {"RANK": "1"}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_one_process_is_alone_and_first(variables, monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == World(0, 1, 0)
    assert launched().first
