r"""Posteriors that are sampled, not learned: prior times a likelihood that is.

    p(\theta | x) \propto p(\theta) L(x | \theta),

with L from a network, up to a factor of x alone. The draws are by sequential Monte Carlo
(`physgen.sampling.particles`) from the prior itself, of many data at once: several modes come with
their weights, and nothing is outside the prior.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.sampling.particles import sample
from physgen.surrogates.base import Surrogate
from physgen.systems.base import System
from physgen.systems.posterior import Posterior
from physgen.systems.simulators import draw_parameters, log_prior
from physgen.transforms.base import Transform

LEAST = 128
"""Particles of a posterior at least, however few draws of it are wanted."""
TOGETHER = 2**16
"""Particles that are moved together, which bounds the memory."""


class SampledPosterior(Surrogate):
    """Draws parameters given data from prior times likelihood.

    Args:
        schema: of the parameters, whose conditions are the data.
        transform: of both.
        system: `posterior`, whose prior it is.

    Raises:
        RecipeError: the system is another one.

    >>> from physgen.systems.scalar import Phi4
    >>> system = Phi4(shape=(4,))
    >>> SampledPosterior(system.schema, system=system)
    Traceback (most recent call last):
    physgen.errors.RecipeError: surrogate.kind: SampledPosterior is of parameters with a prior, ...
    """

    not_exported = (
        "its posteriors are sampled by many particles, no map of noise; export a flow of the "
        "posterior itself, such as infer-two-moons"
    )

    def __init__(
        self, schema: Schema, transform: Transform | None = None, *, system: System
    ) -> None:
        super().__init__(schema, transform)
        if not isinstance(system, Posterior):
            raise RecipeError(
                f"surrogate.kind: {type(self).__name__} is of parameters with a prior, which "
                f"samples of {type(system).__name__} are not; take the system posterior"
            )
        self._prior = system.model.parameters

    def latent_log_likelihood(self, batch: Batch) -> Tensor:
        """Return (B,) log L of a batch that the transform has mapped, but for a constant of x."""
        raise NotImplementedError

    def relative_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log p(theta) + log L(x | theta), in double precision."""
        prior = torch.from_numpy(log_prior(self._prior, batch.x.detach().double().cpu().numpy()))
        likelihood = self.latent_log_likelihood(self.transform(batch)[0])
        return prior.to(batch.x.device) + likelihood.double()

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw parameters given the (n, D) data; rows of the same data share their particles."""
        assert condition is not None  # The schema has conditions.
        if not n:
            return Batch(condition.new_empty(0, *self.schema.shape), condition)
        data, row, count = torch.unique(condition, dim=0, return_inverse=True, return_counts=True)
        n_particles = max(int(count.amax()), LEAST)
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        draws = torch.cat(
            [
                self._particles(some, n_particles, seed + number)
                for number, some in enumerate(data.split(max(TOGETHER // n_particles, 1)))
            ]
        ).to(condition)
        # Which of the rows of its data a row is.
        order = row.argsort(stable=True)
        first = count.cumsum(0) - count
        place = torch.empty_like(row)
        place[order] = torch.arange(n, device=row.device) - first[row[order]]
        return Batch(draws[row, place], condition)

    def _particles(self, data: Tensor, n: int, seed: int) -> Tensor:
        """Return (O, n, P) draws given (O, D) data."""
        n_data, n_parameters = len(data), len(self._prior)
        start = torch.from_numpy(draw_parameters(self._prior, n_data * n, seed))

        def prior(theta: Tensor) -> Tensor:
            return torch.from_numpy(log_prior(self._prior, theta.numpy()))

        def likelihood(theta: Tensor) -> Tensor:
            given = data.repeat_interleave(theta.shape[1], 0)
            rows = self.accept(Batch(theta.flatten(0, 1), given))
            return self.latent_log_likelihood(self.transform(rows)[0]).cpu().view(theta.shape[:2])

        return sample(
            start.view(n_data, n, n_parameters),
            prior,
            likelihood,
            4 + 2 * n_parameters,
            generator=torch.Generator().manual_seed(seed),
        )
