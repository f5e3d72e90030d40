"""Gauge theories: exact values in two dimensions, gauge invariance, files of links."""

import math

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.registry import Component, build
from physgen.sampling.manifold import matrices, not_unitary
from physgen.surrogates.flows.flow import Flow
from physgen.systems.base import HasAction, HasExact, HasFeatures, HasFiles, HasMoves, System
from physgen.systems.gauge import Gauge
from physgen.systems.gauge_exact import torus
from physgen.systems.symmetries import broken
from physgen.transforms.affine import Standardise
from physgen.validation.comparison import measure
from physgen.validation.uncertainty import gamma_method

GROUPS = ("U(1)", "SU(2)", "SU(3)")


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("n", "beta", "plaquette"),
    [
        (1, 1.0, 0.44638997),
        (1, 6.0, 0.91235930),
        (2, 1.8, 0.39937238),
        (2, 2.7, 0.53297073),
        (3, 4.0, 0.27961915),
        (3, 6.0, 0.42253174),
    ],
)
def test_the_plaquette_of_a_large_torus(n, beta, plaquette):
    """Where only the trivial representation is left."""
    assert torus(n, beta, 10_000)["plaquette"] == pytest.approx(plaquette, abs=2e-8)


@pytest.mark.parametrize(("beta", "v", "charge"), [(1, 64, 2.60071912), (6, 256, 1.19470145)])
def test_the_topological_charge(beta, v, charge):
    assert torus(1, beta, v)["Q^2"] == pytest.approx(charge, abs=1e-8)


def test_the_partition_function():
    assert torus(3, 5.0, 64)["ln Z"] == pytest.approx(54.212, abs=1e-3)
    # V = 1: both sides of the plaquette are the same two links, P = U V U^+ V^+.
    a, b = (
        Gauge(group="SU(3)", shape=(2, 2)).arbitrary(20_000, generator(s))[:, 0, 0, 0]
        for s in (1, 2)
    )
    u, v = matrices(a), matrices(b)
    trace = (u @ v @ u.mH @ v.mH).diagonal(dim1=-2, dim2=-1).sum(-1).real / 3
    weight = trace.exp()
    error = (weight.std() / math.sqrt(len(weight)) / weight.mean()).item()
    assert abs(math.log(weight.mean().item()) - torus(3, 1.0, 1)["ln Z"]) < 4 * error


@pytest.mark.parametrize("group", GROUPS)
def test_the_plaquette_is_the_slope_of_the_partition_function(group):
    n = GROUPS.index(group) + 1
    up, down = (torus(n, 2.0 + shift, 8)["ln Z"] for shift in (1e-4, -1e-4))
    assert (up - down) / 2e-4 / 8 == pytest.approx(torus(n, 2.0, 8)["plaquette"], rel=1e-7)


@pytest.mark.parametrize(("group", "beta"), [("U(1)", 1.5), ("SU(2)", 2.2), ("SU(3)", 4.0)])
def test_simulation_agrees_with_the_exact_values(group, beta):
    system = Gauge(group=group, shape=(3, 4), beta=beta)
    batch = system.simulate(1280, 1)
    assert set(batch.chain.tolist()) == set(range(64))
    values, exact = measure(system, batch), system.exact()
    for name in set(exact) & set(values.values):
        found = gamma_method(values.values[name], chain=values.chain)
        assert abs(found.value - exact[name]) < 4.5 * found.error, name
    if group != "U(1)":
        assert not_unitary(batch.x).max() < 1e-12


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2), (2, 2, 3, 2)])
@pytest.mark.parametrize("group", GROUPS)
def test_action_and_observables_are_gauge_invariant(group, shape):
    system = Gauge(group=group, shape=shape, beta=1.7)
    links = system.arbitrary(3, generator())
    assert broken(system.action, links, system.moves(), tuple(system.moves())) == ()
    (moved,) = system.moves()["gauge transformation"](links)
    assert (moved - links).abs().max() > 0.1
    before, after = (system.observables(Batch(x=x)) for x in (links, moved))
    for name in before:
        torch.testing.assert_close(after[name], before[name], msg=name)
    assert "plaquette" in before


