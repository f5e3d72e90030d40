"""phi^4 in three conventions: actions by loops over sites, couplings, exact values, files."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad

from physgen.errors import DomainError, FormatError
from physgen.systems.base import HasAction, Simulates
from physgen.systems.conventions import plain
from physgen.systems.family import family
from physgen.systems.scalar import Phi4

SYSTEMS = {
    "standard": lambda shape: Phi4(shape=shape, m2=-1.2, lam=5.0, convention="standard"),
    "hopping": lambda shape: Phi4(shape=shape, kappa=0.21, lam=0.4, convention="hopping"),
}


def by_loops(system, x):
    total = 0.0
    for site in itertools.product(*map(range, system.shape)):
        phi, near = x[site], []
        for axis, extent in enumerate(system.shape):
            there = list(site)
            there[axis] = (site[axis] + 1) % extent
            near.append(x[tuple(there)])
        if system.convention == "standard":
            total += system.m2 * phi**2 / 2 + system.lam * phi**4 / 24
            total += sum((other - phi) ** 2 for other in near) / 2
        else:
            total += phi**2 + system.lam * (phi**2 - 1) ** 2
            total -= 2 * system.kappa * phi * sum(near)
    return total


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("name", SYSTEMS)
def test_action_is_that_of_loops_over_sites(name, shape):
    system = SYSTEMS[name](shape)
    x = torch.randn((2, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = [by_loops(system, one.numpy()) for one in x]
    np.testing.assert_allclose(system.action(x).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_action_is_the_plain_one_of_the_scaled_field(name):
    system = SYSTEMS[name]((4, 4))
    there = system.plain
    same = Phi4(shape=(4, 4), m2=there.m2, lam=there.lam)
    x = torch.randn((3, 4, 4), dtype=torch.float64)
    expected = same.action(there.scale * x) + 16 * there.constant
    torch.testing.assert_close(system.action(x), expected)


@pytest.mark.parametrize("dimensions", [1, 2, 4])
@pytest.mark.parametrize("convention", ["plain", "standard", "hopping"])
def test_couplings_go_there_and_back(convention, dimensions):
    for m2, lam in ((-4.0, 8.0), (-9.5, 0.3), (1.0, 2.0), (0.5, 0.0)):
        there = plain("plain", dimensions, m2, lam, 0.0).to(convention, dimensions)
        back = plain(convention, dimensions, **{"m2": math.nan, "kappa": 0.0, **there})
        assert (back.m2, back.lam) == pytest.approx((m2, lam), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", SYSTEMS)
def test_exact_values_of_two_sites_are_integrals_over_both_fields(name):
    system = SYSTEMS[name]((2,))

    def weight(x, y, power=0):
        return math.exp(-by_loops(system, np.array([x, y]))) * x**power

    z, second = (
        dblquad(lambda x, y, p=p: weight(x, y, p), -7, 7, -7, 7, epsabs=1e-8)[0] for p in (0, 2)
    )
    exact = system.exact()
    assert exact["ln Z"] == pytest.approx(math.log(z), abs=1e-7)
    assert exact["phi^2"] == pytest.approx(second / z, abs=1e-7)


@pytest.mark.parametrize("name", SYSTEMS)
def test_simulated_fields_are_those_of_the_convention(name):
    system = SYSTEMS[name]((6,))
    assert isinstance(system, HasAction)
    assert isinstance(system, Simulates)
    batch = system.simulate(16_000, 1)
    exact = system.exact()
    for quantity in ("phi^2", "phi^4"):
        values = system.observables(batch)[quantity].reshape(16, -1).mean(1)
        assert abs(values.mean() - exact[quantity]) < 5 * values.std() / 4


def test_tabulated_values_are_scaled():
    there = plain("plain", 2, -4.0, 8.0, 0.0).to("standard", 2)
    system = Phi4(shape=(8, 8), convention="standard", **there)
    ours = Phi4(shape=(8, 8)).reference()
    assert system.reference()["chi2"] == pytest.approx([2 * one for one in ours["chi2"]])
    assert system.reference()["U4"] == pytest.approx(ours["U4"])


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_files_say_their_convention_and_are_read_in_it_only(tmp_path, name, suffix):
    system, path = SYSTEMS[name]((3,)), tmp_path / f"a{suffix}"
    batch = system.simulate(40, 1)
    with system.writer(path, 40) as append:
        append(batch)
    assert torch.equal(system.open(path).read(0, 40).x, batch.x)
    others = {"plain": Phi4(shape=(3,)), **{k: make((3,)) for k, make in SYSTEMS.items()}}
    for other, one in others.items():
        if other != name:
            with pytest.raises(FormatError, match=f"set system.convention={name}"):
                one.open(path)


def test_a_convention_may_be_said_by_its_name(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, configurations=np.zeros((2, 3)), convention="hopping", lam=8.0)
    with pytest.raises(FormatError, match="convention=hopping"):
        Phi4(shape=(3,)).open(path)
    Phi4(shape=(3,), convention="hopping", kappa=0.1, lam=8.0).open(path)


def test_a_family_varies_kappa():
    system = family(Phi4, {"shape": (4,), "kappa": (0.1, 0.2), "lam": 0.3, "convention": "hopping"})
    x = torch.randn(2, 4, dtype=torch.float64)
    expected = [
        Phi4(shape=(4,), kappa=k, lam=0.3, convention="hopping").action(x[i : i + 1])
        for i, k in enumerate((0.1, 0.2))
    ]
    given = torch.tensor([[0.1], [0.2]], dtype=torch.float64)
    torch.testing.assert_close(system.action(x, given), torch.cat(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "hopping"}, "needs kappa > 0"),
        ({"kappa": 0.2}, "the convention plain has no kappa"),
        ({"convention": "hopping", "kappa": 0.2, "m2": 1.0}, "has no m2"),
        ({"convention": "standard", "lam": -1.0}, "no lowest action"),
    ],
)
def test_what_is_no_theory(options, message):
    with pytest.raises(DomainError, match=message):
        Phi4(shape=(4, 4), **options)
