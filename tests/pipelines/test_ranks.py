"""The command line under torchrun: two processes train, one writes and speaks."""

import json
import subprocess
import sys

import pytest

SMALL = {
    "ising-rbm": ["system.shape=[8,8]", "data.n=400", "engine.steps=4"],
    "phi4-coupling": ["system.shape=[4,4]", "engine.steps=4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_two_processes_train_one_surrogate(name, tmp_path):
    changes = [*SMALL[name], "engine.batch_size=64", "sampling.n=200", "engine.device=cpu"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["-m", "physgen", "train", name, "--preset", "quickstart", "--no-track", "--json"]
    result = subprocess.run(
        [*command, *words, "--runs", str(tmp_path), *changes],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["rows"]
    assert len(list(tmp_path.glob("*/*/surrogate/card.json"))) == 1
