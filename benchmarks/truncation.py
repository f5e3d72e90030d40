"""Quality against coverage: a trained generator at several truncations.

python benchmarks/truncation.py RUN 0.3 0.5 0.7 1.0

Density says how much the samples are like the truth, coverage how much of the truth they reach (see
physgen.validation.coverage). Less noise is better samples of fewer kinds.
"""

import argparse
from pathlib import Path

import physgen
from physgen.run import Run
from physgen.scoring import compare
from physgen.validation.coverage import Coverage

NAMES = ("density", "coverage", "precision", "recall", "smallest class share")


def curve(run: Path, truncations: list[float]) -> list[dict[str, tuple[float, float]]]:
    """Return values and errors of the measures at each truncation."""
    found = []
    for truncation in truncations:
        opened = Run(run, sampling={"truncation": truncation})
        rows = {row.name: row for row in Coverage().rows(compare(opened, opened.load()))}
        found.append({name: (rows[name].value, rows[name].error) for name in NAMES})
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("truncations", type=float, nargs="+")
    given = parser.parse_args()
    print(f"physgen {physgen.__version__}, {given.run}")
    print("| truncation | " + " | ".join(NAMES) + " |\n" + "| --- " * (len(NAMES) + 1) + "|")
    for truncation, values in zip(
        given.truncations, curve(given.run, given.truncations), strict=True
    ):
        shown = (f"{value:.3f} +- {error or 0:.3f}" for value, error in values.values())
        print(f"| {truncation:g} | " + " | ".join(shown) + " |", flush=True)
