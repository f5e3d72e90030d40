"""Networks that look at showers: in cylindrical coordinates, and those of the reference evaluation.

The reference's (CaloChallenge, arXiv:2410.21611): a perceptron of 3 x 2048 with LeakyReLU, and on
regular grids a residual network of 18 layers in three dimensions, 32, 64, 64 and 128 planes wide
(Hara et al., 1711.09577), which is given log10 E_inc before its last layer. They are trained in
double precision by Adam at 2e-4 in batches of 1000 for 50 epochs, of which the one with the highest
accuracy on the rows that choose counts. Inputs are not standardised.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from physgen.isolation import global_generators
from physgen.networks.cylinder import cylinder_padded, voxel_image
from physgen.validation.classifiers import Rows, Task

Array = NDArray[float64]

RATE, BATCH, EPOCHS, WIDTH = 2e-4, 1000, 50, 2048
PLANES = (32, 64, 64, 128)

_AT_ONCE = 1000

_HELD = 2**26
"""Numbers that are held in memory; more are made batch by batch."""


class Cylinder(nn.Module):
    """Convolutions of (B, F) features, among them voxels, on (layers, sectors, rings).

    Layers are channels, sectors close a circle. What is no voxel goes to the head.

    Args:
        grid: (layers, sectors, rings) numbers of voxels, -1 where there is none (`HasVoxelGrid`).
        first: column of the first voxel.
        n_inputs: F.
    """

    grid: Tensor

    def __init__(self, grid: NDArray[np.int64], first: int, n_inputs: int) -> None:
        super().__init__()
        n_voxels = int(grid.max()) + 1
        self.voxels = slice(first, first + n_voxels)
        self.register_buffer("grid", torch.from_numpy(grid))
        self.first = nn.Conv2d(grid.shape[0], 16, 3, stride=(1, 2))
        self.second = nn.Conv2d(16, 32, 3, stride=(1, 2))
        rings = (grid.shape[2] + 3) // 4
        inside = 32 * grid.shape[1] * rings + n_inputs - n_voxels
        self.head = nn.Sequential(nn.Linear(inside, 128), nn.LeakyReLU(), nn.Linear(128, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 1) logits."""
        image = voxel_image(x[:, self.voxels], self.grid)
        for layer in (self.first, self.second):
            image = functional.leaky_relu(layer(cylinder_padded(image)))
        others = x[:, : self.voxels.start], x[:, self.voxels.stop :]
        result: Tensor = self.head(torch.cat([image.flatten(1), *others], 1))
        return result


class _Block(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm3d(after),
            nn.ReLU(),
            nn.Conv3d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm3d(after),
        )
        self.cut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.cut = nn.Sequential(
                nn.Conv3d(before, after, 1, stride, bias=False), nn.BatchNorm3d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of a layer."""
        return functional.relu(self.body(x) + self.cut(x))


class ResNet18(nn.Module):
    """The residual network of the reference, of log10 E_inc and (layers, sectors, rings) voxels."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.stem = nn.Sequential(
            nn.Conv3d(1, PLANES[0], 7, 2, 3, bias=False),
            nn.BatchNorm3d(PLANES[0]),
            nn.ReLU(),
            nn.MaxPool3d(3, 2, 1),
        )
        blocks: list[nn.Module] = []
        before = PLANES[0]
        for number, after in enumerate(PLANES):
            blocks += [_Block(before, after, 1 if number == 0 else 2), _Block(after, after, 1)]
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.energy = nn.BatchNorm1d(1)
        self.last = nn.Linear(before + 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 1) logits."""
        image = self.blocks(self.stem(x[:, 1:].reshape(-1, 1, *self.shape)))
        result: Tensor = self.last(torch.cat([image.mean((2, 3, 4)), self.energy(x[:, :1])], 1))
        return result


def perceptron(n_inputs: int) -> nn.Sequential:
    """Return the perceptron of the reference."""
    layers: list[nn.Module] = []
    for before, after in ((n_inputs, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH)):
        layers += [nn.Linear(before, after), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1))


def as_reference(
    task: Task, seed: int, shape: tuple[int, int, int] | None = None, epochs: int = EPOCHS
) -> Array:
    """Return (N,) scores by the reference's settings, NaN for the rows of `train`.

    On the first CUDA device if there is one.

    Args:
        task: rows and their features.
        seed: of initial weights and of the order of the rows.
        shape: (layers, sectors, rings) of the voxels, for the residual network; `None` is the
            perceptron.
        epochs: how often the rows are gone through.
    """
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    with global_generators(seed):
        width = task.features(task.train[:1]).shape[1]
        network = perceptron(width) if shape is None else ResNet18(shape)
    network = network.double().to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    target = torch.from_numpy(task.target).to(device)
    weight = torch.from_numpy(np.abs(task.w)).to(device)
    generator = torch.Generator().manual_seed(seed)
    others = np.setdiff1d(np.arange(len(task.y)), task.train)
    few = len(task.y) * width <= _HELD
    held = task.features(np.arange(len(task.y))) if few else None

    def inputs(rows: Rows) -> Tensor:
        values = task.features(rows) if held is None else held[rows]
        # A hole is shown as 0, which the reference has for what is empty.
        finite = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        return torch.from_numpy(finite).to(device, torch.float64)

    def scored(rows: Rows) -> Array:
        network.eval()
        with torch.no_grad():
            parts = [network(inputs(rows[i : i + _AT_ONCE])) for i in range(0, len(rows), _AT_ONCE)]
        return np.asarray(torch.cat(parts)[:, 0].cpu().numpy())

    best, scores = -1.0, np.full(len(task.y), np.nan)
    choose = np.isin(others, task.choose)
    for _ in range(epochs):
        network.train()
        order = task.train[torch.randperm(len(task.train), generator=generator).numpy()]
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            if len(rows) == 1:
                continue  # Of which no variance is known.
            at = torch.from_numpy(rows).to(device)
            logit = network(inputs(rows))[:, 0]
            loss = functional.binary_cross_entropy_with_logits(logit, target[at], weight[at])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        now = scored(others)
        right = (now[choose] > 0) == (task.target[others[choose]] == 1)
        accuracy = float(np.average(right, weights=np.abs(task.w[others[choose]])))
        if accuracy > best:
            best, scores[others] = accuracy, now
        if accuracy == 1:
            break
    return scores
