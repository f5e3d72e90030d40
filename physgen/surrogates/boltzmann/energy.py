r"""Energy-based models: a network is the energy (Du & Mordatch, arXiv 1903.08689).

In units u = (x - m) / s of the means and deviations of each entry of the data,

    E(u) = |u|^2 / 2 + g(u),      p(u) = exp(-E(u)) / Z,

so that the network g has only to learn what distinguishes the data from independent normal numbers,
and p can be normalised whatever g is, as long as it grows more slowly than |u|^2. With
d ln Z / dw = -<dg / dw>_model the log-likelihood has the gradient

    d <ln p>_data / dw = - < dg / dw >_data + < dg / dw >_model .

The second mean is taken over a replay buffer of chains, which a step takes some of and moves on by
Langevin steps with accept/reject at temperature 1 (`physgen.sampling.langevin`), their size driven
towards the best acceptance. Chains thus follow p itself, not the end of a short walk from noise,
and it makes sense to estimate ln Z: along E_beta = |u|^2 / 2 + beta g(u).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError, errors_of
from physgen.io.weights import moments
from physgen.networks.bodies import Encoder, NetworkOptions
from physgen.networks.mlp import MLPOptions
from physgen.ranges import (
    Count,
    NotNegative,
    Positive,
    PositiveFloat,
    Probability,
)
from physgen.sampling import annealing, hmc, langevin
from physgen.surrogates.base import Surrogate
from physgen.surrogates.boltzmann.chains import MarkovSurrogate
from physgen.surrogates.method import Method, StepContext
from physgen.transforms.base import Transform

_ACCEPTANCE = 0.574
"""Best for Langevin steps in d dimensions (Roberts & Rosenthal, J. R. Stat. Soc. B 60 (1998) 255).

