"""The engine's part of a step, without the engine."""

import torch
from randomised import generator

from physgen.batch import Batch


class StubContext:
    """Random numbers of a seed, and plain optimiser steps on the weighted mean of losses (B,).

    Attributes:
        arguments: those of the last loss that was minimised.
    """

    def __init__(self, batch_size=64, *, seed=3, step=0, dtype=torch.float32):
        self.batch_size, self.step, self.dtype = batch_size, step, dtype
        self.generator, self.arguments = generator(seed), ()

    def randn(self, *shape):
        return torch.randn(self.batch_size, *shape, generator=self.generator, dtype=self.dtype)

    def rand(self, *shape):
        return torch.rand(self.batch_size, *shape, generator=self.generator, dtype=self.dtype)

    def next(self, name="data"):
        return Batch(self.randn(1))

    def minimise(self, loss, optimiser, *arguments):
        self.arguments = arguments
        losses = loss(*arguments)
        assert losses.ndim == 1
        weights = [a.weight for a in arguments if isinstance(a, Batch) and a.weight is not None]
        mean = (losses * weights[0] if weights else losses).mean()
        optimiser.zero_grad()
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        mean.backward(inputs=[p for p in parameters if p.requires_grad])
        optimiser.step()
        return mean.detach()

    def apply(self, optimiser):
        optimiser.step()
