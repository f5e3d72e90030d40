"""Conditional coupling layers.

A coupling (Dinh et al., arXiv 1605.08803) splits x = (a, b) and maps b by a monotonic function with
parameters p(a, condition): b' = f(b; p), log|det| = sum log|df/db|. The split is a slice and the
result is returned as (b', a), so that the next layer, slicing again, maps the other part: nothing
is masked, and swapping costs nothing.

Layers start as the identity, and keep the dtype of their input throughout.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from physgen.networks.mlp import MLP, Activation
from physgen.surrogates.flows.spline import softclip, tail_spline

Layer = Literal["affine", "spline"]

LOG_SCALE_LIMIT = 3.0
"""Bound on the |log scale| of one affine layer: many layers cannot overflow together."""


class Coupling(nn.Module):
    """What both couplings share: the split and the network of the parameters.

    Args:
        features: size of x.
        n_passive: how many leading features are kept; they and the condition set the parameters.
        n_condition: size of the condition; 0 for none.
        n_parameters: of the monotonic function of one feature.
        hidden: widths of the network.
        activation: of the network.
    """

    def __init__(
        self,
        features: int,
        n_passive: int,
        n_condition: int,
        n_parameters: int,
        hidden: tuple[int, ...],
        activation: Activation,
    ) -> None:
        super().__init__()
        self.n_passive, self.n_active = n_passive, features - n_passive
        self.n_condition = n_condition
        self.n_parameters = n_parameters
        # With nothing to depend on (one feature, no condition) the network sees a constant.
        self.network = MLP(
            max(n_passive + n_condition, 1),
            self.n_active * n_parameters,
            hidden=hidden,
            activation=activation,
            zero_output=True,
        )

    def parameters_of(self, passive: Tensor, condition: Tensor | None) -> Tensor:
        """Return the parameters (B, n_active * n_parameters) of the map of the active part."""
        if condition is not None and self.n_condition:
            passive = torch.cat([passive, condition], -1)
        elif self.n_passive == 0:
            passive = passive.new_ones(passive.shape[0], 1)
        parameters: Tensor = self.network(passive)
        return parameters

    def transform(self, active: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Map the active part; return it and its log-determinant (B,)."""
        raise NotImplementedError

    def invert(self, active: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `transform`, with the log-determinant of the inverse."""
        raise NotImplementedError

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map (a, b) to (f(b), a); return it, (B, features), and log|det|, (B,)."""
        passive, active = x[..., : self.n_passive], x[..., self.n_passive :]
        active, log_det = self.transform(active, self.parameters_of(passive, condition))
        return torch.cat([active, passive], -1), log_det

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map (f(b), a) back to (a, b); return it and the log|det| of the inverse."""
        active, passive = z[..., : self.n_active], z[..., self.n_active :]
        active, log_det = self.invert(active, self.parameters_of(passive, condition))
        return torch.cat([passive, active], -1), log_det


class AffineCoupling(Coupling):
    """b' = b exp(s(a, condition)) + t(a, condition), with s softly bounded.

    >>> coupling = AffineCoupling(4, n_passive=2)
    >>> z, log_det = coupling(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))  # (a, b) becomes (b', a)
    >>> z.tolist()
    [[3.0, 4.0, 1.0, 2.0]]
    """

    def __init__(
        self,
        features: int,
        n_passive: int,
        n_condition: int = 0,
        *,
        hidden: tuple[int, ...] = (64, 64),
        activation: Activation = "relu",
    ) -> None:
        super().__init__(features, n_passive, n_condition, 2, hidden, activation)

    def transform(self, active: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift."""
        raw, shift = parameters.chunk(2, -1)
        log_scale = softclip(raw, LOG_SCALE_LIMIT)
        return torch.addcmul(shift, active, log_scale.exp()), log_scale.sum(-1)

    def invert(self, active: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale back."""
        raw, shift = parameters.chunk(2, -1)
        log_scale = softclip(raw, LOG_SCALE_LIMIT)
        return (active - shift) * (-log_scale).exp(), -log_scale.sum(-1)


class Knots(NamedTuple):
    """Of a spline: how many bins lie between them, and that they are within [-bound, bound]."""

    bins: int = 8
    bound: float = 5.0


_KNOTS = Knots()


class SplineCoupling(Coupling):
    """b' = rational-quadratic spline of b with knots from (a, condition), identity tails."""

    def __init__(
        self,
        features: int,
        n_passive: int,
        n_condition: int = 0,
        *,
        hidden: tuple[int, ...] = (64, 64),
        knots: Knots = _KNOTS,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(features, n_passive, n_condition, 3 * knots.bins - 1, hidden, activation)
        self.bound = knots.bound

    def transform(self, active: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the spline."""
        raw = parameters.reshape(-1, self.n_active, self.n_parameters)
        active, log_slope = tail_spline(active, raw, bound=self.bound)
        return active, log_slope.sum(-1)

    def invert(self, active: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the inverse spline."""
        raw = parameters.reshape(-1, self.n_active, self.n_parameters)
        active, log_slope = tail_spline(active, raw, bound=self.bound, inverse=True)
        return active, log_slope.sum(-1)
