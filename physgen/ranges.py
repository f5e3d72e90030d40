"""Options of components: groups of them, and the ranges that are checked when they are read."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """A group of options by name: a section within that of a component, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Positive = Annotated[int, Field(ge=1)]
"""A number of things there must be at least one of."""

Widths = tuple[Positive, ...]
"""Units of the layers of a network, which may have none between its ends."""

Channels = Annotated[tuple[Positive, ...], Field(min_length=1)]
"""Channels of the layers of a convolutional network."""

PositiveFloat = Annotated[float, Field(gt=0)]
"""A learning rate, a scale."""

NotNegative = Annotated[float, Field(ge=0)]
"""A weight of a penalty, which 0 leaves out."""

Probability = Annotated[float, Field(ge=0, lt=1)]
"""A probability that is not 1, a decay."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, which may be none or all of it."""

Count = Annotated[int, Field(ge=0)]
"""How many there are of what may be left out."""
