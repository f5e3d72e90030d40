"""Faults planted in showers, and whether the combined test finds them and names the cause.

    python benchmarks/planted_faults.py TRUTH.hdf5 OTHER.hdf5 --binning calo-368.xml --rows 20000

The files hold showers of one simulation in the layout of CaloChallenge. Faults are planted in the
first rows of OTHER, and set against the first rows of TRUTH.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

from physgen.batch import Batch
from physgen.io.calochallenge import CaloChallengeSource
from physgen.systems.calorimeter import Calorimeter
from physgen.validation.combined import CombinedTest
from physgen.validation.comparison import Comparison


def layer(system, number):
    """Return the columns of a layer, and its numbers of sectors and rings."""
    begin, end = system.geometry.offsets[number : number + 2]
    sectors = system.geometry.layers[number].n_alpha
    return slice(int(begin), int(end)), (sectors, int(end - begin) // sectors)


def rotated(system, x, number):
    columns, shape = layer(system, number)
    x = x.copy()
    x[:, columns] = np.roll(x[:, columns].reshape(len(x), *shape), 1, 1).reshape(len(x), -1)
    return x


def shuffled(system, x, energy, number, generator):
    """Permute a layer among 20 showers of like energy."""
    columns, _ = layer(system, number)
    x = x.copy()
    order = np.argsort(energy)
    for start in range(0, len(x), 20):
        rows = order[start : start + 20]
        x[rows, columns] = x[generator.permutation(rows), columns]
    return x


def without_latest(system, x, energy, share, generator):
    """Put others in the place of the showers that deposit least in the first two layers."""
    early = x[:, : layer(system, 1)[0].stop].sum(1) / energy
    latest = np.argsort(early)[: round(share * len(x))]
    others = np.setdiff1d(np.arange(len(x)), latest)
    x = x.copy()
    x[latest] = x[generator.choice(others, len(latest))]
    return x


def smeared(x, width, generator):
    return x * (1 + width * generator.normal(size=(len(x), 1)))


def faults(system, x, energy, cut):
    """Yield the name of a fault and the showers that have it."""
    generator = np.random.default_rng(1)

    def read_out(values):
        return np.where(values < cut, 0.0, values)

    yield "none", x
    yield "energy scale +.3%", read_out(1.003 * x)
    yield "response smeared by 1%", read_out(smeared(x, 0.01, generator))
    yield "response smeared by .5%", read_out(smeared(x, 0.005, generator))
    lost = without_latest(system, x, energy, 0.01, generator)
    yield "1% of the showers, the latest, missing", lost
    yield "layer 1 rotated by a sector", rotated(system, x, 1)
    yield "layer 2 rotated by a sector", rotated(system, x, 2)
    yield "voxels up to 1.1 times the threshold removed", np.where(x < 1.1 * cut, 0.0, x)
    yield "layer 2 shuffled at like energies", shuffled(system, x, energy, 2, generator)
    yield "layer 3 shuffled at like energies", shuffled(system, x, energy, 3, generator)


def read(path, system, rows):
    source = CaloChallengeSource(path)
    batch = source.read(0, min(rows, len(source)))
    return batch.x.double().numpy(), batch.condition.double().numpy()[:, 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("truth", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--binning", default="calo-368.xml")
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    system = Calorimeter(binning=options.binning)
    (x, x_energy), (y, y_energy) = (
        read(path, system, options.rows) for path in (options.truth, options.other)
    )
    truth = Batch(torch.from_numpy(x), condition=torch.from_numpy(x_energy)[:, None])
    for name, made in faults(system, y, y_energy, system.cut_mev):
        ours = Batch(torch.from_numpy(made), condition=torch.from_numpy(y_energy)[:, None])
        comparison = Comparison(system, ours, truth)
        comparison.measured  # noqa: B018 (observables are not what is timed)
        begin = time.process_time()
        row = CombinedTest().rows(comparison)[0]
        seconds = time.process_time() - begin
        print(f"{name}: p {row.p_value:.2g}, {seconds:.1f} CPU s; {row.note}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"at most {peak:.2f} GiB")


if __name__ == "__main__":
    main()
