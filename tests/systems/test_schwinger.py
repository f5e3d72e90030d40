"""The Schwinger model: its determinant, force and symmetries, and HMC against reweighting."""

import itertools
import logging
import math

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import DomainError, FormatError
from physgen.registry import Component, build
from physgen.sampling.reweighting import reweighted_mean
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.lattice.closure import ClosureDefect
from physgen.systems import wilson
from physgen.systems.base import HasAction, HasExact, HasFeatures, HasFiles, HasMoves, System
from physgen.systems.gauge import Gauge
from physgen.systems.schwinger import Schwinger
from physgen.validation.comparison import measure
from physgen.validation.uncertainty import gamma_method

SHAPES = [(2, 2), (4, 6), (3, 4), (2, 5)]


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def fields(shape, n=3, seed=1):
    return Gauge(shape=shape).arbitrary(n, generator(seed))


def by_hand(theta, kappa):
    """D of (2, T, L) links, element by element, in a chiral basis of its own."""
    gammas = np.array([[[0, 1], [1, 0]], [[0, 1j], [-1j, 0]]])
    t, s = theta.shape[1:]
    size = 2 * t * s
    d = np.eye(size, dtype=complex)
    for x, mu in itertools.product(np.ndindex(t, s), (0, 1)):
        y = list(x)
        y[mu] = (y[mu] + 1) % theta.shape[1 + mu]
        u = np.exp(1j * theta[(mu, *x)])
        if mu == 0 and x[0] == t - 1:
            u = -u
        a, b = 2 * (x[0] * s + x[1]), 2 * (y[0] * s + y[1])
        d[a : a + 2, b : b + 2] -= kappa * (np.eye(2) - gammas[mu]) * u
        d[b : b + 2, a : a + 2] -= kappa * (np.eye(2) + gammas[mu]) * np.conj(u)
    return d


@pytest.mark.parametrize("shape", SHAPES)
def test_the_determinant_is_that_of_a_matrix_made_by_hand(shape):
    theta, kappa = fields(shape), 0.27
    sign, log = wilson.determinant(theta, kappa)
    condensate = wilson.condensate(theta, kappa)
    for row in range(len(theta)):
        d = by_hand(theta[row].numpy(), kappa)
        expected = np.linalg.det(d)
        assert abs(expected.imag) < 1e-10 * abs(expected)
        assert sign[row].item() * math.exp(log[row].item()) == pytest.approx(expected.real)
        trace = np.trace(np.linalg.inv(d)).real / math.prod(shape)
        assert condensate[row].item() == pytest.approx(trace)


