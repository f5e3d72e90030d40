"""How often the combined test finds a difference between samples of one distribution.

Pairs of samples of three normal columns, the classifier included. Of each size are counted the
repeats with p at most .01, .05 and .2, beside the central 95% of the binomial law. `--json FILE`
keeps the p-values as they come, and goes on from those that are there.

    python benchmarks/false_alarms.py --rows 1000 --rows 5000 --rows 20000 --json alarms.json
"""

import argparse
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from scipy import stats

from physgen.batch import Batch, Schema, Variable
from physgen.validation.combined import CombinedTest
from physgen.validation.comparison import Comparison

LEVELS = (0.01, 0.05, 0.2)


class Columns:
    """Three columns, which are the observables."""

    schema = Schema((3,), tuple(Variable(name) for name in "abc"))
    derived: ClassVar = {}

    def observables(self, batch):
        return dict(zip("abc", batch.x.unbind(1), strict=True))


def p_value(rows, seed):
    """Return that of two samples of the standard normal law."""
    x = np.random.default_rng([rows, seed]).normal(size=(2, rows, 3))
    samples = (Batch(torch.from_numpy(part)) for part in x)
    return CombinedTest().rows(Comparison(Columns(), *samples, seed=seed))[0].p_value


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, action="append", required=True)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    found = json.loads(options.json.read_text()) if options.json.exists() else {}
    print("| rows a side | repeats | p <= .01 | p <= .05 | p <= .2 |")
    print("|---|---|---|---|---|")
    for rows in options.rows:
        values = found.setdefault(str(rows), [])
        while len(values) < options.repeats:
            values.append(p_value(rows, len(values)))
            part = options.json.with_suffix(".part")
            part.write_text(json.dumps(found))
            part.replace(options.json)
        counts = []
        for level in LEVELS:
            low, high = stats.binom.interval(0.95, len(values), level)
            count = int((np.array(values) <= level).sum())
            counts.append(f"{count} ({low:.0f} to {high:.0f})")
        print(f"| {rows} | {len(values)} | {' | '.join(counts)} |", flush=True)


if __name__ == "__main__":
    main()
