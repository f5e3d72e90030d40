r"""Restricted Boltzmann machines of two kinds of spins: binary or Potts, and binary hidden ones.

Visible spins s and hidden spins h, all -1 or +1, have the energy and free energy

    E(s, h) = - a.s - b.h - h.W s,      p(s) = exp(-F(s)) / Z,
    F(s) = - a.s - sum_j ln 2 cosh(b_j + (W s)_j),      ln 2 cosh y = softplus(2 y) - y.

Given one layer, the other is independent: p(h_j = 1 | s) = sigmoid(2 (b_j + (W s)_j)); likewise
for s. A machine of 0/1 units, E = - a'.x - b'.y - x.W' y, is the same thing with x = (1 + s) / 2
and y = (1 + h) / 2, up to a constant:

    W' = 4 W^T,    a' = 2 a - 2 sum_j W_j,    b'_j = 2 b_j - 2 sum_i W_ji .

Potts spins of q values are q numbers s_i(c) of 0 and 1 each (`visible`), a_i(c) and W_ji(c) as
many; given h, p(s_i = c) is the softmax of a_i(c) + sum_j h_j W_ji(c). Since sum_c s_i(c) = 1, the
distribution does not change under

    W_ji(c) -> W_ji(c) + k_ji,    b_j -> b_j - sum_i k_ji,    a_i(c) -> a_i(c) + l_i ,

a gauge, which is fixed by sum_c W_ji(c) = sum_c a_i(c) = 0. There q = 2 is the machine of spins:
W_ji(c) = -W_ji, +W_ji.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.io.weights import moments
from physgen.ranges import Count, NotNegative, Positive
from physgen.surrogates.boltzmann.machine import BoltzmannMachine, Coefficients, Independent
from physgen.surrogates.boltzmann.visible import PottsUnits, SpinUnits, units_of
from physgen.transforms.base import Chain, Transform


class RBM(BoltzmannMachine):
    """A restricted Boltzmann machine of spins, binary or of q values (`HasEstimatedLikelihood`).

    Args:
        schema: of spins (-1/+1), binary (0/1) variables or Potts spins (0 to q - 1), of any shape.
        transform: none but the identity.
        hidden: number of hidden spins; of filters where `filter_size` is given.
        filter_size: side of the filters of a translation-invariant machine on a periodic lattice
            of one to three dimensions; `None` couples every hidden spin to every visible one.
        spin_flip_symmetric: no biases, so that p(-s) = p(s), and the chains turn all their spins at
            random between draws; not of Potts spins.
        permutation_symmetric: of Potts spins: each value has hidden spins of its own, all of the
            same weights, so that p does not change when values are permuted, and the chains permute
            them at random between draws. `hidden` is their number for each value.
        weight_scale: standard deviation of the initial weights.
        n_chains: number of Markov chains that are kept.
        burn_in: Gibbs sweeps before the first draw.
        thin: Gibbs sweeps between the draws of one chain.
        replicas: of parallel tempering between independent spins and the machine; 1 is plain Gibbs
            sampling.

    Raises:
        RecipeError: the options do not fit one another, or the data.

    >>> from physgen.batch import Variable
    >>> machine = RBM(Schema((4,), (Variable("spin", domain="spin"),)), hidden=2, burn_in=10)
    >>> machine.sample(5, seed=1).x.unique()
    tensor([-1.,  1.])
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        hidden: Positive = 256,
        filter_size: int | None = None,
        spin_flip_symmetric: bool = False,
        permutation_symmetric: bool = False,
        weight_scale: NotNegative = 0.05,
        n_chains: Positive = 1024,
        burn_in: Count = 500,
        thin: Positive = 50,
        replicas: Positive = 1,
    ) -> None:
        self.check_masks(schema)
        visible = units_of(schema)
        generator = torch.Generator().manual_seed(0)
        anywhere = torch.zeros(n_chains, *visible.axes, *schema.shape)
        super().__init__(
            schema,
            transform,
            visible.draw(anywhere, generator).to(torch.int8),
            hidden=hidden,
            filter_size=filter_size,
            weight_scale=weight_scale,
            biases=[
                *["visible_bias"] * (not spin_flip_symmetric and not permutation_symmetric),
                *["hidden_bias"] * (not spin_flip_symmetric),
            ],
            alike=permutation_symmetric,
            replicas=replicas,
            burn_in=burn_in,
            thin=thin,
        )
        self.visible: SpinUnits | PottsUnits = visible
        if not (isinstance(self.transform, Chain) and len(self.transform.transforms) == 0):
            raise RecipeError("surrogate rbm takes spins as they are: leave `transform` out")
        if spin_flip_symmetric and isinstance(visible, PottsUnits):
            raise RecipeError(
                f"surrogate.spin_flip_symmetric: spins of q = {visible.q} values are not flipped; "
                "set permutation_symmetric"
            )
        if permutation_symmetric and isinstance(visible, SpinUnits):
            raise RecipeError(
                "surrogate.permutation_symmetric: of Potts spins; set spin_flip_symmetric"
            )
        self.symmetric = spin_flip_symmetric or permutation_symmetric
        self.fix_gauge()

    def initialise(self, data: Batch | None) -> None:
        """Set the visible biases to those of independent spins with the means of the data.

        The chains start as draws of these spins.
        """
        super().initialise(data)
        if data is None or self.symmetric:
            return
        spins = self.units(data.x)
        mean = self.coupling.mean_of_shared(moments(spins, data)[0])
        with torch.no_grad():
            self.visible_bias.copy_(self.visible.field_of(mean))
            field = self.visible_bias.expand(self.chains.shape).clone()
            generator = torch.Generator(self.device).manual_seed(0)
            self.chains.copy_(self.pack(self.visible.draw(field, generator)))

    def units(self, x: Tensor) -> Tensor:
        """Return samples as the numbers s in the type of the parameters."""
        return self.visible.of_samples(x.to(self.dtype))

    def physical(self, x: Tensor) -> Tensor:
        """Return spins as samples of the type that files have."""
        return self.visible.samples(x).to(getattr(torch, self.schema.variables[0].dtype))

    def statistic(self, x: Tensor) -> Tensor:
        """Return the spins themselves."""
        return x

    def visible_energy(self, x: Tensor) -> Tensor:
        """Return (B,), -a.s."""
        return -(x.flatten(1) @ self.visible_bias.expand(x.shape[1:]).flatten())

    def log_sum_hidden(self, field: Tensor) -> Tensor:
        """Return (B,), the sum of ln 2 cosh."""
        return (F.softplus(2 * field) - field).flatten(1).sum(1)

    def mean_hidden(self, field: Tensor) -> Tensor:
        """Return tanh."""
        return field.tanh()

    def draw_hidden(self, field: Tensor, generator: torch.Generator) -> Tensor:
        """Draw hidden spins in `field`, which is overwritten."""
        return SpinUnits().draw(field, generator)

    def visible_field(self, hidden: Tensor) -> Tensor:
        """Return a + h W."""
        return self.coupling.to_visible(hidden, self.visible_bias)

    @property
    def precision(self) -> Tensor:
        """Zero: the square of a spin is a constant."""
        return self.hidden_bias.new_zeros(())

    def draw_visible(self, field: Tensor, precision: Tensor, generator: torch.Generator) -> Tensor:
        """Draw visible spins in `field`, which is overwritten."""
        return self.visible.draw(field, generator)

    def gibbs(self, x: Tensor, sweeps: int, generator: torch.Generator) -> Tensor:
        """Return (B, *shape) spins after a number of block Gibbs sweeps."""
        x = super().gibbs(x, sweeps, generator)
        if self.symmetric:
            # An exact move, since F is the same, along the slowest direction of an ordered machine.
            x = self.visible.image(x, generator)
        return x

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the free energy of samples: p(x) is proportional to exp(-action)."""
        return self.free_energy(self.units(x))

    @torch.no_grad()
    def fix_gauge(self) -> None:
        """Give weights and visible biases of Potts spins the sum 0 over the values."""
        if isinstance(self.visible, PottsUnits):
            constant = self.coupling.centre_values(self.visible.q)
            self.hidden_bias += constant.reshape(self.hidden_bias.shape)
            self.visible_bias -= self.visible_bias.mean(0, keepdim=True)

    @torch.no_grad()
    def independent(self) -> Independent:
        """Return independent spins with the means of the chains."""
        mean = self.unpack(self.chains).mean(0)
        field = torch.zeros_like(mean) if self.symmetric else self.visible.field_of(mean)
        return Independent(field, self.precision, float(self.visible.log_sum(field)))

    @torch.no_grad()
    def coefficients(self) -> Coefficients:
        """Return a', b', W' of the machine of 0/1 units (see the module's head).

        Of Potts spins a site has q of them, those of one value after those of another.
        """
        shape = self.chains.shape[1:]
        n, scale = shape.numel(), self.visible.scale
        one_each = torch.eye(n, dtype=self.dtype, device=self.device).reshape(n, *shape)
        no_bias = torch.zeros_like(self.hidden_bias)
        weight = self.coupling.to_hidden(one_each, no_bias).flatten(1)
        a = self.visible_bias.expand(shape).flatten()
        b = self.hidden_bias.expand(self.coupling.hidden_shape).flatten()
        return Coefficients(
            a=scale * (a - weight.sum(1)),
            b=2 * (b + self.visible.shift * weight.sum(0)),
            weight=2 * scale * weight,
        )
