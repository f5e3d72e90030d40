r"""A shower's energy divided among its voxels by halves.

The voxels are the leaves of a binary tree. At its root is the whole shower; its layers are divided
into front and back halves until one is left, the rings of a layer into inner and outer halves until
one is left, and then a ring's sectors into halves until one is left. A split of energy W into
W = L + R has three outcomes: all goes right, all goes left, or

    s = 1/2 + 1/2 ln(L/R) / ln(W/v_0 - 1)    in [0, 1],

which keeps both at v_0, the readout threshold, or above. So the voxels sum to the energy of the
shower and lie above the threshold whatever is drawn; no split without energy needs a decision, and
the profile and the centre of a layer, which depend on thousands of MeV, come before single cells.

Splits are numbered from coarse to fine, layers before rings before sectors: a parent comes before
its children.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.systems.geometry import Geometry


@dataclass(frozen=True)
class _Part:
    """A node of the tree: some layers, some rings of one layer, or some sectors of one ring.

    These are [first, first + n); `layer` and `ring` are -1 where there are several.
    """

    node: int
    first: int
    n: int
    layer: int = -1
    ring: int = -1

    def halves(self, node: int) -> list[_Part]:
        """Return the two sides, nodes `node` and `node` + 1."""
        half = self.n // 2
        return [
            replace(self, node=node, n=half),
            replace(self, node=node + 1, first=self.first + half, n=self.n - half),
        ]


@dataclass(frozen=True)
class Extents:
    """Where the splits of a tree lie, (n_splits, 2) each: from, to.

    Attributes:
        layers: [first, last + 1).
        radii: in mm; from 0 to infinity for a split of layers.
        turns: angles as shares of the circle; from 0 to 1 for a split of layers or rings.
    """

    layers: NDArray[np.int64]
    radii: NDArray[np.float64]
    turns: NDArray[np.float64]


class SplitTree(torch.nn.Module):
    """The tree of a geometry.

    Nodes are numbered: the whole shower first, then the two sides of split 0, of split 1, ...

    Attributes:
        n_layers, n_voxels: of the geometry.
        n_splits: one less than voxels.
        n_groups: how many kinds of splits there are.
        n_layer_splits: how many of the splits, the first ones, are of layers.
        group: (n_splits,) the kind of a split: every split of layers or rings is one of its own,
            splits of the sectors of a ring are alike if they have the same number of sectors.
        split_layer: (n_splits,) the layer a split belongs to, -1 for splits of layers.
        parent: (n_splits,) the node it divides; its sides are 1 + 2 i and the one after.
        base: (n_splits,) the node of its layer; of splits of layers, the whole shower.
        leaf: (n_voxels,) the node of each voxel.
        layers: (n_layers,) the node of each layer.
        stages: the splits from coarse to fine, as slices: within one, none depends on another.
        extents: where they lie.
        leaf_layer: (n_voxels,) the layer of each voxel.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> tree = SplitTree(Calorimeter().geometry)
    >>> tree.n_splits, tree.n_layer_splits
    (367, 4)
    """

    group: Tensor
    split_layer: Tensor
    parent: Tensor
    base: Tensor
    leaf: Tensor
    layers: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.n_layers, self.n_voxels = len(geometry.layers), geometry.n_voxels
        self.n_splits, self.n_layer_splits = self.n_voxels - 1, self.n_layers - 1
        self.stages: list[slice] = []
        parts: list[_Part] = []
        rows = geometry.layers
        wholes = self._halved([_Part(0, 0, self.n_layers)], parts)
        front = [_Part(p.node, 0, rows[p.first].n_r, p.first) for p in wholes]
        rings = self._halved(front, parts)
        front = [_Part(p.node, 0, rows[p.layer].n_alpha, p.layer, p.first) for p in rings]
        leaves = np.zeros(self.n_voxels, np.int64)
        self.leaf_layer = geometry.layer
        for p in self._halved(front, parts):
            leaves[geometry.offsets[p.layer] + p.first * rows[p.layer].n_r + p.ring] = p.node
        layers = np.array([p.node for p in wholes])
        kinds: dict[tuple[int, ...], int] = {}
        keys = [(p.layer, p.ring, p.first if p.ring < 0 else 0, p.n) for p in parts]
        numbers = {
            "group": [kinds.setdefault(key, len(kinds)) for key in keys],
            "split_layer": [part.layer for part in parts],
            "parent": [part.node for part in parts],
            "base": [0 if part.layer < 0 else layers[part.layer] for part in parts],
            "leaf": leaves,
            "layers": layers,
        }
        self.n_groups = len(kinds)
        self.extents = _extents(parts, geometry)
        for name, values in numbers.items():
            tensor = torch.as_tensor(np.array(values, np.int64))
            self.register_buffer(name, tensor, persistent=False)

    def _halved(self, front: list[_Part], parts: list[_Part]) -> list[_Part]:
        """Divide parts until each is single; add the splits to `parts`; return the single ones."""
        singles: list[_Part] = []
        while front:
            start, following = len(parts), []
            for part in front:
                if part.n > 1:
                    following += part.halves(1 + 2 * len(parts))
                    parts.append(part)
                else:
                    singles.append(part)
            if len(parts) > start:
                self.stages.append(slice(start, len(parts)))
            front = following
        return sorted(singles, key=lambda p: (p.layer, p.ring, p.first))

    def gather(self, x: Tensor) -> Tensor:
        """Return the energies of all nodes, (B, n_nodes), given those of the voxels."""
        nodes = x.new_zeros(len(x), 1 + 2 * self.n_splits)
        nodes[:, self.leaf] = x
        for stage in reversed(self.stages):
            left, right = self.sides(nodes)
            nodes[:, self.parent[stage]] = left[:, stage] + right[:, stage]
        return nodes

    def scatter(
        self, total: Tensor, divide: Callable[[Tensor, slice], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Return the energies of the voxels, (B, n_voxels), given those of the showers.

        Args:
            total: (B,).
            divide: called for each stage with W, (B, n), and the stage; returns L and R.
        """
        nodes = total[:, None]
        for stage in self.stages:
            # The sides of a split follow one another, and splits those of the stage before.
            both = torch.stack(divide(nodes[:, self.parent[stage]], stage), 2)
            nodes = torch.cat([nodes, both.flatten(1).to(nodes)], 1)
        return nodes[:, self.leaf]

    def sides(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return L and R of all splits, (B, n_splits) each, given the energies of all nodes."""
        return nodes[:, 1::2], nodes[:, 2::2]


def _extents(parts: list[_Part], geometry: Geometry) -> Extents:
    layers, radii, turns = [], [], []
    for p in parts:
        several = p.layer < 0
        layers.append((p.first, p.first + p.n) if several else (p.layer, p.layer + 1))
        around, edges = (0.0, 1.0), (0.0, np.inf)
        if not several:
            row = geometry.layers[p.layer]
            first, last = (p.first, p.first + p.n) if p.ring < 0 else (p.ring, p.ring + 1)
            edges = (row.r_edges[first], row.r_edges[last])
            if p.ring >= 0:
                around = (p.first / row.n_alpha, (p.first + p.n) / row.n_alpha)
        radii.append(edges)
        turns.append(around)
    return Extents(
        np.array(layers, np.int64).reshape(-1, 2),
        np.array(radii, np.float64).reshape(-1, 2),
        np.array(turns, np.float64).reshape(-1, 2),
    )
