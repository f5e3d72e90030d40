"""Surrogates that are sampled by Markov chains, which go on where training left them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.base import Surrogate
from physgen.transforms.base import Transform


class MarkovSurrogate(Surrogate):
    """A surrogate that knows moves which leave its distribution invariant.

    Samples carry `chain`, the number of the stored chain that they go on from, so that errors take
    autocorrelation into account: also that of several calls, which all start from the same chains.

    Args:
        schema: of the samples; without conditions.
        transform: from physical samples to the space in which the chains move.
        start: (n_chains, ...) where the chains stand before training; of integers for spins.
        burn_in: moves before the first draw.
        thin: moves between the draws of one chain.

    Raises:
        RecipeError: the schema has conditions.
    """

    chains: Tensor

    not_exported = (
        "its samples come from Markov chains, whose lengths depend on what they find; export to "
        "pyfunc, or train a vae, flow or diffusion on the same data"
    )

    at_once = None  # One long run of all chains, not many short ones.

    def __init__(
        self, schema: Schema, transform: Transform | None, start: Tensor, burn_in: int, thin: int
    ) -> None:
        super().__init__(schema, transform)
        if schema.condition:
            raise RecipeError(
                f"{type(self).__name__} knows no conditions; leave them out (labels: false), or "
                "train one for each of them"
            )
        # The bits of real numbers, since the engine averages floating buffers with the weights,
        # and an average of chains is none.
        packed = start.float().view(torch.int32) if start.is_floating_point() else start
        self.register_buffer("chains", packed)
        self.burn_in, self.thin = burn_in, thin

    def pack(self, x: Tensor) -> Tensor:
        """Return positions in the form in which they are stored, int8, or the bits of float32."""
        if self.chains.dtype == torch.int32:
            return x.to(torch.float32).view(torch.int32)
        return x.to(torch.int8)

    def unpack(self, packed: Tensor) -> Tensor:
        """Inverse of `pack`, in the type of the parameters."""
        x = packed.view(torch.float32) if packed.dtype == torch.int32 else packed
        return x.to(self.dtype)

    def move(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Return chains (C, ...) after `n` moves."""
        raise NotImplementedError

    def thinned_states(self, x: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the positions of chains (C, ...) that are far enough apart to be draws."""
        x = self.move(x, self.burn_in, generator)
        while True:
            yield x
            x = self.move(x, self.thin, generator)

    def physical(self, x: Tensor) -> Tensor:
        """Map positions of chains to physical samples."""
        return self.transform.inverse(Batch(x)).x

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` samples from as many chains as there are, one of each before the next of any.

        Raises:
            DomainError: a chain has diverged.
        """
        n_chains = min(n, len(self.chains))
        draws = -(-n // n_chains)
        order = torch.randperm(len(self.chains), generator=generator, device=self.device)
        states = self.thinned_states(self.unpack(self.chains[order[:n_chains]]), generator)
        packed = torch.stack([self.pack(x) for x in islice(states, draws)])
        positions = self.unpack(packed.flatten(0, 1)[:n])
        finite = positions.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            raise DomainError(
                f"{int((~finite).sum())} of {n} samples are not finite: the Markov chains of this "
                f"{type(self).__name__} diverged; train it with a lower learning rate"
            )
        chain = order[:n_chains].repeat(draws)[:n]
        return Batch(x=self.physical(positions), chain=chain)
