"""FPD and KPD of 50,000 + 50,000 rows of 50 features.

The peer, in the same process, is the definition written plainly in numpy and scipy, which `jetnet`
computes: every draw gathered and its covariance found, the kernel's matrix made and raised to its
power. Both see the same draws. CPU time, one thread; peer and ours alternate.
"""

import json
import statistics
import time

import numpy as np
from scipy import linalg
from threadpoolctl import threadpool_limits

from physgen.validation.physics_distances import fpd, kpd

ROWS, FEATURES, REPEATS, BATCH = 50_000, 50, 3, 5000


def plain_fpd(a, b):
    generator = np.random.default_rng(42)
    means = []
    for size in (1 / np.linspace(1 / 20_000, 1 / 50_000, 10)).astype("int32"):
        values = []
        for _ in range(20):
            x = a[generator.choice(len(a), size)]
            y = b[generator.choice(len(b), size)]
            off = x.mean(0) - y.mean(0)
            c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
            root = np.trace(linalg.sqrtm(c @ d)).real
            values.append(off @ off + np.trace(c) + np.trace(d) - 2 * root)
        means.append(np.mean(values))
    return means


def plain_kpd(a, b):
    values = []
    for number in range(10):
        generator = np.random.default_rng(42 + 1000 * number)
        x = a[generator.choice(len(a), BATCH)]
        y = b[generator.choice(len(b), BATCH)]
        xx, yy, xy = ((p @ q.T / FEATURES + 1.0) ** 4 for p, q in ((x, x), (y, y), (x, y)))
        within = sum((k.sum() - np.trace(k)) / (BATCH * (BATCH - 1)) for k in (xx, yy))
        values.append(within - 2 * xy.mean())
    return np.median(values)


def seconds(function, *arguments):
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def run():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(FEATURES, FEATURES)) / FEATURES
    a, b = (generator.normal(size=(ROWS, FEATURES)) @ mixing for _ in range(2))
    pairs = {"FPD": (fpd, plain_fpd), "KPD": (kpd, plain_kpd)}
    taken = {name: [] for name in pairs}
    with threadpool_limits(1):
        for _ in range(REPEATS):
            for name, (ours, plain) in pairs.items():
                taken[name].append((seconds(ours, a, b), seconds(plain, a, b)))
    taken["FPD + KPD"] = [
        (x[0] + y[0], x[1] + y[1]) for x, y in zip(taken["FPD"], taken["KPD"], strict=True)
    ]
    return [row(name, times) for name, times in taken.items()]


def row(name, times):
    ours, plain = map(statistics.median, zip(*times, strict=True))
    ratios = sorted(p / o for o, p in times)
    return {
        "name": f"{name}, {ROWS} x {FEATURES}",
        "value": ours,
        "unit": "s of CPU time, one core",
        "peer": "the definition in numpy and scipy",
        "peer_value": plain,
        "ratio": statistics.median(ratios),
        "spread": [ratios[0], ratios[-1]],
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
