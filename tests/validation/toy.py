"""A system whose answers are known, and samples of it."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.systems.base import Derived
from physgen.validation.comparison import Comparison


@dataclass(frozen=True)
class Normal:
    """Two standard normal numbers with correlation 1/2."""

    known: bool = True

    @property
    def schema(self):
        return Schema((2,), (Variable("a", "GeV"), Variable("b")))

    @property
    def derived(self):
        return {"variance": Derived(("a^2", "a"), lambda m: float(m[0] - m[1] ** 2))}

    @property
    def units(self):
        return {"a": "GeV"}

    def observables(self, batch):
        a, b = batch.x[:, 0], batch.x[:, 1]
        return {"a": a, "a^2": a**2, "b": b, "both": batch.x}

    def exact(self):
        return {"a": 0.0, "a^2": 1.0, "variance": 1.0, "ln Z": 0.0} if self.known else {}

    def features(self, batch, level):
        return batch.x


def draw(n, seed, shift=0.0, rho=0.5):
    z = np.random.default_rng(seed).standard_normal((n, 2))
    z[:, 1] = rho * z[:, 0] + math.sqrt(1 - rho**2) * z[:, 1]
    return Batch(x=torch.from_numpy(z + np.array([shift, 0.0])))


def compare(generated, **changes):
    truth, floor = draw(len(generated), 1), draw(len(generated), 2)
    return Comparison(Normal(), generated, truth, floor, **changes)
