r"""Couplings between the visible spins that a restricted Boltzmann machine stands for.

Summed over hidden units, a machine of visible spins of q values is a Potts model with interactions
of all orders: -F(s) = sum_i A_i(s_i) + sum_{i<k} J_ik(s_i, s_k) + ..., unique in the zero-sum gauge
sum_c A_i(c) = sum_c J_ik(c, d) = sum_d J_ik(c, d) = 0, in which each term is a mean of -F over all
other spins, every value of them counting alike, without the terms of lower order. Hidden unit j
contributes

    G_jik(c, d) = < ln(1 + exp(b_j + w_ji(c) + w_jk(d) + X)) >_X,      X = sum_l w_jl(s_l),

l going over the other spins it couples to, in the gauge sum_c w_jl(c) = 0. Of few spins the mean is
taken exactly; of more, X is normal by the central limit theorem, of mean 0 and variance sum_l
sum_c w_jl(c)^2 / q (of binary spins Decelle, Furtlehner, Navas Gomez & Seoane, SciPost Phys. 16
(2024) 095, arXiv 2309.02292; of Potts spins Decelle, Navas Gomez & Seoane, arXiv 2501.06108).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from physgen.surrogates.boltzmann.rbm import RBM
from physgen.surrogates.boltzmann.visible import PottsUnits

_MOST_STATES = 1024
"""Of the spins that a hidden unit couples to, over which its mean is taken exactly."""
_NODES = 21
"""Of the quadrature of a normal variable."""


class Effective(NamedTuple):
    """Fields (N, q) and couplings (N, q, N, q), each of sum 0 over the values of a spin.

    Sites are numbered as in flat samples. Of binary spins and the Ising form J_ik s_i s_k, field
    and coupling are those of the second value, `fields[:, 1]` and `couplings[:, 1, :, 1]`.
    """

    fields: Tensor
    couplings: Tensor


@torch.no_grad()
def effective_couplings(machine: RBM) -> Effective:
    """Return the fields and pair couplings of the visible spins, in units of the temperature.

    A Potts model of energy -sum delta(s_i, s_k) has the couplings (delta(c, d) - 1 / q) / T.

    >>> from physgen.batch import Schema, Variable
    >>> machine = RBM(Schema((4,), (Variable("spin", domain="spin"),)), hidden=2)
    >>> effective_couplings(machine).couplings.shape
    torch.Size([4, 2, 4, 2])
    """
    known = machine.coefficients()
    n, n_hidden = math.prod(machine.schema.shape), len(known.b)
    if isinstance(machine.visible, PottsUnits):
        a = known.a.reshape(-1, n).T
        weight = known.weight.reshape(-1, n, n_hidden).transpose(0, 1)
    else:  # 0 or 1: the first value has no field.
        a = torch.stack([torch.zeros_like(known.a), known.a], 1)
        weight = torch.stack([torch.zeros_like(known.weight), known.weight], 1)
    a, weight = a.double(), weight.double()
    b = known.b.double() + weight.mean(1).sum(0)
    weight = weight - weight.mean(1, keepdim=True)
    q = a.shape[1]
    fields, couplings = a - a.mean(1, keepdim=True), a.new_zeros(n, q, n, q)
    for bias, w in zip(b, weight.movedim(2, 0), strict=True):
        (sites,) = torch.nonzero(w.abs().sum(1), as_tuple=True)
        small = q ** len(sites) <= _MOST_STATES
        alone, pairs = (_exact if small else _normal)(bias, w[sites])
        fields[sites] += alone - alone.mean(1, keepdim=True)
        pairs = pairs - pairs.mean(1, keepdim=True)
        pairs = pairs - pairs.mean(3, keepdim=True)
        each = torch.arange(len(sites), device=sites.device)
        pairs[each, :, each] = 0
        rows = (sites[:, None] * q + torch.arange(q, device=sites.device)).flatten()
        flat = couplings.view(n * q, n * q)
        flat[rows[:, None], rows] += pairs.reshape(len(rows), len(rows))
    return Effective(fields, couplings)


def _exact(bias: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return means (n, q) and (n, q, n, q) at values of one and two of n spins, of all states."""
    n, q = w.shape
    values = torch.tensor(list(np.ndindex(*[q] * n)), dtype=torch.long, device=w.device)
    values = values.reshape(-1, n)
    each = torch.nn.functional.one_hot(values, q).to(w).flatten(1)
    log_sum = softplus(bias + each @ w.flatten())
    alone = q * (log_sum @ each) / len(each)
    pairs = q * q * (each.T * log_sum) @ each / len(each)
    return alone.reshape(n, q), pairs.reshape(n, q, n, q)


def _normal(bias: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `_exact` does, with the sum of all other spins normal."""
    nodes, weights = (
        torch.as_tensor(part, dtype=w.dtype, device=w.device)
        for part in np.polynomial.hermite_e.hermegauss(_NODES)
    )
    variance = w.square().mean(1)

    def mean(at: Tensor, without: Tensor) -> Tensor:
        width = (variance.sum() - without).clamp_min(0).sqrt()
        total = torch.zeros_like(at)
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            total += weight * softplus(at + node * width)
        return total

    alone = mean(bias + w, variance[:, None])
    removed = variance[:, None, None, None] + variance[:, None]
    return alone, mean(bias + w[:, :, None, None] + w, removed)