@pytest.mark.parametrize("shape", [*SHAPES, (8, 8)])
def test_free_fermions_in_momentum_space(shape):
    kappa, expected = 0.23, 0.0
    for k, p in itertools.product(range(shape[0]), range(shape[1])):
        p0, p1 = 2 * math.pi * (k + 0.5) / shape[0], 2 * math.pi * p / shape[1]
        scalar = 1 - 2 * kappa * (math.cos(p0) + math.cos(p1))
        expected += math.log(scalar**2 + 4 * kappa**2 * (math.sin(p0) ** 2 + math.sin(p1) ** 2))
    sign, log = wilson.determinant(torch.zeros(1, 2, *shape), kappa)
    assert sign.item() == 1
    assert log.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_force_is_the_slope_of_the_action(shape):
    system, x = Schwinger(shape=shape, beta=1.3, kappa=0.25), fields(shape)
    x.requires_grad_()
    (force,) = torch.autograd.grad(system.action(x).sum(), x)
    direction = torch.randn(x.shape, generator=generator(2), dtype=torch.float64)
    step = 1e-5
    with torch.no_grad():
        up, down = (system.action(x + s * step * direction) for s in (1, -1))
    slope = (force * direction).flatten(1).sum(1)
    torch.testing.assert_close(slope, (up - down) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_symmetries_of_the_action(shape):
    system, x = Schwinger(shape=shape, beta=0.7, kappa=0.27), fields(shape)
    before = system.action(x)
    names = set()
    for name, move in system.moves().items():
        for moved in move(x):
            assert (moved - x).abs().max() > 0.1
            torch.testing.assert_close(system.action(moved), before, rtol=0, atol=1e-10)
            for key, value in system.observables(Batch(moved)).items():
                known = system.observables(Batch(x))[key]
                if name == "charge conjugation" and key == "Q":
                    known = -known
                torch.testing.assert_close(value, known, rtol=0, atol=1e-10, msg=key)
            names.add(name)
    assert names == {"gauge transformation", "translation", "charge conjugation"}


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_5(shape):
    """gamma_5 D gamma_5 = D^+, so that the determinant is real."""
    d = wilson.dirac(fields(shape), 0.3)
    gamma = torch.block_diag(*[wilson.SIGMA[2]] * math.prod(shape))
    torch.testing.assert_close(gamma @ d @ gamma, d.mH, rtol=0, atol=1e-14)
    assert (d - d.mH).abs().max() > 0.1


def test_both_signs_of_the_determinant_are_found():
    """At strong hopping there are both; the logarithm and its force know nothing of them."""
    x = fields((4, 4), 200)
    sign = Schwinger(shape=(4, 4), kappa=0.5).observables(Batch(x))["sign"]
    assert set(sign.tolist()) == {-1.0, 1.0}
    assert (Schwinger(shape=(4, 4), kappa=0.1).observables(Batch(x))["sign"] == 1).all()


def test_the_condensate_is_a_slope_of_the_determinant():
    """tr D^-1 = 2 V - kappa d ln det D / d kappa."""
    x, kappa, step = fields((4, 4)), 0.24, 1e-5
    up, down = (wilson.determinant(x, kappa + s * step)[1] for s in (1, -1))
    expected = 2 - kappa * (up - down) / (2 * step) / 16
    torch.testing.assert_close(wilson.condensate(x, kappa), expected, rtol=1e-7, atol=1e-7)


def test_without_hopping_there_is_the_gauge_theory():
    system, x = Schwinger(shape=(4, 4), beta=1.7, kappa=0.0), fields((4, 4))
    gauge = Gauge(shape=(4, 4), beta=1.7)
    assert torch.equal(system.action(x), gauge.action(x))
    exact = system.exact()
    assert {name: exact[name] for name in gauge.exact()} == gauge.exact()
    assert (system.observables(Batch(x))["condensate"] == exact["condensate"]).all()
    assert Schwinger(kappa=0.1).exact() == {}


@pytest.mark.slow
def test_monte_carlo_agrees_with_reweighting():
    """HMC with the force of the determinant, against the closure-defect sampler and its weights."""
    system = Schwinger(shape=(4, 4), beta=1.0, kappa=0.3)
    batch = system.simulate(960, 1)
    assert set(batch.chain.tolist()) == set(range(32))
    sampler = Corrected(ClosureDefect(system.schema, beta=1.2), system.action, "none")
    proposals = sampler.sample(16384, generator=generator())
    values, known = measure(system, batch), system.observables(proposals)
    for name in ("plaquette", "|L|", "Q^2", "condensate"):
        found = gamma_method(values.values[name], chain=values.chain)
        other = reweighted_mean(known[name], proposals.log_weight)
        error = math.hypot(found.error, other.error)
        assert abs(found.value - other.value) < 4.5 * error, name
    assert known["condensate"].std() > 0.01


@pytest.mark.slow
def test_negative_determinants_are_said_and_counted(caplog):
    system = Schwinger(shape=(2, 2), beta=0.0, kappa=0.6)
    with caplog.at_level(logging.WARNING):
        batch = system.simulate(64, 1)
    n = int((system.observables(batch)["sign"] < 0).sum())
    assert n > 0
    assert f"negative on {n} of 64" in caplog.text


def test_files_say_which_couplings_they_are_of(tmp_path):
    system = Schwinger(shape=(2, 3), beta=1.0, kappa=0.2)
    batch = Batch(x=fields((2, 3), 5))
    path = tmp_path / "links.h5"
    with system.writer(path, 5) as append:
        append(batch)
    assert torch.equal(system.open(path).read(0, 5).x, batch.x)
    with pytest.raises(FormatError, match=r"kappa = 0.2, and this system has 0.25; set system\.k"):
        Schwinger(shape=(2, 3), beta=1.0, kappa=0.25).open(path)
    family = build("systems", Component(kind="schwinger", shape=[2, 3], kappa=[0.1, 0.2]), {})
    moved = family.action(batch.x, torch.full((5, 1), 0.2).double())
    torch.testing.assert_close(moved, Schwinger(shape=(2, 3), kappa=0.2).action(batch.x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (4,)}, "two extents"),
        ({"shape": (4, 4, 4)}, "two extents"),
        ({"shape": (33, 32)}, r"at most 1024 sites, as in system\.shape=\[32,32\]"),
        ({"kappa": -0.1}, "kappa = -0.1"),
        ({"beta": math.inf}, "beta = inf"),
        ({"kappa": (0.1, 0.2)}, "kappa of Schwinger is one number"),
    ],
)
def test_there_is_no_such_theory(options, message):
    with pytest.raises(DomainError, match=message):
        Schwinger(**options)


def test_contracts():
    for protocol in (System, HasAction, HasExact, HasFeatures, HasFiles, HasMoves):
        assert isinstance(Schwinger(), protocol)
    with pytest.raises(DomainError, match=r"system\.beta or system\.kappa a list"):
        Schwinger().action(fields((8, 8)), torch.ones(3, 1))


def test_links_with_and_without_fermions_are_not_taken_for_each_other(tmp_path):
    with_fermions, without = Schwinger(shape=(4, 4), kappa=0.2), Gauge(shape=(4, 4))
    for name, system in (("with.h5", with_fermions), ("without.h5", without)):
        with system.writer(tmp_path / name, 3) as append:
            append(Batch(fields((4, 4), 3).double()))
        assert len(system.open(tmp_path / name)) == 3
    with pytest.raises(FormatError, match=r"kappa = 0\.2.*system\.kind=schwinger"):
        without.open(tmp_path / "with.h5")
    with pytest.raises(FormatError, match=r"without fermions.*system\.kind=gauge"):
        with_fermions.open(tmp_path / "without.h5")
    assert len(Schwinger(shape=(4, 4), kappa=0.0).open(tmp_path / "without.h5")) == 3
