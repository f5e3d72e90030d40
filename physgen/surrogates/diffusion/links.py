r"""Diffusion on the links of U(1) in two dimensions: noise winds round the circles.

Links theta become theta + sigma eps mod 2 pi, eps ~ N(0, 1), sigma from 0 to where nothing of them
is left. A network learns the score of what they become, which is invariant under gauge
transformations, as is what it looks at: the plaquettes. With g their function,

    s_mu(x) = sum_P dP / dtheta_mu(x) g_P(sin P, cos P, sigma) / (s^2 + sigma^2)^1/2,

s being half of the circular deviation of the plaquettes, that of one link: any score of plaquettes
is of this form (lines that wind round the torus are not looked at: what they say of links falls
exponentially with its extents). It is learned from that of the wrapped normal distribution of each
link (denoising score matching: Vincent, Neural Comput. 23 (2011) 1661; on the circle: Jing et al.,
arXiv 2206.01729),

    minimise  E sigma^2 |s(theta', sigma) - d/dtheta' log sum_k exp(-(theta' - theta + 2 pi k)^2 /
              2 sigma^2)|^2.

Samples come from uniform links by the probability flow dtheta / dsigma = -sigma s (Song et al.,
arXiv 2011.13456), in Heun's steps between levels as in Karras et al. (arXiv 2206.00364). They are
approximate; Langevin steps of the action follow (`sampling.correction: langevin`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError, errors_of
from physgen.networks.unet import UNet, UNetOptions
from physgen.ranges import Positive, PositiveFloat
from physgen.sampling.manifold import wrapped
from physgen.surrogates.base import Surrogate
from physgen.surrogates.flows.lattice.links import plaquettes, refuse_others
from physgen.surrogates.method import Method, StepContext
from physgen.transforms.base import Transform

SMALLEST, LARGEST = 0.02, 2.5
"""Noise of a link, in radian: a plaquette of noise 2 sigma = 5 is uniform to exp(-25 / 2)."""
_RISE = 7.0
"""rho of the levels of Karras et al."""
_WINDINGS = 3
"""k of the wrapped normal distribution, beyond which nothing is added at `LARGEST`."""


class LinkDiffusion(Surrogate):
    """A diffusion model of the links of U(1) in two dimensions.

    Args:
        schema: links (2, T, L) of U(1).
        transform: none.
        network: a U-net of the plaquettes; it is periodic.
        steps: levels of noise that sampling goes through.

    Raises:
        RecipeError: samples are others, or there is a transform.

    >>> from physgen.systems.gauge import Gauge
    >>> model = LinkDiffusion(Gauge(shape=(4, 4)).schema, network=UNetOptions(channels=(8, 8)))
    >>> model.sample(3, seed=1).x.shape
    torch.Size([3, 2, 4, 4])
    """

    at_once = 4096

    not_exported = (
        "links begin uniform on their group and are given noise at every step, which is no map of "
        "normal noise; take u1-coupling-flow, or export to pyfunc"
    )
    deviation: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        network: UNetOptions = UNetOptions(),
        steps: Positive = 20,
    ) -> None:
        super().__init__(schema, transform)
        refuse_others(self)
        self.steps = steps
        options = network.model_copy(update={"periodic": True})
        with errors_of("surrogate.network"):
            self.body = UNet(schema.shape[1:], options=options, n_channels=2)
        self.register_buffer("deviation", torch.ones(()))

    def initialise(self, data: Batch | None) -> None:
        """Measure the circular deviation of the plaquettes, (-2 ln |<exp i P>|)^1/2."""
        super().initialise(data)
        if data is not None:
            angles = plaquettes(data.x.double())
            length = torch.hypot(angles.cos().mean(), angles.sin().mean()).clamp(1e-4, 1 - 1e-6)
            self.deviation.copy_((-2 * length.log()).sqrt())

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return (B, 2, T, L), the score of noisy links at (B,) levels of noise."""
        angles = plaquettes(x)
        clock = (sigma.log() - math.log(SMALLEST)) / math.log(LARGEST / SMALLEST)
        g = self.body(torch.stack([angles.sin(), angles.cos()], 1), clock)
        g = g / torch.hypot(self.deviation / 2, sigma)[:, None, None]
        return torch.stack([g - g.roll(1, 2), g.roll(1, 1) - g], 1)

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` samples from uniform links."""
        shape = n, *self.schema.shape
        x = torch.rand(shape, generator=generator, device=self.device, dtype=self.dtype)
        x = math.pi * (2 * x - 1)
        ends = LARGEST ** (1 / _RISE), SMALLEST ** (1 / _RISE)
        levels = torch.linspace(*ends, self.steps + 1, dtype=torch.float64) ** _RISE
        for here, there in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
            slope = self._slope(x, here)
            end = x + (there - here) * slope
            x = wrapped(x + (there - here) / 2 * (slope + self._slope(end, there)))
        # At the last level the network takes the noise away that is left.
        return Batch(wrapped(x - SMALLEST * self._slope(x, SMALLEST)))

    def _slope(self, x: Tensor, sigma: float) -> Tensor:
        level = x.new_full((len(x),), sigma)
        return -sigma * self.score(x, level)


class LinkDenoising(Method):
    """Train a `LinkDiffusion` by denoising score matching, at levels of even logarithm.

    Args:
        surrogate: a `LinkDiffusion`.
        learning_rate: of AdamW, before the engine's schedule.

    Raises:
        RecipeError: the surrogate is another one.

    >>> from physgen.systems.gauge import Gauge
    >>> model = LinkDiffusion(Gauge(shape=(4, 4)).schema, network=UNetOptions(channels=(8, 8)))
    >>> sorted(LinkDenoising(model).optimisers)
    ['score']
    """

    def __init__(self, surrogate: LinkDiffusion, *, learning_rate: PositiveFloat = 1e-3) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, LinkDiffusion):
            raise RecipeError(
                f"method.kind: link-denoising trains a link-diffusion, not "
                f"{type(surrogate).__name__}"
            )
        self.model = surrogate
        self.optimisers["score"] = torch.optim.AdamW(surrogate.parameters(), lr=learning_rate)

    def loss(self, batch: Batch, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return (B,), sigma^2 |s - that of the wrapped normal distribution|^2 a link."""
        each = sigma[:, None, None, None]
        x = wrapped(batch.x + each * noise)
        difference = self.model.score(x, sigma) - wrapped_score(each * noise, each)
        return (each * difference).square().flatten(1).mean(1)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step."""
        sigma = SMALLEST * (LARGEST / SMALLEST) ** ctx.rand()
        noise = ctx.randn(*self.model.schema.shape)
        optimiser = self.optimisers["score"]
        return {"loss": ctx.minimise(self.loss, optimiser, batches["data"], noise, sigma)}


def wrapped_score(delta: Tensor, sigma: Tensor) -> Tensor:
    """Return d/d delta of the log-density of the wrapped normal distribution at angles delta.

    >>> wrapped_score(torch.tensor([0.1, 0.1 + 2 * math.pi]), torch.tensor(0.5)).round(decimals=3)
    tensor([-0.4000, -0.4000])
    """
    windings = torch.arange(-_WINDINGS, _WINDINGS + 1, device=delta.device, dtype=delta.dtype)
    away = wrapped(delta)[..., None] + 2 * math.pi * windings
    variance = sigma.square()[..., None]
    weight = torch.softmax(-away.square() / (2 * variance), -1)
    return -(weight * away / variance).sum(-1)
