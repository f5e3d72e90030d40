"""The settings physgen computes under, in whatever program it is a guest.

A host program may have another default dtype, gradients switched off, autocast, a default device,
NumPy errors that raise, or an MLflow that logs every classifier that is trained. None of that may
change a sample, and none of it may be changed for the host: every verb runs inside `isolated()`.

What belongs to a thread is set for the thread alone. What belongs to the process (the default
dtype, the precision of matrix products, deterministic algorithms, MLflow's autologging) is set when
the first thread enters and put back when the last one leaves; other threads of the host see it
meanwhile.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module

import numpy as np
import torch

_GENERATORS = threading.RLock()


@contextmanager
def isolated() -> Iterator[None]:
    """Run a block under torch's and NumPy's own defaults, gradients on; the host's come back."""
    with ExitStack() as stack:
        stack.enter_context(_PROCESS)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            # Only where it must be: it intercepts every operation.
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


@contextmanager
def global_generators(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators for a block that cannot do without; the host's come back.

    One thread at a time: whoever draws from them shares them with all others.

    Args:
        seed: of the generators.
        device: a CUDA device whose generator is used besides that of the CPU.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with _GENERATORS, torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        for one in devices:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block; the host's come back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _import_quietly() -> None:
    """Import what draws from Python's own generator as it is imported, and put that back."""
    state = random.getstate()
    import_module("rich.style")
    random.setstate(state)


_import_quietly()


class _Process:
    """What all threads share, held while any of them is inside; may be entered again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._held = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                with ExitStack() as stack:
                    stack.enter_context(_torch_defaults())
                    stack.enter_context(_no_autologging())
                    self._held = stack.pop_all()
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._held.close()


_PROCESS = _Process()


@contextmanager
def _torch_defaults() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    strict = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    precision = None
    # Torch refuses to say it to a host that has set it for each backend.
    with suppress(RuntimeError):
        precision = torch.get_float32_matmul_precision()
    torch.set_default_dtype(torch.float32)
    if strict[0]:  # To say it imports torch's compiler, a second or two of processor time.
        torch.use_deterministic_algorithms(False)
    if precision is not None:
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        if strict[0]:
            torch.use_deterministic_algorithms(True, warn_only=strict[1])
        if precision is not None:
            torch.set_float32_matmul_precision(precision)


@contextmanager
def _no_autologging() -> Iterator[None]:
    """Keep the classifiers that judge samples out of the MLflow run of the host."""
    module = sys.modules.get("mlflow.utils.autologging_utils")
    # MLflow's own block would switch it on at its end, also for a host that has it off.
    if module is None or getattr(module, "_AUTOLOGGING_GLOBALLY_DISABLED", False):
        yield
        return
    with module.disable_autologging():
        yield
