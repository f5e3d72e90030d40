"""Stacks of couplings.

z = f_n(...f_1(x)); RealNVP (Dinh et al., arXiv 1605.08803) with affine couplings, a neural spline
flow (Durkan et al., arXiv 1906.04032) with rational-quadratic ones.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from physgen.networks.mlp import Activation
from physgen.ranges import Options, Positive, PositiveFloat, Widths
from physgen.surrogates.flows.bijection import Bijection, fixed_orders
from physgen.surrogates.flows.coupling import AffineCoupling, Coupling, Knots, Layer, SplineCoupling


class CouplingOptions(Options):
    """Couplings of one half given the other, in turn.

    Attributes:
        n_layers: number of couplings.
        hidden: widths of each coupling's network.
        layer: "affine" is the fastest, "spline" bends further per layer.
        bins: of a spline.
        bound: splines act within [-bound, bound].
        activation: of the networks.
    """

    kind: Literal["coupling"] = "coupling"
    n_layers: Positive = 8
    hidden: Widths = (64, 64)
    layer: Layer = "spline"
    bins: Positive = 8
    bound: PositiveFloat = 5.0
    activation: Activation = "relu"

    def build(self, shape: tuple[int, ...], n_condition: int) -> CouplingStack:
        """Return the bijection of samples of a shape."""
        return CouplingStack(math.prod(shape), n_condition, self)


class CouplingStack(Bijection):
    """A conditional bijection of R^features, the identity (up to order) when it is new.

    Layers map one half given the other, in turn; after every second layer a fixed random
    permutation makes new halves.

    Args:
        features: size of x; 1 is allowed (then only the condition acts).
        n_condition: size of the condition; 0 for none.
        options: of the layers.

    >>> flow = CouplingStack(3, options=CouplingOptions(n_layers=4, hidden=(16,)))
    >>> z, log_det = flow(torch.ones(5, 3))
    >>> torch.allclose(flow.from_noise(z), torch.ones(5, 3))
    True
    """

    def __init__(
        self, features: int, n_condition: int = 0, options: CouplingOptions = CouplingOptions()
    ) -> None:
        super().__init__(features, n_condition)
        layers: list[Coupling] = []
        n_passive = features // 2
        for _ in range(options.n_layers):
            layers.append(
                AffineCoupling(
                    features,
                    n_passive,
                    n_condition,
                    hidden=options.hidden,
                    activation=options.activation,
                )
                if options.layer == "affine"
                else SplineCoupling(
                    features,
                    n_passive,
                    n_condition,
                    hidden=options.hidden,
                    knots=Knots(options.bins, options.bound),
                    activation=options.activation,
                )
            )
            # A lone feature is never passive: it has nothing to be exchanged with.
            n_passive = features - n_passive if features > 1 else 0
        self.layers = nn.ModuleList(layers)
        orders = fixed_orders((options.n_layers - 1) // 2, features)
        self.register_buffer("orders", orders)
        self.register_buffer("orders_back", orders.argsort(-1))
        self.orders: Tensor
        self.orders_back: Tensor

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, features) to the base; return z and log|det dz/dx|, (B,)."""
        total = torch.zeros_like(x[:, 0])
        for i, layer in enumerate(self.layers):
            if i and i % 2 == 0:
                x = x.index_select(-1, self.orders[i // 2 - 1])
            x, log_det = layer(x, condition)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the base (B, features) to data; return x and log|det dx/dz|, (B,)."""
        total = torch.zeros_like(z[:, 0])
        for i in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[i]
            z, log_det = layer.inverse(z, condition)  # type: ignore[operator]
            total = total + log_det
            if i and i % 2 == 0:
                z = z.index_select(-1, self.orders_back[i // 2 - 1])
        return z, total
