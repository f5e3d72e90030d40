"""How often the intervals of N_equiv hold the number that the generated sample is worth.

Truth is a mixture of normals in 5 dimensions. Of each generator `--repeats` samples are set against
as many reference samples; the number they are worth is found from large samples of both (of a few
rows drawn again and again, from these rows themselves). Printed for one observable, for the mean of
all, for their tails, and for all jointly: N(infinity), the harmonic mean of its estimates, and the
share of the 95% intervals that hold it; of observables also the share that hold N(infinity) in the
bins of the repeat, whose edges are the quantiles of its reference. `--json FILE` keeps what is
finished, and goes on from it.

    python benchmarks/equivalent.py --rows 5000 --repeats 200 --json equivalent.json
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from power import Distribution

import physgen
from physgen.batch import Batch, Schema, Variable
from physgen.validation.comparison import Comparison
from physgen.validation.equivalent import _difference
from physgen.validation.event_features import _edges, binned, fourier
from physgen.validation.independence import select

NAMES = "abcde"
BINS = 20
LARGE, PAIRS = 40_000, 10
FEW = 1000
"""Rows that are drawn again and again, and that the kernel density estimate smooths."""


class Columns:
    """Five columns, which are the observables."""

    schema = Schema((5,), tuple(Variable(name) for name in NAMES))
    derived: ClassVar = {}

    def observables(self, batch):
        return dict(zip(NAMES, batch.x.unbind(1), strict=True))


TRUTH = Distribution("mixture", 5)
WIDTH = TRUTH.draw(np.random.default_rng(1), 100_000).std(0)


class Moved:
    """The truth, moved by a share of its spread or wider by one."""

    def __init__(self, shift=0.0, wider=0.0):
        self.shift, self.wider = shift, wider

    def draw(self, generator, n):
        x = TRUTH.draw(generator, n)
        return x + WIDTH * self.shift + self.wider * (x - TRUTH.centre)


class Depleted:
    """The truth, of whose highest twentieth in the first column three in ten are missing."""

    edge = np.quantile(TRUTH.draw(np.random.default_rng(2), 400_000)[:, 0], 0.95)

    def draw(self, generator, n):
        x = TRUTH.draw(generator, 2 * n)
        lost = (x[:, 0] > self.edge) & (generator.random(2 * n) < 0.3)
        return x[~lost][:n]


class Smoothed:
    """A kernel density estimate of `FEW` rows."""

    rows = TRUTH.draw(np.random.default_rng(3), FEW)

    def draw(self, generator, n):
        return self.rows[generator.integers(FEW, size=n)] + 0.05 * WIDTH * generator.normal(
            size=(n, 5)
        )


class Again:
    """A few true rows, drawn again and again: other ones in every repeat."""

    def __init__(self, seed):
        self.rows = TRUTH.draw(np.random.default_rng([4, seed]), FEW)

    def draw(self, generator, n):
        return self.rows[generator.integers(FEW, size=n)]


class Trained:
    """A normalising flow, trained for a short time on 5000 rows."""

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "truth.npz", **dict(zip(NAMES, self.learned().T, strict=True)))
            settings = {
                "data.path": str(Path(folder) / "truth.npz"),
                "data.fields": list(NAMES),
                "engine.steps": 600,
            }
            run = physgen.train("events-flow", settings, runs=folder, track=False, score=False)
            self.flow = physgen.load(run.path, "cpu")

    @staticmethod
    def learned():
        return TRUTH.draw(np.random.default_rng(5), 5000)

    def draw(self, generator, n):
        return self.flow.sample(n, seed=int(generator.integers(2**31))).x.double().numpy()


def worths(ours, truth):
    """Return by row what a sample is worth."""
    comparison = Comparison(Columns(), *(Batch(torch.from_numpy(x)) for x in (ours, truth)))
    selected = select(comparison)
    bins, columns = binned(comparison, selected, BINS)
    singly = _difference(comparison, selected, "generated", bins)
    joint = _difference(comparison, selected, "generated", fourier(comparison, selected)[0])
    ends = [end for part in columns.values() for end in (part.start, part.stop - 2)]
    parts = {"one observable": columns["a"], "mean of observables": slice(None)}
    found = singly.worths(parts | {"tails of observables": ends})
    return found | joint.worths({"joint": slice(None)})


def wanted(generator):
    """Return by row b^2 / V_P of a generator, from large samples."""
    if isinstance(generator, Again):
        truth = TRUTH.draw(np.random.default_rng([6, 1]), LARGE)
        found = worths(generator.rows, truth).items()
        return {name: (w.distance - w.truth / LARGE) / w.truth for name, w in found}
    biases = {}
    for pair in range(PAIRS):
        random = np.random.default_rng([6, pair])
        found = worths(generator.draw(random, LARGE), TRUTH.draw(random, LARGE))
        for name, worth in found.items():
            biases.setdefault(name, []).append(worth.bias / worth.truth)
    return {name: float(np.mean(values)) for name, values in biases.items()}


class InBins:
    """b^2 / V_P of a generator in given bins, from large samples of both."""

    def __init__(self, generator):
        random = np.random.default_rng([8, 1])
        n = LARGE * PAIRS
        self.columns = [np.sort(x, 0).T for x in (generator.draw(random, n), TRUTH.draw(random, n))]

    def __call__(self, reference):
        biases, variances = [], []
        for values, *sorted_values in zip(reference.T, *self.columns, strict=True):
            edges = _edges(values, BINS)
            share = np.bincount(np.searchsorted(edges, values, side="right")) / len(values)
            q, p = (_shares(x, edges) for x in sorted_values)
            noise = sum(y * (1 - y) / len(x) for x, y in zip(sorted_values, (q, p), strict=True))
            biases.append(((q - p) ** 2 - noise) / share)
            variances.append(1 - share)
        ends = [0, -1]
        sums = (
            [sum(x[0]), sum(map(sum, x)), sum(y[ends].sum() for y in x)]
            for x in (biases, variances)
        )
        rows = "one observable", "mean of observables", "tails of observables"
        return dict(zip(rows, np.divide(*sums), strict=True))


def _shares(ordered, edges):
    below = np.searchsorted(ordered, edges, side="left")
    return np.diff(np.concatenate([[0], below, [len(ordered)]])) / len(ordered)


GENERATORS = {
    "shift .05": lambda: Moved(shift=0.05),
    "width 1.05": lambda: Moved(wider=0.05),
    "tail depleted": Depleted,
    f"{FEW} rows again and again": None,
    "kernel density estimate": Smoothed,
    "trained flow": Trained,
}


def measured(name, rows, repeats):
    """Return by row the number wanted, the harmonic mean of the estimates, and the coverage."""
    generator = None if GENERATORS[name] is None else GENERATORS[name]()
    aim = None if generator is None else (wanted(generator), InBins(generator))
    found = {}
    for seed in range(repeats):
        one = Again(seed) if generator is None else generator
        answer, in_bins = aim or (wanted(one), InBins(one))
        random = np.random.default_rng([7, seed])
        ours, reference = one.draw(random, rows), TRUTH.draw(random, rows)
        given = answer | in_bins(reference)
        for row, worth in worths(ours, reference).items():
            low, high = (bias / worth.truth for bias in worth.biases)
            held = [low <= one[row] <= high for one in (answer, given)]
            found.setdefault(row, []).append(
                (answer[row], worth.bias / worth.truth, *held, low > 0)
            )
    result = {}
    for row, values in found.items():
        biases, estimates, inside, in_bins, resolved = map(np.mean, zip(*values, strict=True))
        result[row] = {
            "wanted": 1 / biases,
            "harmonic": 1 / estimates,
            "coverage": inside,
            "coverage in bins": in_bins,
            "resolved": resolved,
        }
    return {row: {k: float(v) for k, v in values.items()} for row, values in result.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--generator", action="append", choices=GENERATORS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    done = {}
    if options.json and options.json.exists():
        done = json.loads(options.json.read_text())
    print(
        "| generator | of | N wanted | harmonic mean | resolved | 95% intervals that hold it "
        "| N in the bins of the repeat |"
    )
    print("|---" * 7 + "|")
    for name in options.generator or GENERATORS:
        begin = time.process_time()
        if name not in done:
            done[name] = measured(name, options.rows, options.repeats)
            if options.json:
                options.json.write_text(json.dumps(done, indent=1))
        for row, v in done[name].items():
            numbers = f"{v['wanted']:.4g} | {v['harmonic']:.4g} | {v['resolved']:.2f}"
            held = f"{v['coverage']:.3f} | {v['coverage in bins']:.3f}"
            print(f"| {name} | {row} | {numbers} | {held} |", flush=True)
        print(f"{time.process_time() - begin:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
