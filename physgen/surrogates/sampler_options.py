"""How samples of a trained diffusion model are drawn: chosen when sampling, not when training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from physgen.ranges import Positive

SamplerName = Literal["ancestral", "ddim", "heun", "dpm-solver"]
Spacing = Literal["time", "noise", "even"]

FEWEST: dict[SamplerName, int] = {"ancestral": 1, "ddim": 1, "heun": 2, "dpm-solver": 2}
"""Steps that a sampler needs to be one: with fewer, those of second order never act."""


class SamplerOptions(BaseModel):
    """A sampler (see `physgen.surrogates.diffusion.sampler`) and its options.

    Attributes:
        kind: which one.
        steps: levels of noise it goes through.
        spacing: how these are spaced; "time" is DDPM's, "noise" EDM's, "even" that of few steps.
        guidance: weight of classifier-free guidance; 1 is none.

    >>> SamplerOptions(kind="heun", steps=20)
    SamplerOptions(kind='heun', steps=20, spacing='time', guidance=1.0)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: SamplerName = "heun"
    steps: Positive = 20
    spacing: Spacing = "time"
    guidance: float = 1.0

    @model_validator(mode="after")
    def _has_enough_steps(self) -> SamplerOptions:
        if self.steps < FEWEST[self.kind]:
            raise ValueError(f"{self.kind} needs at least {FEWEST[self.kind]} steps")
        return self
