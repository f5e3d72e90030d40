"""A small classifier of labelled samples, whose last hidden layer is what image scores look at.

Scores of images compare features in which a classifier of natural photographs thinks; ours is
trained on the system's own labelled data instead, always from the same seed. True samples that a
score compares are left out of its training: it would be more certain of them than of others.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.errors import InputError
from physgen.isolation import global_generators
from physgen.networks.conv import ConvEncoder, ConvOptions
from physgen.networks.mlp import MLP

N_FEATURES = 32
"""Width of the last hidden layer: covariances of so many features are known from 360 images."""

N_LABELLED = 20_000
"""Labelled samples that are asked for; one in `HOLD_OUT` tests the classifier."""

HOLD_OUT = 10
STEPS, PASSES, BATCH = 500, 8, 128
"""So many steps at least, and so many passes over the samples."""

NOISE = 0.25
"""Added while training, in units of the deviation of all numbers: against learning by heart."""

BLOCK = 1024
"""Samples that are looked at at once."""


class FeatureClassifier(nn.Module):
    """(B, *shape) samples to (B, `N_FEATURES`) features and (B, n_classes) logits.

    Images are halved twice by convolutions; what is no image, or cannot be halved, goes through a
    perceptron.
    """

    centre: Tensor
    width: Tensor

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        halvings = min(2, *((n & -n).bit_length() - 1 for n in shape)) if len(shape) == 2 else 0
        self.flat = halvings == 0
        self.body: nn.Module = (
            MLP(int(np.prod(shape)), N_FEATURES, hidden=(128,))
            if self.flat
            else ConvEncoder(
                shape,
                N_FEATURES,
                options=ConvOptions(channels=(32, 64)[:halvings], dropout=0.2),
            )
        )
        self.head = nn.Linear(N_FEATURES, n_classes)
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("width", torch.ones(()))
        self.accuracy = 0.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits."""
        # Far outliers tell no more than outliers, and could overflow.
        x = ((x.float() - self.centre) / self.width).clamp(-10.0, 10.0)
        features = functional.silu(self.body(x.flatten(1) if self.flat else x))
        return features, self.head(features)

    @torch.no_grad()
    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and class probabilities of (N, *shape), in blocks."""
        parts = [self(block) for block in torch.split(x, BLOCK)]
        features, logits = (torch.cat(columns).double() for columns in zip(*parts, strict=True))
        return features, logits.softmax(1)


@dataclass(frozen=True)
class Labelled:
    """Labelled samples, equal to others of the same content.

    Attributes:
        x: (N, *shape).
        labels: (N,) numbers of the classes, from 0.
        digest: SHA-256 of both.
    """

    x: Tensor = field(compare=False)
    labels: Tensor = field(compare=False)
    digest: str

    @classmethod
    def apart_from(cls, labelled: tuple[Tensor, Tensor], compared: Iterable[Tensor]) -> Labelled:
        """Return what does not occur among the samples (M, *shape) that are compared.

        Raises:
            InputError: fewer than two classes, or ten samples, are left.

        >>> x, labels = torch.arange(24.0)[:, None], torch.arange(24) % 2
        >>> len(Labelled.apart_from((x, labels), [x[:4]]).x)
        20
        """
        x, labels = labelled[0].float(), labelled[1].long()
        known = {row.tobytes() for batch in compared for row in batch.float().cpu().numpy()}
        keep = [i for i, row in enumerate(x.cpu().numpy()) if row.tobytes() not in known]
        x, labels = x[keep], labels[keep]
        n_classes = len(set(labels.tolist()))
        if len(x) < HOLD_OUT or n_classes < 2:
            raise InputError(
                f"{len(x)} labelled samples of {n_classes} classes are left beside the "
                "true samples compared: too few to train a classifier on; give more data, or a "
                "smaller share to the test split, or leave out the metrics that look at its "
                "features"
            )
        content = hashlib.sha256(x.cpu().numpy().tobytes() + labels.cpu().numpy().tobytes())
        return cls(x, labels, content.hexdigest())


@functools.lru_cache(maxsize=4)
def trained(data: Labelled, seed: int = 0) -> FeatureClassifier:
    """Return the classifier of labelled samples, in evaluation mode; the same for the same data."""
    generator = torch.Generator().manual_seed(seed)
    with global_generators(seed), torch.enable_grad():
        network = FeatureClassifier(tuple(data.x.shape[1:]), int(data.labels.max()) + 1)
        order = torch.randperm(len(data.x), generator=generator)
        held, rows = order[: len(order) // HOLD_OUT], order[len(order) // HOLD_OUT :]
        network.centre.copy_(data.x[rows].mean())
        network.width.copy_(data.x[rows].std().clamp(min=1e-6))
        steps = max(STEPS, PASSES * len(rows) // BATCH)
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=5e-3, total_steps=steps)
        for _ in range(steps):
            batch = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
            x = data.x[batch]
            noise = NOISE * network.width * torch.randn(x.shape, generator=generator)
            loss = functional.cross_entropy(network(x + noise)[1], data.labels[batch])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    network.eval()
    guesses = network.embed(data.x[held])[1].argmax(1)
    network.accuracy = float((guesses == data.labels[held]).double().mean())
    return network
