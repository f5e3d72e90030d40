"""Bits per dimension of scikit-learn's 8x8 digits: our flows, a Gaussian, and a flow of normflows.

All see the same 898 training images, dequantised and mapped by the same logit, and are judged on
the same 719. Our masked autoregressive flow trains for a number of steps; our spline flow, and the
masked autoregressive flow of normflows (turned round, so that its density takes one pass), for the
same CPU time, theirs at the better of two learning rates and weight decays. All keep what is best
on 180 validation images. The Gaussian has the full covariance of the training images, in the better
of two spaces, of pixels and of logits.
"""

import copy
import math
import time
import warnings

import normflows
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.surrogates.flows.autoregressive import AutoregressiveOptions, AutoregressiveStack
from physgen.surrogates.flows.stack import CouplingOptions, CouplingStack
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.images import Dequantise, Logit

SCHEMA = Schema((8, 8), (Variable("intensity", low=0.0, high=1.0),))
FEATURES, BATCH, STEPS = 64, 128, 600
LAYERS, HIDDEN = 5, 128
TRIES = ((3e-3, 0.5), (8e-3, 1.5))
"""Learning rates and weight decays that the peer is given."""
WARMUP, EVERY = 0.05, 25
SEEDS = (0, 1, 2)


def normflows_maf():
    """Theirs, from base to data.

    `Reverse` makes the density the fast direction: as it stands it takes 64 passes a layer. Its
    scales are below 1, so that features that can be told from others need the free scales of an
    activation norm to become of width 1.
    """
    flows = []
    for _ in range(LAYERS):
        layer = normflows.flows.MaskedAffineAutoregressive(FEATURES, HIDDEN, num_blocks=1)
        flows += [
            normflows.flows.Reverse(layer),
            normflows.flows.ActNorm((FEATURES,)),
            normflows.flows.Permute(FEATURES, mode="shuffle"),
        ]
    base = normflows.distributions.DiagGaussian(FEATURES, trainable=False)
    return normflows.NormalizingFlow(base, flows)


class Digits:
    """The images in three parts, their transform, and bits per dimension."""

    def __init__(self, seed):
        from sklearn.datasets import load_digits

        images = torch.tensor(load_digits().images / 16, dtype=torch.float32)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        self.train, self.validation, self.test = (
            Batch(images[rows]) for rows in order.split([898, 180, len(images) - 1078])
        )
        logit = Logit(SCHEMA, alpha=0.01)
        self.transform = Chain([Dequantise(SCHEMA, levels=17), logit, Standardise(SCHEMA)])
        self.transform.fit(self.train)

    def bits(self, log_prob, batch, transform, draws=8):
        """Mean of the bound on -log2 P(image) / 64 over draws of the noise."""
        noise, total = torch.Generator().manual_seed(1), 0.0
        with torch.no_grad():
            for _ in range(draws):
                mapped, volume = transform.bound(batch, noise)
                total += (log_prob(mapped.x.flatten(1)) + volume).mean().item() / draws
        return -total / (FEATURES * math.log(2))


def fit(model, digits, rate, decay, progress):
    """Train until progress(step, seconds) is 1; return validation and test bits, and seconds."""
    noise, start, step = torch.Generator().manual_seed(2), time.process_time(), 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    with torch.no_grad():  # Activation norms, which theirs has, begin with the data they see first.
        model.log_prob(digits.transform(digits.train, noise)[0].x.flatten(1))
    average, best = copy.deepcopy(model), (math.inf, None)
    while (done := progress(step, time.process_time() - start)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(done / WARMUP, 0.5 * (1 + math.cos(math.pi * done)))
        rows = torch.randint(len(digits.train), (BATCH,), generator=noise)
        with torch.no_grad():
            mapped, _ = digits.transform(digits.train[rows], noise)
        optimiser.zero_grad()
        (-model.log_prob(mapped.x.flatten(1)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        with torch.no_grad():
            keep = min(0.995, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        step += 1
        if step % EVERY == 0:
            bits = digits.bits(average.log_prob, digits.validation, digits.transform, draws=2)
            if bits < best[0]:
                best = (bits, copy.deepcopy(average))
    seconds = time.process_time() - start
    return best[0], digits.bits(best[1].log_prob, digits.test, digits.transform), seconds


def gaussian(digits):
    """Bits of the best full-covariance Gaussian, its covariance that of the noisy images."""
    spaces = (digits.transform, Chain(digits.transform.transforms[:1]))
    return min(_gaussian(digits, space) for space in spaces)


def _gaussian(digits, transform):
    noise = torch.Generator().manual_seed(3)
    rows = torch.cat([transform(digits.train, noise)[0].x.flatten(1) for _ in range(20)]).double()
    law = torch.distributions.MultivariateNormal(rows.mean(0), rows.T.cov())
    return digits.bits(lambda x: law.log_prob(x.double()), digits.test, transform)


def measure(seed):
    """Return the bits of each model, and the CPU seconds each trained for."""
    torch.manual_seed(seed)
    digits = Digits(seed)
    maf = AutoregressiveStack(
        FEATURES, options=AutoregressiveOptions(n_layers=LAYERS, hidden=HIDDEN)
    )
    start = digits.transform(digits.train, torch.Generator().manual_seed(seed))[0]
    maf.start_at(start.x.flatten(1), torch.ones(len(start)))
    _, bits, seconds = fit(maf, digits, 8e-3, 1.5, lambda step, _: step / STEPS)

    def until(_, now):
        return now / seconds

    spline = CouplingStack(FEATURES, options=CouplingOptions(n_layers=10, hidden=(64,), bins=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = min(fit(normflows_maf(), digits, *options, until) for options in TRIES)
    return {
        "masked autoregressive flow": bits,
        "spline flow": fit(spline, digits, 2e-3, 3.0, until)[1],
        "normflows MAF, same CPU time": theirs[1],
        "full-covariance Gaussian": gaussian(digits),
    }, seconds


def run() -> dict:
    """Return the figures."""
    torch.set_num_threads(1)
    measured = []
    for seed in SEEDS:
        measured.append(measure(seed))
        print(f"seed {seed}, {measured[-1][1]:.1f} s:", measured[-1][0], flush=True)
    bits = {name: [figures[name] for figures, _ in measured] for name in measured[0][0]}
    names = list(bits)
    rows = [
        {
            "name": f"{ours}, held-out 8x8 digits",
            "value": sum(bits[ours]) / len(SEEDS),
            "unit": "bits/dim (less is better)",
            "peer": peer,
            "peer_value": sum(bits[peer]) / len(SEEDS),
            "ratio": _spread([b / a for a, b in zip(bits[ours], bits[peer], strict=True)]),
        }
        for ours in names[:2]
        for peer in names[2:]
    ]
    seconds = sum(spent for _, spent in measured) / len(SEEDS)
    return {"threads": 1, "seeds": len(SEEDS), "cpu_seconds": seconds, "rows": rows}


def _spread(ratios):
    return {"median": sorted(ratios)[len(ratios) // 2], "min": min(ratios), "max": max(ratios)}
