"""A fast and a full simulation of the same showers, without a download: pairs to learn to refine.

Both are tables of what a calorimeter measures of photons of 20 to 200 GeV, from the built-in
simulation (`physgen.systems.kernels.shower`). The fast one knows photons that enter straight, and
cells that see their own energy only. In the full one the same showers are inclined by up to 12
degrees, half of the energy of a cell is seen by its neighbours, and each cell has 0.8 MeV of noise.
Row i of both is the same shower, if their seeds are the same.
"""

from __future__ import annotations

import torch

from physgen.batch import Batch, Schema, Variable
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.shower_observables import observables

_CUT_MEV = 1.0
DETECTORS = {
    "showers-fast": (0.0, 0.0, 0.0),
    "showers-full": (12.0, 0.5, 0.8),
}
"""Largest angle in degrees, cross-talk, and noise of a cell in MeV, by name."""

SHOWER_COLUMNS = Schema(
    (8,),
    (
        Variable("event", domain="integer", dtype="int32"),
        Variable("energy", "MeV", "non-negative"),
        Variable("response", domain="non-negative"),
        *(Variable(f"fraction_{layer}", domain="non-negative") for layer in (1, 3, 12)),
        *(Variable(f"width_{layer}", "mm", "non-negative") for layer in (1, 2)),
    ),
)


def shower_table(name: str, n: int, seed: int) -> Batch:
    """Simulate a table (n, 8): event, energy in MeV, response, shares of layers, widths in mm.

    The response is the energy that all cells measure over that of the photon, the shares of layers
    1, 3 and 12 are those of it, and widths are those in eta of layers 1 and 2.

    Args:
        name: "showers-fast" or "showers-full".
        n: how many showers.
        seed: the same showers in both for the same seed.

    >>> fast, full = (shower_table(f"showers-{kind}", 200, seed=1).x for kind in ("fast", "full"))
    >>> bool((fast[:, :2] == full[:, :2]).all()), bool(full[:, 6].mean() > fast[:, 6].mean())
    (True, True)
    """
    angle, cross_talk, noise = DETECTORS[name]
    calorimeter = Calorimeter(
        energies_mev=(20_000.0, 200_000.0),
        max_spots=1000,
        angle_deg=angle,
        cross_talk=cross_talk,
        cut_mev=0.0,  # Noise within the simulation would draw other numbers for later showers.
    )
    showers = calorimeter.simulate(n, seed)
    generator = torch.Generator().manual_seed(seed)
    x = showers.x + noise * torch.randn(showers.x.shape, generator=generator)
    x = torch.where(x >= _CUT_MEV, x, torch.zeros_like(x))
    incident = showers.condition
    assert incident is not None  # Showers have their energy.
    measured = observables(x, incident[:, 0], calorimeter.geometry, calorimeter.spectrum_edges)
    names = ["E_tot/E_inc", "fraction_1", "fraction_3", "fraction_12", "width_eta_1", "width_eta_2"]
    columns = [torch.arange(n), incident[:, 0], *(measured[key].nan_to_num(0) for key in names)]
    return Batch(torch.stack([column.double() for column in columns], 1), schema=SHOWER_COLUMNS)
