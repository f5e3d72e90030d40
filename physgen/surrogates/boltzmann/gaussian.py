r"""Restricted Boltzmann machines of Gaussian visible and binary hidden units.

    E(x, h) = sum_i (x_i - a_i)^2 / 2 sigma_i^2 - b.h - sum_ij x_i W_ij h_j / sigma_i^2,
    F(x) = sum_i (x_i - a_i)^2 / 2 sigma_i^2 - sum_j softplus(b_j + sum_i x_i W_ij / sigma_i^2),

h_j in {0, 1}, so that p(h_j = 1 | x) = sigmoid(b_j + sum_i x_i W_ij / sigma_i^2) and
p(x | h) = N(a + W h, sigma^2): a mixture of 2^hidden Gaussians of one width, normalised whatever
the parameters are. With the width learned (Cho, Ilin & Raiko, ICANN 2011), the parameters are

    alpha = a / sigma,    w = W / sigma,    ln sigma,

the bilinear form of x / sigma and h with unit width: a step of w then moves the fields of both
layers alike, however narrow the units become. sigma stays within e^-3 and e^3 of its first value,
since a pixel that is constant in the data would draw it to zero and its energies to infinity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.io.weights import moments
from physgen.ranges import Count, NotNegative, Positive, PositiveFloat
from physgen.surrogates.boltzmann.machine import BoltzmannMachine, Coefficients, Independent
from physgen.surrogates.flows.spline import softclip
from physgen.transforms.base import Transform

_LOG_RATIO_LIMIT = 3.0
"""Bound on |ln sigma / sigma_0| while sigma is learned."""


class GaussianRBM(BoltzmannMachine):
    """A Gaussian-binary restricted Boltzmann machine (`HasEstimatedLikelihood`).

    Args:
        schema: of real variables, of any shape.
        transform: from physical samples to the visible units.
        hidden: number of hidden units; of filters where `filter_size` is given.
        filter_size: side of the filters of a translation-invariant machine on a periodic lattice
            of one to three dimensions; `None` couples every hidden unit to every visible one.
        sigma: width of the visible units in the transform's space; if learned, in deviations of
            each entry of the data, and where it starts.
        learn_sigma: learn a width for each visible unit.
        weight_scale: standard deviation of the initial weights W / sigma.
        n_chains: number of Markov chains that are kept.
        burn_in: Gibbs sweeps before the first draw.
        thin: Gibbs sweeps between the draws of one chain.
        replicas: of parallel tempering between independent units and the machine; 1 is plain Gibbs
            sampling.

    Raises:
        RecipeError: the variables are not real, or the options do not fit one another.

    >>> from physgen.batch import Variable
    >>> machine = GaussianRBM(Schema((4,), (Variable("x"),)), hidden=2, burn_in=10)
    >>> machine.sample(5, seed=1).x.shape
    torch.Size([5, 4])
    """

    log_sigma_start: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        hidden: Positive = 256,
        filter_size: int | None = None,
        sigma: PositiveFloat = 1.0,
        learn_sigma: bool = True,
        weight_scale: NotNegative = 0.05,
        n_chains: Positive = 1024,
        burn_in: Count = 500,
        thin: Positive = 50,
        replicas: Positive = 1,
    ) -> None:
        if not sigma > 0:
            raise RecipeError(f"surrogate.sigma={sigma}: a width is positive")
        shape = schema.shape if transform is None else transform.latent_shape(schema.shape)
        noise = torch.randn(n_chains, *shape, generator=torch.Generator().manual_seed(0))
        super().__init__(
            schema,
            transform,
            noise,
            hidden=hidden,
            filter_size=filter_size,
            weight_scale=weight_scale,
            replicas=replicas,
            burn_in=burn_in,
            thin=thin,
        )
        discrete = {v.domain for v in schema.variables} & {"spin", "binary"}
        if discrete and self.transform.exact:
            raise RecipeError(
                f"surrogate gaussian-rbm models real numbers, and {', '.join(schema.names[:4])} "
                f"are {', '.join(sorted(discrete))}: take rbm"
            )
        self.learn_sigma = learn_sigma
        ratio = torch.zeros(self.coupling.visible_bias_shape)
        self.register_buffer("log_sigma_start", torch.full_like(ratio, math.log(sigma)))
        if learn_sigma:
            self.log_sigma_ratio = nn.Parameter(ratio)
        else:
            self.register_buffer("log_sigma_ratio", ratio)

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform; set a to the means of the data, and the chains to noise around them.

        The noise has the variances of the data, so that the chains are independent units.
        """
        super().initialise(data)
        if data is None:
            return
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad():
            mapped, _ = self.transform(data, generator)
            x = self.units(mapped.x)
            mean, variance = moments(x, data)
            noise = torch.randn(
                self.chains.shape, generator=generator, device=self.device, dtype=x.dtype
            )
            self.chains.copy_(self.pack(mean + variance.clamp(min=0).sqrt() * noise))
            if self.visible_bias.numel() == 1:
                mean, variance = (
                    v.mean().reshape(self.visible_bias.shape) for v in (mean, variance)
                )
            if self.learn_sigma:
                # An entry that never changes keeps the width that was asked for.
                scale = torch.where(variance > 0, 0.5 * variance.log(), torch.zeros_like(mean))
                self.log_sigma_start += scale
            self.visible_bias.copy_(mean / self.sigma)

    @property
    def sigma(self) -> Tensor:
        """Widths of the visible units, in the shape of their biases."""
        return (self.log_sigma_start + softclip(self.log_sigma_ratio, _LOG_RATIO_LIMIT)).exp()

    def units(self, x: Tensor) -> Tensor:
        """Return the transform's space as it is."""
        return x.to(self.dtype)

    def statistic(self, x: Tensor) -> Tensor:
        """Return x / sigma."""
        return x / self.sigma

    def visible_energy(self, x: Tensor) -> Tensor:
        """Return (B,), the sum of (x / sigma - alpha)^2 / 2."""
        return 0.5 * (x / self.sigma - self.visible_bias).square().flatten(1).sum(1)

    def log_sum_hidden(self, field: Tensor) -> Tensor:
        """Return (B,), the sum of ln(1 + exp)."""
        return F.softplus(field).flatten(1).sum(1)

    def mean_hidden(self, field: Tensor) -> Tensor:
        """Return the logistic function."""
        return field.sigmoid()

    def draw_hidden(self, field: Tensor, generator: torch.Generator) -> Tensor:
        """Draw hidden units in `field`, which is overwritten."""
        probability = field.sigmoid_()
        uniform = torch.empty_like(probability).uniform_(generator=generator)
        return probability.gt_(uniform)

    def visible_field(self, hidden: Tensor) -> Tensor:
        """Return (a + W h) / sigma^2."""
        return self.coupling.to_visible(hidden, self.visible_bias) / self.sigma

    @property
    def precision(self) -> Tensor:
        """1 / sigma^2."""
        return self.sigma**-2

    def draw_visible(self, field: Tensor, precision: Tensor, generator: torch.Generator) -> Tensor:
        """Draw N(field / precision, 1 / precision)."""
        noise = torch.empty_like(field).normal_(generator=generator)
        return field / precision + noise * precision.rsqrt()

    @torch.no_grad()
    def independent(self) -> Independent:
        """Return independent Gaussians with the means and variances of the chains."""
        chains = self.unpack(self.chains)
        # Not narrower than a unit is, given the hidden ones.
        precision = torch.minimum(
            1 / chains.var(0, correction=0), self.precision.expand(chains.shape[1:])
        )
        field = chains.mean(0) * precision
        log_z = 0.5 * (field.square() / precision + (2 * math.pi / precision).log())
        return Independent(field, precision, float(log_z.sum()))

    @torch.no_grad()
    def coefficients(self) -> Coefficients:
        """Return a, b, W, sigma of the energy at the module's head."""
        shape = self.chains.shape[1:]
        n = shape.numel()
        one_each = torch.eye(n, dtype=self.dtype, device=self.device).reshape(n, *shape)
        no_bias = torch.zeros_like(self.hidden_bias)
        weight = self.coupling.to_hidden(one_each, no_bias).flatten(1)
        sigma = self.sigma.expand(shape).flatten()
        a = self.visible_bias.expand(shape).flatten() * sigma
        b = self.hidden_bias.expand(self.coupling.hidden_shape).flatten()
        return Coefficients(a=a, b=b, weight=weight * sigma[:, None], sigma=sigma)
