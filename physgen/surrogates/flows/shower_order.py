"""In which order the splits of a shower are drawn: blocks, and what a split sees of earlier ones.

All splits of a block are drawn at once, each given the blocks before. Splits that share energy that
moves between them (the halves of one ring, neighbouring rings, the same place in the next layer)
would then be independent where they are not, so that a block never holds two that touch. Blocks
begin with one split, the one that divides most, and grow: what many splits have in common is known
from the first ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physgen.transforms.splits import SplitTree

GROWTH = 1.4
"""By how much a block may be larger than the one before, within a stage of the tree."""
LATE = 2
"""The last stages, of single cells, begin with larger blocks: an eighth of their splits."""
RADIUS = 20.0
"""In mm: half of a shower's energy is taken to be within, to order splits by it."""
N_NEIGHBOURS = 9
WINDOW = 3
"""In how many layers in front and behind neighbours are looked for."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """Blocks of splits.

    Attributes:
        splits: (n_splits,) numbers in the tree, in the order in which they are drawn.
        sizes: of the blocks.
        neighbours: (n_splits, N_NEIGHBOURS) places in this order of splits in earlier blocks:
            parent, grandparent, the same place in the nearest layers in front and behind, the next
            ring inwards and outwards, the nearest sector, and the next layers but one; n_splits
            where there is none.
        n_layer_splits: how many of the splits, the first ones, are of layers.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> order = order_of(SplitTree(Calorimeter().geometry))
    >>> sum(order.sizes), order.neighbours.shape
    (367, (367, 9))
    """

    splits: Ints
    sizes: tuple[int, ...]
    neighbours: Ints
    n_layer_splits: int


def order_of(tree: SplitTree) -> Order:
    """Return the order of a tree: coarse to fine, and in a stage by the energy to be expected."""
    blocks: list[list[int]] = []
    energy = _expected(tree)
    for number, stage in enumerate(tree.stages):
        splits = np.arange(stage.start, stage.stop)
        splits = splits[np.argsort(-energy[splits], kind="stable")]
        late = number >= len(tree.stages) - LATE
        blocks += _apart(splits, touching(tree, stage), len(splits) / 8 if late else 1.0)
    order = np.array([split for block in blocks for split in block], np.int64)
    block = np.zeros(tree.n_splits, np.int64)
    for number, members in enumerate(blocks):
        block[members] = number
    place = np.full(tree.n_splits + 1, tree.n_splits)
    place[order] = np.arange(tree.n_splits)
    neighbours = place[_neighbours(tree, block)][order] if len(order) else place[:0, None]
    return Order(order, tuple(len(x) for x in blocks), neighbours, tree.n_layer_splits)


def touching(tree: SplitTree, stage: slice) -> list[list[int]]:
    """Return the splits of a stage that each of them touches, itself included, by their numbers.

    They touch where layers, rings and sectors overlap or are next to each other.
    """
    x, touched = tree.extents, []
    layers, radii, turns = x.layers[stage], x.radii[stage], x.turns[stage]
    for a, r, t in zip(layers, radii, turns, strict=True):
        near = np.flatnonzero((layers[:, 0] <= a[1]) & (layers[:, 1] >= a[0]))
        low, high = radii[near].T
        near = near[(low <= r[1]) & (high >= r[0])]
        low, high = turns[near].T
        around = ((t[0] == 0) & (high == 1)) | ((t[1] == 1) & (low == 0))
        near = near[around | ((low <= t[1]) & (high >= t[0]))]
        touched.append([stage.start + int(i) for i in near])
    return touched


def _expected(tree: SplitTree) -> Floats:
    """What the splits divide in a nominal shower, up to a factor; only the order matters.

    Layers with many voxels are where the showers are; else these have their maximum in the first
    third. A share r^2/(r^2 + R^2) of the energy lies within r.
    """
    x = tree.extents
    n_voxels = np.bincount(tree.leaf_layer, minlength=tree.n_layers)
    depth = (np.arange(tree.n_layers) + 0.5) / tree.n_layers
    layer = np.concatenate([[0.0], np.cumsum(n_voxels * depth * np.exp(-3 * depth))])
    along = layer[x.layers[:, 1]] - layer[x.layers[:, 0]]
    within = 1 / (1 + (RADIUS / np.maximum(x.radii, 1e-9)) ** 2)
    shares = along * (within[:, 1] - within[:, 0]) * (x.turns[:, 1] - x.turns[:, 0])
    return np.asarray(shares, np.float64)


def _apart(splits: Ints, touched: list[list[int]], cap: float) -> list[list[int]]:
    """Put the splits of a stage, in order, into growing blocks of which no two touch."""
    first, blocks, left = int(splits.min()), [], splits.tolist()
    while left:
        block: list[int] = []
        later: list[int] = []
        blocked: set[int] = set()
        for split in left:
            if len(block) < max(int(cap + 1e-9), 1) and split not in blocked:
                block.append(split)
                blocked.update(touched[split - first])
            else:
                later.append(split)
        blocks.append(block)
        left, cap = later, cap * GROWTH
    return blocks


def _neighbours(tree: SplitTree, block: Ints) -> Ints:
    """Return neighbours by their numbers in the tree, in its order."""
    n, x = tree.n_splits, tree.extents
    parent = np.append((tree.parent.numpy() - 1) // 2, n)
    parent = np.where(parent < 0, n, parent)
    found = np.full((n, N_NEIGHBOURS), n)
    found[:, 0], found[:, 1] = parent[:-1], parent[parent[:-1]]
    edges = np.where(np.isfinite(x.radii), x.radii, 0.0) + 1
    radius, turn = np.log(edges).mean(1), x.turns.mean(1)
    for stage in tree.stages:
        if stage.start < tree.n_layer_splits:
            continue  # Of a layer there are no neighbours.
        layer = x.layers[stage, 0]
        for number in np.unique(layer):
            rows = stage.start + np.flatnonzero(layer == number)
            near = stage.start + np.flatnonzero(abs(layer - number) <= WINDOW)
            gap = x.layers[near, 0] - number
            inward = radius[near] - radius[rows, None]
            apart = abs(turn[near] - turn[rows, None])
            cost = abs(inward) + 6 * np.minimum(apart, 1 - apart) + 0.3 * abs(gap)
            cost = np.where(block[near] < block[rows, None], cost, np.inf)
            same = (gap == 0) & (abs(inward) < 1e-9)
            asked = [gap < 0, gap > 0, (gap == 0) & (inward < -1e-9), (gap == 0) & (inward > 1e-9)]
            for column, allowed in enumerate([*asked, same, gap < -1, gap > 1], start=2):
                limited = np.where(allowed, cost, np.inf)
                best = limited.argmin(1)
                known = np.isfinite(limited[np.arange(len(rows)), best])
                found[rows, column] = np.where(known, near[best], n)
    return found
