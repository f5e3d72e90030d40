"""What is measured of jets as sets of particles, wherever they come from.

Particles are eta, phi and pT relative to the jet (`physgen.io.jetnet`), and a mask says which of
them are there. What is computed of them is in `physgen.systems.jet_observables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError
from physgen.io.jetnet import hardest
from physgen.systems import jet_observables
from physgen.systems.base import Derived


class JetSets:
    """A base of systems whose samples are jets (particles, 3): etarel, phirel, ptrel, masked.

    >>> x = torch.tensor([[[0.0, 0.1, 0.5], [0.0, -0.1, 0.5], [0.0, 0.0, 0.0]]])
    >>> values = JetSets().observables(Batch(x, mask=x[..., 2] > 0))
    >>> int(values["number of particles"]), round(float(values["relative mass"]), 4)
    (2, 0.0998)
    """

    @property
    def schema(self) -> Schema:
        """(particles, 3), masked: etarel, phirel, ptrel."""
        raise NotImplementedError

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Nothing: all is measured jet by jet."""
        return {}

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each: number, pT sum, mass, tau_21, tau_32 and energy-flow polynomials.

        The polynomials are the 20 connected ones of 1 to 4 edges.
        """
        mask = mask_of(batch)
        x = batch.x
        tau_21, tau_32 = jet_observables.subjettiness_ratios(x, mask)
        efps = jet_observables.connected_polynomials(x, mask)
        values = {
            "number of particles": mask.sum(1).double(),
            "relative pT sum": efps.pop(""),
            "relative mass": jet_observables.relative_mass(x, mask),
            "tau_21": tau_21,
            "tau_32": tau_32,
        }
        return values | {f"EFP {graph}": efp for graph, efp in efps.items()}

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return what a classifier looks at, (B, F) float32.

        Args:
            batch: jets.
            level: "low" are conditions, the number of particles and those of largest pT, as many as
                the schema has, 0 where there is none; "high" are conditions and observables, of
                the energy-flow polynomials of d edges the d-th root, and 0 for what is not defined.
        """
        mask = mask_of(batch)
        if level == "low":
            # As many of any sample, whatever it is padded to.
            x, there = batch.x.cpu().numpy(), mask.cpu().numpy()
            particles = torch.from_numpy(hardest(x, there, self.schema.shape[0])[0]).flatten(1)
            columns = torch.cat([mask.sum(1, keepdim=True).to(particles), particles], 1)
        else:
            values = {name: _compressed(name, v) for name, v in self.observables(batch).items()}
            columns = torch.stack(list(values.values()), 1).nan_to_num(0.0)
        given = [] if batch.condition is None else [batch.condition.to(columns)]
        return torch.cat([*given, columns], 1).float()

    def reference_features(
        self, batch: Batch, level: Literal["low", "normalised", "high", "voxels"]
    ) -> Tensor:
        """Return what JetNet compares, (B, F): the 36 polynomials ("high"), else the particles."""
        if level != "high":
            return self.features(batch.replace(condition=None), "low").double()
        connected = jet_observables.connected_polynomials(batch.x, mask_of(batch))
        return torch.stack(list(jet_observables.all_polynomials(connected).values()), 1)


def _compressed(name: str, value: Tensor) -> Tensor:
    """Return the d-th root of a polynomial of d edges, and other observables as they are."""
    kind, _, graph = name.partition(" ")
    if kind != "EFP":
        return value
    return value.abs() ** (1 / jet_observables.DEGREES[graph]) * value.sign()


def mask_of(batch: Batch) -> Tensor:
    """Return the mask of jets; `DomainError` if it is missing."""
    if batch.mask is None:
        raise DomainError("jets are sets of particles, and their mask is missing")
    return batch.mask
