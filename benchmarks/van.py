"""Sampling of autoregressive networks of spins, with what a step computed kept for the later ones.

The peer, in the same process, draws the same spins from the same uniform numbers by one full pass
through the same network a site. Figures are configurations a second of CPU time, one thread.
"""

import json
import statistics
import time

import torch

from physgen.networks.masked_conv import MaskedConvOptions
from physgen.surrogates.autoregressive.network import MaskedDenseOptions
from physgen.surrogates.autoregressive.spins import AutoregressiveSpins
from physgen.systems.ising import Ising

REPEATS = 3


def measure(name, network, length, rows):
    torch.manual_seed(0)
    system = Ising(shape=(length, length))
    model = AutoregressiveSpins(system.schema, network=network).eval()
    u = torch.rand(rows, length**2)
    empty = torch.zeros(rows, 0)

    @torch.no_grad()
    def by_passes():
        x = torch.ones(rows, length**2)
        for site in range(length**2):
            odds = model.network(x[..., None], empty)[:, site, 0] + model.bias[site]
            x[:, site] = torch.where(u[:, site] < odds.sigmoid(), 1.0, -1.0)
        return x.reshape(rows, length, length)

    same = (model.from_uniform(u) == by_passes()).float().mean()
    assert same > 0.999, "a uniform number may lie at the probability, to rounding, and no more"
    rates = {"ours": [], "passes": []}
    for _ in range(REPEATS):
        for key, draw in (("ours", lambda: model.from_uniform(u)), ("passes", by_passes)):
            start = time.process_time()
            draw()
            rates[key].append(rows / (time.process_time() - start))
    ratios = [a / b for a, b in zip(rates["ours"], rates["passes"], strict=True)]
    return {
        "name": f"VAN sampling, {name}, {length}x{length}, {rows} at once",
        "value": statistics.median(rates["ours"]),
        "unit": "configurations/s of CPU time, one thread",
        "peer": "one full pass a site",
        "peer_value": statistics.median(rates["passes"]),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def run():
    torch.set_num_threads(1)
    cases = (
        ("dense, 512 hidden", MaskedDenseOptions(hidden=512), 16, 512),
        ("conv, 16 channels, depth 3, reach 3", MaskedConvOptions(), 16, 32),
    )
    return {"benchmark": "van", "results": [measure(*case) for case in cases]}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
