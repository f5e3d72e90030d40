"""Which device to train on, what machine this is, and which revision of physgen runs on it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from physgen.engine.threads import LARGE
from physgen.errors import InputError

DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["float32", "bf16", "float64"]


def choose_device(name: DeviceName = "auto", local_rank: int = 0) -> torch.device:
    """Return the device to use; "auto" takes a CUDA device where there is one.

    Args:
        local_rank: which of the processes on this machine asks; each gets a device of its own.

    Raises:
        InputError: "cuda" was asked for and there is none, or fewer than processes.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not available):
        return torch.device("cpu")
    if not available:
        raise InputError(
            "engine.device is 'cuda' but torch finds no CUDA device "
            f"(torch {torch.__version__}, built for CUDA {torch.version.cuda or 'none'}); "
            "use engine.device=cpu, or install a CUDA build of torch"
        )
    if local_rank >= available:
        raise InputError(
            f"process {local_rank} of this machine has no CUDA device: there are {available}; "
            f"start at most {available} processes, or use engine.device=cpu"
        )
    return torch.device("cuda", local_rank)


def floating_type(precision: PrecisionName) -> torch.dtype:
    """Return the type parameters are kept in; bf16 computes in bfloat16 but keeps float32."""
    return torch.float64 if precision == "float64" else torch.float32


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Let only deterministic kernels run within the block, where `enabled`."""
    if not enabled:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    # cuBLAS reads it when its first handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
        if workspace is None:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]


def describe_machine() -> dict[str, Any]:
    """Return versions, processors and devices as JSON types, for `doctor` and provenance."""
    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append(
                {
                    "name": properties.name,
                    "memory_gib": round(properties.total_memory / 2**30, 1),
                    "capability": f"{properties.major}.{properties.minor}",
                    "bf16": torch.cuda.is_bf16_supported(),
                }
            )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": {
            "available": torch.get_num_threads(),
            "training": f"1, or all where a step works on {LARGE} elements at once "
            "(engine.threads overrides)",
            "waiting": os.environ.get("OMP_WAIT_POLICY", "as OpenMP chooses").lower(),
        },
        "cuda": torch.version.cuda,
        "devices": devices,
        "versions": {
            name: _version(name)
            for name in ("physgen", "torch", "numpy", "scipy", "numba", "h5py", "uproot", "mlflow")
        },
    }


def describe_revision(folder: Path = Path(__file__).parents[2]) -> dict[str, Any] | None:
    """Return the git revision of the clone that physgen runs from, and whether it was changed.

    `None` where physgen is installed from a package, or git is absent.
    """
    if not (folder / ".git").exists():
        return None
    # Looking must not take the lock of whoever works in the clone.
    command = ["git", "--no-optional-locks", "-C", str(folder)]
    try:
        revision, changes = (
            subprocess.run(
                [*command, *words], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision, "dirty": bool(changes)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
