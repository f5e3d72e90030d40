r"""normflows as a guest, both ways.

`NormflowsFlow` trains, saves and samples flows of normflows as a surrogate; `NormflowsLayer` puts
our conditional bijections into containers of normflows. Families taken, data x to base z:

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

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.surrogates.base import Surrogate
from physgen.surrogates.flows.coupling import Coupling
from physgen.surrogates.flows.stack import CouplingStack, standard_normal
from physgen.transforms.base import Transform

Family = Literal["residual", "glow", "planar", "radial"]
Mapped = tuple[Tensor, Tensor]

_BISECTIONS = 60
_FIXED_POINT_STEPS = 1000
_POWER_ITERATIONS = 5


class NormflowsFlow(Surrogate):
    """A flow of normflows with an exact density (`HasDensity`), for samples without conditions.

    Args:
        schema: of the samples.
        transform: from physical samples to real vectors or images; must be exact.
        family: "residual", "planar" and "radial" for vectors; "glow" for images (height, width),
            (channels, height, width) of even height and width.
        n_layers: number of blocks.
        hidden: widths of a residual block's network; its first is the number of channels of glow.

    Raises:
        RecipeError: the schema has conditions, the transform no log-determinant, or the shape does
            not suit the family.
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        family: Family = "residual",
        n_layers: int = 8,
        hidden: tuple[int, ...] = (64, 64),
    ) -> None:
        super().__init__(schema, transform)
        if schema.condition:
            raise RecipeError(
                "surrogate.kind: flows of normflows take no conditions; use coupling-flow"
            )
        if not self.transform.exact:
            raise RecipeError(
                "surrogate.kind: normflows has an exact density, but the transform adds noise or "
                "holds discrete parts; use dequantised-flow"
            )
        self.family, self.latent_shape = family, self.transform.latent_shape(schema.shape)
        self.features = math.prod(self.latent_shape)
        self._to_base, self._to_data = _DIRECTIONS[family]
        if family == "glow":
            self._image = _image(self.latent_shape)
            channels = 4 * self._image[0]
            blocks = [
                # Its sigmoid scales underflow to log-determinants of -infinity; torch.lu is gone.
                normflows.flows.GlowBlock(channels, hidden[0], scale_map="exp", use_lu=False)
                for _ in range(n_layers)
            ]
            blocks.append(normflows.flows.Squeeze())
        else:
            self._image = (self.features,)
            blocks = [_vector_block(family, self.features, hidden) for _ in range(n_layers)]
        # Some of its buffers are born in float64.
        self.flows = nn.ModuleList(blocks).to(torch.get_default_dtype())

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform, and let activation norms see the data."""
        super().initialise(data)
        if data is not None and self.family == "glow":
            with torch.no_grad():
                self._forward(self.transform(data)[0].x.to(self.dtype))

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) the log-density of a batch in the transform's space."""
        if self.training and self.family == "residual":
            # Weights have moved since: find their norms again, which the constraint divides by.
            normflows.utils.update_lipschitz(self, _POWER_ITERATIONS)
        z, log_det = self._forward(batch.x)
        return standard_normal(z.flatten(1)) + log_det

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x) in physical units, differentiable."""
        mapped, log_det = self.transform(batch)
        total: Tensor = self.latent_log_prob(mapped) + log_det
        return total

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw samples and return their (n,) log-density."""
        samples = self.sample(n, condition, generator=generator)
        return samples, self.log_prob(samples)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise behind one sample."""
        return (self.features,)

    def push(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, features) noise to (B, *shape) samples in physical units."""
        z = noise
        if self.family == "glow":
            channels, height, width = self._image
            z = z.reshape(-1, 4 * channels, height // 2, width // 2)
        for flow in self.flows:
            z = self._to_data(flow, z)
        return self.transform.inverse(Batch(z.reshape(-1, *self.latent_shape))).x

    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` samples in physical units."""
        if condition is not None:
            self.conditions.check(condition)
        noise = torch.randn(
            n, self.features, generator=generator, device=self.device, dtype=self.dtype
        )
        with torch.no_grad():
            return Batch(self.push(noise))

    def _forward(self, x: Tensor) -> Mapped:
        x = x.reshape(-1, *self._image)
        total = x.new_zeros(len(x))
        for flow in reversed(self.flows):
            x, log_det = self._to_base(flow, x)
            total = total + log_det
        return x, total


class NormflowsLayer(normflows.flows.Flow):  # type: ignore[misc]
    """One of our bijections as a layer of normflows, which counts its layers from base to data.

    Args:
        bijection: a coupling or a stack, from data to base.
    """

    def __init__(self, bijection: Coupling | CouplingStack) -> None:
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


def _image(shape: tuple[int, ...]) -> tuple[int, ...]:
    image = (1, *shape) if len(shape) == 2 else shape
    if len(image) != 3 or image[1] % 2 or image[2] % 2:
        raise RecipeError(
            f"surrogate.family: glow needs images of even height and width, not samples of shape "
            f"{shape}; take residual for vectors"
        )
    return image


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
