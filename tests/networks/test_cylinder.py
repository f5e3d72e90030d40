"""Cylindrical convolutions: they turn with what they see, layers and rings have ends."""

import numpy as np
import pytest
import torch
from torch import nn

from physgen.io.shipped import shipped
from physgen.networks.cylinder import CylindricalNetwork, CylindricalOptions, voxel_image
from physgen.systems.geometry import Geometry, Layer, read_geometry

EDGES = tuple(map(float, range(6)))
REGULAR = Geometry(tuple(Layer(i, EDGES, 8) for i in range(5)))
IRREGULAR = read_geometry(shipped("datasets", "calo-368.xml"))
HALVED = Geometry((Layer(0, EDGES[:4], 4), Layer(1, EDGES, 8), Layer(2, EDGES[:3], 1)))
PATCHES = [(1, 1), (2, 3), (5, 16)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def built(geometry, patch=(1, 1), depth=2, n_condition=3):
    """A network with random weights in float64."""
    options = CylindricalOptions(channels=8, depth=depth, patch=patch)
    network = CylindricalNetwork(geometry.voxel_grid, n_condition, options)
    noise = generator(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))
    return network.double()


def inputs(geometry, n=3):
    x = torch.randn(n, geometry.n_voxels, generator=generator(2), dtype=torch.float64)
    time = torch.rand(n, generator=generator(3), dtype=torch.float64)
    return x, time, torch.randn(n, 3, generator=generator(4), dtype=torch.float64)


def turned(x, geometry, share):
    """Showers (B, n) turned by a share of the circle."""
    parts = []
    for layer, first in zip(geometry.layers, geometry.offsets, strict=False):
        part = x[:, first : first + layer.n_voxels].unflatten(1, (layer.n_alpha, layer.n_r))
        parts.append(part.roll(round(share * layer.n_alpha), 1).flatten(1))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize(
    ("geometry", "sectors"), [(REGULAR, 8), (IRREGULAR, 12), (HALVED, 4)], ids=["8", "12", "4"]
)
def test_showers_that_are_turned_have_outputs_that_are_turned(geometry, sectors, patch):
    network, (x, *given) = built(geometry, patch), inputs(geometry)
    out = network(x, *given)
    assert out.shape == x.shape
    for n in (1, 3, sectors - 1):
        found = network(turned(x, geometry, n / sectors), *given)
        torch.testing.assert_close(found, turned(out, geometry, n / sectors), rtol=0, atol=1e-11)
        assert (found - out).abs().max() > 1e-2


def changed(network, voxel):
    """Which outputs follow one input; the statistics of a normalisation see all, so without."""
    for name, module in network.named_modules():
        for child, layer in module.named_children():
            if isinstance(layer, nn.GroupNorm):
                setattr(network.get_submodule(name), child, nn.Identity())
    x, *given = inputs(REGULAR, 1)
    moved = x.clone()
    moved[0, voxel] += 1
    difference = (network(moved, *given) - network(x, *given))[0].detach().abs()
    return voxel_image((difference > 1e-12).double()[None], network.grid)[0].bool()


@pytest.mark.parametrize(("layer", "sector", "ring"), [(0, 0, 0), (4, 7, 4), (2, 4, 2)])
def test_a_convolution_goes_round_in_alpha_and_ends_in_layers_and_rings(layer, sector, ring):
    seen = changed(built(REGULAR, depth=1), int(REGULAR.voxel_grid[layer, sector, ring]))
    expected = torch.zeros(5, 8, 5, dtype=torch.bool)
    around = [(sector + step) % 8 for step in (-1, 0, 1)]
    layers, rings = (slice(max(0, i - 1), min(5, i + 2)) for i in (layer, ring))
    for at in around:
        expected[layers, at, rings] = True
    assert torch.equal(seen, expected)


def test_other_layers_and_rings_are_other_places():
    """Of an input that is everywhere the same the output differs from ring to ring."""
    network, (x, *given) = built(REGULAR), inputs(REGULAR, 1)
    image = network(torch.ones_like(x), *given).reshape(5, 8, 5)
    assert image.std(1).max() < 1e-10
    # Padding is seen as well, two places from an end: in the middle of five it is not.
    assert (image[1:, 0] - image[:-1, 0]).abs().min() > 1e-3
    assert (image[:, 0, 1:] - image[:, 0, :-1]).abs().min() > 1e-3


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("geometry", [REGULAR, IRREGULAR], ids=["regular", "irregular"])
def test_everything_is_seen_and_every_parameter_learns(geometry, patch):
    network, (x, time, given) = built(geometry, patch), inputs(geometry)
    x.requires_grad_()
    out = network(x, time, given)
    (reached,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
    assert (reached != 0).all()
    for other in ((x, time + 0.1, given), (x, time, given + 0.1)):
        assert ((network(*other) - out).abs().amax(1) > 1e-4).all()
    torch.testing.assert_close(network(x[1:2], time[1:2], given[1:2])[0], out[1])
    out.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_a_new_network_is_zero_and_patches_hold_all_voxels():
    for patch in PATCHES:
        options = CylindricalOptions(channels=8, depth=1, patch=patch)
        network = CylindricalNetwork(IRREGULAR.voxel_grid, options=options).double()
        x, time, _ = inputs(IRREGULAR)
        assert torch.equal(network(x, time), torch.zeros_like(x))
        image = voxel_image(x, network.grid)
        assert torch.equal(network._unpatched(network._patched(image)), image)
        torch.testing.assert_close(network._voxels(image), x)


def test_sectors_of_a_layer_of_fewer_share_what_is_said_of_them():
    grid = HALVED.voxel_grid
    assert grid.shape == (3, 8, 5)
    network = built(HALVED)
    assert torch.equal(network.shown[:3], torch.full((3,), 2))
    assert torch.equal(network.shown[-2:], torch.full((2,), 8))
    assert np.array_equal(network.place[[0, 1, -1]].numpy(), [0, 1, 2 * 5 + 1])
