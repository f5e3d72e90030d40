"""Loops, charges and gradient flow of gauge links: symmetries, constant fields, series in beta."""

import math

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import DomainError
from physgen.systems.gauge import Gauge
from physgen.systems.gauge_exact import strong_coupling
from physgen.systems.gauge_loops import energy_and_charge, wilson
from physgen.systems.kernels.gauge.flow import flowed

GROUPS = ("U(1)", "SU(2)", "SU(3)")


def system(group, shape, beta=1.7):
    return Gauge(group=group, shape=shape, beta=beta)


def arbitrary(group, shape, n=2):
    return system(group, shape).arbitrary(n, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (2, 3, 3, 3)])
@pytest.mark.parametrize("group", GROUPS)
def test_observables_are_invariant(group, shape):
    theory = system(group, shape)
    x = arbitrary(group, shape)
    before = theory.observables(Batch(x=x))
    if len(shape) > 2:
        assert {"plaquette of space", "plaquette with time"} <= set(before)
        assert before["plaquette of space"][0] != before["plaquette with time"][0]
    assert ("Q" in before) == ((len(shape), group == "U(1)") in {(2, True), (4, False)})
    moves = theory.moves()
    odd = {"charge conjugation": len(shape) == 2, "reflection": True, "axis exchange": True}
    seen = 0
    for name, move in moves.items():
        for y in move(x):
            # An exchange of time with another axis changes what L is.
            if name == "axis exchange" and shape[0] == shape[1]:
                continue
            assert (y - x).abs().max() > 0.1
            after = theory.observables(Batch(x=y))
            for key, value in before.items():
                sign = -1 if key == "Q" and odd.get(name, False) else 1
                assert (after[key] - sign * value).abs().max() < 1e-10, (name, key)
            seen += 1
    assert seen >= 1 + 2 * len(shape) + 1


def constant_field(shape, planes):
    """Return (d, *shape) angles whose plaquettes are 2 pi m / (area) in each plane, m by plane."""
    theta = np.zeros((len(shape), *shape))
    at = np.indices(shape)
    for (a, b), m in planes.items():
        phi = 2 * math.pi * m / (shape[a] * shape[b])
        theta[b] += phi * at[a]
        theta[a] -= phi * shape[a] * at[b] * (at[a] == shape[a] - 1)
    return theta


@pytest.mark.parametrize("charges", [(1, 1), (1, -2)])
@pytest.mark.parametrize("n", [2, 3])
def test_the_charge_of_a_constant_field(n, charges):
    shape, (one, two) = (4, 5, 6, 4), charges
    theta = constant_field(shape, {(0, 2): one, (1, 3): two})
    links = torch.zeros((1, 4, *shape, n, n, 2), dtype=torch.float64)
    for i, charge in enumerate((1, -1, 0)[:n]):
        links[..., i, i, 0] = torch.from_numpy(np.cos(charge * theta))
        links[..., i, i, 1] = torch.from_numpy(np.sin(charge * theta))
    phi, psi = 2 * math.pi * one / 24, 2 * math.pi * two / 20
    # Of a continuous field Q = -2 one two; its plane (0, 2) is odd in epsilon_0213.
    expected = -2 * 480 * math.sin(phi) * math.sin(psi) / (4 * math.pi**2)
    energy, charge = energy_and_charge(torch.view_as_complex(links))
    assert charge.item() == pytest.approx(expected, abs=1e-12)
    assert energy.item() == pytest.approx(2 * (math.sin(phi) ** 2 + math.sin(psi) ** 2), abs=1e-12)
    assert expected == pytest.approx(-2 * one * two, rel=0.15)
    # A constant field is a solution: the flow does not move it.
    still = torch.from_numpy(flowed(links.numpy(), 0.5))
    assert (still - links).abs().max() < 1e-12
    values = system(f"SU({n})", shape).observables(Batch(x=links))
    assert values["Q"].item() == pytest.approx(expected, abs=1e-10)


