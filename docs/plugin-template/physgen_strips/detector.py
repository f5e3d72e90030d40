"""A silicon sensor of strips that a charged particle crosses under an angle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.systems.array_files import ArrayFiles
from physgen.systems.base import Derived


@dataclass(frozen=True, kw_only=True)
class StripDetector(ArrayFiles):
    """Charges of neighbouring strips, in thousands of electrons, given the angle of the particle.

    The charge fluctuates as Moyal's distribution and diffuses; every strip adds normal noise.

    Args:
        strips: how many.
        pitch_um, thickness_um: distance of the strips, depth of the sensor.
        noise_ke: of a strip.

    >>> StripDetector(strips=6).simulate(3, seed=1).x.shape
    torch.Size([3, 6])
    """

    strips: int = 8
    pitch_um: float = 80.0
    thickness_um: float = 300.0
    noise_ke: float = 1.0

    @property
    def schema(self) -> Schema:
        """A charge a strip, given the angle."""
        angle = Variable("angle", "deg", low=0.0, high=30.0)
        return Schema((self.strips,), (Variable("charge", "ke"),), (angle,))

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Nothing."""
        return {}

    @property
    def units(self) -> Mapping[str, str]:
        """Of the observables."""
        return {"charge": "ke", "largest charge": "ke", "position": "pitch", "width": "pitch"}

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cluster's charge, its largest one, its position and width, (B,)."""
        place = torch.arange(self.strips).to(batch.x) - (self.strips - 1) / 2
        share = batch.x.clamp(min=0.1)
        share = share / share.sum(-1, keepdim=True)
        mean, square = share @ place, share @ place.square()
        named = {"charge": batch.x.sum(-1), "largest charge": batch.x.amax(-1), "position": mean}
        return {**named, "width": (square - mean.square()).clamp(min=0).sqrt()}

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the strips, or the observables, with the angle: what classifiers look at."""
        shown = list(self.observables(batch).values()) if level == "high" else batch.x.unbind(-1)
        angle = [] if batch.condition is None else batch.condition.unbind(-1)
        return torch.stack([*shown, *angle], -1)

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Return `n` clusters, at angles even from 0 to 30 degrees or at those given, (n, 1)."""
        draws = torch.Generator().manual_seed(seed)
        angle = 30 * torch.rand(n, 1, generator=draws) if condition is None else condition
        slope, entry = angle.deg2rad().tan(), torch.rand(n, 1, generator=draws) - 0.5
        moyal = -torch.randn(n, 1, generator=draws).square().log()
        total = (22 + 2 * moyal) * (1 + slope.square()).sqrt()
        depth = (torch.arange(32) + 0.5) / 32  # Points of the path.
        x = entry + slope * (depth - 0.5) * self.thickness_um / self.pitch_um
        edges = torch.arange(self.strips + 1) - self.strips / 2
        spread = 7.0 / self.pitch_um * depth.sqrt()[:, None] * 2**0.5
        below = torch.erf((edges - x[..., None]) / spread)
        charge = total * below.diff(dim=-1).mean(1) / 2
        return Batch(charge + self.noise_ke * torch.randn(charge.shape, generator=draws), angle)
