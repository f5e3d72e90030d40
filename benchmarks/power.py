"""Power of the combined test beside a published table, and against that of its single tests.

Distributions, deformations and their parameters are those of Grossi, Letizia & Torre (arXiv
2409.16336): a mixture of normals, or the normal of its covariance, deformed by a strength eps.
There eps is where the mean of a test's statistic reaches the 95% limit of its null distribution;
here it is where half of the repeats have p <= .05: of the combined test, and of the best of its
tests, which nobody knows beforehand. The best one with hindsight is the luckiest one too, so that
the ratio to it is rather too large; beside it stands the test that is best in repeats of its own,
at the strength where the first single test begins to see. The classifier, which is relabelled on
its own, is left out; its share of the level is not.

    python benchmarks/power.py mixture 5 --repeats 6
"""

import argparse
import math
import random
import time

import numpy as np

from physgen.validation.combined import families
from physgen.validation.two_sample.combination import LEARNED_SHARE, Tails
from physgen.validation.two_sample.pool import Pool

COMPONENTS = {5: 3, 20: 5, 100: 10}
LEVEL = 0.05
ROWS = 10_000  # A side.
FARTHEST = 12

# Of the five tests of the publication the one with the smallest strength at the 95% limit, and that
# strength, at 10,000 rows a side (results/*/*_10K/results_table.tex of its repository
# TwoSampleTests/GenerativeModelsMetrics, revision a70fd05). Our grids begin at half of it.
PUBLISHED = {
    ("mixture", 5): {
        "mean": ("KS", 0.00496), "diagonal": ("KS", 0.00274), "off-diagonal": ("Frechet", 0.02441),
        "power +": ("KS", 0.00345), "power -": ("KS", 0.00317),
        "normal noise": ("KS", 0.00921), "uniform noise": ("KS", 0.01504),
    },
    ("mixture", 20): {
        "mean": ("KS", 0.01015), "diagonal": ("KS", 0.00383), "off-diagonal": ("Frechet", 0.01177),
        "power +": ("KS", 0.0009), "power -": ("KS", 0.00086),
        "normal noise": ("KS", 0.01343), "uniform noise": ("KS", 0.02061),
    },
    ("mixture", 100): {
        "mean": ("KS", 0.00787), "diagonal": ("KS", 0.00217), "off-diagonal": ("Frechet", 0.00958),
        "power +": ("KS", 0.00084), "power -": ("KS", 0.00086),
        "normal noise": ("KS", 0.02563), "uniform noise": ("KS", 0.03885),
    },
    ("correlated", 5): {
        "mean": ("KS", 0.08231), "diagonal": ("Frechet", 0.03069),
        "off-diagonal": ("Frechet", 0.02305),
        "power +": ("MMD", 0.00651), "power -": ("MMD", 0.00689),
        "normal noise": ("Frechet", 0.28641), "uniform noise": ("Frechet", 0.4938),
    },
    ("correlated", 20): {
        "mean": ("Frechet", 0.10722), "diagonal": ("Frechet", 0.03724),
        "off-diagonal": ("Frechet", 0.01073),
        "power +": ("MMD", 0.00794), "power -": ("MMD", 0.00626),
        "normal noise": ("Frechet", 0.25332), "uniform noise": ("Frechet", 0.4427),
    },
    ("correlated", 100): {
        "mean": ("MMD", 0.05661), "diagonal": ("Frechet", 0.02875),
        "off-diagonal": ("Frechet", 0.00627),
        "power +": ("MMD", 0.00447), "power -": ("MMD", 0.00537),
        "normal noise": ("Frechet", 0.23754), "uniform noise": ("Frechet", 0.41168),
    },
}  # fmt: skip
DEFORMATIONS = tuple(PUBLISHED["mixture", 5])


def published_uniforms(call, shape):
    """Return what the given call of TensorFlow's generator draws from U(0, 1) after its seed 0.

    The parameters of the publication are such draws. The generator is Philox 4x32-10 (Salmon et
    al., SC11), its key the seed, the upper half of its counter a number that Python's generator
    draws anew for each call; the doubles have 52 bits. Seed 42 would give .6645621 first in single
    precision, as TensorFlow does, and the rows that the publication's notebooks print lie within
    the components made of these numbers.
    """
    python = random.Random(0)
    stream = [python.randint(0, 2**31 - 1) for _ in range(call + 1)][call]
    n = math.prod(shape)
    word = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    block = (n + 1) // 2
    a, b = np.arange(block, dtype=np.uint64), np.zeros(block, np.uint64)
    c, d = np.full(block, stream, np.uint64), np.zeros(block, np.uint64)
    for i in range(10):
        keys = (i * 0x9E3779B9 & 0xFFFFFFFF, i * 0xBB67AE85 & 0xFFFFFFFF)
        first, second = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b = (second >> half) ^ b ^ np.uint64(keys[0]), second & word
        c, d = (first >> half) ^ d ^ np.uint64(keys[1]), first & word
    upper = np.stack([a, c], 1).ravel() & np.uint64(0xFFFFF)
    bits = upper << half | np.stack([b, d], 1).ravel()
    return (bits[:n] / 2.0**52).reshape(shape)


