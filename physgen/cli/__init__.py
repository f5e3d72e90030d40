"""The command line: verbs in the order of the work. Holds no logic of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from physgen.cli import catalogue, files, work

# Commands stand in --help in the order in which they are imported.
# isort: split
from physgen.cli import samples, scans

# isort: split
from physgen.cli import exports, mirror, pages
from physgen.cli.app import app, tracking
from physgen.console import configure_messages
from physgen.errors import InputError, PhysgenError, Stopped, printable

__all__ = [
    "app",
    "catalogue",
    "exports",
    "files",
    "main",
    "mirror",
    "pages",
    "samples",
    "scans",
    "work",
]

app.add_typer(tracking, name="track")


class _Ended(SystemExit):
    """SIGTERM came: what is half-written is removed on the way out, as after an error."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """End a block by `_Ended` when SIGTERM comes, unless whoever started it ignores the signal."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # A second one does not wait.
        raise _Ended(Stopped.exit_code)

    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Entry point of the `physgen` command: errors become one message and an exit code."""
    # Before OpenMP is loaded: threads that wait must not take the core of those that work. But the
    # next operation is often nearer than sleep is long, so they spin first, for some 10 us.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    configure_messages()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        with _ended_by_sigterm():
            app(standalone_mode=True)
    except _Ended as end:
        typer.secho("error: ended by a signal", err=True, fg=typer.colors.RED)
        sys.exit(end.code)
    except PhysgenError as error:
        if "--debug" in sys.argv:
            raise
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(error.exit_code)
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        message = printable(f"error: {where}{error.strerror or error}")
        typer.secho(message, err=True, fg=typer.colors.RED)
        sys.exit(InputError.exit_code)
