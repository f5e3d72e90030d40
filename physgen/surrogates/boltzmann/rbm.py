r"""Restricted Boltzmann machines of two kinds of spins, and their training by persistent chains.

Visible spins s and hidden spins h, all -1 or +1, have the energy and free energy

    E(s, h) = - a.s - b.h - h.W s,      p(s) = exp(-F(s)) / Z,
    F(s) = - a.s - sum_j ln 2 cosh(b_j + (W s)_j),      ln 2 cosh y = softplus(2 y) - y.

Given one layer, the other is independent: p(h_j = 1 | s) = sigmoid(2 (b_j + (W s)_j)), and likewise
for s: alternating draws are block Gibbs sampling. A machine of 0/1 units with E = - a'.x - b'.y -
y.W' x is the same thing with x = (1 + s) / 2: W = W' / 4, a = a'/2 + sum_j W'_j / 4, and so on.

The log-likelihood has the gradient <-dF/dw>_data - <-dF/dw>_model. The second mean is taken over
chains that persist from step to step (Tieleman, ICML 2008). What moves the weights is its centred
form (Melchior, Fischer & Wiskott, JMLR 17 (2016) 99): with offsets mu, lambda, the means of s, h
over data and chains,

    dW <- dW - lambda (x) da - db (x) mu,   da <- da - lambda.dW,   db <- db - dW.mu ,

the gradient of the same function in other coordinates, which does not change when spins are turned.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.base import Method, StepContext, Surrogate
from physgen.surrogates.boltzmann.couplings import DenseCoupling, LatticeCoupling
from physgen.transforms.base import Chain, Transform

_LARGEST_MEAN = 0.99
"""Visible biases are set from data up to this |mean|, so that frozen spins keep them finite."""


class RBM(Surrogate):
    """A restricted Boltzmann machine of spins or binary numbers.

    Samples are drawn from Markov chains that start where the training left its own; they carry
    `chain`, so that errors take autocorrelation into account.

    Args:
        schema: of spins (-1/+1) or binary (0/1) variables, of any shape.
        transform: none but the identity.
        hidden: number of hidden spins; of filters where `filter_size` is given.
        filter_size: side of the filters of a translation-invariant machine on a periodic lattice
            of one to three dimensions; `None` couples every hidden spin to every visible one.
        spin_flip_symmetric: no biases, so that p(-s) = p(s), and the chains turn all their spins at
            random between draws.
        weight_scale: standard deviation of the initial weights.
        n_chains: number of Markov chains that are kept.
        burn_in: Gibbs sweeps before the first draw.
        thin: Gibbs sweeps between the draws of one chain.

    Raises:
        RecipeError: the options do not fit one another, or the data.
    """

    visible_bias: Tensor
    hidden_bias: Tensor
    chains: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        hidden: int = 256,
        filter_size: int | None = None,
        spin_flip_symmetric: bool = False,
        weight_scale: float = 0.05,
        n_chains: int = 1024,
        burn_in: int = 500,
        thin: int = 50,
    ) -> None:
        super().__init__(schema, transform)
        self.binary = _is_binary(schema)
        if not (isinstance(self.transform, Chain) and len(self.transform.transforms) == 0):
            raise RecipeError("surrogate rbm takes spins as they are: leave `transform` out")
        if schema.condition:
            raise RecipeError("surrogate rbm knows no conditions; train one for each of them")
        shape = schema.shape
        self.coupling: DenseCoupling | LatticeCoupling
        if filter_size is None:
            self.coupling = DenseCoupling(shape, hidden, weight_scale)
        else:
            if len(shape) > 3 or not 1 <= filter_size <= min(shape):
                raise RecipeError(
                    f"surrogate.filter_size={filter_size} does not fit samples of shape "
                    f"{list(shape)}: filters need 1 to 3 dimensions and at most the smallest length"
                )
            self.coupling = LatticeCoupling(shape, hidden, filter_size, weight_scale)
        self.spin_flip_symmetric = spin_flip_symmetric
        biases = {
            "visible_bias": torch.zeros(self.coupling.visible_bias_shape),
            "hidden_bias": torch.zeros(self.coupling.hidden_bias_shape),
        }
        for name, value in biases.items():
            if spin_flip_symmetric:
                self.register_buffer(name, value)
            else:
                self.register_parameter(name, nn.Parameter(value))
        start = torch.randint(2, (n_chains, *shape), generator=torch.Generator().manual_seed(0))
        self.register_buffer("chains", (2 * start - 1).to(torch.int8))
        self.burn_in, self.thin = burn_in, thin

    def initialise(self, data: Batch | None) -> None:
        """Set the visible biases to those of independent spins with the means of the data."""
        super().initialise(data)
        if data is None or self.spin_flip_symmetric:
            return
        weight = torch.ones(len(data)) if data.weight is None else data.weight
        spins = self.spins(data.x)
        mean = torch.tensordot(weight.to(spins), spins, 1) / weight.sum()
        if self.visible_bias.numel() == 1:
            mean = mean.mean().reshape(self.visible_bias.shape)
        with torch.no_grad():
            self.visible_bias.copy_(mean.clamp(-_LARGEST_MEAN, _LARGEST_MEAN).atanh())

    def spins(self, x: Tensor) -> Tensor:
        """Return samples as -1 and +1 in the type of the parameters."""
        x = x.to(self.dtype)
        return 2 * x - 1 if self.binary else x

    def free_energy(self, spins: Tensor) -> Tensor:
        """Return (B,), F of (B, *shape) spins."""
        return self.free_energy_in(self.coupling.to_hidden(spins, self.hidden_bias), spins)

    def free_energy_in(self, field: Tensor, spins: Tensor) -> Tensor:
        """Return (B,), F of spins that put the hidden ones into `field`."""
        hidden = (F.softplus(2 * field) - field).flatten(1).sum(1)
        return -(spins * self.visible_bias).flatten(1).sum(1) - hidden

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the free energy of samples: p(x) is proportional to exp(-action)."""
        return self.free_energy(self.spins(x))

    @torch.no_grad()
    def gibbs(self, spins: Tensor, sweeps: int, generator: torch.Generator) -> Tensor:
        """Return (B, *shape) spins after a number of block Gibbs sweeps."""
        for _ in range(sweeps):
            hidden = _draw(self.coupling.to_hidden(spins, self.hidden_bias), generator)
            spins = _draw(self.coupling.to_visible(hidden, self.visible_bias), generator)
        if self.spin_flip_symmetric:
            # An exact move, since F(-s) = F(s), along the slowest direction of an ordered machine.
            turn = spins.new_zeros(len(spins), *(1,) * (spins.ndim - 1))
            spins = spins * _draw(turn, generator)
        return spins

    @torch.no_grad()
    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` samples from at most `n_chains` chains, chain after chain."""
        if condition is not None:
            raise DomainError("this RBM was trained without conditions; do not pass any")
        n_chains = min(n, len(self.chains))
        draws = -(-n // n_chains)
        order = torch.randperm(len(self.chains), generator=generator, device=self.device)
        spins = self.chains[order[:n_chains]].to(self.dtype)
        kept = []
        for index in range(draws):
            spins = self.gibbs(spins, self.thin if index else self.burn_in, generator)
            kept.append(spins.to(torch.int8))
        x = torch.stack(kept, 1).flatten(0, 1)[:n]
        chain = torch.arange(n_chains, device=self.device).repeat_interleave(draws)[:n]
        return Batch(x=(x + 1) // 2 if self.binary else x, chain=chain)


class PersistentContrastiveDivergence(Method):
    """Maximum likelihood for an RBM, the model's mean being taken over persistent chains.

    Args:
        surrogate: the RBM; each process runs `n_chains` chains.
        k: Gibbs sweeps of the chains a step.
        learning_rate: of Adam.
        momentum: of Adam's first moment; the chains answer late, so that less is more stable.
        centred: use the centred gradient.
    """

    def __init__(
        self,
        surrogate: RBM,
        *,
        k: int = 10,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        centred: bool = True,
    ) -> None:
        if not isinstance(surrogate, RBM):
            raise RecipeError(
                "persistent-contrastive-divergence trains the surrogate rbm, not "
                f"{type(surrogate).__name__}"
            )
        super().__init__(surrogate)
        self.rbm, self.k, self.centred = surrogate, k, centred
        optimiser = torch.optim.Adam(
            surrogate.parameters(), lr=learning_rate, betas=(momentum, 0.999)
        )
        self.optimisers = {"adam": optimiser}
        self.tensors = {"chains": surrogate.chains.clone()}

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Map samples to spins."""
        return batch.replace(x=self.rbm.spins(batch.x))

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Move the chains, then the weights; "loss" is the gap of free energy a site."""
        data, rbm = batches["data"], self.rbm
        chains = rbm.gibbs(self.tensors["chains"].to(data.x), self.k, ctx.generator)
        self.tensors["chains"] = chains.to(torch.int8)
        rbm.chains.copy_(self.tensors["chains"])
        loss = self.gradient(data, chains)
        ctx.apply(self.optimisers["adam"])
        return {"loss": loss}

    def gradient(self, data: Batch, chains: Tensor) -> Tensor:
        """Put the gradient of -log-likelihood into `.grad`; return the gap of free energy a site.

        Args:
            data: whose `x` are (B, *shape) spins.
            chains: (n, *shape) spins of the model.
        """
        rbm = self.rbm
        spins = torch.cat([data.x, chains])
        weight = data.x.new_ones(len(data)) if data.weight is None else data.weight
        share = torch.cat(
            [weight / weight.sum(), chains.new_full((len(chains),), -1 / len(chains))]
        )
        field = rbm.coupling.to_hidden(spins, rbm.hidden_bias)
        hidden = field.detach().tanh()
        # dF / d field = -tanh(field); the rest is linear.
        slope = -hidden * share.reshape(-1, *(1,) * (hidden.ndim - 1))
        trained = [p for p in (rbm.coupling.weight, rbm.hidden_bias) if p.requires_grad]
        for parameter, gradient in zip(
            trained, torch.autograd.grad(field, trained, slope), strict=True
        ):
            parameter.grad = gradient
        with torch.no_grad():
            if rbm.visible_bias.requires_grad:
                total = -torch.tensordot(share, spins, 1)
                rbm.visible_bias.grad = total.sum_to_size(rbm.visible_bias.shape)
                if self.centred:
                    self._centre(spins, hidden)
            return share @ rbm.free_energy_in(field, spins) / chains[0].numel()

    def _centre(self, spins: Tensor, hidden: Tensor) -> None:
        """Turn the gradients into their centred form (see the module's head).

        For shared filters the same formulae hold with one mu and one lambda a filter, since a sum
        over sites of the gradient is what the shared parameters have.
        """
        rbm = self.rbm
        a, b, w = rbm.visible_bias.grad, rbm.hidden_bias.grad, rbm.coupling.weight.grad
        if a is None or b is None or w is None:
            return
        mu = _mean_as(spins, a).reshape(1, -1)
        lam = _mean_as(hidden, b).reshape(-1, 1)
        rows = w.flatten(1) - lam * a.reshape(1, -1) - b.reshape(-1, 1) * mu
        w.copy_(rows.reshape(w.shape))
        a -= (lam * rows).sum(0).sum_to_size(a.numel()).reshape(a.shape)
        b -= (rows * mu).sum(1).reshape(b.shape)


def _draw(field: Tensor, generator: torch.Generator) -> Tensor:
    """Draw spins in the given fields, which are overwritten.

    Uniform numbers drawn in place and compared cost a quarter of `torch.bernoulli`.
    """
    probability = field.mul_(2).sigmoid_()
    uniform = torch.empty_like(probability).uniform_(generator=generator)
    return probability.gt_(uniform).mul_(2).sub_(1)


def _mean_as(values: Tensor, bias: Tensor) -> Tensor:
    """Return the mean over samples, and over the sites that share a bias."""
    mean = values.mean(0)
    axes = [axis for axis in range(mean.ndim) if mean.shape[axis] != bias.shape[axis]]
    return mean.mean(axes, keepdim=True) if axes else mean


def _is_binary(schema: Schema) -> bool:
    domains = {variable.domain for variable in schema.variables}
    if domains in ({"spin"}, {"binary"}):
        return domains == {"binary"}
    raise RecipeError(
        f"surrogate rbm models spins or binary numbers, and {', '.join(schema.names[:4])} are "
        f"{', '.join(sorted(domains))}; choose another surrogate, or make the data binary"
    )
