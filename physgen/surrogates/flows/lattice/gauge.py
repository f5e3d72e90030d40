r"""Gradient flow of gauge links, learned: from Haar's measure to exp(-S), with few coefficients.

After Luescher (Commun. Math. Phys. 293 (2010) 899, arXiv 0907.5491) and Bacchio, Kessel, Schaefer &
Vaitl (Phys. Rev. D 107 (2023) L051504, arXiv 2212.08469). Random links flow over 0 <= t <= 1 by

    dU_e / dt = (grad_e Phi_t) U_e,    Phi_t = sum_i c_i(t) W_i(U),
    c_i(t) = sum_k a_ik P_k(2 t - 1),

with Legendre polynomials P_k. The W_i are functions of one plaquette, and of two plaquettes with a
common link: rectangles, figure eights, products of traces (`physgen.systems.kernels.gauge_flow`),
all invariant under gauge transformations and the symmetries of the lattice, and charge conjugation.
Their coefficients know nothing of the volume, so that what is trained on a small lattice flows on
a larger one. The density is

    ln q(U(1)) = -int dt L Phi_t,    L = sum_{e, a} d_a^e d_a^e,

with respect to Haar's measure, up to the error of Luescher's third-order Runge-Kutta steps. At
t < 1 the flow is one to the action of t beta (`FlowRegression`): one training serves a range of
couplings, conditions of the samples, up to the largest beta.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.ranges import Positive
from physgen.surrogates.flows.lattice.link_flow import LinkFlow, Links
from physgen.transforms.base import Transform


class GaugeFlow(LinkFlow):
    """Flow of links of U(1), SU(2) or SU(3) in two to four dimensions, with a density.

    Args:
        schema: links, as a gauge theory has them; beta may be a condition.
        transform: none, since it would break gauge invariance.
        n_times: Legendre polynomials in time.
        integration_steps: Runge-Kutta steps.

    Raises:
        RecipeError: the samples are no links, or a transform is given.

    >>> from physgen.systems.gauge import Gauge
    >>> flow = GaugeFlow(Gauge(group="SU(2)", shape=(3, 3)).schema)
    >>> batch, log_prob = flow.sample_with_log_prob(5, generator=torch.Generator())
    >>> batch.x.shape, bool((log_prob == 0).all())  # before training it is Haar
    (torch.Size([5, 2, 3, 3, 2, 2, 2]), True)
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        n_times: Positive = 4,
        integration_steps: Positive = 8,
    ) -> None:
        super().__init__(schema, transform, n_times, integration_steps)

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` configurations."""
        return self.sample_with_log_prob(n, condition, generator=generator)[0]

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw `n` configurations and their (n,) log-density with respect to Haar's measure.

        Raises:
            DomainError: a coupling is outside the trained range.
        """
        condition = self.conditions.resolve(condition, n, generator)
        links = self.haar(n, generator)
        change = self._moved(links, condition, backwards=False)
        return Batch(self.stored(links), condition), -self.to_tensor(change)

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q with respect to Haar's measure, by flowing back.

        Raises:
            DomainError: a coupling is outside the trained range, or missing.
        """
        links = self.matrices(batch.x)
        return self.to_tensor(self._moved(links, batch.condition, backwards=True))

    def _moved(
        self, links: Links, condition: Tensor | None, *, backwards: bool
    ) -> NDArray[np.float64]:
        """Move configurations in place to the times of their couplings, or back from there.

        Returns:
            (B,) int dt L Phi_t.
        """
        change = np.zeros(len(links))
        for rows, time in self.by_coupling(condition, len(links)):
            part = links[rows]
            change[rows] = self.flow(part, *((time, 0.0) if backwards else (0.0, time)))
            links[rows] = part
        return change
