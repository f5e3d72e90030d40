"""A process beside the training that sends its journal to MLflow as it grows.

A slow or dead server costs the training nothing: the two share no lock, no queue and no
interpreter, and what could not be sent in time is sent by the next `sync`. Nor does MLflow change
anything of the program that trains: it is imported in the other process only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from physgen.engine import journal
from physgen.errors import InputError, PhysgenError
from physgen.tracking.mirror import Deleted
from physgen.tracking.place import default_uri
from physgen.tracking.sender import Synced, sync

LOG = "tracking.log"

_LOGGER = logging.getLogger("physgen")


def sync_apart(directory: Path, uri: str | None = None, alias: str | None = None) -> Synced:
    """Do `sync` in a process of its own; raises what it raises."""
    arguments = [str(directory), uri or default_uri(directory), "--once"]
    arguments += [] if alias is None else [f"--alias={alias}"]
    done = subprocess.run([*_command(), *arguments], capture_output=True, check=False)
    lines = done.stdout.decode(errors="replace").splitlines()
    try:
        result = json.loads(lines[-1])
    except (IndexError, ValueError):
        last = done.stderr.decode(errors="replace").splitlines()[-1:]
        raise PhysgenError(
            f"the process that sends {directory} to MLflow ended with exit code "
            f"{done.returncode}: {' '.join(last)}"
        ) from None
    if "error" in result:
        kind = InputError if result["exit_code"] == InputError.exit_code else PhysgenError
        raise kind(result["error"])
    return Synced(**result)


def _command() -> list[str]:
    # -P, or a file in the user's folder called random.py would stand for Python's own module.
    return [sys.executable, "-P", "-m", "physgen.tracking.follow"]


class Tracker:
    """Sends a run to MLflow while the block runs, from a process of its own; never raises.

    Args:
        directory: of the run; made if absent.
        uri: tracking URI; `None` is `default_uri`.
        patience: seconds to wait at the end for the rest to be sent.
    """

    def __init__(self, directory: Path, uri: str | None = None, *, patience: float = 20.0) -> None:
        self.directory, self.patience = directory, patience
        self.uri = uri or default_uri(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0

    def __enter__(self) -> Tracker:
        command = [*_command(), str(self.directory), self.uri]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with (self.directory / LOG).open("ab") as log:
                self._begun = log.tell()
                # A session of its own, so that Ctrl-C reaches the training alone.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
                )
        except OSError:
            self._process = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.close():
            _LOGGER.warning("%s", self._reason())

    def close(self) -> bool:
        """Ask for the rest to be sent; return whether it was, within the patience."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return False
        # The end of its input tells the sender to finish; it gives up by itself after a while.
        process.stdin.close()
        try:
            return process.wait(self.patience) == 0
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return False

    def _reason(self) -> str:
        """Say why not all was sent."""
        path = self.directory / LOG
        stated = path.read_bytes()[self._begun :].decode(errors="replace") if path.exists() else ""
        lines = [line for line in stated.splitlines() if "MLflow" in line]
        remedy = f"run `physgen track sync {self.directory}`"
        return lines[-1] if lines else f"MLflow has not been sent all of this run in time; {remedy}"


def main(arguments: list[str] | None = None) -> int:
    """Follow a run until standard input ends, then send the rest; 0 if all was sent.

    Backs off while the server does not answer, and gives up 15 seconds after the end.
    """
    parser = argparse.ArgumentParser(
        prog="python -m physgen.tracking.follow", description=main.__doc__
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("uri")
    parser.add_argument("--once", action="store_true", help="send, and print what was done")
    parser.add_argument("--alias", help="of the model; with --once")
    given = parser.parse_args(arguments)
    if given.once:
        return _once(given.directory, given.uri, given.alias)
    os.nice(10)
    pause, deadline, ending = 2.0, float("inf"), False
    while True:
        done = False
        try:
            if (given.directory / journal.NAME).exists():
                sync(given.directory, given.uri, final=ending)
            pause, done = 2.0, True
        except Deleted as error:
            # Nothing but the user can change that.
            print(error, flush=True)
            sys.stdin.read()
            return 1
        except PhysgenError as error:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {error}", flush=True)
            pause = min(2 * pause, 60.0)
        if ending:
            if done or time.monotonic() > deadline:
                return 0 if done else 1
            pause = 1.0
            time.sleep(pause)
        elif select.select([sys.stdin], [], [], pause)[0]:
            ending, deadline = True, time.monotonic() + 15.0


def _once(directory: Path, uri: str, alias: str | None) -> int:
    try:
        print(json.dumps(vars(sync(directory, uri, alias=alias))))
    except PhysgenError as error:
        print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
