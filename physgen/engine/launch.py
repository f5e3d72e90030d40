"""Several processes that train one model, started by torch's own launcher (torchrun)."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Sequence

from physgen.errors import InputError, Stopped, TrainingError
from physgen.isolation import environment


def launch(n: int, arguments: Sequence[str]) -> None:
    """Run the command line `n` times on this machine, as ranks of one training.

    The first process that fails ends all others.

    Args:
        n: how many.
        arguments: of `physgen`.

    Raises:
        InputError: `n` is no number of processes.
        Stopped: a signal came, and was passed on.
        TrainingError: a process failed; what it said stands above.
    """
    if n < 1:
        raise InputError(f"--nproc {n}: give the number of processes")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.5,
    )
    # More threads than cores would take turns, unless the user said how many.
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    try:
        with environment({"OMP_NUM_THREADS": threads}):
            elastic_launch(config, sys.executable)("-m", "physgen", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = (
            f"was killed by {signal.Signals(-failure.exitcode).name}"
            if failure.exitcode < 0
            else f"ended with exit code {failure.exitcode}; what it said stands above"
        )
        raise TrainingError(
            f"process {rank} of {n} {how}; the others were ended. The same command goes on from "
            "the last checkpoint"
        ) from error
    except SignalException as error:
        raise Stopped("stopped by a signal; the same command goes on") from error
