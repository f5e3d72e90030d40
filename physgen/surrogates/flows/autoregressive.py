r"""Autoregressive flows: every feature is mapped given the ones before it.

    z_i = h(x_i; p_i),   p_i = network(x_0, ..., x_{i-1}, condition),

with one masked network for all p_i (`physgen.networks.masked`), so that z takes one pass, and x
given z one feature after the other. h is (x - \mu) exp(-s), and may go on with a spline; \mu holds
a linear map of all earlier features and of the condition: a single layer contains every Gaussian
whose mean is linear in the condition, and training begins at that of the data. Between layers the
features are put in another, random but fixed order.

Data to noise in one pass is the masked autoregressive flow (MAF: Papamakarios et al., arXiv
1705.07057; one layer is MADE, arXiv 1502.03509), noise to data in one pass the inverse
autoregressive flow (IAF: Kingma et al., arXiv 1606.04934).

The slow direction is found without gradients, and differentiated at the root: with f the fast
direction, J its triangular Jacobian held fixed, and x_0 the root f(x_0) = z,

    x = x_0 + J^{-1} (z - f(x_0))

is x_0 with the derivatives of the root in z and in all parameters.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from physgen.networks.masked import MaskedMLP
from physgen.ranges import Options, Positive, PositiveFloat
from physgen.surrogates.flows.bijection import Bijection, fixed_orders
from physgen.surrogates.flows.coupling import Layer
from physgen.surrogates.flows.spline import softclip, tail_spline

Fast = Literal["density", "sampling"]

LOG_SCALE_LIMIT = 1.0
"""Bound on |s| of one layer: few images are learnt by heart through narrow conditionals. Layers add
up; data far from unit width want a standardising transform."""
START_LIMIT = 0.97 * LOG_SCALE_LIMIT
"""Bound on |s| where training begins: the bound itself is never reached."""


class AutoregressiveOptions(Options):
    """Autoregressive layers.

    Attributes:
        n_layers: number of layers.
        hidden: units of each of the two layers of a masked network.
        layer: "affine", or "spline" after it.
        fast: the direction that takes one pass: "density" (MAF) or "sampling" (IAF). Maximum
            likelihood trains either, in the slow direction at the price of a Jacobian a layer.
        bins: of a spline.
        bound: splines act within [-bound, bound].
    """

    kind: Literal["autoregressive"] = "autoregressive"
    n_layers: Positive = 4
    hidden: Positive = 128
    layer: Layer = "affine"
    fast: Fast = "density"
    bins: Positive = 8
    bound: PositiveFloat = 5.0

    def build(self, shape: tuple[int, ...], n_condition: int) -> AutoregressiveStack:
        """Return the bijection of samples of a shape."""
        return AutoregressiveStack(math.prod(shape), n_condition, self)


class AutoregressiveLayer(Bijection):
    """One masked layer; `forward` takes one pass, `inverse` goes through the features.

    Args:
        features: size of x.
        n_condition: size of the condition; 0 for none.
        options: of the layer.
    """

    def __init__(
        self,
        features: int,
        n_condition: int = 0,
        options: AutoregressiveOptions = AutoregressiveOptions(),
    ) -> None:
        super().__init__(features, n_condition)
        n_parameters = 2 + (3 * options.bins - 1 if options.layer == "spline" else 0)
        self.bound = options.bound
        self.network = MaskedMLP(
            features, 1, n_condition, n_parameters, hidden=options.hidden, n_direct=1
        )
        nn.init.zeros_(self.network.last.weight)
        nn.init.zeros_(self.network.last.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map x (B, features) to z in one pass; return it and log|det dz/dx|, (B,)."""
        raw = self.network(x[..., None], self._context(x, condition))
        log_slope = -_log_scale(raw)
        z = (x - raw[..., 0]) * log_slope.exp()
        if raw.shape[-1] > 2:
            z, bend = tail_spline(z, raw[..., 2:], bound=self.bound)
            log_slope = log_slope + bend
        return z, log_slope.sum(-1)

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map z (B, features) to x, differentiable; return it and log|det dx/dz|, (B,)."""
        x = self.from_noise(z, condition)
        if torch.is_grad_enabled():
            x = self._root(x, z, condition)
        return x, -self(x, condition)[1]

    def from_noise(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map z to x, feature by feature, without derivatives."""
        columns: list[Tensor] = []

        def draw(i: int, parameters: Tensor) -> Tensor:
            raw, u = parameters.T, z[:, i]
            if raw.shape[-1] > 2:
                u, _ = tail_spline(u, raw[:, 2:], bound=self.bound, inverse=True)
            columns.append(raw[:, 0] + u * _log_scale(raw).exp())
            return columns[-1][None]

        with torch.no_grad():
            self.network.autoregress(self._context(z, condition), draw)
        return torch.stack(columns, -1)

    def set_linear(self, matrix: Tensor, slope: Tensor, offset: Tensor) -> None:
        """Become z = matrix x + slope condition + offset.

        The matrix is lower triangular with a positive diagonal; slope is (features, n_condition).
        """
        diagonal = matrix.diagonal()
        log_scale = (-diagonal.log()).clamp(-START_LIMIT, START_LIMIT)
        bias = torch.zeros_like(self.network.last.bias).view(self.features, -1)
        bias[:, 0] = -offset / diagonal
        bias[:, 1] = log_scale / (1 - log_scale.abs() / LOG_SCALE_LIMIT)  # Undoes `softclip`.
        with torch.no_grad():
            self.network.last.weight.zero_()
            self.network.last.bias.copy_(bias.flatten())
            both = torch.cat([slope, matrix.tril(-1)], 1)
            self.network.direct.copy_(-both / diagonal[:, None])

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _root(self, x: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        """Return x, which `forward` maps to z, with the derivatives that this gives it."""
        x = x.detach().requires_grad_()
        reached, _ = self(x, condition)
        # Rows of a batch do not mix, so that one pass gives a row of every sample's Jacobian.
        rows = torch.eye(self.features, dtype=x.dtype, device=x.device)[:, None]
        jacobian = torch.autograd.grad(
            reached, x, rows.expand(-1, *x.shape), retain_graph=True, is_grads_batched=True
        )[0].transpose(0, 1)
        miss = (z - reached)[..., None]
        step: Tensor = torch.linalg.solve_triangular(jacobian, miss, upper=False)[..., 0]
        return x.detach() + step

    def _context(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return x.new_zeros(x.shape[0], 0) if condition is None else condition


class AutoregressiveStack(Bijection):
    """Autoregressive layers, the identity (up to order) when new.

    Args:
        features: size of x.
        n_condition: size of the condition; 0 for none.
        options: of the layers.

    >>> flow = AutoregressiveStack(3, options=AutoregressiveOptions(n_layers=2, hidden=16))
    >>> z, log_det = flow(torch.ones(5, 3))
    >>> torch.allclose(flow.from_noise(z), torch.ones(5, 3))
    True
    """

    starts_at_data = True

    def __init__(
        self,
        features: int,
        n_condition: int = 0,
        options: AutoregressiveOptions = AutoregressiveOptions(),
    ) -> None:
        super().__init__(features, n_condition)
        self.fast = options.fast
        self.layers = nn.ModuleList(
            AutoregressiveLayer(features, n_condition, options) for _ in range(options.n_layers)
        )
        orders = fixed_orders(options.n_layers - 1, features)
        self.register_buffer("orders", orders)
        self.register_buffer("orders_back", orders.argsort(-1))
        self.orders: Tensor
        self.orders_back: Tensor

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, features) to the base; return z and log|det dz/dx|, (B,)."""
        total = torch.zeros_like(x[:, 0])
        for i, layer in enumerate(self._parts()):
            if i:
                x = x.index_select(-1, self.orders[i - 1])
            x, log_det = (layer if self.fast == "density" else layer.inverse)(x, condition)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the base (B, features) to data; return x and log|det dx/dz|, (B,)."""
        total = torch.zeros_like(z[:, 0])
        for i, layer in reversed(list(enumerate(self._parts()))):
            z, log_det = (layer.inverse if self.fast == "density" else layer)(z, condition)
            z, total = self._reordered(i, z), total + log_det
        return z, total

    def from_noise(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map the base to data; derivatives are lost where that goes feature by feature."""
        for i, layer in reversed(list(enumerate(self._parts()))):
            z = layer.from_noise(z, condition) if self.fast == "density" else layer(z, condition)[0]
            z = self._reordered(i, z)
        return z

    def start_at(self, x: Tensor, condition: Tensor | None, weight: Tensor) -> None:
        """Make the layer nearest to the data their Gaussian, as the weights have it.

        Its mean is the linear regression on the condition.
        """
        share = weight / weight.sum()
        given = x[:, :0] if condition is None or not self.n_condition else condition
        mean, centre = share @ x, share @ given
        away, given = x - mean, given - centre
        scatter = (share[:, None] * given).T
        slope = torch.linalg.solve(
            scatter @ given + 1e-4 * torch.eye(len(centre)).to(x), scatter @ away
        ).T
        mean, away = mean - slope @ centre, away - given @ slope.T
        covariance = (share[:, None] * away).T @ away
        # So that constant features, or more features than samples, leave it invertible.
        ridge = 1e-4 * covariance.diagonal().mean() * torch.eye(self.features).to(x)
        factor = torch.linalg.cholesky(covariance + ridge)
        first = self._parts()[0]
        if self.fast == "density":
            inverse = torch.linalg.inv(factor)
            first.set_linear(inverse, -inverse @ slope, -inverse @ mean)
        else:
            # Where the bound on scales cuts, means stay right.
            cut = factor.diagonal().log().clamp(-START_LIMIT, START_LIMIT).exp()
            first.set_linear(factor + torch.diag(cut - factor.diagonal()), slope, mean)

    def _reordered(self, i: int, z: Tensor) -> Tensor:
        """Undo the new order that comes before layer i."""
        return z.index_select(-1, self.orders_back[i - 1]) if i else z

    def _parts(self) -> list[AutoregressiveLayer]:
        return [layer for layer in self.layers if isinstance(layer, AutoregressiveLayer)]


def _log_scale(raw: Tensor) -> Tensor:
    return softclip(raw[..., 1], LOG_SCALE_LIMIT)
