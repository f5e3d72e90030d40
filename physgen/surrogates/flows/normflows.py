r"""normflows as a guest, both ways.

`NormflowsBijection` makes bijections of its blocks; `NormflowsLayer` puts our conditional
bijections into containers of normflows. Families taken, data x to base z:

- residual (Chen et al., arXiv 1906.02735): z = x + g(x), Lip(g) < 1; log|det(1 + dg/dx)| is taken
  exactly from the Jacobian instead of by a random power series; the inverse is a fixed point.
- glow (Kingma & Dhariwal, arXiv 1807.03039): couplings of images, squeezed to 4 channels a pixel.
- planar (Rezende & Mohamed, arXiv 1505.05770): z = x + u tanh(w x + b); the inverse is a root of
  a monotonic function of w x, found by bisection.
- radial (same): z = x + \beta (x - x_0)/(\alpha + r), r = |x - x_0|; the inverse is a root of a
  quadratic equation in r.

Worked around in normflows 1.7.3: its containers sum log-determinants in float32, know no seed and
save no configuration; its residual blocks draw from global generators and stop their inverse at
3e-3; planar and radial flows have no inverse; activation norms initialise themselves on whatever
batch comes first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import normflows
import torch
from torch import Tensor, nn

from physgen.errors import RecipeError
from physgen.ranges import Options, Positive, Widths
from physgen.surrogates.flows.bijection import Bijection
from physgen.surrogates.flows.coupling import Coupling

Family = Literal["residual", "glow", "planar", "radial"]
Mapped = tuple[Tensor, Tensor]

_BISECTIONS = 60
_FIXED_POINT_STEPS = 1000
_POWER_ITERATIONS = 5


class NormflowsOptions(Options):
    """Blocks of normflows, for samples without conditions.

    Attributes:
        family: "residual", "planar" and "radial" for vectors; "glow" for images (height, width),
            (channels, height, width) of even height and width.
        n_layers: number of blocks.
        hidden: widths of a residual block's network; its first is the number of channels of glow.
    """

    kind: Literal["normflows"] = "normflows"
    family: Family = "residual"
    n_layers: Positive = 8
    hidden: Widths = (64, 64)

    def build(self, shape: tuple[int, ...], n_condition: int) -> NormflowsBijection:
        """Return the bijection of samples of a shape.

        Raises:
            RecipeError: there are conditions, or the shape does not suit the family.
        """
        if n_condition:
            raise RecipeError(
                "surrogate.bijection.kind: blocks of normflows take no conditions; take coupling "
                "or autoregressive"
            )
        return NormflowsBijection(shape, self)


class NormflowsBijection(Bijection):
    """Blocks of normflows, from flat data to flat base.

    Args:
        shape: of the samples.
        options: of the blocks.

    Raises:
        RecipeError: the shape does not suit the family.

    >>> flow = NormflowsBijection((3,), NormflowsOptions(family="planar", n_layers=2))
    >>> z, log_det = flow(torch.ones(5, 3))
    >>> torch.allclose(flow.from_noise(z), torch.ones(5, 3), atol=1e-5)
    True
    """

    def __init__(
        self, shape: tuple[int, ...], options: NormflowsOptions = NormflowsOptions()
    ) -> None:
        super().__init__(math.prod(shape))
        family, n_layers, hidden = options.family, options.n_layers, options.hidden
        self.family, self.starts_at_data = family, family == "glow"
        if family == "residual":
            self.not_exported = (
                "the inverse of residual blocks is iterated until it stands still, and how often "
                "depends on the samples; take bijection.kind=coupling, or export to pyfunc"
            )
        self._to_base, self._to_data = _DIRECTIONS[family]
        if family == "glow":
            channels, height, width = _image(shape)
            self._data_shape: tuple[int, ...] = (channels, height, width)
            self._base_shape: tuple[int, ...] = (4 * channels, height // 2, width // 2)
            blocks = [
                # Its sigmoid scales underflow to log-determinants of -infinity; torch.lu is gone.
                normflows.flows.GlowBlock(4 * channels, hidden[0], scale_map="exp", use_lu=False)
                for _ in range(n_layers)
            ]
            blocks.append(normflows.flows.Squeeze())
        else:
            self._data_shape = self._base_shape = (self.features,)
            blocks = [_vector_block(family, self.features, hidden) for _ in range(n_layers)]
        # Some of its buffers are born in float64.
        self.flows = nn.ModuleList(blocks).to(torch.get_default_dtype())

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Mapped:
        """Map data (B, features) to the base; return z and log|det dz/dx|, (B,)."""
        if self.training and self.family == "residual":
            # Weights have moved since: find their norms again, which the constraint divides by.
            normflows.utils.update_lipschitz(self, _POWER_ITERATIONS)
        x = x.reshape(-1, *self._data_shape)
        total = x.new_zeros(len(x))
        for flow in reversed(self.flows):
            x, log_det = self._to_base(flow, x)
            total = total + log_det
        return x.flatten(1), total

    def start_at(self, x: Tensor, condition: Tensor | None, weight: Tensor) -> None:
        """Let activation norms, which know no weights, see rows as often as these say."""
        generator = torch.Generator(device=x.device).manual_seed(0)
        if not bool((weight == 1).all()):
            x = x[torch.multinomial(weight, len(x), True, generator=generator)]
        with torch.no_grad():
            self(x)

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> Mapped:
        """Map the base to data; derivatives of an iterated inverse are not those of the root."""
        x = self.from_noise(z)
        return x, -self(x)[1]

    def from_noise(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map the base (B, features) to data."""
        z = z.reshape(-1, *self._base_shape)
        for flow in self.flows:
            z = self._to_data(flow, z)
        return z.flatten(1)


