r"""Masked networks: all conditionals of an autoregressive model in one pass.

Features x_0, ..., x_{D-1} come in an order; the parameters of x_i may depend on x_0, ..., x_{i-1}
and on a context. Every hidden unit has a degree m and sees the features before x_m, the units of
the layer below with at most its degree, and the context; the parameters of x_i see the units with
degree at most i (Germain et al., MADE, arXiv 1502.03509).

Units are sorted by degree, so that what a step of sampling has to compute is a few rows of each
weight matrix, applied to what is known so far: D steps together cost about as much as one pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class MaskedMLP(nn.Module):
    """Two hidden layers of masked units.

    Args:
        n_features: D.
        n_inputs: numbers by which a feature is shown to the later ones.
        n_context: size of the context.
        n_outputs: parameters of a feature.
        hidden: units of each of the two layers; an eighth of them see the context only, if any.
        n_direct: the first so many parameters of a feature get a linear map of all that the feature
            may depend on besides: what is nearly linear is learnt fast, and in full rank.

    >>> network = MaskedMLP(4, 1, 0, 2, hidden=8, n_direct=1)
    >>> network(torch.zeros(5, 4, 1), torch.zeros(5, 0)).shape
    torch.Size([5, 4, 2])
    """

    direct_mask: Tensor

    def __init__(
        self,
        n_features: int,
        n_inputs: int,
        n_context: int,
        n_outputs: int,
        *,
        hidden: int,
        n_direct: int,
    ) -> None:
        super().__init__()
        self.n_features, self.n_inputs = n_features, n_inputs
        self.n_context, self.n_outputs, self.n_direct = n_context, n_outputs, n_direct
        n_free = max(hidden // 8, 1) if n_context else 0
        # More units for the first features, which have few before them to share units with.
        rise = torch.linspace(0, 1, hidden - n_free + 1)[:-1].square()
        ladder = (1 + rise * (n_features - 1)).floor().long()
        degrees = torch.cat([torch.zeros(n_free, dtype=torch.long), ladder])
        steps = torch.arange(n_features)
        self.first = nn.Linear(n_context + n_features * n_inputs, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, n_features * n_outputs)
        n_rows = n_features * n_direct
        self.direct = nn.Parameter(torch.zeros(n_rows, self.first.in_features))
        earlier = (steps < steps[:, None]).repeat_interleave(n_inputs, 1)
        earlier = earlier.repeat_interleave(n_direct, 0)
        earlier = torch.cat([torch.ones(n_rows, n_context, dtype=torch.bool), earlier], 1)
        self.register_buffer("direct_mask", earlier.float(), persistent=False)
        sees = (steps < degrees[:, None]).repeat_interleave(n_inputs, 1)
        always = torch.ones(hidden, n_context, dtype=torch.bool)
        masks = (
            torch.cat([always, sees], 1),
            degrees <= degrees[:, None],
            (degrees <= steps[:, None]).repeat_interleave(n_outputs, 0),
        )
        for name, mask in zip(("first", "second", "last"), masks, strict=True):
            self.register_buffer(f"{name}_mask", mask.float(), persistent=False)
        # How many units have at most each degree: those that step i may use.
        self.known = [int((degrees <= i).sum()) for i in range(n_features)]

    def forward(self, inputs: Tensor, context: Tensor) -> Tensor:
        """Return the parameters (B, D, n_outputs) of features shown as (B, D, n_inputs)."""
        x = h = torch.cat([context, inputs.flatten(1)], 1)
        for name in ("first", "second"):
            h = functional.silu(functional.linear(h, self._weight(name), self._bias(name)))
        out = functional.linear(h, self._weight("last"), self._bias("last"))
        out = out.reshape(-1, self.n_features, self.n_outputs)
        direct = functional.linear(x, self.direct * self.direct_mask)
        direct = direct.reshape(-1, self.n_features, self.n_direct)
        return out + functional.pad(direct, (0, self.n_outputs - self.n_direct))

    def autoregress(self, context: Tensor, draw: Callable[[int, Tensor], Tensor]) -> None:
        """Go through the features in order.

        Args:
            context: (B, n_context).
            draw: called for i = 0, ..., D - 1 with i and the parameters (n_outputs, B) of feature
                i; returns how the later ones see it, (n_inputs, B).
        """
        weights = {name: self._weight(name) for name in ("first", "second", "last")}
        biases = {name: self._bias(name)[:, None] for name in weights}
        # Transposed, so that "all that is known so far" is one contiguous block.
        rows = self.n_context + self.n_features * self.n_inputs
        x = context.new_empty(rows, context.shape[0])
        x[: self.n_context] = context.T
        h = context.new_empty(2, len(biases["first"]), context.shape[0])
        a, end, n_out = 0, self.n_context, self.n_outputs
        for i, b in enumerate(self.known):
            if b > a:
                new = biases["first"][a:b] + weights["first"][a:b, :end] @ x[:end]
                h[0, a:b] = functional.silu(new)
                new = biases["second"][a:b] + weights["second"][a:b, :b] @ h[0, :b]
                h[1, a:b] = functional.silu(new)
                a = b
            part = slice(i * n_out, (i + 1) * n_out)
            parameters = biases["last"][part] + weights["last"][part, :b] @ h[1, :b]
            part = slice(i * self.n_direct, (i + 1) * self.n_direct)
            parameters[: self.n_direct] += self.direct[part, :end] @ x[:end]
            x[end : end + self.n_inputs] = draw(i, parameters)
            end += self.n_inputs

    def masked(self) -> dict[str, Tensor]:
        """Return weights, masks multiplied in, and biases: "first", "first_bias", "second", ..."""
        layers = ("first", "second", "last")
        return {name: self._weight(name) for name in layers} | {
            f"{name}_bias": self._bias(name) for name in layers
        }

    def _weight(self, name: str) -> Tensor:
        weight: Tensor = getattr(self, name).weight * getattr(self, f"{name}_mask")
        return weight

    def _bias(self, name: str) -> Tensor:
        bias: Tensor = getattr(self, name).bias
        return bias
