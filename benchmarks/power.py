"""Power of the combined test against that of its single tests, on deformed distributions.

The kinds of distribution and of deformation are those of Grossi, Letizia & Torre (arXiv
2409.16336): a mixture of normals or one correlated normal, deformed by a strength eps; their
parameters are drawn here, so that eps compares with the published one in order of magnitude only.
What is compared in one run, with common random numbers, is the eps at which half of the repeats
have p <= .05: of the combined test, and of the best of its tests, which nobody knows beforehand.
The best one is chosen in repeats of its own, at the strength where the combined test begins to see:
the best of forty in the repeats in which it is measured is the luckiest one. The classifier, which
is relabelled on its own, is left out; its share of the level is not.

    python benchmarks/power.py mixture 5 --rows 10000 --repeats 6
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np

from physgen.validation.combined import families
from physgen.validation.two_sample.combination import LEARNED_SHARE, Tails
from physgen.validation.two_sample.pool import Pool

COMPONENTS = {5: 3, 20: 5, 100: 10}
LEVEL = 0.05
FARTHEST = 12

# Where the grids begin, whose steps are a factor of sqrt(2), at 10,000 rows a side in 5 dimensions;
# by what factor in others. One correlated normal in 100 dimensions has very narrow directions.
MIDDLE = {
    "mixture": {
        "mean": 0.02, "diagonal": 0.03, "off-diagonal": 0.004,
        "power +": 0.002, "power -": 0.002, "noise": 0.05,
    },
    "correlated": {
        "mean": 0.005, "diagonal": 0.07, "off-diagonal": 0.02,
        "power +": 0.008, "power -": 0.008, "noise": 0.05,
    },
}  # fmt: skip


SCALE = {
    "mixture": {5: 1.0, 20: 0.5, 100: 0.3},
    "correlated": {5: 1.0, 20: 0.2, 100: 0.004},
}


class Distribution:
    """A mixture of normals, or one correlated normal, and what deforms its samples."""

    def __init__(self, kind, d):
        generator = np.random.default_rng(12345)
        self.kind, self.d = kind, d
        if kind == "mixture":
            n = COMPONENTS[d]
            self.means = generator.uniform(0, 5, (n, d))
            self.widths = generator.uniform(0, 1, (n, d))
            self.shares = generator.dirichlet(np.full(n, 5.0))
        else:
            root = generator.uniform(-1, 1, (d, d))
            root /= np.linalg.norm(root, axis=1, keepdims=True)
            self.root = root * generator.uniform(0, 1, (d, 1))
            self.mean = generator.uniform(-1, 1, d)
        self.direction = generator.uniform(-1, 1, d)
        self.stretch = generator.uniform(0, 1, d)
        self.centre = self.draw(generator, 100_000).mean(0)

    def draw(self, generator, n):
        normal = generator.normal(size=(n, self.d))
        if self.kind == "mixture":
            which = generator.choice(len(self.shares), n, p=self.shares)
            return self.means[which] + self.widths[which] * normal
        return self.mean + normal @ self.root.T

    def deform(self, x, how, eps, generator):
        if how == "mean":
            return x + eps * self.direction
        if how == "diagonal":
            return self.centre + (x - self.centre) * np.sqrt(1 + eps * self.stretch)
        if how == "off-diagonal":  # A share eps of the rows is permuted, each column on its own.
            x = x.copy()
            n = min(len(x), round(eps * len(x)))
            for column in x.T:
                rows = generator.permutation(len(x))[:n]
                column[rows] = column[generator.permutation(rows)]
            return x
        if how == "noise":
            return x + eps * generator.normal(size=x.shape)
        return np.sign(x) * np.abs(x) ** (1 + eps if how == "power +" else 1 - eps)


def p_values(x, y, seed):
    """Return p of the combination, those of the tests, their smooth logarithms, and their names.

    From 500 relabellings each.
    """
    values = np.concatenate([x, y])
    n = len(values)
    names = tuple(f"x{i}" for i in range(values.shape[1]))
    true = np.arange(n) < len(x)
    no_conditions = np.empty((n, 0))
    pool = Pool(names, values, (), no_conditions, true, np.ones(n), np.arange(n), seed=seed)
    tests = families(pool)
    relabelling = pool.relabelling
    draws = [relabelling.draw(test.sums) for test in tests]
    observed = []
    for test in tests:
        truth, ours = relabelling.means(test.sums)
        observed.append(test.statistics((truth - ours)[None]))
    observed = np.concatenate(observed, 1)
    learned, null = (
        np.concatenate([t.statistics(draw(i)) for t, draw in zip(tests, draws, strict=True)], 1)
        for i in (1000, 1001)
    )
    tails = Tails.of(learned)
    logs = tails.log_p(observed)[0]
    n_reached = (tails.log_p(null).min(1) <= logs.min()).sum()
    combined = min(1.0, (1 + n_reached) / (1 + len(null)) / (1 - LEARNED_SHARE))
    single = (1 + (null >= observed).sum(0)) / (1 + len(null))
    return combined, single, logs, [name for test in tests for name in test.names]


def strengths(distribution, how, rows, repeats):
    """Return eps of the combined test, the name of the best single one, and its eps."""
    middle = MIDDLE[distribution.kind][how] * math.sqrt(10_000 / rows)
    middle *= SCALE[distribution.kind][distribution.d]

    def found(step, seeds):
        results = []
        for seed in seeds:
            generator = np.random.default_rng(seed)
            x, y = (distribution.draw(generator, rows) for _ in range(2))
            eps = middle * 2.0 ** (step / 2)
            y = distribution.deform(y, how, eps, np.random.default_rng([seed, 1]))
            results.append(p_values(x, y, seed))
        combined, single, logs, names = zip(*results, strict=True)
        return np.median(combined), np.median(single, 0), np.mean(logs, 0), names[0]

    seen = {}

    def at(step):
        if step not in seen:
            seen[step] = found(step, range(repeats))
        return seen[step]

    step = 0
    while at(step)[0] > LEVEL and step < FARTHEST:
        step += 1
    while at(step)[0] <= LEVEL and step > -FARTHEST:
        step -= 1
    _, _, logs, names = found(step, range(repeats, 2 * repeats))
    best = int(logs.argmin())
    while at(step)[1][best] <= LEVEL and step > -FARTHEST:
        step -= 1
    steps = sorted(seen)
    grid = [middle * 2.0 ** (step / 2) for step in steps]
    combined = crossing(grid, [seen[step][0] for step in steps])
    return combined, names[best], crossing(grid, [seen[step][1][best] for step in steps])


def crossing(grid, p):
    """Interpolate log p linearly in log eps, from above; infinite if p never gets there."""
    above = [i for i, value in enumerate(p) if value > LEVEL]
    if not above:
        return math.nan  # Below the grid.
    last = above[-1]
    if last == len(p) - 1:
        return math.inf
    low, high = math.log(p[last]), math.log(p[last + 1])
    share = (low - math.log(LEVEL)) / (low - high)
    return float(grid[last] * (grid[last + 1] / grid[last]) ** share)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=MIDDLE)
    parser.add_argument("dimensions", type=int, choices=COMPONENTS)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--deformation", action="append", choices=MIDDLE["mixture"])
    parser.add_argument("--json")
    options = parser.parse_args()
    distribution = Distribution(options.kind, options.dimensions)
    table = []
    print("| deformation | combined | best single test | eps | ratio | CPU s |")
    print("|---|---|---|---|---|---|")
    for how in options.deformation or MIDDLE[options.kind]:
        begin = time.process_time()
        combined, best, eps = strengths(distribution, how, options.rows, options.repeats)
        row = (how, combined, best, eps, combined / eps, time.process_time() - begin)
        print("| {} | {:.2g} | {} | {:.2g} | {:.2f} | {:.0f} |".format(*row), flush=True)
        table.append(
            dict(zip(("deformation", "combined", "best", "eps", "ratio"), row, strict=False))
        )
    if options.json:
        content = {"rows": options.rows, "repeats": options.repeats, "table": table}
        Path(options.json).write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
