"""Writes `docs/reliability.md`: what is promised, how many cases were tried, how many failed.

`python tests/faults/reliability.py` runs the tests of faults, the slow ones as well.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
PROMISES = {
    "A killed training goes on bit by bit as if it had never stopped": ("test_sigkill_then",),
    "A kill at any file operation of a checkpoint leaves the one before or the new one": (
        "test_sigkill_at_every",
    ),
    "A kill at any write of the end of a training is repaired by the same command; nothing partial "
    "is loaded or shown": ("test_a_kill_at_any_write",),
    "A damaged checkpoint or journal, a full disk: named, and the one before is kept": (
        "test_damage.py",
    ),
    "One flipped bit of a finished run is found by the verbs that use the file": (
        "test_each_flipped_bit",
    ),
    "Code that a stranger's run names is not run": (
        "test_code_of_a_stranger",
        "test_changed_code",
        "test_a_report_runs_nothing",
    ),
    "Links out of a run, exchanged files and cards that make no sense are refused in one line": (
        "test_runs.py",
    ),
    "Recipes that expand, nest or name another place are refused; names do not drive a terminal": (
        "test_documents.py",
    ),
    "Devices, pipes and folders are refused unopened": ("test_what_is_no_regular_file_is",),
    "No reader opens a file that another one links to": ("test_no_reader_opens",),
    "Archives and shapes that claim more than the file holds are refused unread; a crash or an "
    "endless loop of the HDF5 library is survived": ("test_hostile_files.py",),
    "What once failed is refused in one line": ("test_what_once_failed",),
}
HEAD = """# Reliability

Made by `make reliability`, which runs every case below again.

## Promises

| promise | cases tried | failures |
|---|---|---|
"""
MUTATIONS = """
## Mutated files

Small good files of each kind after one to eight changes (flipped bits, other bytes, pieces removed
or repeated, a cut end; in YAML also values and keys exchanged for others of any type), in processes
of at most 1 GiB more memory. Of each kind at least 2000 mutations are tried, for at least 120 s of
processor time; the same ones in the same order every time. A failure is anything but a result or an
error of one line: a traceback, a crash, 10 s of processor time.

| read as | mutations tried | seconds of processor time | failures |
|---|---|---|---|
"""
LIMITS = """
## Limits

- An HDF5 file is walked through once by a child process before it is opened here: objects,
  attributes, and the first and last rows of data up to 64 MiB. Damage deep inside larger data may
  still crash the HDF5 library, and with it the program.
- A ROOT file is opened, its objects listed and the entries of its RNTuples counted once by a child
  process, for at most 10 s and another one for each MiB of the file.
- Listed are the first 500 datasets of a file, in groups at most 32 deep; data that are named are
  found wherever they are.
- What unpacks to more than 256 MiB must not unpack to more than 100 times its size, in npz and
  gzipped files.
- Recipes, cards of data sets and comparisons have at most 128 KiB, 50 levels and 100,000 values,
  those repeated by anchors included.
- Code named by a recipe (`system.action=FILE.py:FUNCTION`) is run when you name the recipe. A run
  directory that is opened later runs it only if you have trained with a file of the same content
  (its SHA-256 is kept in `~/.local/share/physgen/agreed`), or say `--trust` (`trust=True`). What
  that file imports is not looked at, and installed plugins are trusted.
- A finished run is what `MANIFEST.sha256` lists. It detects damage and carelessness; whoever can
  write the folder can write the manifest too.
- Parts of outputs that a killed process left are swept when the same output is written next; those
  of another machine when they are a week old.
"""


def counted(report):
    """Return {test: (cases, failures, {property: value})} of a JUnit file."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.py::{case.get('name')}"
        said = {p.get("name"): p.get("value") for p in case.iter("property")}
        failed = case.find("failure") is not None or case.find("error") is not None
        found[name] = (int(said.get("cases", 1)), int(failed), said)
    return found


def promises(results):
    """Return the lines of the promises; each test counts once, for the first that names it."""
    left = dict(results)
    for promise, words in PROMISES.items():
        names = [name for name in left if any(word in name for word in words)]
        taken = [left.pop(name) for name in names]
        yield f"| {promise} | {sum(n for n, *_ in taken)} | {sum(f for _, f, _ in taken)} |"


def mutations(results):
    """Return the lines of the kinds of files."""
    for name, (tries, failed, said) in results.items():
        if "test_mutated_files" in name:
            target = name.split("[")[1].rstrip("]")
            failures = int(said.get("failures", failed))
            yield f"| {target} | {tries} | {float(said['seconds']):.0f} | {failures} |"


def main():
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-n", "2", "--dist", "worksteal", "-o", "junit_family=xunit1"]
        pytest = [sys.executable, "-m", "pytest", *options, "-m", "slow or not slow"]
        subprocess.run([*pytest, "--junitxml", str(report), "tests/faults"], cwd=ROOT, check=False)
        results = counted(report)
    lines = [
        "\n".join(promises(results)),
        "\n",
        MUTATIONS,
        "\n".join(mutations(results)),
        "\n",
        LIMITS,
    ]
    PAGE.write_text(HEAD + "".join(lines), encoding="utf-8")
    failures = sum(f for _, f, _ in results.values())
    print(f"{PAGE}: {len(results)} tests, {failures} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
