"""A density that is called exact integrates to 1 over the domain of its samples."""

import math

import pytest
import torch
from randomised import generator, randomised

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.networks.residual import ResidualOptions
from physgen.registry import lookup, registered
from physgen.surrogates.autoregressive.potts import AutoregressivePotts
from physgen.surrogates.autoregressive.spins import AutoregressiveSpins
from physgen.surrogates.diffusion.likelihood import DiffusionFlow
from physgen.surrogates.flows.autoregressive import AutoregressiveOptions
from physgen.surrogates.flows.continuous import ContinuousOptions
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.flows.lattice.checkerboard import CheckerboardFlow
from physgen.surrogates.flows.lattice.closure import ClosureDefect
from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
from physgen.surrogates.flows.lattice.gauge import GaugeFlow
from physgen.surrogates.flows.lattice.u1 import U1CouplingFlow
from physgen.surrogates.flows.normflows import NormflowsOptions
from physgen.surrogates.flows.shower import ShowerFlow
from physgen.surrogates.flows.stack import CouplingOptions
from physgen.surrogates.sets import IndependentItems
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.bounded import Bounded
from physgen.transforms.images import Logit, Rescale
from physgen.transforms.quantile import Gaussianise

TABLE = Schema((2,), (Variable("phi", domain="angle"), Variable("y")))
LATTICE = Schema((2,), (Variable("phi"),))
WIDE = 9.0


def samples(n=4000):
    phi = math.pi * (2 * torch.rand(n, generator=generator(3), dtype=torch.float64) - 1)
    return torch.stack([phi, phi.sin() + 0.5 * torch.randn(n, generator=generator(4)).double()], 1)


def bounded():
    return Chain([Bounded(TABLE), Standardise(TABLE)], TABLE)


def gaussianised():
    return Chain([Gaussianise(TABLE, atoms=0, n_knots=12)], TABLE)


DENSITIES = {
    "flow of couplings": lambda t: Flow(
        TABLE, t, bijection=CouplingOptions(n_layers=4, hidden=(8,))
    ),
    "autoregressive flow": lambda t: Flow(
        TABLE, t, bijection=AutoregressiveOptions(n_layers=2, hidden=8)
    ),
    "continuous flow": lambda t: Flow(TABLE, t, bijection=ContinuousOptions(hidden=8)),
    "flow of normflows": lambda t: Flow(
        TABLE, t, bijection=NormflowsOptions(family="residual", n_layers=2, hidden=(8,))
    ),
    "diffusion-flow": lambda t: DiffusionFlow(TABLE, t, network=ResidualOptions(hidden=8, depth=1)),
    "continuous-lattice-flow": lambda t: ContinuousLatticeFlow(LATTICE, n_frequencies=2, n_times=2),
    "checkerboard-flow": lambda t: CheckerboardFlow(LATTICE, n_layers=2, channels=4),
}


def test_no_density_is_left_out():
    """Those of links, of showers and of spins have tests of their own."""
    classes = {type(build(bounded())) for build in DENSITIES.values()}
    classes |= {
        AutoregressivePotts,
        AutoregressiveSpins,
        IndependentItems,
        ClosureDefect,
        GaugeFlow,
        U1CouplingFlow,
        ShowerFlow,
    }
    known = {lookup("surrogates", kind) for kind in registered("surrogates")}
    assert classes == {cls for cls in known if hasattr(cls, "log_prob")}


@pytest.mark.parametrize(
    ("kind", "transform", "half"),
    [*((kind, bounded, 60) for kind in DENSITIES), ("flow of couplings", gaussianised, 120)],
)
def test_it_integrates_to_one(kind, transform, half):
    torch.manual_seed(0)
    surrogate = randomised(DENSITIES[kind](transform()), 0.2).double().eval()
    on_lattice = surrogate.schema is LATTICE
    if not on_lattice:
        surrogate.transform.fit(Batch(samples()))
    # Midpoints, closer where the range ends.
    t = (torch.arange(2 * half, dtype=torch.float64) + 0.5) / half - 1
    phi, d_phi = math.pi * (1.5 * t - 0.5 * t**3), math.pi * 1.5 * (1 - t**2) / half
    y, d_y = WIDE * t, torch.full_like(t, WIDE / half)
    if on_lattice:
        phi, d_phi = y, d_y
    points = torch.cartesian_prod(phi, y)
    weights = torch.cartesian_prod(d_phi, d_y).prod(1)
    with torch.no_grad():
        density = torch.cat([surrogate.log_prob(Batch(p)).exp() for p in points.split(6400)])
    assert (density * weights).sum().item() == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("kind", ["bounded", "gaussianised"])
def test_no_sample_lies_at_the_ends_of_a_range(kind):
    transform = {"bounded": bounded, "gaussianised": gaussianised}[kind]()
    surrogate = Flow(TABLE, transform, bijection=CouplingOptions(n_layers=4, hidden=(8,)))
    surrogate.transform.fit(Batch(samples()))
    phi = surrogate.sample(50_000, generator=generator()).x[:, 0].float()
    assert phi.abs().max() < torch.tensor(math.pi)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: Chain([Standardise(s)], s),
        lambda s: Chain([], s),
        lambda s: Chain([Logit(s)], s),
        lambda s: Chain([Rescale(s)], s),
    ],
)
def test_what_leaves_mass_beyond_a_range_has_no_exact_density(make):
    image = Schema((2, 2), (Variable("grey", low=0.0, high=1.0),))
    with pytest.raises(RecipeError, match="bounded"):
        Flow(image, make(image)).log_prob(Batch(torch.rand(3, 2, 2)))


def test_a_table_is_not_rescaled():
    with pytest.raises(RecipeError, match=r"rescale: .*phi.*take bounded"):
        Rescale(TABLE)
