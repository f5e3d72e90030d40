import numpy as np
import pytest
import torch

from physgen.systems.geometry import Geometry, Layer
from physgen.transforms.splits import SplitTree

GEOMETRY = Geometry(
    (
        Layer(0, (0.0, 1.0, 2.0, 3.0), 1),
        Layer(1, (0.0, 1.0, 2.0), 5),
        Layer(2, (0.0, 1.0), 1),
        Layer(3, (0.0, 1.0), 4),
    )
)


@pytest.fixture
def tree():
    return SplitTree(GEOMETRY)


def test_every_voxel_is_reached_once(tree):
    assert tree.n_splits == GEOMETRY.n_voxels - 1
    assert tree.leaf.unique().numel() == GEOMETRY.n_voxels
    used = torch.cat([tree.leaf, tree.parent]).sort().values
    assert torch.equal(used, torch.arange(1 + 2 * tree.n_splits))


def test_parents_come_before_their_children(tree):
    covered = [i for stage in tree.stages for i in range(stage.start, stage.stop)]
    assert covered == list(range(tree.n_splits))
    for stage in tree.stages:
        known = 1 + 2 * stage.start
        assert (tree.parent[stage] < known).all()


def test_layers_come_before_their_rings_and_these_before_their_sectors(tree):
    assert tree.n_layer_splits == 3
    assert (tree.split_layer[:3] == -1).all()
    assert (tree.split_layer[3:] >= 0).all()
    assert (tree.base[:3] == 0).all()
    assert torch.equal(tree.base[3:], tree.layers[tree.split_layer[3:]])


def test_nodes_are_the_sums_of_their_voxels(tree):
    x = torch.rand(6, GEOMETRY.n_voxels, dtype=torch.float64)
    nodes = tree.gather(x)
    layer = torch.from_numpy(GEOMETRY.layer)
    assert torch.allclose(nodes[:, 0], x.sum(1))
    assert torch.allclose(nodes[:, 1], x[:, layer <= 1].sum(1))
    for i in range(4):
        assert torch.allclose(nodes[:, tree.layers[i]], x[:, layer == i].sum(1))
    left, right = tree.sides(nodes)
    assert torch.allclose(left + right, nodes[:, tree.parent])
    # The layer with sectors: its inner ring, and of that the first two sectors.
    ring = torch.from_numpy(GEOMETRY.ring)
    split = int((tree.parent == tree.layers[1]).nonzero())
    assert torch.allclose(left[:, split], x[:, ring == 3].sum(1))
    inner = int((tree.parent == 1 + 2 * split).nonzero())
    assert torch.allclose(left[:, inner], x[:, ring == 3][:, :2].sum(1))


def test_scattering_undoes_gathering(tree):
    x = torch.rand(6, GEOMETRY.n_voxels, dtype=torch.float64)
    nodes = tree.gather(x)
    left, right = tree.sides(nodes)
    back = tree.scatter(nodes[:, 0], lambda _, stage: (left[:, stage], right[:, stage]))
    assert torch.equal(back, x)


def test_a_split_extends_over_the_cells_that_it_divides(tree):
    edges = np.array([1.0, 2.0])
    split = int((tree.parent == tree.layers[1]).nonzero())
    assert tree.extents.layers[split].tolist() == [1, 2]
    assert tree.extents.radii[split].tolist() == [0, 2]
    inner = int((tree.parent == 2 + 2 * split).nonzero())
    assert np.array_equal(tree.extents.radii[inner], edges)
    last = int((tree.parent == 2 + 2 * inner).nonzero())
    assert tree.extents.turns[last].tolist() == [0.4, 1.0]
    assert tree.extents.layers[0].tolist() == [0, 4]


def test_only_splits_of_the_same_ring_and_size_are_alike(tree):
    nodes = tree.gather(torch.eye(GEOMETRY.n_voxels))
    left, right = (side > 0 for side in tree.sides(nodes))
    ring = torch.from_numpy(GEOMETRY.ring)
    assert int(tree.group.max()) + 1 == tree.n_groups
    for group in range(tree.n_groups):
        members = (tree.group == group).nonzero()[:, 0].tolist()
        sizes = {(int(left[:, i].sum()), int(right[:, i].sum())) for i in members}
        rings = {tuple(ring[left[:, i] | right[:, i]].unique().tolist()) for i in members}
        assert len(sizes) == 1
        assert len(rings) == 1
    # Rings of five sectors: 5, 2 + 3, and 2 in both: three kinds for four splits.
    fives = tree.group[tree.split_layer == 1]
    assert len(fives) == 9
    assert fives.unique().numel() == 1 + 2 * 3
