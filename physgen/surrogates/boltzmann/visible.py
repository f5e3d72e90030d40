"""Visible units of restricted Boltzmann machines with finitely many values, as numbers s.

A spin, or a number 0 or 1, is s = -1 or +1. A Potts spin of q values is q numbers, of which that of
its value is 1 and the others are 0, on an axis before those of the lattice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physgen.batch import Schema
from physgen.errors import DomainError, RecipeError

_LARGEST_MEAN = 0.99
"""Biases are set from data up to this |mean| of a spin, so that frozen ones keep them finite."""


@dataclass(frozen=True)
class SpinUnits:
    """Spins, or binary numbers where `binary`.

    Attributes:
        binary: whether samples are 0 and 1, not -1 and +1.
    """

    binary: bool = False

    axes: tuple[int, ...] = ()
    scale: float = 2.0
    """s = scale x + shift of the x that are 0 and 1."""
    shift: float = -1.0

    def of_samples(self, x: Tensor) -> Tensor:
        """Return samples as -1 and +1."""
        return 2 * x - 1 if self.binary else x

    def samples(self, s: Tensor) -> Tensor:
        """Inverse of `of_samples`."""
        return (s + 1) / 2 if self.binary else s

    def draw(self, field: Tensor, generator: torch.Generator) -> Tensor:
        """Draw spins in the given fields, which are overwritten.

        Uniform numbers drawn in place and compared cost a quarter of `torch.bernoulli`.
        """
        probability = field.mul_(2).sigmoid_()
        uniform = torch.empty_like(probability).uniform_(generator=generator)
        return probability.gt_(uniform).mul_(2).sub_(1)

    def image(self, s: Tensor, generator: torch.Generator) -> Tensor:
        """Turn all spins of (B, *shape) configurations at random."""
        return s * self.draw(s.new_zeros(len(s), *(1,) * (s.ndim - 1)), generator)

    def field_of(self, mean: Tensor) -> Tensor:
        """Return the fields in which free spins have the given means."""
        return mean.clamp(-_LARGEST_MEAN, _LARGEST_MEAN).atanh()

    def log_sum(self, field: Tensor) -> Tensor:
        """Return ln Z of free spins in (*shape) fields."""
        return (F.softplus(2 * field) - field).sum()


@dataclass(frozen=True)
class PottsUnits:
    """Potts spins.

    Attributes:
        q: how many values there are.

    >>> units = PottsUnits(3)
    >>> units.of_samples(torch.tensor([[0.0, 2.0]]))
    tensor([[[1., 0.],
             [0., 0.],
             [0., 1.]]])
    """

    q: int

    scale: float = 1.0
    """s = scale x + shift of the x that are 0 and 1."""
    shift: float = 0.0

    @property
    def axes(self) -> tuple[int, ...]:
        """Lengths of the axes before those of the lattice."""
        return (self.q,)

    def of_samples(self, x: Tensor) -> Tensor:
        """Return (B, q, *shape) of (B, *shape) values.

        Raises:
            DomainError: a value is not one of 0 to q - 1.
        """
        value = x.long()
        if not bool(((value == x) & (value >= 0) & (value < self.q)).all()):
            raise DomainError(
                f"samples have values from {float(x.min()):g} to {float(x.max()):g}, and this "
                f"machine was made for spins of q = {self.q}, 0 to {self.q - 1}"
            )
        return F.one_hot(value, self.q).movedim(-1, 1).to(x.dtype)

    def samples(self, s: Tensor) -> Tensor:
        """Inverse of `of_samples`."""
        return s.argmax(1)

    def draw(self, field: Tensor, generator: torch.Generator) -> Tensor:
        """Draw (B, q, *shape) spins in the given fields."""
        reached = field.softmax(1).cumsum_(1)
        uniform = torch.empty_like(reached[:, :1]).uniform_(generator=generator)
        above = reached > uniform
        above[:, -1] = True
        s = above.to(field.dtype)
        s[:, 1:] -= s[:, :-1].clone()
        return s

    def image(self, s: Tensor, generator: torch.Generator) -> Tensor:
        """Permute the values of (B, q, *shape) configurations at random."""
        uniform = torch.rand(len(s), self.q, generator=generator, device=s.device)
        names = uniform.argsort(1).reshape(len(s), self.q, *[1] * (s.ndim - 2))
        return s.gather(1, names.expand_as(s))

    def field_of(self, mean: Tensor) -> Tensor:
        """Return the fields, of sum 0 over the values, in which free spins have these means."""
        field = mean.clamp(min=(1 - _LARGEST_MEAN) / self.q).log()
        return field - field.mean(0, keepdim=True)

    def log_sum(self, field: Tensor) -> Tensor:
        """Return ln Z of free spins in (q, *shape) fields."""
        return field.logsumexp(0).sum()


def number_of_values(schema: Schema) -> int | None:
    """Return q, if all variables of a schema are whole numbers from 0 to q - 1."""
    ranges = {(variable.domain, variable.low, variable.high) for variable in schema.variables}
    domain, low, high = ranges.pop()
    if ranges or domain != "integer" or low != 0 or high is None:
        return None
    return int(high) + 1


def units_of(schema: Schema) -> SpinUnits | PottsUnits:
    """Return what the samples of a schema are as visible units.

    Raises:
        RecipeError: they are of other kinds, or not all of one.
    """
    domains = {variable.domain for variable in schema.variables}
    if domains in ({"spin"}, {"binary"}):
        return SpinUnits(binary=domains == {"binary"})
    if (q := number_of_values(schema)) is not None:
        return PottsUnits(q)
    raise RecipeError(
        "surrogate rbm models spins, binary numbers or whole numbers from 0 to q - 1, and "
        f"{', '.join(schema.names[:4])} are {', '.join(sorted(domains))}; take gaussian-rbm, or "
        "make the data binary (images: system.binarise=threshold)"
    )