class Distribution:
    """A mixture of normals, or the normal of its covariance, and what deforms its samples."""

    def __init__(self, kind, d):
        n = COMPONENTS[d]
        self.kind, self.d = kind, d
        self.means = 10 * published_uniforms(0, (n, d)) - 5
        self.widths = published_uniforms(1, (n, d))
        self.shares = published_uniforms(2, (n,))
        self.shares /= self.shares.sum()
        self.centre = self.shares @ self.means
        first = published_uniforms(0, (d,))  # Each deformation and distribution seeds anew.
        self.direction, self.stretch = 2 * first - 1, first
        if kind == "correlated":
            apart = self.means - self.centre
            covariance = np.diag(self.shares @ self.widths**2) + (apart.T * self.shares) @ apart
            self.root = np.linalg.cholesky(covariance)
            self.centre = 10 * first - 5

    def draw(self, generator, n):
        normal = generator.normal(size=(n, self.d))
        if self.kind == "mixture":
            which = generator.choice(len(self.shares), n, p=self.shares)
            return self.means[which] + self.widths[which] * normal
        return self.centre + normal @ self.root.T

    def deform(self, x, how, eps, generator):
        if how == "mean":
            return x + eps * self.direction
        if how == "diagonal":
            return self.centre + (x - self.centre) * (1 + eps * self.stretch)
        if how == "off-diagonal":  # A share eps of the rows is permuted, each column on its own.
            x = x.copy()
            rows = generator.permutation(len(x))[: int(min(eps, 1.0) * len(x))]
            for column in x.T:
                column[rows] = column[generator.permutation(rows)]
            return x
        if how == "normal noise":
            return x + eps * generator.normal(size=x.shape)
        if how == "uniform noise":
            return x + eps * generator.uniform(-1, 1, x.shape)
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


def strengths(distribution, how, repeats):
    """Return eps of the combined test, and of single ones, the best with hindsight and elsewhere.

    Single tests have their name, eps, and the range of the middle 68% of resampled repeats for the
    ratio of the two eps.
    """
    middle = PUBLISHED[distribution.kind, distribution.d][how][1] / 2

    def found(step, seeds):
        results = []
        for seed in seeds:
            generator = np.random.default_rng(seed)
            x, y = (distribution.draw(generator, ROWS) for _ in range(2))
            eps = middle * 2.0 ** (step / 2)
            y = distribution.deform(y, how, eps, np.random.default_rng([seed, 1]))
            results.append(p_values(x, y, seed))
        combined, single, logs, names = zip(*results, strict=True)
        return np.column_stack([combined, single]), np.median(logs, 0), names[0]

    seen = {}

    def at(step):
        if step not in seen:
            seen[step] = found(step, range(repeats))[0]
        return np.median(seen[step], 0)

    step = 0
    while at(step)[0] > LEVEL and step < FARTHEST:
        step += 1
    while at(step).min() <= LEVEL and step > -FARTHEST:  # Until no test sees anything.
        step -= 1
    first = next((i for i in sorted(seen) if at(i)[1:].min() <= LEVEL), max(seen))
    _, logs, names = found(first, range(repeats, 2 * repeats))
    elsewhere = 1 + int(logs.argmin())
    step = max(seen)
    while at(step)[elsewhere] > LEVEL and step < FARTHEST:
        step += 1
    steps = sorted(seen)
    grid = [middle * 2.0 ** (step / 2) for step in steps]
    p = np.array([seen[step] for step in steps])
    every = [crossing(grid, np.median(p[:, :, i], 1)) for i in range(p.shape[2])]
    hindsight = 1 + int(np.argmin(every[1:]))
    generator = np.random.default_rng(0)
    again = generator.integers(repeats, size=(500, repeats))
    # Beyond the grid by one step at least, so that the spread is rather too small than wild.
    ends = (grid[0] / math.sqrt(2), grid[-1] * math.sqrt(2))

    def single(i):
        both = [[crossing(grid, np.median(p[:, r, j], 1)) for j in (0, i)] for r in again]
        one, other = np.clip(both, *ends).T
        return names[i - 1], every[i], np.quantile(one / other, [0.16, 0.84])

    return every[0], single(hindsight), single(elsewhere)


def crossing(grid, p):
    """Interpolate log p linearly in log eps, from above; infinite if p never gets there, else 0."""
    above = [i for i, value in enumerate(p) if value > LEVEL]
    if not above:
        return 0.0  # Below the grid.
    last = above[-1]
    if last == len(p) - 1:
        return math.inf
    low, high = math.log(p[last]), math.log(p[last + 1])
    share = (low - math.log(LEVEL)) / (low - high)
    return float(grid[last] * (grid[last + 1] / grid[last]) ** share)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("mixture", "correlated"))
    parser.add_argument("dimensions", type=int, choices=COMPONENTS)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--deformation", action="append", choices=DEFORMATIONS)
    options = parser.parse_args()
    distribution = Distribution(options.kind, options.dimensions)
    head = (
        "deformation", "published best", "its eps", "combined", "best single test", "its eps",
        "combined / best single", "16 to 84%", "best elsewhere", "its eps", "combined / it",
        "16 to 84%", "combined / published", "CPU s",
    )  # fmt: skip
    print("|", " | ".join(head), "|")
    print("|---" * len(head) + "|")
    for how in options.deformation or DEFORMATIONS:
        begin = time.process_time()
        combined, *singles = strengths(distribution, how, options.repeats)
        test, published = PUBLISHED[options.kind, options.dimensions][how]
        row = [how, test, f"{published:#.2g}", f"{combined:#.2g}"]
        for name, eps, spread in singles:
            ratio = f"{combined / eps:.2f}" if eps else "not resolved"
            row += [name, f"{eps:#.2g}", ratio, "{:.2f} to {:.2f}".format(*spread)]
        row += [f"{combined / published:.2f}", f"{time.process_time() - begin:.0f}"]
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