Independent normal numbers are accepted so often at the step size 1.65^2 d^(-1/3) / 2.
"""


class EnergyModel(MarkovSurrogate):
    """A network as energy, sampled by Langevin steps (`HasEstimatedLikelihood`).

    Args:
        schema: of the samples; without conditions.
        transform: from physical samples to real numbers, none of which may be constant.
        network: of the energy; smooth activations have smooth gradients.
        gradient_limit: root mean square, over the entries, to which the gradient of a Langevin
            step is cut.
        n_chains: number of chains in the replay buffer.
        burn_in: Langevin steps before the first draw.
        thin: Langevin steps between the draws of one chain.

    Raises:
        RecipeError: the variables are discrete, or the network does not fit the samples.

    >>> from physgen.batch import Variable
    >>> model = EnergyModel(Schema((2,), (Variable("x"),)), network=MLPOptions(hidden=(8,)))
    >>> model.energy(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    centre: Tensor
    width: Tensor
    step_size: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        network: NetworkOptions = MLPOptions(),
        gradient_limit: PositiveFloat = 30.0,
        n_chains: Positive = 1024,
        burn_in: Count = 200,
        thin: Positive = 50,
    ) -> None:
        shape = schema.shape if transform is None else transform.latent_shape(schema.shape)
        noise = torch.randn(n_chains, *shape, generator=torch.Generator().manual_seed(0))
        super().__init__(schema, transform, noise, burn_in, thin)
        discrete = {v.domain for v in schema.variables} & {"spin", "binary"}
        if discrete and self.transform.exact:
            raise RecipeError(
                f"surrogate energy models real numbers, and {', '.join(schema.names[:4])} are "
                f"{', '.join(sorted(discrete))}: take rbm"
            )
        with errors_of("surrogate.network"):
            self.network = Encoder(shape, 1, 0, network)
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("width", torch.ones(shape))
        self.register_buffer("step_size", torch.tensor(0.1))
        self._free_step = 1.36 * math.prod(shape) ** (-1 / 3)
        self._longest = gradient_limit * math.sqrt(math.prod(shape))

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform, and the mean and deviation of each entry behind it.

        Raises:
            DomainError: an entry is constant, so that its energy would have no bottom.
        """
        super().initialise(data)
        if data is None:
            return
        generator = torch.Generator(device=data.x.device).manual_seed(0)
        mapped, _ = self.transform(data, generator)
        x = mapped.x.to(self.dtype)
        mean, variance = moments(x, data)
        constant = int((variance <= 1e-12 * mean.square().clamp_min(1e-12)).sum())
        if constant:
            raise DomainError(
                f"{constant} of {mean.numel()} entries of the samples never vary, where an energy "
                "has no bottom: add noise of the size of their rounding (transform dequantise)"
            )
        self.centre.copy_(mean)
        self.width.copy_(variance.sqrt())

    def units(self, x: Tensor) -> Tensor:
        """Return the transform's space (B, *shape) in the data's means and deviations."""
        return (x.to(self.dtype) - self.centre) / self.width

    def physical(self, x: Tensor) -> Tensor:
        """Map positions of chains to physical samples."""
        return super().physical(self.centre + self.width * x)

    def learned(self, u: Tensor) -> Tensor:
        """Return (B,), g."""
        learned: Tensor = self.network(u).squeeze(1)
        return learned

    def energy(self, u: Tensor, beta: float = 1.0) -> Tensor:
        """Return (B,), E_beta of positions."""
        return 0.5 * u.square().flatten(1).sum(1) + beta * self.learned(u)

    def langevin(
        self, u: Tensor, n: int, generator: torch.Generator, beta: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return chains after `n` Langevin steps of E_beta, and the mean acceptance, ()."""
        # At beta = 0 the best step is known; that at 1 was found in training.
        step_size = self.step_size**beta * self._free_step ** (1 - beta)
        state = langevin.init(u, self._energy_at(beta))
        accepted = u.new_zeros(())
        for _ in range(n):
            state, info = langevin.step(
                state,
                self._energy_at(beta),
                step_size=step_size,
                generator=generator,
                longest=self._longest,
            )
            accepted += info.probability.mean() / n
        return state.x, accepted

    def move(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Return chains after `n` Langevin steps."""
        return self.langevin(x, n, generator)[0]

    @torch.no_grad()
    def log_partition_function(
        self, *, generator: torch.Generator, n_chains: int = 256, n_steps: int = 1000
    ) -> annealing.Bracket:
        """Estimate ln Z (of u) by annealed importance sampling from both ends of E_beta.

        Args:
            n_chains: at most so many start at either end; backwards from draws of the model.
            n_steps: of beta.
            generator: the only source of randomness.
        """
        rows = slice(min(n_chains, len(self.chains)))
        last = next(self.thinned_states(self.unpack(self.chains[rows]), generator))
        first = torch.empty_like(last).normal_(generator=generator)
        bracket = annealing.bracket(
            first,
            last,
            lambda u, before, after: (before - after) * self.learned(u),
            lambda u, beta, generator: self.langevin(u, 1, generator, beta)[0],
            n_steps=n_steps,
            generator=generator,
        )
        return bracket.shifted(0.5 * self.centre.numel() * math.log(2 * math.pi))

    @torch.no_grad()
    def log_likelihood(self, batch: Batch, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return (B,) log q(x) in physical space, and the standard error of -ln Z in them.

        ln Z is the middle of what annealing gives from both ends. Where the transform adds noise
        (dequantisation), the values are draws of a lower bound.
        """
        mapped, volume = self.transform.bound(batch, generator)
        log_z = self.log_partition_function(generator=generator).middle
        volume = volume - self.width.log().sum() - log_z.value
        return volume - self.energy(self.units(mapped.x)), volume.new_tensor(log_z.error)

    def _energy_at(self, beta: float) -> hmc.Action:
        return lambda u: self.energy(u, beta)


class LangevinDivergence(Method):
    """Maximum likelihood for an energy-based model, the model's mean taken over a replay buffer.

    Args:
        surrogate: an `EnergyModel`; each process has its own buffer of `n_chains`.
        k: Langevin steps of the chains that are taken.
        learning_rate: of Adam.
        momentum: of Adam's first moment.
        l2: weight of the mean square of g, which keeps its constant in place.
        restart: probability that a chain starts again from independent normal numbers.

    Raises:
        RecipeError: the surrogate is no energy model, or the buffer is smaller than a batch.

    >>> from physgen.batch import Variable
    >>> model = EnergyModel(Schema((2,), (Variable("x"),)))
    >>> sorted(LangevinDivergence(model, k=5).optimisers)
    ['energy']
    """

    def __init__(
        self,
        surrogate: Surrogate,
        *,
        k: Positive = 20,
        learning_rate: PositiveFloat = 4e-3,
        momentum: Probability = 0.9,
        l2: NotNegative = 1e-4,
        restart: Probability = 0.0,
    ) -> None:
        if not isinstance(surrogate, EnergyModel):
            raise RecipeError(
                "method.kind: langevin-divergence trains the surrogate energy, not "
                f"{type(surrogate).__name__}"
            )
        super().__init__(surrogate)
        self.model, self.k, self.l2, self.restart = surrogate, k, l2, restart
        self.optimisers["energy"] = torch.optim.Adam(
            surrogate.network.parameters(), lr=learning_rate, betas=(momentum, 0.999)
        )
        self.tensors = {
            "chains": surrogate.chains.clone(),
            "step_size": surrogate.step_size.clone(),
        }

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Map samples to positions, with the transform's noise."""
        return batch.replace(x=self.model.units(super().prepare(batch, generator).x))

    def loss(self, data: Batch, chains: Tensor) -> Tensor:
        """Return (B,): g of the data less g of as many chains, and the square of both."""
        real, generated = self.model.learned(data.x), self.model.learned(chains)
        return real - generated + self.l2 * (real.square() + generated.square())

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Move some chains, then the weights; "loss" is the gap of the learned energies."""
        chains, model, data = self.tensors["chains"], self.model, batches["data"]
        if len(data) > len(chains):
            raise RecipeError(
                f"a batch of {len(data)} samples needs as many chains: surrogate.n_chains="
                f"{len(chains)} is too few"
            )
        rows = torch.randperm(len(chains), generator=ctx.generator, device=chains.device)
        rows = rows[: len(data)]
        u = model.unpack(chains[rows])
        if self.restart:
            fresh = torch.empty_like(u).normal_(generator=ctx.generator)
            draw = torch.rand(len(u), generator=ctx.generator, device=u.device) < self.restart
            u = torch.where(draw.reshape(-1, *[1] * (u.ndim - 1)), fresh, u)
        model.step_size.copy_(self.tensors["step_size"])
        u, acceptance = model.langevin(u, self.k, ctx.generator)
        chains[rows] = model.pack(u)
        model.chains.copy_(chains)
        self.tensors["step_size"] *= (0.1 * (acceptance - _ACCEPTANCE)).exp()
        loss = ctx.minimise(self.loss, self.optimisers["energy"], data, u)
        return {"loss": loss, "acceptance": acceptance, "step_size": model.step_size.clone()}
