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
t < 1 the flow is one to the action of t beta (`FlowRegression`).
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.ranges import Positive
from physgen.sampling import manifold
from physgen.surrogates.base import Surrogate
from physgen.systems.kernels import gauge_flow as kernel
from physgen.transforms.base import Chain, Transform

_NODES = (0.0, 0.25, 2 / 3)
"""Of a Runge-Kutta step."""


class GaugeFlow(Surrogate):
    """Flow of links of U(1), SU(2) or SU(3) in two to four dimensions, with a density.

    Args:
        schema: links, as a gauge theory has them.
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

    at_once = 512

    symmetries: tuple[str, ...] = ("gauge transformation", "translation", "charge conjugation")
    """Names (of `Gauge.moves`) of those the density has, whatever it learns."""

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        n_times: Positive = 4,
        integration_steps: Positive = 8,
    ) -> None:
        super().__init__(schema, transform)
        self.n, self.lattice_shape = _links_of(schema)
        if not (isinstance(self.transform, Chain) and len(self.transform.transforms) == 0):
            raise RecipeError("GaugeFlow keeps gauge invariance: leave 'transform' empty")
        self.terms = _terms(self.n, len(self.lattice_shape))
        self.integration_steps = integration_steps
        self.coefficients = nn.Parameter(torch.zeros(len(self.terms), n_times))

    def high_precision(self) -> Self:
        """Return a copy in float64 with twice the steps, which divides their error by eight."""
        other = super().high_precision()
        other.integration_steps = 2 * self.integration_steps
        return other

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` configurations."""
        return self.sample_with_log_prob(n, condition, generator=generator)[0]

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw `n` configurations and their (n,) log-density with respect to Haar's measure."""
        links = self.haar(n, generator)
        change = self.flow(links, 0.0, 1.0)
        return Batch(self.stored(links)), -self._tensor(change)

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q with respect to Haar's measure, by flowing back."""
        return self._tensor(self.flow(self.matrices(batch.x), 1.0, 0.0))

    def haar(self, n: int, generator: torch.Generator) -> NDArray[np.complex128]:
        """Draw (n, links, N, N) from Haar's measure."""
        links = n, len(self.lattice_shape), *self.lattice_shape
        if self.n > 1:
            return self.matrices(manifold.haar(links, self.n, generator))
        uniform = torch.rand(
            links, generator=generator, device=generator.device, dtype=torch.float64
        )
        return self.matrices((2 * uniform - 1) * math.pi)

    def flow(self, links: NDArray[np.complex128], start: float, stop: float) -> NDArray[np.float64]:
        """Move configurations (B, links, N, N) from one time to another in place.

        The steps are as long as those of a flow from 0 to 1.

        Returns:
            (B,) int dt L Phi_t, by which ln q has fallen.
        """
        change = np.zeros(len(links))
        n_steps = math.ceil(abs(stop - start) * self.integration_steps - 1e-9)
        if n_steps == 0:
            return change
        size = (stop - start) / n_steps
        times = start + size * (np.arange(n_steps)[:, None] + np.array(_NODES))
        work, who = kernel.workspace(len(self.lattice_shape), self.n)
        where = kernel.lattice(self.lattice_shape)
        kernel.integrate(links, where, self.coefficients_at(times), size, work, who, change)
        return change

    def coefficients_at(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (*times.shape, number of all terms) of the kernel, those not in use being 0."""
        learned = self.coefficients.detach().double().cpu().numpy()
        values = np.moveaxis(legendre(times, learned.shape[1]), 0, -1) @ learned.T
        c = np.zeros((*times.shape, len(kernel.TERMS)))
        c[..., list(self.terms)] = values
        return c

    def matrices(self, x: Tensor) -> NDArray[np.complex128]:
        """Return links (B, links, N, N) of samples (B, *shape), in double precision; a copy."""
        given = x.detach().double().cpu()
        u = manifold.matrices(given) if self.n > 1 else torch.polar(torch.ones_like(given), given)
        flat = u.reshape(len(x), -1, self.n, self.n).numpy()
        return np.array(flat, order="C")

    def stored(self, links: NDArray[np.complex128]) -> Tensor:
        """Return samples (B, *shape) of links (B, links, N, N)."""
        u = torch.from_numpy(links)
        x = u.angle() if self.n == 1 else manifold.stored(u)
        return x.reshape(len(links), *self.schema.shape).to(self.device, self.dtype)

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).to(self.device, self.dtype)


def legendre(times: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return (n, *times.shape), P_k(2 t - 1)."""
    x = 2 * times - 1
    basis = [np.ones_like(x), x]
    for k in range(1, n - 1):
        basis.append(((2 * k + 1) * x * basis[k] - k * basis[k - 1]) / (k + 1))
    return np.stack(basis[:n])


def _links_of(schema: Schema) -> tuple[int, tuple[int, ...]]:
    """Return N and the shape of the lattice of samples that are links."""
    domain, shape = schema.variables[0].domain, schema.shape
    n = 1
    if domain == "special-unitary" and len(shape) > 3:
        n, shape = shape[-2], shape[:-3]
    good = domain == "angle" or n in (2, 3)
    d = len(shape) - 1
    if (
        not good
        or len(schema.variables) != 1
        or schema.condition
        or not (2 <= d <= 4 and shape[0] == d)
    ):
        raise RecipeError(
            "GaugeFlow models links of U(1), SU(2) or SU(3) on a lattice of two to four dimensions "
            f"without conditions, and the samples are {', '.join(schema.names)} of shape "
            f"{schema.shape}" + (" at conditions" if schema.condition else "")
        )
    return n, shape[1:]


def _terms(n: int, d: int) -> tuple[int, ...]:
    """Return which of the kernel's terms are independent of one another.

    The trace of SU(2) is real, and that of U(1) has length one, so that rectangles and figure
    eights give products of traces.
    """
    single = ("u", "u^2", "u^3", *(("v^2", "u v^2") if n == 3 else ()))
    pairs = ("R", "F", *(("uu", "vv") if n == 3 else ()))
    names = (*single, *(f"planar {p}" for p in pairs), *(f"bent {p}" for p in pairs if d > 2))
    return tuple(kernel.TERMS.index(name) for name in names)
