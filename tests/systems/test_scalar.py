"""phi^4: action and force against naive loops, HMC against exact results."""

from __future__ import annotations

import itertools
import math

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import kstest

from physgen.batch import Batch
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.systems.base import HasAction, HasExact, HasFeatures, HasFiles, HasReference, System
from physgen.systems.kernels import scalar as kernel
from physgen.systems.scalar import Phi4
from physgen.systems.symmetries import broken

SHAPES = [(5,), (4, 4), (4, 6), (2, 3, 4), (2, 3, 2, 4)]


def naive_action(system: Phi4, x: np.ndarray) -> float:
    total = 0.0
    for site in itertools.product(*map(range, system.shape)):
        phi = x[site]
        total += system.m2 * phi**2 + system.lam * phi**4
        for axis, extent in enumerate(system.shape):
            there, back = list(site), list(site)
            there[axis], back[axis] = (site[axis] + 1) % extent, (site[axis] - 1) % extent
            total += 2 * phi**2 - phi * x[tuple(there)] - phi * x[tuple(back)]
    return total


def means(system: Phi4, n: int, seed: int = 1) -> dict[str, tuple[float, float]]:
    """Means of the observables with errors from the scatter of 16 equal groups of chains."""
    batch = system.simulate(n, seed)
    found = {}
    for name, value in system.observables(batch).items():
        groups = value.reshape(16, -1).mean(1)
        found[name] = (groups.mean().item(), groups.std().item() / 4)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_action_is_that_of_loops_over_sites(shape):
    system = Phi4(shape=shape, m2=-1.3, lam=0.7)
    x = torch.randn((2, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = [naive_action(system, one.numpy()) for one in x]
    assert system.action(x).dtype == torch.float64
    np.testing.assert_allclose(system.action(x).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_has_the_energy_and_the_force_of_the_action(shape):
    system = Phi4(shape=shape, m2=-1.3, lam=0.7)
    generator = np.random.default_rng(2)
    phi = generator.normal(size=(system.n_sites, kernel.LANES))
    momentum = generator.normal(size=phi.shape)
    table, energy = kernel.neighbours(shape), np.empty(kernel.LANES)
    kernel.energies(phi, momentum, table, system.m2 + 2 * len(shape), system.lam, energy)
    x = torch.from_numpy(phi.T.reshape(-1, *shape).copy()).requires_grad_()
    action = system.action(x)
    (gradient,) = torch.autograd.grad(action.sum(), x)
    expected = action.detach().numpy() + 0.5 * (momentum**2).sum(0)
    np.testing.assert_allclose(energy, expected, rtol=1e-10)
    # One step of size eps moves the momenta by -eps times the mean of both ends' gradients.
    start, p, eps = phi.copy(), momentum.copy(), 1e-6
    kernel.leapfrog(phi, momentum, kernel.Theory(table, system.m2, system.lam), eps, 1)
    force = -gradient.numpy().reshape(kernel.LANES, -1).T
    np.testing.assert_allclose((momentum - p) / eps, force, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose((phi - start) / eps, p, rtol=1e-4, atol=1e-3)


def test_leapfrog_is_reversible_and_its_energy_error_is_of_second_order():
    theory = kernel.Theory(kernel.neighbours((4, 4)), -4.0, 8.0)
    generator = np.random.default_rng(3)
    start, p = generator.normal(size=(2, 16, kernel.LANES)) * 0.5
    errors = []
    for n_steps in (20, 40):
        phi, momentum = start.copy(), p.copy()
        before, after = np.empty(kernel.LANES), np.empty(kernel.LANES)
        kernel.energies(phi, momentum, theory.neighbours, -4.0 + 4, 8.0, before)
        kernel.leapfrog(phi, momentum, theory, 0.5 / n_steps, n_steps)
        kernel.energies(phi, momentum, theory.neighbours, -4.0 + 4, 8.0, after)
        errors.append(np.abs(after - before).mean())
        momentum *= -1
        kernel.leapfrog(phi, momentum, theory, 0.5 / n_steps, n_steps)
        np.testing.assert_allclose(phi, start, atol=1e-12)
        np.testing.assert_allclose(momentum, -p, atol=1e-12)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


def test_clusters_leave_the_distribution_invariant():
    """Of the signs on a ring of three sites at fixed |phi|, where all eight can be summed."""
    size, n = np.array([0.6, 0.9, 0.4]), 20_000
    signs = np.array(list(itertools.product((-1, 1), repeat=3)))
    weight = np.exp(
        2 * sum(signs[:, i] * signs[:, i - 1] * size[i] * size[i - 1] for i in range(3))
    )
    phi = np.repeat(size[:, None], kernel.LANES, 1)
    table, members = kernel.neighbours((3,)), np.empty(3, np.int32)
    state, counts = kernel.streams(5, 1)[0], np.zeros(8)
    for _ in range(n):
        kernel.turn_cluster(phi, 3, table, members, state)
        counts[int((phi[:, 3] > 0) @ [4, 2, 1])] += 1
    np.testing.assert_array_equal(np.abs(phi[:, 3]), size)
    expected = n * weight / weight.sum()
    # Half of the flips are of the whole ring: the autocorrelation is short.
    assert ((counts - expected) ** 2 / expected).sum() < 4 * 30
    assert (phi[:, 2] == size).all()


def test_domains_do_not_freeze_deep_in_the_ordered_phase():
    """Walls around an 8x8 torus cost 500 in action; chains that began with them kept them."""
    system = Phi4(m2=-8.0, lam=2.0)
    found = means(system, 3200)
    value, error = found["|m|"]
    assert abs(value - 1.38569) < 4.5 * math.hypot(error, 0.00023)
    assert error < 0.002
    assert abs(found["m"][0]) < 4.5 * found["m"][1]


def test_two_sites_by_quadrature():
    """A ring of two sites, each the neighbour of the other twice, in two deep wells."""
    system = Phi4(shape=(2,), m2=-4.0, lam=2.0)
    x = np.linspace(-3, 3, 1001)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, x), -1).reshape(-1, 2))
    weight = torch.softmax(-system.action(grid), 0)
    found = means(system, 32_000)
    for name, values in system.observables(Batch(grid)).items():
        exact = float(weight @ values)
        assert abs(found[name][0] - exact) < 4.5 * found[name][1], name


def test_normals_of_the_kernel_are_normal():
    states, numbers = kernel.streams(7, 2), np.empty((2, 200_000))
    for state, row in zip(states, numbers, strict=True):
        kernel.normals(state, row)
    assert kstest(numbers.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(numbers)[0, 1]) < 0.01
    tail = (np.abs(numbers) > 3.7).mean()  # beyond the base layer of the ziggurat
    assert tail == pytest.approx(math.erfc(3.7 / math.sqrt(2)), rel=0.3)


@pytest.mark.parametrize("shape", [(6,), (8, 8), (4, 2, 6)])
def test_hmc_has_the_free_field(shape):
    system = Phi4(shape=shape, m2=1.0, lam=0.0)
    exact, found = system.exact(), means(system, 16_000)
    for name in found.keys() & exact.keys():
        value, error = found[name]
        assert abs(value - exact[name]) < 4.5 * error, name
    derived = {
        name: each.function(np.array([found[mean][0] for mean in each.means]))
        for name, each in system.derived.items()
    }
    for name, value in derived.items():
        assert value == pytest.approx(exact[name], abs=0.05), name


def test_free_field_values():
    exact = Phi4(m2=1.0, lam=0.0).exact()
    assert exact["phi^2"] == pytest.approx(0.12708700, abs=1e-8)
    assert exact["ln Z"] == pytest.approx(-11.62288526, abs=1e-8)


def test_transfer_matrix():
    system = Phi4(shape=(8,))
    exact = system.exact()
    assert exact["ln Z"] == pytest.approx(3.26620179, abs=1e-8)
    assert exact["phi^2"] == pytest.approx(0.17919492, abs=1e-8)
    assert exact["phi^4"] == pytest.approx(0.06098238, abs=1e-8)
    found = means(system, 32_000)
    for name in ("phi^2", "phi^4"):
        assert abs(found[name][0] - exact[name]) < 4.5 * found[name][1]


def test_transfer_matrix_agrees_with_the_free_field():
    free = Phi4(shape=(6,), m2=0.7, lam=0.0).exact()
    nearly = Phi4(shape=(6,), m2=0.7, lam=1e-9).exact()
    assert nearly["ln Z"] == pytest.approx(free["ln Z"], abs=1e-6)
    assert nearly["phi^2"] == pytest.approx(free["phi^2"], abs=1e-6)


@pytest.mark.parametrize(("extent", "lam"), [(8, 8.0), (6, 6.975)])
def test_hmc_has_the_reference_values(extent, lam):
    system = Phi4(shape=(extent, extent), lam=lam)
    reference, batch = system.reference(), system.simulate(64_000, seed=5)
    values = torch.stack(list(system.observables(batch).values()), 1).numpy()
    names = list(system.observables(batch[:2]))
    groups = values.reshape(16, -1, len(names)).mean(1)
    assert set(reference) == {"chi2", "|m|", "phi^2", "U4", "xi2"}
    for name, (expected, error) in reference.items():
        if name in system.derived:
            derived = system.derived[name]
            columns = [names.index(mean) for mean in derived.means]
            rest = (groups.sum(0) - groups)[:, columns] / 15
            jackknife = np.array([derived.function(row) for row in rest])
            value, own = jackknife.mean(), math.sqrt(15 * jackknife.var())
        else:
            column = groups[:, names.index(name)]
            value, own = column.mean(), column.std() / math.sqrt(15)
        assert abs(value - expected) < 4.5 * math.hypot(error, own), name


def test_reference_is_only_for_its_own_points():
    assert Phi4(shape=(8, 6)).reference() == {}
    assert Phi4(m2=-3.9).reference() == {}


def test_simulation_is_reproducible_and_says_its_chains():
    system = Phi4(shape=(4, 4))
    first, again, other = (system.simulate(100, seed) for seed in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert first.x.shape == (100, 4, 4)
    assert first.chain.tolist() == sorted(first.chain.tolist())


def test_symmetries():
    system = Phi4(shape=(4, 4))
    fields = system.arbitrary(4, torch.Generator().manual_seed(0))

    def lost(action):
        return broken(action, fields, system.moves(), tuple(system.moves()))

    assert lost(system.action) == ()
    with pytest.raises(RecipeError, match="no symmetry is called 'sing'; did you mean 'sign'"):
        broken(system.action, fields, system.moves(), ("sing",))

    def staggered(x):
        return system.action(x) + (x[:, ::2, ::2] ** 2).flatten(1).sum(1)

    def stretched(x):
        return system.action(x) + (x * x.roll(1, 1)).flatten(1).sum(1)

    def leaning(x):
        return system.action(x) + x.flatten(1).sum(1)

    def tilted(x):
        return system.action(x) + (x**2 * x.roll(1, 1)).flatten(1).sum(1)

    assert lost(staggered) == ("translation", "reflection")
    assert lost(stretched) == ("axis exchange",)
    assert lost(leaning) == ("sign",)
    assert lost(tilted) == ("reflection", "axis exchange", "sign")


def test_contracts():
    system = Phi4()
    for protocol in (System, HasAction, HasExact, HasReference, HasFeatures, HasFiles):
        assert isinstance(system, protocol)
    batch = system.simulate(20, 1)
    assert system.features(batch, "low").shape == (20, 64)
    assert system.features(batch, "high").shape == (20, len(system.observables(batch)))


@pytest.mark.parametrize(
    "options", [{"lam": -1.0}, {"lam": 0.0}, {"shape": ()}, {"shape": (8, 1)}, {"shape": (2,) * 5}]
)
def test_there_is_no_such_theory(options):
    with pytest.raises(DomainError):
        Phi4(**options)


@pytest.mark.parametrize("name", ["ensemble.h5", "ensemble.npz"])
def test_files_come_back_however_they_are_written(tmp_path, name):
    system = Phi4(shape=(4, 4))
    batch = system.simulate(50, 1)
    with system.writer(tmp_path / name, 50) as append:
        append(batch[:30])
        append(batch[30:])
    source = system.open(tmp_path / name)
    assert torch.equal(source.read(0, 50).x, batch.x)
    assert torch.equal(source.read(0, 50).chain, batch.chain)
    if name.endswith("h5"):
        with h5py.File(tmp_path / name) as file:
            assert file.attrs["convention"] == system.attributes["convention"]
            assert file.attrs["lam"] == system.lam


def test_files_of_other_things_are_refused(tmp_path):
    system, path = Phi4(shape=(4, 4)), tmp_path / "ensemble.npz"
    with pytest.raises(FormatError, match="no such file"):
        system.open(path)
    np.savez(path, configuration=np.zeros((3, 4, 4)))
    with pytest.raises(FormatError, match="did you mean 'configuration'"):
        system.open(path)
    np.savez(path, configurations=np.zeros((3, 5, 4)))
    with pytest.raises(FormatError, match=r"\(3, 5, 4\)"):
        system.open(path)
    fields = np.zeros((3, 4, 4))
    fields[1, 2, 2] = np.nan
    with h5py.File(tmp_path / "ensemble.h5", "w") as file:
        file["configurations"] = fields
    with pytest.raises(FormatError, match="row 1 holds nan"):
        system.open(tmp_path / "ensemble.h5").read(0, 3)
    field = np.zeros((3, 4, 4))
    field[1, 2, 3] = np.nan
    np.savez(path, configurations=field)
    with pytest.raises(FormatError, match="row 1"):
        system.open(path)
    (tmp_path / "ensemble.h5").write_text("no")
    with pytest.raises(FormatError, match=r"though it is named \.h5: cut short, or damaged"):
        system.open(tmp_path / "ensemble.h5")