class NormflowsLayer(normflows.flows.Flow):  # type: ignore[misc]
    """One of our bijections as a layer of normflows, which counts its layers from base to data.

    Args:
        bijection: from data to base.
    """

    def __init__(self, bijection: Coupling | Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(self, z: Tensor, context: Tensor | None = None) -> Mapped:
        """Map base to data; return it and log|det dx/dz|."""
        return self.bijection.inverse(z, context)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> Mapped:
        """Map data to base; return it and log|det dz/dx|."""
        mapped: Mapped = self.bijection(x, context)
        return mapped


def _vector_block(family: Family, features: int, hidden: tuple[int, ...]) -> Any:
    if family == "residual":
        network = normflows.nets.LipschitzMLP([features, *hidden, features])
        block = normflows.flows.Residual(network)
        # Parameters of the random power series, which is not used.
        block.iresblock.geom_p.requires_grad_(False)
        block.iresblock.lamb.requires_grad_(False)
        return block
    if family == "planar":
        return normflows.flows.Planar((features,))
    return normflows.flows.Radial((features,))


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    image = (1, *shape) if len(shape) == 2 else shape
    if len(image) != 3 or image[1] % 2 or image[2] % 2:
        raise RecipeError(
            "surrogate.bijection.family: glow needs images of even height and width, and these "
            f"samples have shape {shape}; take residual for vectors"
        )
    channels, height, width = image
    return channels, height, width


def _residual_to_base(flow: Any, x: Tensor) -> Mapped:
    learning = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        moved = x + flow.iresblock.nnet(x)
        # Rows of a batch do not mix, so that one pass gives a row of every sample's Jacobian.
        jacobian = torch.stack(
            [
                torch.autograd.grad(column.sum(), x, create_graph=learning, retain_graph=True)[0]
                for column in moved.unbind(-1)
            ],
            1,
        )
        log_det: Tensor = torch.linalg.slogdet(jacobian)[1]
    return (moved, log_det) if learning else (moved.detach(), log_det.detach())


def _residual_to_data(flow: Any, z: Tensor) -> Tensor:
    x, tolerance = z, 10 * torch.finfo(z.dtype).eps
    for _ in range(_FIXED_POINT_STEPS):
        before, x = x, z - flow.iresblock.nnet(x)
        if bool(((x - before).abs() <= tolerance * (1 + x.abs())).all()):
            break
    return x


def _planar_direction(flow: Any) -> Tensor:
    """Return u, constrained to w u > -1 as in the flow's own forward pass."""
    inner = (flow.w * flow.u).sum()
    bent = nn.functional.softplus(inner) - 1
    direction: Tensor = flow.u + (bent - inner) * flow.w / flow.w.square().sum()
    return direction


def _planar_to_base(flow: Any, x: Tensor) -> Mapped:
    u = _planar_direction(flow)
    bend = torch.tanh((flow.w * x).sum(-1, keepdim=True) + flow.b)
    slope = 1 + (flow.w * u).sum() * (1 - bend.square())
    return x + u * bend, slope[:, 0].log()


def _planar_to_data(flow: Any, z: Tensor) -> Tensor:
    u = _planar_direction(flow)
    along = (flow.w * z).sum(-1, keepdim=True) + flow.b
    strength = (flow.w * u).sum()
    low, high = along - strength.abs(), along + strength.abs()
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = middle + strength * middle.tanh() > along
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return z - u * torch.tanh((low + high) / 2)


def _radial_to_base(flow: Any, x: Tensor) -> Mapped:
    z, log_det = flow(x)
    return z, log_det


def _radial_to_data(flow: Any, z: Tensor) -> Tensor:
    alpha = flow.alpha.abs()
    beta = nn.functional.softplus(flow.beta) - alpha
    away = z - flow.z_0
    reach = away.norm(dim=-1, keepdim=True)
    half = (reach - alpha - beta) / 2
    radius = half + (half.square() + reach * alpha).sqrt()
    x: Tensor = flow.z_0 + away * radius / reach.clamp_min(torch.finfo(z.dtype).tiny)
    return x


def _glow_to_base(flow: Any, x: Tensor) -> Mapped:
    z, log_det = flow.inverse(x)
    # Squeezing returns a plain 0, whose dtype is not that of the data.
    return z, torch.as_tensor(log_det, dtype=x.dtype, device=x.device).expand(len(x))


def _glow_to_data(flow: Any, z: Tensor) -> Tensor:
    x: Tensor = flow(z)[0]
    return x


_Directions = tuple[Callable[[Any, Tensor], Mapped], Callable[[Any, Tensor], Tensor]]
_DIRECTIONS: dict[str, _Directions] = {
    "residual": (_residual_to_base, _residual_to_data),
    "planar": (_planar_to_base, _planar_to_data),
    "radial": (_radial_to_base, _radial_to_data),
    "glow": (_glow_to_base, _glow_to_data),
}
