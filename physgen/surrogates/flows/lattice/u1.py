r"""Gauge-equivariant coupling flow of the links of U(1) in two dimensions.

It starts from the closure-defect sampler with a learned coupling and distribution of the
topological charge (`physgen.surrogates.flows.lattice.sectors`), in which lines that wind round the
torus are uniform, and goes on through the layers of
`physgen.surrogates.flows.lattice.u1_couplings`. The density is exact: there are no steps in time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.ranges import Count, Positive, PositiveFloat
from physgen.sampling.manifold import wrapped
from physgen.surrogates.flows.lattice.links import LinkSurrogate, links, plaquettes, uniform
from physgen.surrogates.flows.lattice.sectors import ChargedPlaquettes
from physgen.surrogates.flows.lattice.u1_couplings import (
    STRIPES,
    PlaquetteCoupling,
    WindingCoupling,
    turned,
)
from physgen.transforms.base import Transform

_OFFSETS = (0, 2, 1, 3)


class U1CouplingFlow(LinkSurrogate):
    """Couplings of plaquettes and windings on a closure-defect sampler of learned charges.

    Args:
        schema: links (2, T, L) of U(1); extents are multiples of four if there are couplings.
        transform: none.
        beta: of the base, where training starts.
        charges: probabilities of |Q| = 0 ... `charges` are learned.
        candidates: sets of plaquettes among which one of the drawn charge is looked for.
        n_layers: couplings of plaquettes, of the two directions in turn; 0 leaves the base.
        channels: of each coupling.
        bins: of the splines, an even number.
        hidden: units of the networks of the windings; 0 leaves these uniform.

    Raises:
        RecipeError: the lattice does not fit the couplings, or bins are odd.

    >>> from physgen.systems.gauge import Gauge
    >>> flow = U1CouplingFlow(Gauge(shape=(4, 4)).schema, n_layers=2, channels=4)
    >>> batch, log_prob = flow.sample_with_log_prob(3, generator=torch.Generator().manual_seed(1))
    >>> batch.x.shape, log_prob.shape
    (torch.Size([3, 2, 4, 4]), torch.Size([3]))
    """

    symmetries = ("gauge transformation", "charge conjugation")

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        beta: PositiveFloat = 2.0,
        charges: Count = 3,
        candidates: Positive = 8,
        n_layers: Count = 16,
        channels: Positive = 16,
        bins: Positive = 8,
        hidden: Count = 32,
    ) -> None:
        super().__init__(schema, transform)
        if n_layers and any(extent % STRIPES for extent in schema.shape[1:]):
            raise RecipeError(
                f"surrogate.n_layers: couplings need extents that are multiples of {STRIPES}, not "
                f"{list(schema.shape[1:])}; set surrogate.n_layers=0, or another system.shape"
            )
        if bins % 2:
            raise RecipeError(f"surrogate.bins = {bins}: odd splines need an even number")
        self.base = ChargedPlaquettes(self.volume, beta, charges, candidates)
        along = ((schema.shape[1], schema.shape[2]), (schema.shape[2], schema.shape[1]))
        self.couplings = nn.ModuleList(
            PlaquetteCoupling(along[layer % 2], _OFFSETS[layer // 2 % 4], channels, bins)
            for layer in range(n_layers)
        )
        self.windings = nn.ModuleList(
            WindingCoupling(along[axis], hidden, bins) for axis in range(2 if hidden else 0)
        )

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the normal noise behind one sample."""
        return (self.base.n_uniform + self.volume + 2,)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise to links (B, 2, T, L)."""
        u, n = uniform(noise), self.base.n_uniform
        angles = torch.pi * (2 * u[:, n:] - 1)
        theta = self.base.draw(u[:, :n]).reshape(-1, *self.schema.shape[1:])
        x = links(theta, angles[:, :2], angles[:, 2:].reshape(theta.shape)).to(noise.dtype)
        for layer, across in self._layers():
            x = turned(layer(turned(x))[0]) if across else layer(x)[0]
        return x

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(links) with respect to Haar's measure, differentiable."""
        x, total = batch.x, batch.x.new_zeros(len(batch))
        for layer, across in reversed(self._layers()):
            x, log_det = layer.inverse(turned(x) if across else x)
            x, total = turned(x) if across else x, total + log_det
        theta = wrapped(plaquettes(x.double())).flatten(1)
        return self.base.log_prob(theta).to(total) + total

    def jump_log_prob(self, noise: Tensor) -> Tensor:
        """Return (B,) log q of the base, which coupling and charges of it are differentiated in."""
        u = uniform(noise)[:, : self.base.n_uniform]
        log_prob: Tensor = self.base.log_prob(wrapped(self.base.draw(u)))
        return log_prob.to(noise.dtype)

    def _layers(self) -> list[tuple[PlaquetteCoupling | WindingCoupling, bool]]:
        """Return the layers, and whether each works along the second axis."""
        found: list[tuple[PlaquetteCoupling | WindingCoupling, bool]] = []
        for parts in (self.couplings, self.windings):
            for number, layer in enumerate(parts):
                assert isinstance(layer, PlaquetteCoupling | WindingCoupling)
                found.append((layer, number % 2 == 1))
        return found
