"""A seed fixes samples to the last bit, whether kernels are compiled or loaded from the cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_and_loaded_kernels_give_the_same_numbers(tmp_path):
    """Inlined or not, contracted and reordered sums round differently."""

    def numbers():
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("compiled_numbers.py"))],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    compiled, loaded = numbers(), numbers()
    assert len(loaded) == 16
    assert loaded == compiled
