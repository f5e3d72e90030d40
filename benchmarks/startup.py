"""Seconds that physgen takes to start: `import physgen`, and `physgen --help` as a whole process.

The median of ten processes, by the clock and in CPU time, beside a Python that does
nothing.
"""

import os
import statistics
import sys
import time

COMMANDS = {
    "import physgen": ["-c", "import physgen"],
    "physgen --help": ["-m", "physgen", "--help"],
}
REPEATS = 10


def seconds(arguments):
    """Return (by the clock, of CPU time) of a process."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    command = [sys.executable, *arguments]
    start = time.perf_counter()
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    clock = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return clock, usage.ru_utime + usage.ru_stime


def run():
    rows = []
    for name, arguments in COMMANDS.items():
        times = [(seconds(arguments), seconds(["-c", ""])) for _ in range(REPEATS)]
        for which, what in enumerate(("by the clock", "of CPU time")):
            ours, bare = ([pair[i][which] for pair in times] for i in (0, 1))
            ratios = sorted(a / b for a, b in zip(ours, bare, strict=True))
            rows.append(
                {
                    "name": name,
                    "value": statistics.median(ours),
                    "unit": f"s {what} (less is better)",
                    "peer": "python -c ''",
                    "peer_value": statistics.median(bare),
                    "ratio": {
                        "median": statistics.median(ratios),
                        "min": ratios[0],
                        "max": ratios[-1],
                    },
                }
            )
    return {"benchmark": "startup", "results": rows}