def test_the_charge_of_angles_in_two_dimensions():
    theta = torch.from_numpy(constant_field((4, 6), {(0, 1): -3}))[None]
    assert system("U(1)", (4, 6)).observables(Batch(x=theta))["Q"].item() == -3


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2), (2, 2, 3, 2)])
@pytest.mark.parametrize("group", GROUPS)
def test_the_flow_goes_down_the_gradient_of_the_action(group, shape):
    theory = system(group, shape)
    x = arbitrary(group, shape, 9)  # More than a group of lanes.
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(theory.action(x).sum(), x)
    step = 1e-4
    velocity = (torch.from_numpy(flowed(x.detach().numpy(), step)) - x.detach()) / step
    beta, n = theory.beta, theory.n
    if n == 1:
        assert (velocity + gradient / beta).abs().max() < 1e-2
    else:
        u, g = torch.view_as_complex(x.detach().contiguous()), torch.view_as_complex(gradient)
        force = g @ u.mH
        force = (force - force.mH) / 2
        trace = force.diagonal(dim1=-2, dim2=-1).mean(-1)
        force = force - trace[..., None, None] * torch.eye(n)
        expected = torch.view_as_real(-(n / beta) * force @ u)
        assert (velocity - expected).abs().max() < 1e-2
    links, last = x.detach().numpy(), theory.action(x.detach())
    for _ in range(3):
        links = flowed(links, 0.1)
        action = theory.action(torch.from_numpy(links))
        assert (action < last).all()
        last = action


@pytest.mark.parametrize("group", GROUPS)
def test_the_flow_is_of_third_order(group):
    links = arbitrary(group, (3, 2, 2), 8).numpy()
    exact, coarse, fine = (flowed(links, 0.4, step) for step in (0.4 / 64, 0.1, 0.05))
    if group == "U(1)":
        exact, coarse, fine = (np.exp(1j * x) for x in (exact, coarse, fine))
    ratio = np.abs(coarse - exact).mean() / np.abs(fine - exact).mean()
    assert 5.5 < ratio < 12


def test_steps_that_are_too_large_are_refused():
    with pytest.raises(DomainError, match=r"a step be in \(0, 0\.1\]"):
        flowed(np.zeros((1, 2, 4, 4)), 1.0, 0.5)


def test_the_susceptibility_of_lines():
    theory = system("SU(2)", (2, 3, 4))
    derived = theory.derived["chi_L"]
    assert derived.means == ("|L|", "|L|^2")
    assert derived.function(np.array([0.5, 0.5])) == pytest.approx(12 * 0.25)


@pytest.mark.parametrize(("n", "beta"), [(1, 0.3), (2, 0.6), (3, 2.0)])
@pytest.mark.parametrize("shape", [(4, 4, 4), (4, 4, 5, 4)])
def test_the_plaquette_of_the_strong_coupling_series_is_the_slope_of_its_ln_z(n, beta, shape):
    up, down = (strong_coupling(n, beta + s, shape)["ln Z"][0] for s in (1e-4, -1e-4))
    n_plaquettes = math.prod(shape) * math.comb(len(shape), 2)
    value, error = strong_coupling(n, beta, shape)["plaquette"]
    assert (up - down) / 2e-4 / n_plaquettes == pytest.approx(value, rel=1e-6)
    assert 0 < error < 0.01 * value


def test_the_strong_coupling_series_of_su3():
    values = strong_coupling(3, 1.0, (4, 4, 4, 4))
    assert values["ln Z"][0] == pytest.approx(45.019, abs=1.5e-3)
    beta = 0.2
    series = beta / 18 + beta**2 / 216 - 5 * beta**4 / 93312
    assert strong_coupling(3, beta, (4, 4, 4, 4))["plaquette"][0] == pytest.approx(series, rel=1e-5)
    assert strong_coupling(3, 6.0, (4, 4, 4, 4)) == {}
    assert strong_coupling(3, 1.0, (2, 4, 4, 4)) == {}
    theory = Gauge(group="SU(3)", shape=(8, 8, 8, 8), beta=6.0)
    assert theory.reference() == {"plaquette": (0.59405, 0.00019)}


@pytest.mark.parametrize("beta", [0.25, 0.4])
def test_simulation_agrees_with_the_strong_coupling_series(beta):
    """In three dimensions the term of the cube is seen at the larger beta of SU(2)."""
    theory = Gauge(group="SU(2)", shape=(4, 4, 4), beta=beta)
    batch = theory.simulate(640, 1)
    values = wilson(torch.view_as_complex(batch.x), 1, 1).reshape(64, -1).mean(1)
    value, error = theory.reference()["plaquette"]
    deviation = abs(values.mean().item() - value)
    assert deviation < 4 * math.hypot(values.std().item() / 8, error)