def test_an_action_that_depends_on_the_gauge_is_found():
    system = Gauge(group="SU(2)", shape=(3, 3))
    moves, links = system.moves(), system.arbitrary(3, generator())

    def gauge_fixing(x):
        return x.square().diagonal(dim1=-3, dim2=-2).flatten(1).sum(1)

    assert "gauge transformation" in broken(gauge_fixing, links, moves, tuple(moves))


@pytest.mark.parametrize("group", GROUPS)
def test_known_configurations(group):
    """At the unit every loop is one; one link turned by phi touches 2 (d - 1) plaquettes."""
    system = Gauge(group=group, shape=(4, 4, 4), beta=3.0)
    unit = torch.zeros(1, *system.schema.shape, dtype=torch.float64)
    phi = 0.3
    if system.n == 1:
        turned = unit.clone()
        turned[0, 0, 0, 0, 0] = phi
        lowered = 1 - math.cos(phi)
    else:
        unit[..., 0] = torch.eye(system.n).double()
        turned = unit.clone()
        turned[0, 0, 0, 0, 0, 0, 0] = torch.tensor([math.cos(phi), math.sin(phi)])
        turned[0, 0, 0, 0, 0, 1, 1] = torch.tensor([math.cos(phi), -math.sin(phi)])
        lowered = 2 * (1 - math.cos(phi)) / system.n
    for name, value in system.observables(Batch(x=unit)).items():
        assert value.item() == pytest.approx(1.0), name
    change = system.action(turned) - system.action(unit)
    assert change.item() == pytest.approx(3.0 * 4 * lowered)


@pytest.mark.parametrize("group", ["U(1)", "SU(3)"])
@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_links_go_through_files(tmp_path, group, suffix):
    system = Gauge(group=group, shape=(2, 3), beta=1.0)
    batch = Batch(x=system.arbitrary(7, generator()), chain=torch.arange(7) // 4)
    path = tmp_path / f"links{suffix}"
    with system.writer(path, 7) as append:
        append(batch)
    read = system.open(path).read(0, 7)
    assert torch.equal(read.x, batch.x)
    assert torch.equal(read.chain, batch.chain)
    with pytest.raises(FormatError, match=r"beta = 1, and this system has 2; set system\.beta"):
        Gauge(group=group, shape=(2, 3), beta=2.0).open(path)


def test_matrices_that_are_not_of_the_group_are_refused(tmp_path):
    system = Gauge(group="SU(2)", shape=(2, 2))
    path = tmp_path / "links.npz"
    links = system.arbitrary(5, generator()).numpy()
    links[3] *= 1.1
    np.savez(path, configurations=links)
    with pytest.raises(FormatError, match=r"row 3 are 0\.\d+ away from SU\(2\)"):
        system.open(path)


def test_several_couplings_have_exact_values_at_each():
    family = build("systems", Component(kind="gauge", shape=[2, 3], beta=[0.5, 2.0]), {})
    values = measure(family, family.simulate(1280, 1))
    for label in ("beta=0.5", "beta=2"):
        name = f"plaquette at {label}"
        found = gamma_method(values.values[name], chain=values.chain)
        assert abs(found.value - family.exact()[name]) < 4.5 * found.error


def test_no_map_of_separate_numbers_has_a_density_on_a_group():
    schema = Gauge(group="SU(2)", shape=(2, 2)).schema
    flow = Flow(schema, Standardise(schema))
    links = flow.sample(5, generator=generator()).x
    with pytest.raises(RecipeError, match="exact"):
        flow.log_prob(Batch(links))
    assert not_unitary(links.double()).max() < 1e-5


@pytest.mark.parametrize(
    "options", [{"shape": (4,)}, {"shape": (4, 1)}, {"beta": -1.0}, {"beta": math.nan}]
)
def test_there_is_no_such_theory(options):
    with pytest.raises(DomainError, match="gauge theory"):
        Gauge(**options)


def test_contracts():
    for protocol in (System, HasAction, HasExact, HasFeatures, HasFiles, HasMoves):
        assert isinstance(Gauge(), protocol)
    with pytest.raises(DomainError, match=r"make system\.beta a list"):
        Gauge().simulate(2, 1, torch.ones(2, 1))
