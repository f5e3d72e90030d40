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
    assert tree.n_splits == GEOMETRY.n_voxels - 4
    assert tree.leaf.unique().numel() == GEOMETRY.n_voxels
    used = torch.cat([tree.leaf, tree.parent]).sort().values
    assert torch.equal(used, torch.arange(4 + 2 * tree.n_splits))


def test_parents_come_before_their_children(tree):
    covered = [i for stage in tree.stages for i in range(stage.start, stage.stop)]
    assert covered == list(range(tree.n_splits))
    for stage in tree.stages:
        known = 4 + 2 * stage.start
        assert (tree.parent[stage] < known).all()


def test_nodes_are_the_sums_of_their_voxels(tree):
    x = torch.rand(6, GEOMETRY.n_voxels, dtype=torch.float64)
    nodes = tree.gather(x)
    layer = torch.from_numpy(GEOMETRY.layer)
    for i in range(4):
        assert torch.allclose(nodes[:, i], x[:, layer == i].sum(1))
    left, right = tree.sides(nodes)
    assert torch.allclose(left + right, nodes[:, tree.parent])
    # The layer with sectors: its inner ring, and of that the first two sectors.
    ring = torch.from_numpy(GEOMETRY.ring)
    split = int((tree.parent == 1).nonzero())
    assert torch.allclose(left[:, split], x[:, ring == 3].sum(1))
    inner = int((tree.parent == 4 + 2 * split).nonzero())
    assert torch.allclose(left[:, inner], x[:, ring == 3][:, :2].sum(1))


def test_scattering_undoes_gathering(tree):
    x = torch.rand(6, GEOMETRY.n_voxels, dtype=torch.float64)
    nodes = tree.gather(x)
    left, right = tree.sides(nodes)
    back = tree.scatter(nodes[:, :4], lambda _, stage: (left[:, stage], right[:, stage]))
    assert torch.equal(back, x)


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
    fives = tree.group[[i for i in range(tree.n_splits) if int(tree.layer[i]) == 1]]
    assert len(fives) == 9
    assert fives.unique().numel() == 1 + 2 * 3
