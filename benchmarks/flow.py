"""Flows against their peers: thousands of samples a second of log_prob, sampling and training.

RealNVP: D = 64, 8 layers, networks of 2 x 64, batch 1024. Spline flow: the same with 8 bins.
Repeats alternate between ours and the peer, so that a busy machine slows both; a ratio is that of
CPU times within a repeat.
"""

import time
import warnings

import normflows
import numpy as np
import torch
from torch import nn

from physgen.surrogates.flows.stack import CouplingOptions, CouplingStack

FEATURES, LAYERS, HIDDEN, BATCH, BINS = 64, 8, 64, 1024, 8


class Ours(nn.Module):
    def __init__(self, coupling):
        super().__init__()
        self.stack = CouplingStack(
            FEATURES,
            options=CouplingOptions(
                n_layers=LAYERS, hidden=(HIDDEN, HIDDEN), layer=coupling, bins=BINS
            ),
        )

    def log_prob(self, x):
        return self.stack.log_prob(x)

    def sample(self, z):
        return self.stack.inverse(z)[0]


class Normflows(nn.Module):
    def __init__(self, coupling):
        super().__init__()
        flows = []
        for i in range(LAYERS):
            if coupling == "affine":
                network = normflows.nets.MLP(
                    [FEATURES // 2, HIDDEN, HIDDEN, FEATURES], init_zeros=True
                )
                flows.append(normflows.flows.AffineCouplingBlock(network))
                flows.append(normflows.flows.Permute(FEATURES, mode="swap"))
            else:
                flows.append(
                    normflows.flows.CoupledRationalQuadraticSpline(
                        FEATURES, 2, HIDDEN, num_bins=BINS, tail_bound=5.0, reverse_mask=i % 2 == 1
                    )
                )
        base = normflows.distributions.DiagGaussian(FEATURES, trainable=False)
        self.model = normflows.NormalizingFlow(base, flows)

    def log_prob(self, x):
        return self.model.log_prob(x)

    def sample(self, z):
        return self.model(z)


class Nflows(nn.Module):
    def __init__(self, coupling):
        super().__init__()
        from nflows.nn.nets import MLP as NflowsMLP
        from nflows.transforms import AffineCouplingTransform, CompositeTransform
        from nflows.transforms import PiecewiseRationalQuadraticCouplingTransform as Spline

        class MLP(NflowsMLP):
            def forward(self, x, context=None):
                return super().forward(x)

        def network(n_in, n_out):
            return MLP([n_in], [n_out], [HIDDEN, HIDDEN])

        layers = []
        for i in range(LAYERS):
            mask = torch.arange(FEATURES) % 2 == i % 2
            if coupling == "affine":
                layers.append(AffineCouplingTransform(mask.int(), network))
            else:
                layers.append(
                    Spline(mask.int(), network, num_bins=BINS, tails="linear", tail_bound=5.0)
                )
        self.transform = CompositeTransform(layers)

    def log_prob(self, x):
        z, log_det = self.transform(x)
        return log_det - 0.5 * z.square().sum(-1)

    def sample(self, z):
        return self.transform.inverse(z)[0]


class Zuko(nn.Module):
    def __init__(self, coupling):
        super().__init__()
        import zuko

        kind = zuko.flows.RealNVP if coupling == "affine" else zuko.flows.NSF
        options = {} if coupling == "affine" else {"bins": BINS, "passes": 2}
        self.flow = kind(FEATURES, transforms=LAYERS, hidden_features=(HIDDEN, HIDDEN), **options)

    def log_prob(self, x):
        return self.flow().log_prob(x)

    def sample(self, z):
        return self.flow().transform.inv(z)


def actions(model):
    """What is measured, by name."""
    x = torch.randn(BATCH, FEATURES)

    def log_prob():
        with torch.no_grad():
            model.log_prob(x)

    def sample():
        with torch.no_grad():
            model.sample(x)

    def train():
        model.zero_grad()
        (-model.log_prob(x).mean()).backward()

    return {"log_prob": log_prob, "sample": sample, "train": train}


def seconds(action, repeats):
    start = time.process_time()
    for _ in range(repeats):
        action()
    return (time.process_time() - start) / repeats


def compare(name, ours, peers, repeats, rounds=5):
    """Rows of ours against the fastest peer of each action."""
    mine = actions(ours)
    others = {peer: actions(model) for peer, model in peers.items()}
    rows = []
    for action in mine:
        for table in (mine, *others.values()):
            table[action]()
        once = {peer: seconds(table[action], 1) for peer, table in others.items()}
        peer = min(once, key=once.__getitem__)
        times = [
            (seconds(mine[action], repeats), seconds(others[peer][action], repeats))
            for _ in range(rounds)
        ]
        ratios = [theirs / our for our, theirs in times]
        rows.append(
            {
                "name": f"{name} {action}",
                "value": BATCH / float(np.median([our for our, _ in times])) / 1e3,
                "unit": "thousand samples/s",
                "peer": peer,
                "peer_value": BATCH / float(np.median([theirs for _, theirs in times])) / 1e3,
                "ratio": {
                    "median": float(np.median(ratios)),
                    "min": min(ratios),
                    "max": max(ratios),
                },
            }
        )
    return rows


def compiled(model):
    """Compile the two methods of a model in place."""
    model.log_prob = torch.compile(model.log_prob)
    model.sample = torch.compile(model.sample)
    return model


def run() -> dict:
    """Return the figures."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        affine = {kind.__name__: kind("affine") for kind in (Normflows, Nflows, Zuko)}
        spline = {kind.__name__: kind("spline") for kind in (Normflows, Nflows, Zuko)}
        rows = compare("RealNVP eager", Ours("affine"), affine, 10)
        rows += compare("RQS eager", Ours("spline"), spline, 2)
        rows += compare("RealNVP compiled, peers eager", compiled(Ours("affine")), affine, 10)
        theirs = {"Normflows compiled": compiled(Normflows("spline"))}
        rows += compare("RQS compiled", compiled(Ours("spline")), theirs, 2)
    return {"threads": 1, "batch": BATCH, "features": FEATURES, "rows": rows}
