r"""A layer's energy divided among its voxels by halves.

The voxels of a layer are the leaves of a binary tree. At its root is the layer; rings are divided
into inner and outer halves until one is left, and then a ring's sectors into halves until one is
left. A split of energy W into W = L + R has three outcomes: all goes right, all goes left, or

    s = 1/2 + 1/2 ln(L/R) / ln(W/v_0 - 1)    in [0, 1],

which keeps both at v_0, the readout threshold, or above. So the voxels of a layer sum to its energy
and lie above the threshold whatever is drawn; no split without energy needs a decision, and the
profile and the centre of a layer, which depend on thousands of MeV, come before the single cells.

Splits are numbered from coarse to fine, rings before sectors: a parent comes before its children.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from physgen.systems.geometry import Geometry


@dataclass(frozen=True)
class _Part:
    """A node of the tree: a range of the rings of a layer, or of the sectors of one ring."""

    node: int
    layer: int
    ring: int | None
    first: int
    n: int

    def halves(self, node: int) -> list[_Part]:
        """Return the two sides, nodes `node` and `node` + 1."""
        half = self.n // 2
        return [
            _Part(node, self.layer, self.ring, self.first, half),
            _Part(node + 1, self.layer, self.ring, self.first + half, self.n - half),
        ]


class SplitTree(torch.nn.Module):
    """The tree of a geometry.

    Nodes are numbered: the layers first, then the two sides of split 0, of split 1, ...

    Attributes:
        n_layers, n_voxels: of the geometry.
        n_splits: number of voxels minus number of layers.
        n_groups: how many kinds of splits there are.
        layer: (n_splits,) the layer a split belongs to.
        group: (n_splits,) its kind: every split of rings is one of its own, splits of the sectors
            of a ring are alike if they have the same number of sectors.
        parent: (n_splits,) the node it divides; its sides are n_layers + 2 i and the one after.
        leaf: (n_voxels,) the node of each voxel.
        stages: the splits from coarse to fine, as slices: within one, none depends on another.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> tree = SplitTree(Calorimeter().geometry)
    >>> tree.n_voxels - tree.n_layers == tree.n_splits
    True
    """

    layer: Tensor
    group: Tensor
    parent: Tensor
    leaf: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.n_layers, self.n_voxels = len(geometry.layers), geometry.n_voxels
        self.stages: list[slice] = []
        parts: list[_Part] = []
        rings: list[_Part] = []
        leaves = [0] * self.n_voxels
        front = [_Part(i, i, None, 0, x.n_r) for i, x in enumerate(geometry.layers)]
        while front:
            start, following = len(parts), []
            for part in front:
                layer = geometry.layers[part.layer]
                if part.n > 1:
                    following += part.halves(self.n_layers + 2 * len(parts))
                    parts.append(part)
                elif part.ring is None:
                    rings.append(_Part(part.node, part.layer, part.first, 0, layer.n_alpha))
                else:
                    offset = int(geometry.offsets[part.layer])
                    leaves[offset + part.first * layer.n_r + part.ring] = part.node
            if len(parts) > start:
                self.stages.append(slice(start, len(parts)))
            front = following
            if not front:
                # All rings are single: go on with their sectors.
                front, rings = sorted(rings, key=lambda x: (x.layer, x.ring)), []
        kinds: dict[tuple[int, int | None, int, int], int] = {}
        groups = []
        for part in parts:
            kind = (part.layer, part.ring, part.first if part.ring is None else 0, part.n)
            groups.append(kinds.setdefault(kind, len(kinds)))
        self.n_splits, self.n_groups = len(parts), len(kinds)
        numbers = {
            "layer": [part.layer for part in parts],
            "group": groups,
            "parent": [part.node for part in parts],
            "leaf": leaves,
        }
        for name, values in numbers.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)

    def gather(self, x: Tensor) -> Tensor:
        """Return the energies of all nodes, (B, n_nodes), given those of the voxels."""
        nodes = x.new_zeros(len(x), self.n_layers + 2 * self.n_splits)
        nodes[:, self.leaf] = x
        for stage in reversed(self.stages):
            left, right = self.sides(nodes)
            nodes[:, self.parent[stage]] = left[:, stage] + right[:, stage]
        return nodes

    def scatter(
        self, energies: Tensor, divide: Callable[[Tensor, slice], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Return the energies of the voxels, (B, n_voxels), given those of the layers.

        Args:
            energies: (B, n_layers).
            divide: called for each stage with W, (B, n), and the stage; returns L and R.
        """
        nodes = energies.new_zeros(len(energies), self.n_layers + 2 * self.n_splits)
        nodes[:, : self.n_layers] = energies
        left, right = self.sides(nodes)
        for stage in self.stages:
            left[:, stage], right[:, stage] = divide(nodes[:, self.parent[stage]], stage)
        return nodes[:, self.leaf]

    def sides(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return L and R of all splits, (B, n_splits) each, given the energies of all nodes."""
        return nodes[:, self.n_layers :: 2], nodes[:, self.n_layers + 1 :: 2]
