"""O(N) models: action against loops, exact values against quadrature, clusters against both."""

import itertools
import math

import h5py
import numpy as np
import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
from physgen.systems.base import HasAction, HasExact, HasFeatures, HasFiles, System
from physgen.systems.family import family
from physgen.systems.sigma import ONModel, ring
from physgen.transforms.base import Chain


def vectors(n, system, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((n, *system.schema.shape), dtype=torch.float64, generator=generator)
    return x / x.norm(dim=-1, keepdim=True)


def means(system, n, seed=1):
    """Means of observables with errors from the scatter of the eight chains."""
    batch = system.simulate(n, seed)
    found = {}
    for name, value in system.observables(batch).items():
        chains = value.reshape(8, -1).mean(1)
        found[name] = (chains.mean().item(), chains.std().item() / math.sqrt(8))
    return found


@pytest.mark.parametrize("shape", [(5,), (2,), (3, 4), (2, 3, 2)])
def test_action_is_that_of_loops_over_links(shape):
    system = ONModel(shape=shape, components=3, beta=0.7)
    x = vectors(2, system)
    for one, action in zip(x.numpy(), system.action(x), strict=True):
        total = 0.0
        for site in itertools.product(*map(range, shape)):
            for axis, extent in enumerate(shape):
                there = list(site)
                there[axis] = (site[axis] + 1) % extent
                total -= 0.7 * one[site] @ one[tuple(there)]
        assert float(action) == pytest.approx(total, abs=1e-12)


def test_exact_values_of_rings_against_quadrature():
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    a, b = np.meshgrid(angle, angle)
    weight = np.exp(0.7 * (np.cos(a) + np.cos(b) + np.cos(a - b)))
    three = ring(3, 2, 0.7)
    assert three["ln Z"] == pytest.approx(np.log(weight.mean()), abs=1e-13)
    assert three["s.s"] == pytest.approx((np.cos(a) * weight).mean() / weight.mean(), abs=1e-13)
    assert three["chi2"] == pytest.approx(1 + 2 * three["s.s"], abs=1e-13)
    nodes, weights = np.polynomial.legendre.leggauss(60)  # on the sphere cos(theta) is uniform
    weight = weights * np.exp(2 * 1.3 * nodes)  # two sites have two links
    two = ring(2, 3, 1.3)
    assert two["ln Z"] == pytest.approx(np.log(weight.sum() / 2), abs=1e-13)
    assert two["s.s"] == pytest.approx((nodes * weight).sum() / weight.sum(), abs=1e-13)
    weight = weights * np.exp(2 * 1.3 * nodes) * (1 - nodes**2)  # four components: sin^2(theta)
    four = ring(2, 5, 1.3)
    assert four["s.s"] == pytest.approx((nodes * weight).sum() / weight.sum(), abs=1e-13)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_long_rings_have_one_correlation_length(n):
    """<s_0.s_r> = y^r of an infinite chain: sums over r are geometric."""
    beta, length = 2.0, 400
    values, y = ring(length, n, beta), ring(400, n, beta)["s.s"]
    assert values["chi2"] == pytest.approx((1 + y) / (1 - y), rel=1e-10)
    k = 2 * math.pi / length
    lowest = (1 - y**2) / (1 - 2 * y * math.cos(k) + y**2)
    assert values["|phi(k)|^2"] / length == pytest.approx(lowest, rel=1e-10)
    # d ln Z / d beta = L <s.s>
    slope = (ring(length, n, beta + 1e-5)["ln Z"] - ring(length, n, beta - 1e-5)["ln Z"]) / 2e-5
    assert slope == pytest.approx(length * y, rel=1e-7)


@pytest.mark.parametrize(
    ("shape", "n", "beta"), [((8,), 2, 1.5), ((16,), 3, 2.0), ((3,), 4, 5.0), ((2,), 3, 0.8)]
)
def test_clusters_agree_with_exact_values_on_rings(shape, n, beta):
    system = ONModel(shape=shape, components=n, beta=beta)
    exact, found = system.exact(), means(system, 16000)
    for name in ("s.s", "M^2", "|phi(k)|^2"):
        mean, error = found[name]
        assert abs(mean - exact[name]) < 5 * error
        assert 0 < error < 0.02 * exact["M^2"]


def test_clusters_agree_with_exact_values_in_two_dimensions():
    """2 x 2 sites with two links between neighbours are a ring of four at twice the beta."""
    system = ONModel(shape=(2, 2), components=3, beta=0.6)
    exact, found = ring(4, 3, 1.2), means(system, 16000)
    for name in ("s.s", "M^2"):
        assert abs(found[name][0] - exact[name]) < 5 * found[name][1]
    # Strong coupling, y = <s.s> of one link: a link alone, and two plaquettes around it.
    system = ONModel(shape=(8, 8), components=3, beta=0.5)
    y = 1 / math.tanh(0.5) - 1 / 0.5
    mean, error = means(system, 8000)["s.s"]
    assert abs(mean - y - 2 * y**3) < 5 * error + 10 * y**5
    assert 5 * error < 2 * y**3  # so that it can tell


@pytest.mark.parametrize("beta", [0.4, 2.0])
def test_the_helicity_modulus_of_a_ring_is_that_of_quadrature(beta):
    grid = 2 * math.pi * torch.arange(200, dtype=torch.float64) / 200
    angles = torch.stack(torch.broadcast_tensors(0 * grid[:1], grid[:, None], grid), -1)
    x = torch.stack([angles.cos(), angles.sin()], -1).reshape(-1, 3, 2)
    system = ONModel(shape=(3,), components=2, beta=beta)
    weight = torch.softmax(-system.action(x), 0)
    values = system.observables(Batch(x))
    derived = system.derived["helicity"]
    means = np.array([float(weight @ values[name]) for name in derived.means])
    assert derived.function(means) == pytest.approx(system.exact()["helicity"], rel=1e-10)


def test_vortices_and_the_helicity_modulus_of_the_xy_model():
    """A pair of vortices by hand; beyond and below the transition at beta = 1.12."""
    i, j = torch.meshgrid(*2 * [torch.arange(8.0)], indexing="ij")
    angle = torch.atan2(i - 1.5, j - 3.5) - torch.atan2(i - 5.5, j - 3.5)
    x = torch.stack([angle.cos(), angle.sin()], -1)[None]
    assert ONModel(shape=(8, 8), components=2).observables(Batch(x))["vortices"].item() == 2 / 64
    found = {}
    for beta in (0.5, 2.0):
        system = ONModel(shape=(8, 8), components=2, beta=beta)
        values = system.observables(system.simulate(2000, 1))
        derived = system.derived["helicity"]
        means = np.array([float(values[name].mean()) for name in derived.means])
        found[beta] = derived.function(means), float(values["vortices"].mean())
    assert abs(found[0.5][0]) < 0.1 < 0.7 < found[2.0][0]
    assert found[2.0][1] < 0.01 < 0.1 < found[0.5][1]
    assert "vortices" not in ONModel(shape=(4, 4)).observables(Batch(torch.ones(1, 4, 4, 3)))


def test_without_coupling_all_is_known():
    system = ONModel(shape=(3, 4), components=3, beta=0.0)
    exact, found = system.exact(), means(system, 16000)
    for name in ("s.s", "M^2", "M^4", "|phi(k)|^2"):
        assert abs(found[name][0] - exact[name]) < 5 * found[name][1]
    u4 = system.derived["U4"].function(np.array([exact["M^2"], exact["M^4"]]))
    assert u4 == pytest.approx(exact["U4"], abs=1e-14)


def test_ordered_vectors_have_a_binder_cumulant_of_two_over_n_plus_two():
    system = ONModel(shape=(4, 4), components=3)
    u4 = system.derived["U4"].function(np.array([7.0**2, 7.0**4]))
    assert u4 == pytest.approx(2 / 5)


def test_configurations_are_unit_vectors_and_repeat_with_the_seed():
    system = ONModel(shape=(4, 4), components=3, beta=1.5)
    batch = system.simulate(50, seed=3)
    assert batch.x.shape == (50, 4, 4, 3)
    torch.testing.assert_close(batch.x.norm(dim=-1), torch.ones(50, 4, 4).double())
    assert torch.equal(batch.x, system.simulate(50, seed=3).x)
    assert not torch.equal(batch.x, system.simulate(50, seed=4).x)


def test_observables_do_not_change_under_rotations_and_translations():
    system = ONModel(shape=(4, 6), components=3)
    x = vectors(3, system)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    before = system.observables(Batch(x))
    for y in (x @ q, x.roll((1, 2), (1, 2)), x.flip(2)):
        for name, value in system.observables(Batch(y)).items():
            torch.testing.assert_close(value, before[name], rtol=1e-12, atol=1e-12)


def test_what_it_can_do():
    system = ONModel()
    for protocol in (System, HasAction, HasExact, HasFeatures, HasFiles):
        assert isinstance(system, protocol)
    assert system.exact() == {}
    heated = family(ONModel, {"shape": (8,), "beta": (0.5, 1.0)})
    assert heated.exact()["s.s at beta=0.5"] == ring(8, 3, 0.5)["s.s"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 1}, "at least 2.*kind=ising"),
        ({"beta": -1.0}, "must not be negative"),
        ({"beta": math.inf}, "must not be negative"),
        ({"shape": (1, 4)}, "extents of at least 2"),
    ],
)
def test_what_is_no_model_is_refused(options, message):
    with pytest.raises(DomainError, match=message):
        ONModel(**options)


