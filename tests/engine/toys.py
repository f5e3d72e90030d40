"""A surrogate and methods small enough to check by hand; shared by tests and their subprocesses."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.surrogates.base import Surrogate
from physgen.surrogates.method import Method

SCHEMA = Schema(shape=(3,), variables=(Variable("x"),))
OPTIONS = Engine(steps=12, batch_size=8, device="cpu", log_every=4, checkpoint_every=5)


class Line(Surrogate):
    """x ~ N(w2 tanh(w1 h), 1): enough parameters to be worth clipping."""

    def __init__(self, schema=SCHEMA, transform=None):
        super().__init__(schema, transform)
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
        self.register_buffer("limit", torch.full((2,), float("inf")))

    def energy(self, x):
        return (x - self.net(torch.zeros_like(x))).square().sum(1) + self.net(x).square().sum(1)

    def sample(self, n, condition=None, *, generator):
        noise = torch.randn(n, 3, generator=generator, device=self.device, dtype=self.dtype)
        return Batch(noise + self.net(torch.zeros_like(noise)))


class Plain(Method):
    """Minimises a per-sample loss with noise from the context and from prepare."""

    def __init__(self, surrogate, *, learning_rate=0.05, noise=0.1):
        super().__init__(surrogate)
        self.noise = noise
        self.optimisers["all"] = torch.optim.AdamW(surrogate.parameters(), lr=learning_rate)

    def prepare(self, batch, generator):
        noise = torch.randn(
            batch.x.shape, generator=generator, device=batch.x.device, dtype=batch.x.dtype
        )
        return batch.replace(x=batch.x + self.noise * noise)

    def step(self, batches, ctx):
        shift = 0.1 * ctx.randn(3) + ctx.rand(1)
        return {"loss": ctx.minimise(self.loss, self.optimisers["all"], batches["data"], shift)}

    def loss(self, batch, shift):
        return self.surrogate.energy(batch.x + shift)


class WithChains(Method):
    """Contrastive divergence in miniature: chains, hand-made gradients, a critic."""

    def __init__(self, surrogate, *, n_chains=8):
        super().__init__(surrogate)
        self.tensors["chains"] = torch.zeros(n_chains, 3)
        self.modules["critic"] = nn.Linear(3, 1)
        self.optimisers["all"] = torch.optim.SGD(surrogate.parameters(), lr=0.01, momentum=0.9)
        self.optimisers["critic"] = torch.optim.Adam(self.modules["critic"].parameters(), lr=0.01)

    def step(self, batches, ctx):
        chains = self.tensors["chains"]
        noise = torch.randn(
            chains.shape, generator=ctx.generator, device=chains.device, dtype=chains.dtype
        )
        self.tensors["chains"] = 0.9 * chains + noise
        surrogate, optimiser = self.surrogate, self.optimisers["all"]
        optimiser.zero_grad()
        loss = surrogate.energy(batches["data"].x).mean()
        (loss - surrogate.energy(self.tensors["chains"]).mean()).backward()
        ctx.apply(optimiser)
        critic = ctx.minimise(self.critic_loss, self.optimisers["critic"], ctx.next())
        return {"loss": loss.detach(), "critic": critic}

    def critic_loss(self, batch):
        return (self.modules["critic"](batch.x)[:, 0] - 1).square()


class Numbers:
    """A stream whose n-th batch follows from n."""

    def __init__(self, batch_size=8, weighted=False):
        self.batch_size, self.weighted, self.position = batch_size, weighted, 0

    def __next__(self):
        generator = torch.Generator().manual_seed(self.position)
        self.position += 1
        x = torch.randn(self.batch_size, 3, generator=generator)
        weight = torch.rand(self.batch_size, generator=generator) if self.weighted else None
        return Batch(x, weight=weight)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def make(method=Plain, **options):
    """Return a surrogate and its method, the same every time."""
    torch.manual_seed(0)
    surrogate = Line()
    return surrogate, method(surrogate, **options)


def digest(surrogate):
    """Hash of all weights, bit by bit."""
    sha = hashlib.sha256()
    for _, value in sorted(surrogate.state_dict().items()):
        sha.update(value.cpu().numpy().tobytes())
    return sha.hexdigest()


def train(directory, options=OPTIONS, method=Plain, stream=None, **keywords):
    surrogate, trainer = make(method)
    streams = {"data": stream or Numbers(options.batch_size)}
    return surrogate, fit(surrogate, trainer, streams, directory, options, **keywords)


def entries(directory, key="metrics"):
    lines = (directory / "journal.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if key in entry]
