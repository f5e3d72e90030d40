r"""The closure-defect sampler of U(1) in two dimensions: exact but for one constraint, untrained.

On a torus of V sites the plaquettes are independent but for sum_P theta_P = 0 mod 2 pi. Draw V
independent phi_P ~ exp(beta cos phi) and share out the defect delta = sum_P phi_P, in [-pi, pi):

    theta_P = phi_P - delta / V.

Lines that wind round the torus and the gauge are uniform. The defect integrates out of the density,

    ln q = -V ln I_0(beta) - ln 2 pi + beta C
           + ln int_{-pi}^{pi} ddelta exp beta [C (cos(delta / V) - 1) - S sin(delta / V)],

with C = sum_P cos theta_P and S = sum_P sin theta_P, with respect to Haar's measure. The integral,
done by Gauss's rule to rounding, is all that differs from the target. Matter fields make plaquettes
stiffer: then another beta than that of the action is the better proposal, which training finds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.ranges import PositiveFloat
from physgen.sampling.manifold import wrapped
from physgen.surrogates.flows.lattice.links import LinkSurrogate, links, plaquettes
from physgen.surrogates.flows.lattice.von_mises import VonMises, gauss_rule
from physgen.transforms.base import Transform

NODES = 64
"""Of Gauss's rule."""


class ClosureDefect(LinkSurrogate):
    """Closure-defect sampler of the links of U(1) in two dimensions.

    Args:
        schema: links (2, T, L) of U(1).
        transform: none.
        beta: of the proposal, where training starts.

    >>> from physgen.systems.gauge import Gauge
    >>> from physgen.surrogates.correction import Corrected
    >>> from physgen.sampling.reweighting import effective_sample_size, log_partition_function
    >>> system = Gauge(shape=(4, 4), beta=2.0)
    >>> sampler = Corrected(ClosureDefect(system.schema, beta=2.0), system.action, "none")
    >>> weights = sampler.sample(16384, generator=torch.Generator().manual_seed(1)).log_weight
    >>> round(effective_sample_size(weights).value, 2)  # 0.998 on 8 x 8
    0.97
    >>> abs(log_partition_function(weights).value - system.exact()["ln Z"]) < 0.01
    True
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        beta: PositiveFloat = 2.0,
    ) -> None:
        super().__init__(schema, transform)
        self.log_beta = nn.Parameter(torch.tensor(math.log(beta)))

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise to links (B, 2, T, L)."""
        # A sample jumps where delta does: its gradient in beta would not be that of a mean.
        with torch.no_grad():
            u, _, winding, gauge = self.split(noise)
            beta = self.log_beta.double().exp()
            phi = VonMises(beta, beta.new_zeros(1)).quantile(u)
            theta = phi - wrapped(phi.sum(1, keepdim=True)) / self.volume
            return links(theta.reshape(gauge.shape), winding, gauge).to(noise.dtype)

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(links) with respect to Haar's measure, differentiable."""
        theta, volume = plaquettes(batch.x.double()).flatten(1), self.volume
        beta = self.log_beta.double().exp()
        cosines, sines = theta.cos().sum(1, keepdim=True), theta.sin().sum(1, keepdim=True)
        nodes, weights = gauss_rule(NODES, beta)
        share = math.pi * (2 * nodes - 1) / volume
        exponent = beta * (cosines * (share.cos() - 1) - sines * share.sin())
        integral = (exponent + weights.log()).logsumexp(1)  # over delta, divided by 2 pi
        constant = -volume * (torch.special.i0e(beta).log() + beta)
        total: Tensor = constant + beta * cosines[:, 0] + integral
        return total.to(batch.x.dtype)

    def jump_log_prob(self, noise: Tensor) -> Tensor:
        """Return (B,) log q of what noise is mapped to, which beta is differentiated in."""
        return self.log_prob(Batch(x=self.from_noise(noise)))
