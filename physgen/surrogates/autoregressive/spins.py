r"""Variational autoregressive networks: spins one after the other, with exact probabilities.

    q(s) = prod_i q(s_i | s_1, ..., s_{i-1}),    q(s_i | ...) = sigmoid(s_i z_i(s_1, ..., s_{i-1})),

all z_i from one pass through a masked network (Wu, Wang & Zhang, Phys. Rev. Lett. 122 (2019)
080602, arXiv 1809.10606). Spins are drawn one by one; what a step computes is kept for the later
ones (`physgen.networks.masked`, `masked_conv`).

Two things are exact where the action has them. With the global flip s -> -s, q is the mean of a
network's densities of s and -s whose first spin is up: one of them vanishes, so that the network
sees spins relative to the first. And by the heat bath the sites of one sublattice come last, from
their distribution given all others (`heat_bath`): nothing is left to learn of them, and their
action and log q sum to the action of the others, with these summed out.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Discriminator
from torch import Tensor
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.io.weights import moments
from physgen.networks.masked import MaskedMLP
from physgen.networks.masked_conv import MaskedConv, MaskedConvOptions
from physgen.ranges import Options, Positive
from physgen.surrogates.autoregressive.heat_bath import Action, fields, of_sublattice
from physgen.surrogates.base import Surrogate
from physgen.systems.base import System
from physgen.transforms.base import Chain, Transform

_LARGEST_MEAN = 0.99
"""Biases are set from data up to this |mean|, so that frozen spins keep them finite."""


class MaskedDenseOptions(Options):
    """Two masked layers of hidden units, and a linear map besides; for spins of any shape.

    Attributes:
        hidden: units of each layer.
    """

    kind: Literal["dense"] = "dense"
    hidden: Positive = 256


NetworkOptions = Annotated[MaskedDenseOptions | MaskedConvOptions, Discriminator("kind")]
"""What makes all conditionals."""


class AutoregressiveSpins(Surrogate):
    """Spins of any shape, one after the other in raster order (`HasDensity`).

    Args:
        schema: of spins.
        transform: none but the identity.
        system: whose action the heat bath takes.
        network: of the conditionals.
        heat_bath: draw the sites of one sublattice, or as many as do not interact, last and from
            their exact distribution, given the others.
        spin_flip_symmetric: q(-s) = q(s).

    Raises:
        RecipeError: samples are no spins, there is a transform, or no action for the heat bath.

    >>> from physgen.systems.ising import Ising
    >>> system = Ising(shape=(4, 4))
    >>> model = AutoregressiveSpins(system.schema, system=system, heat_bath=True)
    >>> batch, log_prob = model.sample_with_log_prob(5, generator=torch.Generator())
    >>> batch.x.shape, log_prob.shape
    (torch.Size([5, 4, 4]), torch.Size([5]))
    """

    first: Tensor
    last: Tensor

    not_exported = "spins are drawn one after the other, not mapped from noise; export to pyfunc"

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        system: System | None = None,
        *,
        network: NetworkOptions = MaskedDenseOptions(),
        heat_bath: bool = False,
        spin_flip_symmetric: bool = False,
    ) -> None:
        super().__init__(schema, transform)
        if any(variable.domain != "spin" for variable in schema.variables):
            raise RecipeError(
                "surrogate.kind: autoregressive-spins takes samples of -1 and +1, and "
                f"{schema.variables[0].name} is of the domain {schema.variables[0].domain!r}"
            )
        if not (isinstance(self.transform, Chain) and len(self.transform.transforms) == 0):
            raise RecipeError("autoregressive-spins takes spins as they are: leave out `transform`")
        self.spin_flip_symmetric = spin_flip_symmetric
        last: list[int] = []
        self._action: Action | None = None
        if heat_bath:
            self._action, last = of_sublattice(system, schema.shape)
        first = sorted({*range(self.n_sites)} - {*last})
        for name, sites in (("first", first), ("last", last)):
            self.register_buffer(name, torch.tensor(sites, dtype=torch.long), persistent=False)
        n_context = len(schema.condition)
        self.network: MaskedMLP | MaskedConv
        # A spin is seen with its products with the conditions: couplings depend on those.
        if isinstance(network, MaskedConvOptions):
            shape = schema.shape
            self.network = MaskedConv(shape, first, 1 + n_context, n_context, 1, network)
        else:
            self.network = MaskedMLP(
                len(first), 1 + n_context, n_context, 1, hidden=network.hidden, n_direct=1
            )

        self.bias = torch.nn.Parameter(torch.zeros(len(first)))

    def initialise(self, data: Batch | None) -> None:
        """Begin with the means of the data at every site, unless they vanish by symmetry."""
        super().initialise(data)
        if data is None or self.spin_flip_symmetric:
            return
        mean = moments(data.x.to(self.dtype).flatten(1), data)[0][self.first]
        with torch.no_grad():
            self.bias.copy_(2 * mean.clamp(-_LARGEST_MEAN, _LARGEST_MEAN).atanh())

    @property
    def n_sites(self) -> int:
        """N."""
        return math.prod(self.schema.shape)

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(s | condition), differentiable in the parameters."""
        spins = batch.x.to(self.dtype)
        s = spins.flatten(1)[:, self.first]
        if self.spin_flip_symmetric:
            s = s * s[:, :1]
        context = self._context(batch.condition, len(s))
        odds = self.network(self._shown(s[..., None], context[:, None]), context)[..., 0]
        odds = odds + self.bias
        if self.spin_flip_symmetric:
            odds = torch.cat([torch.zeros_like(odds[:, :1]), odds[:, 1:]], 1)
        total = functional.logsigmoid(s * odds).sum(1)
        if self._action is None:
            return total
        odds = 2 * spins * fields(self._action, spins, batch.condition)
        return total + functional.logsigmoid(odds.flatten(1)[:, self.last]).sum(1)

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

        def draw(i: int, odds: Tensor) -> Tensor:
            chance = (odds[0] + self.bias[i]).sigmoid()
            if i == 0 and self.spin_flip_symmetric:
                chance = torch.ones_like(chance)
            spins[i] = torch.where(u[i] < chance, 1.0, -1.0)
            return self._shown(spins[i, :, None], context).T

        with torch.no_grad():
            self.network.autoregress(context, draw)
        if self.spin_flip_symmetric:
            spins *= torch.where(u[0] < 0.5, 1.0, -1.0)
        x = uniform.new_zeros(uniform.shape)
        x[:, self.first] = spins.T
        x = x.reshape(-1, *self.schema.shape)
        if self._action is None:
            return x
        chance = (2 * fields(self._action, x, condition)).sigmoid().flatten(1)[:, self.last]
        drawn = torch.where(uniform[:, len(self.first) :] < chance, 1.0, -1.0).to(x)
        return x.flatten(1).index_copy(1, self.last, drawn).reshape_as(x)

    def _context(self, condition: Tensor | None, n: int) -> Tensor:
        """Return conditions from -1 to 1 over the trained range, (n, C)."""
        if condition is None:
            return torch.zeros(n, 0, device=self.device, dtype=self.dtype)
        low, high = self.conditions.low, self.conditions.high
        known = low.isfinite() & (high > low)
        middle, half = (low + high) / 2, (high - low) / 2
        scaled = (condition.to(self.dtype) - middle) / half
        return torch.where(known, scaled, condition.to(self.dtype))

    def _shown(self, spins: Tensor, context: Tensor) -> Tensor:
        """Return (..., 1 + C), how later sites see spins (..., 1)."""
        return torch.cat([spins, spins * context], -1)
