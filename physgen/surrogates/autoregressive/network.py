r"""What autoregressive networks of spins share, whatever values the spins have.

    q(s) = prod_i q(s_i | s_1, ..., s_{i-1}),

all factors from one pass through a masked network (Wu, Wang & Zhang, Phys. Rev. Lett. 122 (2019)
080602, arXiv 1809.10606). Spins are drawn one by one; what a step computes is kept for the later
ones (`physgen.networks.masked`, `masked_conv`).

Two things are exact where the action has them. With a global symmetry, such as s -> -s, the network
has one configuration in the place of all its images, which are equally likely. And by the heat bath
the sites of one sublattice come last, from their distribution given all others: nothing is left to
learn of them, and their action and log q sum to the action of the others, with these summed out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.masked import MaskedMLP
from physgen.networks.masked_conv import MaskedConv, MaskedConvOptions
from physgen.ranges import Options, Positive
from physgen.surrogates.base import Surrogate
from physgen.transforms.base import Chain, Transform


class MaskedDenseOptions(Options):
    """Two masked layers of hidden units, and a linear map besides; for spins of any shape.

    Attributes:
        hidden: units of each layer.

    >>> MaskedDenseOptions(hidden=32).kind
    'dense'
    """

    kind: Literal["dense"] = "dense"
    hidden: Positive = 256


NetworkOptions = Annotated[MaskedDenseOptions | MaskedConvOptions, Discriminator("kind")]
"""What makes all conditionals."""


class AutoregressiveNetwork(Surrogate):
    """Spins of any shape, one after the other in raster order (`HasDensity`).

    Args:
        schema: of spins.
        transform: none but the identity.
        network: of the conditionals.
        last: sites that are drawn at once after all others, from the heat bath.
        n_numbers: by which a spin is shown to the later ones.
        n_outputs: of the network for a spin.

    Raises:
        RecipeError: there is a transform.
    """

    first: Tensor
    last: Tensor

    not_exported = "spins are drawn one after the other, not mapped from noise; export to pyfunc"

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None,
        network: MaskedDenseOptions | MaskedConvOptions,
        last: Sequence[int],
        n_numbers: int,
        n_outputs: int,
    ) -> None:
        super().__init__(schema, transform)
        if not (isinstance(self.transform, Chain) and len(self.transform.transforms) == 0):
            raise RecipeError(
                "surrogate.kind: an autoregressive network takes spins as they are: leave out "
                "`transform`"
            )
        first = sorted({*range(self.n_sites)} - {*last})
        for name, sites in (("first", first), ("last", last)):
            numbers = torch.tensor(list(sites), dtype=torch.long)
            self.register_buffer(name, numbers, persistent=False)
        n_context = len(schema.condition)
        # A spin is seen with its products with the conditions: couplings depend on those.
        n_inputs = n_numbers * (1 + n_context)
        self.network: MaskedMLP | MaskedConv
        if isinstance(network, MaskedConvOptions):
            shape = schema.shape
            self.network = MaskedConv(shape, first, n_inputs, n_context, n_outputs, network)
        else:
            self.network = MaskedMLP(
                len(first),
                n_inputs,
                n_context,
                n_outputs,
                hidden=network.hidden,
                n_direct=n_outputs,
            )

    # What a kind of spins has to say of itself.

    def images(self) -> tuple[Tensor, Tensor] | None:
        """Return configurations and others as likely, if a global symmetry is built in."""
        raise NotImplementedError

    def representative(self, spins: Tensor) -> Tensor:
        """Return the (B, D) spins that the network has in the place of those given."""
        raise NotImplementedError

    def one_of_images(self, spins: Tensor, uniform: Tensor) -> Tensor:
        """Return for spins (D, B) of the network one of their images, by (B,) uniform numbers."""
        raise NotImplementedError

    def numbers(self, spins: Tensor) -> Tensor:
        """Return (..., n_numbers), how (...) spins of the network are shown."""
        raise NotImplementedError

    def network_log_prob(self, spins: Tensor, outputs: Tensor) -> Tensor:
        """Return (B,) log q of spins (B, D) of the network, given (B, D, n_outputs)."""
        raise NotImplementedError

    def draw_spin(self, spins: Tensor, outputs: Tensor, uniform: Tensor) -> Tensor:
        """Return the spin (B,) behind spins (i, B), given its (n_outputs, B), by (B,) numbers."""
        raise NotImplementedError

    def last_log_prob(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,) log-probabilities of the last spins of (B, *shape), given the others."""
        raise NotImplementedError

    def draw_last(self, x: Tensor, uniform: Tensor, condition: Tensor | None) -> Tensor:
        """Return the last spins (B, n_last) of (B, *shape), given the others, by uniform ones."""
        raise NotImplementedError

    # What follows from it.

    @property
    def n_sites(self) -> int:
        """N."""
        return math.prod(self.schema.shape)

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(s | condition), differentiable in the parameters."""
        x = batch.x.to(self.dtype)
        spins = self.representative(x.flatten(1)[:, self.first])
        context = self._context(batch.condition, len(x))
        outputs = self.network(self._shown(self.numbers(spins), context[:, None]), context)
        total = self.network_log_prob(spins, outputs)
        return total + self.last_log_prob(x, batch.condition) if len(self.last) else total

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(s | condition), differentiable in the parameters."""
        return self.latent_log_prob(batch)

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` configurations at (n, C) conditions."""
        shape = n, self.n_sites
        uniform = torch.rand(shape, generator=generator, device=self.device, dtype=self.dtype)
        return Batch(self.from_uniform(uniform, condition), condition)

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw configurations and return their (n,) log q."""
        condition = self.conditions.resolve(condition, n, generator)
        with torch.no_grad():
            batch = self.draw(n, condition, generator)
        return batch, self.log_prob(batch)

    def from_uniform(self, uniform: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map uniform numbers (B, N), one a site, to (B, *shape) spins; a jump has no gradient."""
        context = self._context(condition, len(uniform))
        # Sites along the first axis, so that a step works on contiguous rows.
        u = uniform.T.contiguous()
        spins = torch.empty_like(u[: len(self.first)])

        def draw(i: int, outputs: Tensor) -> Tensor:
            spins[i] = self.draw_spin(spins[:i], outputs, u[i])
            return self._shown(self.numbers(spins[i]), context).T

        with torch.no_grad():
            self.network.autoregress(context, draw)
        # By symmetry the first spin of the network is no choice, and its number is free.
        x = uniform.new_full(uniform.shape, self.absent)
        x[:, self.first] = self.one_of_images(spins, u[0]).T
        if not len(self.last):
            return x.reshape(-1, *self.schema.shape)
        rest = uniform[:, len(self.first) :]
        drawn = self.draw_last(x.reshape(-1, *self.schema.shape), rest, condition)
        return x.index_copy(1, self.last, drawn.to(x)).reshape(-1, *self.schema.shape)

    absent: float = 0.0
    """What stands for a spin that is not drawn yet."""

    def _context(self, condition: Tensor | None, n: int) -> Tensor:
        """Return conditions from -1 to 1 over the trained range, (n, C)."""
        if condition is None:
            return torch.zeros(n, 0, device=self.device, dtype=self.dtype)
        low, high = self.conditions.low, self.conditions.high
        known = low.isfinite() & (high > low)
        middle, half = (low + high) / 2, (high - low) / 2
        scaled = (condition.to(self.dtype) - middle) / half
        return torch.where(known, scaled, condition.to(self.dtype))

    def _shown(self, numbers: Tensor, context: Tensor) -> Tensor:
        """Return (..., n_numbers (1 + C)), how later sites see spins (..., n_numbers)."""
        products = numbers[..., None, :] * context[..., :, None]
        return torch.cat([numbers, products.flatten(-2)], -1)
