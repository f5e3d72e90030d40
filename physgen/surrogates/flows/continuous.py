r"""Continuous normalising flow with an exact trace, for any real vectors.

Noise x(0) flows to data x(1) by dx/dt = v(x, t | c) (Chen et al., arXiv 1806.07366),

    v = U^T [g \odot tanh(W x + b)] + A x + a,    A = A_0 + (2t - 1) A_1,

where a small network of (t, c) gives gates g, biases b and the drift a. The log-density follows

    d log q / dt = -div v,    div v = sum_h g_h (1 - tanh_h^2) (W U^T)_hh + tr A,

whose trace costs less than the velocity: there is no need to estimate it from noise (FFJORD,
Grathwohl et al., arXiv 1810.01367), and the density is exact up to the integration. A alone makes
any Gaussian, and a new flow is the identity.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from physgen.networks.mlp import MLP
from physgen.ranges import Options, Positive, Widths
from physgen.surrogates.flows.bijection import Bijection
from physgen.surrogates.flows.integration import State, even, runge_kutta


class ContinuousOptions(Options):
    """A continuous flow.

    Attributes:
        hidden: units of the velocity.
        control_hidden: widths of the network of time and condition that steers them.
        integration_steps: Runge-Kutta steps.
    """

    kind: Literal["continuous"] = "continuous"
    hidden: Positive = 256
    control_hidden: Widths = (64,)
    integration_steps: Positive = 8

    def build(self, shape: tuple[int, ...], n_condition: int) -> ContinuousBijection:
        """Return the bijection of samples of a shape."""
        return ContinuousBijection(math.prod(shape), n_condition, self)


class ContinuousBijection(Bijection):
    """The map from data at t = 1 to the base at t = 0.

    Args:
        features: size of x.
        n_condition: size of the condition; 0 for none.
        options: of the velocity and its integration.

    >>> flow = ContinuousBijection(3, options=ContinuousOptions(hidden=16))
    >>> z, log_det = flow(torch.ones(5, 3))
    >>> torch.allclose(flow.from_noise(z), torch.ones(5, 3))
    True
    """

    def __init__(
        self, features: int, n_condition: int = 0, options: ContinuousOptions = ContinuousOptions()
    ) -> None:
        super().__init__(features, n_condition)
        self.integration_steps, hidden = options.integration_steps, options.hidden
        self.inward = nn.Linear(features, hidden)
        self.outward = nn.Parameter(torch.zeros(hidden, features))
        self.linear = nn.Parameter(torch.zeros(2, features, features))
        self.control = MLP(
            1 + n_condition,
            2 * hidden + features,
            hidden=options.control_hidden,
            zero_output=True,
        )
        self._sizes = (hidden, hidden, features)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, features) to the base; return z and log|det dz/dx|, (B,)."""
        return self._with_log_det(x, condition, start=1.0, stop=0.0)

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the base (B, features) to data; return x and log|det dx/dz|, (B,)."""
        return self._with_log_det(z, condition, start=0.0, stop=1.0)

    def from_noise(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map the base to data, without the log-determinant."""

        def slope(time: float, state: State) -> State:
            return (self._velocity(time, state[0], condition)[0],)

        return runge_kutta(slope, (z,), even(0.0, 1.0, self.integration_steps))[0]

    def _with_log_det(
        self, x: Tensor, condition: Tensor | None, *, start: float, stop: float
    ) -> tuple[Tensor, Tensor]:
        loop = (self.inward.weight * self.outward).sum(-1)

        def slope(time: float, state: State) -> State:
            velocity, h, gate, linear = self._velocity(time, state[0], condition)
            return velocity, (gate * (1 - h.square())) @ loop + linear.trace()

        state = (x, torch.zeros_like(x[:, 0]))
        x, log_det = runge_kutta(slope, state, even(start, stop, self.integration_steps))
        return x, log_det

    def _velocity(
        self, time: float, x: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return v, the hidden units, their gates, and A."""
        now = x.new_full((1 if condition is None else x.shape[0], 1), 2 * time - 1)
        control = self.control(now if condition is None else torch.cat([now, condition], -1))
        bias, gate, drift = control.split(self._sizes, -1)
        gate = 1 + gate
        h = torch.tanh(self.inward(x) + bias)
        linear = self.linear[0] + (2 * time - 1) * self.linear[1]
        return (gate * h) @ self.outward + x @ linear.T + drift, h, gate, linear
