"""Training steps of an RBM: PCD-10 with centred gradients on 784 visible units.

The peer, in the same process, is the same training written plainly in torch with
`torch.bernoulli`: it shares the algorithm (persistent chains, centred gradient, SGD-like cost) and
the shapes. Figures are training samples a second of CPU time, one thread.
"""

import json
import statistics
import time
from types import SimpleNamespace

import torch

from physgen.batch import Batch, Schema, Variable
from physgen.surrogates.boltzmann.divergence import PersistentContrastiveDivergence
from physgen.surrogates.boltzmann.rbm import RBM

REPEATS, K, VISIBLE = 5, 10, 784


class Plain:
    """Units of 0/1, drawn with `torch.bernoulli`."""

    def __init__(self, hidden, n_chains, generator):
        self.w = (0.05 * torch.randn(VISIBLE, hidden)).requires_grad_()
        self.a = torch.zeros(VISIBLE, requires_grad=True)
        self.b = torch.zeros(hidden, requires_grad=True)
        self.chains = (torch.rand(n_chains, VISIBLE) < 0.5).float()
        self.optimiser = torch.optim.Adam([self.w, self.a, self.b], lr=0.01)
        self.generator = generator

    @torch.no_grad()
    def step(self, data):
        v = self.chains
        for _ in range(K):
            h = torch.bernoulli(torch.sigmoid(v @ self.w + self.b), generator=self.generator)
            v = torch.bernoulli(torch.sigmoid(h @ self.w.t() + self.a), generator=self.generator)
        self.chains = v
        h_data = torch.sigmoid(data @ self.w + self.b)
        h_model = torch.sigmoid(v @ self.w + self.b)
        mu = 0.5 * (data.mean(0) + v.mean(0))
        lam = 0.5 * (h_data.mean(0) + h_model.mean(0))
        positive = (data - mu).t() @ (h_data - lam) / len(data)
        gradient = positive - (v - mu).t() @ (h_model - lam) / len(v)
        self.w.grad = -gradient
        self.a.grad = -(data.mean(0) - v.mean(0) - gradient @ lam)
        self.b.grad = -(h_data.mean(0) - h_model.mean(0) - mu @ gradient)
        self.optimiser.step()


def measure(hidden, batch_size, n_steps):
    generator = torch.Generator().manual_seed(1)
    data = (torch.rand(10_000, VISIBLE, generator=generator) < 0.2).to(torch.int8)
    schema = Schema((VISIBLE,), (Variable("pixel", domain="binary", dtype="int8"),))
    rbm = RBM(schema, hidden=hidden, n_chains=batch_size)
    rbm.initialise(Batch(data))
    ours = PersistentContrastiveDivergence(rbm, k=K, centred=True)
    plain = Plain(hidden, batch_size, generator)
    ctx = SimpleNamespace(generator=generator, apply=lambda optimiser: optimiser.step())

    def our_step(rows):
        ours.step({"data": ours.prepare(Batch(rows), generator)}, ctx)

    rates = {"ours": [], "plain": []}
    for repeat in range(REPEATS + 1):
        for name, step in (("ours", our_step), ("plain", lambda rows: plain.step(rows.float()))):
            start = time.process_time()
            for index in range(n_steps):
                first = index * batch_size % (len(data) - batch_size + 1)
                step(data[first : first + batch_size])
            if repeat:
                rates[name].append(n_steps * batch_size / (time.process_time() - start))
    ratios = [a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]
    return {
        "name": f"PCD-{K}, {VISIBLE}x{hidden}, batch {batch_size}",
        "value": statistics.median(rates["ours"]),
        "unit": "samples/s of CPU time, one thread",
        "peer": "plain torch with torch.bernoulli",
        "peer_value": statistics.median(rates["plain"]),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def run():
    torch.set_num_threads(1)
    shapes = ((200, 500, 4), (500, 500, 3), (500, 1000, 2))
    return {"benchmark": "rbm", "results": [measure(*shape) for shape in shapes]}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
