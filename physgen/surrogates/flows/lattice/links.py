r"""Links of U(1) on a two-dimensional torus out of plaquettes, and what maps to them share.

The 2 V link angles of V sites are V - 1 plaquette angles (all V add up to a multiple of 2 pi), two
angles of lines that wind round the torus, and V - 1 angles of gauge transformations. The map has
integer coefficients and a determinant of one: links have Haar's measure where all of these have.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.sampling.manifold import wrapped
from physgen.surrogates.base import Surrogate
from physgen.transforms.base import Chain, Transform


def plaquettes(x: Tensor) -> Tensor:
    """Return (B, T, L), the plaquette angles of (B, 2, T, L) links, in [-pi, pi)."""
    one, two = x[:, 0], x[:, 1]
    return wrapped(one + torch.roll(two, -1, 1) - torch.roll(one, -1, 2) - two)


def links(theta: Tensor, winding: Tensor, gauge: Tensor) -> Tensor:
    """Return (B, 2, T, L) links in [-pi, pi).

    Args:
        theta: (B, T, L) plaquette angles that add up to a multiple of 2 pi.
        winding: (B, 2) angles of lines round the torus, one of each direction.
        gauge: (B, T, L) angles of a gauge transformation.

    >>> theta = torch.tensor([[[0.5, -1.0], [2.0, -1.5]]], dtype=torch.float64)
    >>> x = links(theta, torch.zeros(1, 2).double(), torch.ones(1, 2, 2).double())
    >>> torch.allclose(plaquettes(x), theta)
    True
    """
    # Along the first axis all links but the last are zero; there the sums over columns are met.
    column = theta.sum(1)
    last = winding[:, :1] - column.cumsum(1) + column
    first = torch.nn.functional.pad(last[:, None], (0, 0, theta.shape[1] - 1, 0))
    start = torch.nn.functional.pad(winding[:, 1:], (0, theta.shape[2] - 1))
    second = start[:, None] + theta.cumsum(1) - theta
    moved = [first + gauge - gauge.roll(-1, 1), second + gauge - gauge.roll(-1, 2)]
    return wrapped(torch.stack(moved, 1))


def uniform(noise: Tensor) -> Tensor:
    """Return standard normal numbers as uniform ones in (0, 1), in double precision."""
    tiny = torch.finfo(torch.float64).eps
    u: Tensor = torch.special.ndtr(noise.double()).clamp(tiny, 1 - tiny)
    return u


def refuse_others(surrogate: Surrogate) -> None:
    """Raise `RecipeError` if samples are not links of U(1) in two dimensions, as they are."""
    name, schema, transform = type(surrogate).__name__, surrogate.schema, surrogate.transform
    angle = len(schema.variables) == 1 and schema.variables[0].domain == "angle"
    if not (angle and len(schema.shape) == 3 and schema.shape[0] == 2) or schema.condition:
        raise RecipeError(
            f"{name} models the links of U(1) in two dimensions, angles (2, T, L) without "
            f"conditions, and the samples are {', '.join(schema.names)} of shape {schema.shape}"
        )
    if not (isinstance(transform, Chain) and len(transform.transforms) == 0):
        raise RecipeError(f"{name} keeps gauge invariance: leave 'transform' empty")


class LinkSurrogate(Surrogate):
    """A gauge invariant density on the links of U(1) in two dimensions.

    It is one with respect to Haar's measure, the product of d theta / 2 pi. The noise behind one
    sample are V + 1 numbers for the plaquettes, two for the lines that wind, and V for the gauge.

    Raises:
        RecipeError: the samples are not links of U(1) in two dimensions without conditions, or
            there is a transform.
    """

    def __init__(self, schema: Schema, transform: Transform | None = None) -> None:
        super().__init__(schema, transform)
        refuse_others(self)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the normal noise behind one sample."""
        return (2 * self.volume + 3,)

    @property
    def volume(self) -> int:
        """V."""
        return math.prod(self.schema.shape[1:])

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise to links (B, 2, T, L)."""
        raise NotImplementedError

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(links), differentiable."""
        raise NotImplementedError

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw `n` samples and return their (n,) log-density, differentiable."""
        shape = n, *self.noise_shape
        noise = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        x = self.from_noise(noise)
        return Batch(x=x), self.log_prob(Batch(x=x))

    def split(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what noise is for, each uniform.

        Probabilities (B, V) of plaquettes and (B,) of their sum, and angles (B, 2) of lines that
        wind and (B, T, L) of a gauge transformation.
        """
        u, volume = uniform(noise), self.volume
        angles = math.pi * (2 * u[:, volume + 1 :] - 1)
        gauge = angles[:, 2:].reshape(-1, *self.schema.shape[1:])
        return u[:, :volume], u[:, volume], angles[:, :2], gauge
