r"""What restricted Boltzmann machines share, whatever their visible units are.

Visible x and hidden h have the energy E(x, h) = E_v(x) - b.h - h.W s(x), where s(x) is what couples
to h. Given one layer, the units of the other are independent: drawing one layer after the other is
block Gibbs sampling, and the hidden layer sums to the free energy

    F(x) = E_v(x) - sum_j ln sum_{h_j} exp(h_j (b_j + (W s(x))_j)),      p(x) = exp(-F(x)) / Z.

From independent visible units with the energy E_0(x) a path leads to the machine,

    E_beta(x, h) = (1 - beta) E_0(x) + beta E(x, h),
    F_beta(x) = (1 - beta) E_0(x) + beta E_v(x) - sum_j ln sum_{h_j} exp(beta h_j (b + W s)_j),

along which ln Z is found by annealed importance sampling (Salakhutdinov & Murray, ICML 2008), and
between whose machines configurations are exchanged in parallel tempering. Gibbs sampling of
E_beta leaves exp(-F_beta) invariant, and F_beta is not beta F. With E_0 = 0 this is tempering.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.ranges import Positive
from physgen.sampling import annealing, tempering
from physgen.surrogates.boltzmann.chains import MarkovSurrogate
from physgen.surrogates.boltzmann.couplings import (
    DenseCoupling,
    LatticeCoupling,
    ValueCoupling,
)
from physgen.transforms.base import Transform


@dataclass(frozen=True)
class Coefficients:
    """A machine's numbers where hidden units, and visible ones that are not real, are 0 or 1.

    E(x, h) = - a.x - b.h - x.W.h or, for real x, sum (x - a)^2 / 2 sigma^2 - b.h - x.W.h / sigma^2.

    Attributes:
        a: (sites,).
        b: (hidden,).
        weight: (sites, hidden).
        sigma: (sites,) where the visible units are Gaussian.
    """

    a: Tensor
    b: Tensor
    weight: Tensor
    sigma: Tensor | None = None


class BoltzmannMachine(MarkovSurrogate):
    """A restricted Boltzmann machine of any kind of visible and hidden units.

    Args:
        schema: of the samples.
        transform: from physical samples to visible units.
        start: (n_chains, *shape) where the chains stand before training.
        hidden: number of hidden units; of filters where `filter_size` is given.
        filter_size: side of the filters of a translation-invariant machine on a periodic lattice
            of one to three dimensions; `None` couples every hidden unit to every visible one.
        weight_scale: standard deviation of the initial weights.
        biases: those that are learned; the others are zero.
        alike: whether all values of Potts spins couple alike.
        replicas: of parallel tempering between independent units and the machine; 1 is plain Gibbs
            sampling.
        burn_in: Gibbs sweeps before the first draw.
        thin: Gibbs sweeps between the draws of one chain.

    Raises:
        RecipeError: the filters do not fit the samples.
    """

    visible_bias: Tensor
    hidden_bias: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None,
        start: Tensor,
        *,
        hidden: Positive,
        filter_size: int | None,
        weight_scale: float,
        biases: Sequence[str] = ("visible_bias", "hidden_bias"),
        alike: bool = False,
        replicas: int,
        burn_in: int,
        thin: Positive,
    ) -> None:
        super().__init__(schema, transform, start, burn_in, thin)
        shape = tuple(start.shape[1:])
        # Of Potts spins the values have an axis before those of the lattice.
        *values, lattice = *shape[: -len(schema.shape)], shape[-len(schema.shape) :]
        shared = values if alike else []
        if filter_size is None:
            whole = lattice if shared else shape
            coupling: DenseCoupling | LatticeCoupling = DenseCoupling(whole, hidden, weight_scale)
        else:
            if len(lattice) > 3 or not 1 <= filter_size <= min(lattice):
                raise RecipeError(
                    f"surrogate.filter_size={filter_size} does not fit samples of shape "
                    f"{list(lattice)}: filters need 1 to 3 dimensions and at most the smallest "
                    "length"
                )
            channels = [] if shared else values
            coupling = LatticeCoupling(lattice, hidden, filter_size, weight_scale, *channels)
        self.coupling: DenseCoupling | LatticeCoupling | ValueCoupling = coupling
        if shared:
            self.coupling = ValueCoupling(coupling, *shared)
        if replicas < 1:
            raise RecipeError(f"surrogate.replicas={replicas}: at least 1, the machine itself")
        self.replicas = replicas
        shapes = {
            "visible_bias": self.coupling.visible_bias_shape,
            "hidden_bias": self.coupling.hidden_bias_shape,
        }
        for name, bias_shape in shapes.items():
            if name in biases:
                self.register_parameter(name, nn.Parameter(torch.zeros(bias_shape)))
            else:
                self.register_buffer(name, torch.zeros(bias_shape))

    # What a kind of units has to say of itself.

    def units(self, x: Tensor) -> Tensor:
        """Return (B, *shape) of the transform's space as visible units."""
        raise NotImplementedError

    def statistic(self, x: Tensor) -> Tensor:
        """Return s(x), what couples to the hidden units, (B, *shape)."""
        raise NotImplementedError

    def visible_energy(self, x: Tensor) -> Tensor:
        """Return (B,), E_v."""
        raise NotImplementedError

    def log_sum_hidden(self, field: Tensor) -> Tensor:
        """Return (B,), the logarithm of the sum over hidden units in `field`."""
        raise NotImplementedError

    def mean_hidden(self, field: Tensor) -> Tensor:
        """Return the means of hidden units in `field`: the derivative of `log_sum_hidden`."""
        raise NotImplementedError

    def draw_hidden(self, field: Tensor, generator: torch.Generator) -> Tensor:
        """Draw hidden units in `field`, which may be overwritten."""
        raise NotImplementedError

    def visible_field(self, hidden: Tensor) -> Tensor:
        """Return the linear coefficient of x in -E(x, h), (B, *shape)."""
        raise NotImplementedError

    @property
    def precision(self) -> Tensor:
        """Coefficient of -x^2 / 2 in -E: one over the variance of Gaussian units, 0 of spins."""
        raise NotImplementedError

    def draw_visible(self, field: Tensor, precision: Tensor, generator: torch.Generator) -> Tensor:
        """Draw visible units with exp(field x - precision x^2 / 2); `field` may be overwritten."""
        raise NotImplementedError

    def independent(self) -> Independent:
        """Return independent units with the means (and variances) of the chains."""
        raise NotImplementedError

    def coefficients(self) -> Coefficients:
        """Return a, b, W of the energy in units of 0 and 1."""
        raise NotImplementedError

    def fix_gauge(self) -> None:
        """Fix what the distribution does not depend on, where there is such; after each step."""

    # What follows from it.

    def hidden_field(self, x: Tensor) -> Tensor:
        """Return b + W s(x) of (B, *shape) visible units."""
        return self.coupling.to_hidden(self.statistic(x), self.hidden_bias)

    def free_energy(self, x: Tensor) -> Tensor:
        """Return (B,), F of (B, *shape) visible units."""
        return self.visible_energy(x) - self.log_sum_hidden(self.hidden_field(x))

    @torch.no_grad()
    def gibbs(self, x: Tensor, sweeps: int, generator: torch.Generator) -> Tensor:
        """Return (B, *shape) visible units after a number of block Gibbs sweeps."""
        for _ in range(sweeps):
            hidden = self.draw_hidden(self.hidden_field(x), generator)
            x = self.draw_visible(self.visible_field(hidden), self.precision, generator)
        return x

    def move(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Return chains after `n` block Gibbs sweeps."""
        return self.gibbs(x, n, generator)

    def thinned_states(self, x: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield draws of chains; of the coldest replicas, where there are several."""
        if self.replicas == 1:
            yield from super().thinned_states(x, generator)
            return
        replicas, sweeps, first = [x] * self.replicas, self.burn_in, 0
        while True:
            replicas = self.tempered(replicas, sweeps, first=first, generator=generator)
            yield replicas[-1]
            first, sweeps = first + sweeps, self.thin

    @torch.no_grad()
    def tempered(
        self, replicas: Sequence[Tensor], sweeps: int, *, first: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Return replicas after sweeps of parallel tempering from independent units, the first.

        Args:
            replicas: at least 2, each of (C, *shape) visible units; the machine's own come last.
            sweeps: of Gibbs sampling, each followed by exchanges.
            first: number of sweeps before; neighbours exchange in turn.
            generator: the only source of randomness.
        """
        path = Path(self, self.independent())
        betas = [i / (len(replicas) - 1) for i in range(len(replicas))]
        moved = list(replicas)
        for number in range(first, first + sweeps):
            odd = bool(number % 2)
            moved, _ = tempering.step(
                moved, path.log_ratio, path.move, betas, odd=odd, generator=generator
            )
        return moved

    @torch.no_grad()
    def log_partition_function(
        self, *, generator: torch.Generator, n_chains: int = 256, n_steps: int = 1000
    ) -> annealing.Bracket:
        """Estimate ln Z by annealed importance sampling, from both ends of the path.

        Args:
            n_chains: at most so many start at either end; backwards from draws of the machine.
            n_steps: of beta.
            generator: the only source of randomness.
        """
        independent = self.independent()
        path = Path(self, independent)
        rows = slice(min(n_chains, len(self.chains)))
        last = next(self.thinned_states(self.unpack(self.chains[rows]), generator))
        field = independent.field.expand(n_chains, *last.shape[1:]).clone()
        first = self.draw_visible(field, independent.precision, generator)
        bracket = annealing.bracket(
            first, last, path.log_ratio, path.move, n_steps=n_steps, generator=generator
        )
        zero = first.new_zeros(1, *self.coupling.hidden_shape)
        return bracket.shifted(independent.log_z + float(self.log_sum_hidden(zero)))

    @torch.no_grad()
    def log_likelihood(self, batch: Batch, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return (B,) log q(x) in physical space, and the standard error of -ln Z in them.

        ln Z is the middle of what annealing gives from both ends. Where the transform adds noise
        (dequantisation), the values are draws of a lower bound.
        """
        mapped, volume = self.transform.bound(batch, generator)
        x = self.units(mapped.x)
        log_z = self.log_partition_function(generator=generator).middle
        return volume - self.free_energy(x) - log_z.value, x.new_tensor(log_z.error)


@dataclass(frozen=True)
class Independent:
    """Independent visible units, E_0(x) = precision x^2 / 2 - field x.

    Attributes:
        field: (*shape).
        precision: (*shape), or () for all; 0 for spins.
        log_z: the logarithm of their normaliser.
    """

    field: Tensor
    precision: Tensor
    log_z: float

    def energy(self, x: Tensor) -> Tensor:
        """Return (B,), E_0."""
        return (x * (0.5 * self.precision * x - self.field)).flatten(1).sum(1)


@dataclass(frozen=True)
class Path:
    """The machines between independent units (beta = 0) and a machine (beta = 1)."""

    machine: BoltzmannMachine
    independent: Independent

    def free_energy(self, x: Tensor, beta: float) -> Tensor:
        """Return (B,), F_beta."""
        field = self.machine.hidden_field(x)
        visible = torch.lerp(self.independent.energy(x), self.machine.visible_energy(x), beta)
        return visible - self.machine.log_sum_hidden(beta * field)

    def log_ratio(self, x: Tensor, before: float, after: float) -> Tensor:
        """Return (B,), F_before - F_after, with the fields computed once."""
        machine, field = self.machine, self.machine.hidden_field(x)
        visible = (after - before) * (self.independent.energy(x) - machine.visible_energy(x))
        return (
            visible + machine.log_sum_hidden(after * field) - machine.log_sum_hidden(before * field)
        )

    def move(self, x: Tensor, beta: float, generator: torch.Generator) -> Tensor:
        """Return chains after a Gibbs sweep of E_beta, reversible with respect to exp(-F_beta)."""
        machine, start = self.machine, self.independent
        hidden = machine.draw_hidden(beta * machine.hidden_field(x), generator)
        field = torch.lerp(start.field.expand_as(x), machine.visible_field(hidden), beta)
        precision = (1 - beta) * start.precision + beta * machine.precision
        return machine.draw_visible(field, precision, generator)
