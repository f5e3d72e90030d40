"""A process beside the training that sends its journal to MLflow as it grows.

A slow or dead server costs the training nothing: the two share no lock, no queue and no
interpreter, and what could not be sent in time is sent by the next `sync`.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from physgen.engine import journal
from physgen.errors import PhysgenError
from physgen.tracking.sender import default_uri, sync

LOG = "tracking.log"


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

    def __enter__(self) -> Tracker:
        # -P, or a file in the user's folder called random.py would stand for Python's own module.
        module = [sys.executable, "-P", "-m", "physgen.tracking.follow"]
        command = [*module, str(self.directory), self.uri]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with (self.directory / LOG).open("ab") as log:
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
        self.close()

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


def main(arguments: list[str] | None = None) -> int:
    """Follow a run until standard input ends, then send the rest; 0 if all was sent.

    Backs off while the server does not answer, and gives up 15 seconds after the end.
    """
    parser = argparse.ArgumentParser(
        prog="python -m physgen.tracking.follow", description=main.__doc__
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("uri")
    given = parser.parse_args(arguments)
    os.nice(10)
    pause, deadline, ending = 2.0, float("inf"), False
    while True:
        done = False
        try:
            if (given.directory / journal.NAME).exists():
                sync(given.directory, given.uri)
            pause, done = 2.0, True
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


if __name__ == "__main__":
    sys.exit(main())
