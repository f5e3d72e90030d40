r"""Contrastive divergence, with and without persistent chains.

With p(x) = exp(-F(x)) / Z, f = exp(-F), the log-normaliser has the gradient

    d ln Z / dw = < d ln f / dw >_model = - < dF / dw >_model

(the mean is of d ln f, not of df), so that

    d <ln p>_data / dw = - < dF / dw >_data + < dF / dw >_model .

The second mean is taken over chains: CD-k starts them at the data and does k Gibbs sweeps (Hinton,
Neural Computation 14 (2002) 1771), which is biased, since they stay near the data; persistent ones
go on from step to step (Tieleman, ICML 2008).

The centred form of the gradient (Melchior, Fischer & Wiskott, JMLR 17 (2016) 99) has offsets
mu, lambda, the means of the visible statistic s and of h over data and chains:

    dW <- dW - lambda (x) da - db (x) mu,   da <- da - lambda.dW,   db <- db - dW.mu ,

which is that of the same function in other coordinates, and does not change when spins are turned.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.ranges import Positive, PositiveFloat, Probability
from physgen.surrogates.base import Surrogate
from physgen.surrogates.boltzmann.machine import BoltzmannMachine
from physgen.surrogates.method import Method, StepContext


class ContrastiveDivergence(Method):
    """CD-k: the model's mean is taken k Gibbs sweeps away from the data.

    Args:
        surrogate: a restricted Boltzmann machine.
        k: Gibbs sweeps.
        learning_rate: of Adam.
        momentum: of Adam's first moment; the chains answer late, so that less is more stable.
        centred: use the centred gradient; at a low rate, since Adam, which scales every parameter
            for itself, undoes its balance (units that hardly ever change can then run away).

    Raises:
        RecipeError: the surrogate is no Boltzmann machine.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.surrogates.boltzmann.rbm import RBM
    >>> machine = RBM(Schema((4,), (Variable("spin", domain="spin"),)), hidden=2)
    >>> ContrastiveDivergence(machine, k=5).k
    5
    """

    negative_weights = True

    def __init__(
        self,
        surrogate: Surrogate,
        *,
        k: Positive = 1,
        learning_rate: PositiveFloat = 0.01,
        momentum: Probability = 0.9,
        centred: bool = False,
    ) -> None:
        if not isinstance(surrogate, BoltzmannMachine):
            raise RecipeError(
                "contrastive divergence trains Boltzmann machines (rbm, gaussian-rbm), not "
                f"{type(surrogate).__name__}"
            )
        super().__init__(surrogate)
        self.machine, self.k, self.centred = surrogate, k, centred
        optimiser = torch.optim.Adam(
            surrogate.parameters(), lr=learning_rate, betas=(momentum, 0.999)
        )
        self.optimisers = {"adam": optimiser}

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Map samples to visible units."""
        return batch.replace(x=self.machine.units(super().prepare(batch, generator).x))

    def negative(self, data: Batch, ctx: StepContext) -> Batch:
        """Return what stands for samples of the model."""
        return data.replace(x=self.machine.gibbs(data.x, self.k, ctx.generator))

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Move the chains, then the weights; "loss" is the gap of free energy a site."""
        data = batches["data"]
        loss = self.gradient(data, self.negative(data, ctx))
        ctx.apply(self.optimisers["adam"])
        self.machine.fix_gauge()
        return {"loss": loss}

    def gradient(self, data: Batch, model: Batch) -> Tensor:
        """Put the gradient of -log-likelihood into `.grad`; return the gap of free energy a site.

        Args:
            data: whose `x` are (B, *shape) visible units.
            model: whose `x` are (n, *shape) visible units of the model.
        """
        machine = self.machine
        x = torch.cat([data.x, model.x])
        share = torch.cat([_shares(data), -_shares(model)])
        statistic = machine.statistic(x)
        field = machine.coupling.to_hidden(statistic, machine.hidden_bias)
        energy = machine.visible_energy(x)
        hidden = machine.mean_hidden(field.detach())
        # dF / d field is minus the mean of the hidden units.
        slope = -hidden * share.reshape(-1, *(1,) * (hidden.ndim - 1))
        trained = [p for p in machine.parameters() if p.requires_grad]
        pairs = [(y, g) for y, g in ((field, slope), (energy, share)) if y.requires_grad]
        gradients = torch.autograd.grad([y for y, _ in pairs], trained, [g for _, g in pairs])
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            if self.centred:
                self._centre(statistic, hidden)
            return share @ (energy - machine.log_sum_hidden(field)) / data.x[0].numel()

    def _centre(self, statistic: Tensor, hidden: Tensor) -> None:
        """Turn the gradients into their centred form (see the module's head).

        For shared filters the same formulae hold with one mu and one lambda a filter, since a sum
        over sites of the gradient is what the shared parameters have.
        """
        machine = self.machine
        a, b, w = machine.visible_bias.grad, machine.hidden_bias.grad, machine.coupling.weight.grad
        if a is None or b is None or w is None:
            return
        ones = (1,) * (w.ndim - 2)
        of_visible, of_hidden = (1, w.shape[1], *ones), (-1, 1, *ones)
        mu = _mean_as(statistic, a).reshape(of_visible)
        lam = _mean_as(hidden, b).reshape(of_hidden)
        w -= lam * a.reshape(of_visible) + b.reshape(of_hidden) * mu
        a -= (lam * w).sum_to_size(of_visible).reshape(a.shape)
        b -= (w * mu).flatten(1).sum(1).reshape(b.shape)


class PersistentContrastiveDivergence(ContrastiveDivergence):
    """Maximum likelihood: the model's mean is taken over persistent chains.

    Args:
        surrogate: a restricted Boltzmann machine; each process runs `n_chains` chains.
        k: Gibbs sweeps of the chains a step.
        learning_rate: of Adam.
        momentum: of Adam's first moment; the chains answer late, so that less is more stable.
        centred: use the centred gradient; at a low rate, since Adam, which scales every parameter
            for itself, undoes its balance (units that hardly ever change can then run away).
        replicas: of parallel tempering between independent units and the machine, each of as many
            chains, which exchange after every sweep; 1 is plain Gibbs sampling.

    Raises:
        RecipeError: the surrogate is no Boltzmann machine.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.surrogates.boltzmann.rbm import RBM
    >>> model = RBM(Schema((4, 4), (Variable("spin", domain="spin"),)))
    >>> PersistentContrastiveDivergence(model, k=5).k
    5
    """

    def __init__(
        self,
        surrogate: Surrogate,
        *,
        k: Positive = 10,
        learning_rate: PositiveFloat = 0.01,
        momentum: Probability = 0.9,
        centred: bool = False,
        replicas: Positive = 1,
    ) -> None:
        super().__init__(
            surrogate, k=k, learning_rate=learning_rate, momentum=momentum, centred=centred
        )
        chains = self.machine.chains
        self.tensors = {"chains": chains.clone()}
        if replicas > 1:
            self.tensors["tempered"] = torch.stack([chains] * (replicas - 1))

    def negative(self, data: Batch, ctx: StepContext) -> Batch:
        """Return the chains, moved on."""
        machine = self.machine
        x = machine.unpack(self.tensors["chains"])
        if "tempered" in self.tensors:
            *others, x = machine.tempered(
                [*machine.unpack(self.tensors["tempered"]), x],
                self.k,
                first=ctx.step * self.k,
                generator=ctx.generator,
            )
            self.tensors["tempered"] = machine.pack(torch.stack(others))
        else:
            x = machine.gibbs(x, self.k, ctx.generator)
        self.tensors["chains"] = machine.pack(x)
        machine.chains.copy_(self.tensors["chains"])
        return Batch(x)


def _shares(batch: Batch) -> Tensor:
    """Return (B,) what each sample counts for in a mean."""
    if batch.weight is None:
        return batch.x.new_full((len(batch),), 1 / len(batch))
    return batch.weight / len(batch)


def _mean_as(values: Tensor, bias: Tensor) -> Tensor:
    """Return the mean over samples, and over the sites that share a bias."""
    mean = values.mean(0)
    axes = [axis for axis in range(mean.ndim) if mean.shape[axis] != bias.shape[axis]]
    return mean.mean(axes, keepdim=True) if axes else mean
