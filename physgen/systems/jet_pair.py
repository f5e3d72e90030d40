"""Jets with and without multiparton interactions: two samples to learn to refine, or to reweight.

Both are tables of what is measured of gluon jets at 1 TeV that Pythia 8 makes
(`physgen.systems.jet_simulation`). In the fast one no other partons of the protons collide, so that
there is no underlying event; in the full one they do. The random numbers of a collision depend on
what collides: jets of the two are not paired.
"""

from __future__ import annotations

import torch

from physgen.batch import Batch, Schema, Variable
from physgen.systems.jets import Jets

PARTICLES = 300
"""More than a jet has: 96 with a deviation of 30."""

MULTIPARTON = {"jets-fast": False, "jets-full": True}
"""Whether other partons collide, by name."""

JET_COLUMNS = Schema(
    (6,),
    (
        Variable("pt", "GeV", "non-negative"),
        Variable("mass", "GeV", "non-negative"),
        Variable("n", domain="integer", dtype="int32"),
        Variable("tau_21", domain="non-negative"),
        Variable("tau_32", domain="non-negative"),
        Variable("efp_01", domain="non-negative"),
    ),
)


def jet_table(name: str, n: int, seed: int) -> Batch:
    """Simulate a table (n, 6) of jets: pT, mass, number of particles, tau_21, tau_32 and efp_01.

    The last is the energy-flow polynomial of one edge, the sum of z_i z_j theta_ij over i and j.

    Args:
        name: "jets-fast" or "jets-full".
        n: how many jets.
        seed: the same jets for the same seed.

    Raises:
        InputError: Pythia or FastJet are not installed.
    """
    system = Jets(particles=PARTICLES, condition=("pt", "mass"), multiparton=MULTIPARTON[name])
    jets = system.simulate(n, seed)
    measured = system.observables(jets)
    assert jets.condition is not None  # They were asked for.
    names = ["number of particles", "tau_21", "tau_32", "EFP 01"]
    columns = [*jets.condition.unbind(1), *(measured[key].nan_to_num(0) for key in names)]
    return Batch(torch.stack([column.double() for column in columns], 1), schema=JET_COLUMNS)
