"""Fully connected bodies: h_{i+1} = a(W_i h_i + b_i), and a linear last layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from physgen.ranges import Options, Widths

Activation = Literal["relu", "leaky-relu", "silu", "gelu", "tanh"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),  # Its derivative follows from its output.
    "leaky-relu": partial(nn.LeakyReLU, 0.2, inplace=True),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}
"""What makes an activation, by its name."""


class MLPOptions(Options):
    """Fully connected layers, for samples of any shape.

    Attributes:
        hidden: widths of the layers, from the sample inwards.
        activation: between layers.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: Widths = (256, 256)
    activation: Activation = "silu"


class MLP(nn.Module):
    """A multilayer perceptron, (..., n_in) -> (..., n_out).

    Args:
        n_in: number of inputs.
        n_out: number of outputs.
        hidden: widths of the hidden layers; () is a linear map.
        activation: between the layers.
        zero_output: start with a last layer of zeros, so that the output starts as 0 (couplings
            then start as the identity).

    >>> MLP(3, 2, hidden=(16,), zero_output=True)
    MLP(
      (layers): Sequential(
        (0): Linear(in_features=3, out_features=16, bias=True)
        (1): SiLU()
        (2): Linear(in_features=16, out_features=2, bias=True)
      )
    )
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        hidden: tuple[int, ...] = (64, 64),
        activation: Activation = "silu",
        zero_output: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((n_in, *hidden)):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        last = nn.Linear(hidden[-1] if hidden else n_in, n_out)
        if zero_output:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., n_out)."""
        out: Tensor = self.layers(x)
        return out
