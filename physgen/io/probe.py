"""A foreign file is tried in a child process first: damaged bytes can crash a C library, or loop.

The child is a fork, which takes some milliseconds: it does what is asked of it under limits of
memory and processor time, and ends. If it crashes, the file is refused, and the caller goes on.
What it did not read is not tried: damage deep inside large data may still crash the reader.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from physgen.errors import FormatError

SECONDS = 2
"""Of processor time, where a reader states no other."""
MEMORY = 2**29
"""Bytes beyond those of the caller."""

_tried: dict[tuple[str, int, int, int], str] = {}
"""The result for each file: how the child crashed, or nothing."""


def probe(path: Path, work: Callable[[], object], seconds: int = SECONDS) -> None:
    """Do `work` on a file in a child process, once in the life of this process and of the file.

    `seconds` of processor time are enough for it.

    Exceptions in the child say nothing: the caller will meet them as well, and can say more.

    Raises:
        FormatError: the child crashed, or needed too much time or memory.
    """
    facts = path.stat()
    key = (str(path.resolve()), facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if key not in _tried and hasattr(os, "fork"):
        _tried[key] = _crash_of(work, seconds)
    if _tried.get(key):
        raise FormatError(f"{path} {_tried[key]}: it is damaged, or made to; copy or make it again")


def _crash_of(work: Callable[[], object], seconds: int) -> str:
    """Return how a child that did the work crashed, nothing if it did not."""
    limit = _memory_in_use() + MEMORY
    with warnings.catch_warnings():
        # Python warns of forks beside threads; the child asks nothing of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _work(work, limit, seconds)
    try:
        _, status = os.waitpid(child, 0)
    except ChildProcessError:
        # The host has told the system to forget its children.
        status = 0
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGXCPU, signal.SIGKILL):
            return f"keeps the library busy for more than {seconds} s"
        return f"crashes the library that reads it ({signal.Signals(number).name})"
    if os.WEXITSTATUS(status) == _OUT_OF_MEMORY:
        return f"makes the library ask for more than {MEMORY // 2**20} MiB to list what is in it"
    return ""


_OUT_OF_MEMORY = 3


def _work(work: Callable[[], object], limit: int, seconds: int) -> None:
    """Do the work in the child, and end it without any of the caller's last words."""
    code = 0
    try:
        faulthandler.disable()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_CPU, seconds)
        if sys.platform == "linux":
            _limit(resource.RLIMIT_AS, limit)
        work()
    except MemoryError:
        code = _OUT_OF_MEMORY
    except BaseException as error:
        code = _OUT_OF_MEMORY if "memory" in str(error).lower() else 0
    finally:
        os._exit(code)


def _limit(kind: int, value: int) -> None:
    """Set a soft limit, no higher than the hard one."""
    _, hard = resource.getrlimit(kind)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, hard))


def _memory_in_use() -> int:
    """Return the bytes of address space of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
