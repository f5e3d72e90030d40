"""Residual networks on vectors, modulated by time and condition.

h_0 = W x;  h_{i+1} = h_i + V_i a(U_i m_i(norm h_i));  output = V a(U m(norm h)),

m_i being the modulation by the embedding of time and condition. All V start as zeros, so that the
network starts as 0 and every block as the identity.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from physgen.networks.embedding import Embedding, Modulation
from physgen.networks.mlp import ACTIVATIONS, Activation
from physgen.ranges import Options, Positive


class ResidualOptions(Options):
    """Residual blocks of dense layers, for samples of any shape.

    Attributes:
        hidden: width.
        depth: number of blocks.
        activation: within the blocks.
    """

    kind: Literal["residual"] = "residual"
    hidden: Positive = 256
    depth: Positive = 3
    activation: Activation = "silu"


class ResidualMLP(nn.Module):
    """A residual multilayer perceptron of (x (B, D), time (B,), condition (B, C) or `None`).

    Args:
        features: D.
        n_condition: C.
        options: of the blocks.

    >>> import torch
    >>> network = ResidualMLP(3, options=ResidualOptions(hidden=16, depth=2))
    >>> network(torch.ones(2, 3), torch.rand(2))  # it starts as 0
    tensor([[0., 0., 0.],
            [0., 0., 0.]], grad_fn=<AddmmBackward0>)
    """

    def __init__(
        self,
        features: int,
        n_condition: int = 0,
        options: ResidualOptions = ResidualOptions(),
    ) -> None:
        super().__init__()
        hidden, activation = options.hidden, options.activation
        self.embedding = Embedding(hidden, n_condition)
        self.first = nn.Linear(features, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, activation) for _ in range(options.depth))
        self.last = _Block(hidden, activation, features)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B, D)."""
        features = self.embedding(time, condition)
        h: Tensor = self.first(x)
        for block in self.blocks:
            h = h + block(h, features)
        out: Tensor = self.last(h, features)
        return out


class _Block(nn.Module):
    def __init__(self, hidden: int, activation: Activation, n_out: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.modulation = Modulation(hidden, hidden)
        self.inner = nn.Linear(hidden, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.outer = nn.Linear(hidden, hidden if n_out is None else n_out)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        h = self.modulation(self.norm(h), features)
        out: Tensor = self.outer(self.activation(self.inner(h)))
        return out