def test_files(tmp_path):
    system = ONModel(shape=(3, 4), components=2, beta=0.5)
    batch = system.simulate(10, seed=1)
    with system.writer(tmp_path / "xy.h5", 10) as append:
        append(batch)
    assert torch.equal(system.open(tmp_path / "xy.h5").read(0, 10).x, batch.x)
    with pytest.raises(FormatError, match=r"says beta = 0\.5, and this system has 0\.6"):
        ONModel(shape=(3, 4), components=2, beta=0.6).open(tmp_path / "xy.h5")
    with h5py.File(tmp_path / "xy.h5", "r+") as file:
        file["configurations"][7] *= 1.1
    with pytest.raises(FormatError, match=r"row 7 have lengths that are 0\.1 away from one"):
        system.open(tmp_path / "xy.h5")


def test_no_density_of_free_numbers_is_taken_for_one_on_spheres():
    system = ONModel(shape=(4, 4))
    with pytest.raises(RecipeError, match="one unbounded real field"):
        ContinuousLatticeFlow(system.schema)
    assert Chain([], system.schema).leaks
    back = Chain([], Schema((4, 3), (Variable("s", domain="unit-vector"),))).inverse(
        Batch(torch.full((2, 4, 3), 2.0))
    )
    torch.testing.assert_close(back.x, torch.full((2, 4, 3), 3**-0.5))
