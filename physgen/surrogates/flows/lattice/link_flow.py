"""What flows of gauge links share: coefficients, the map between two times, its divergence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from torch import Tensor, nn

from physgen.batch import Schema
from physgen.errors import DomainError, RecipeError
from physgen.ranges import Positive
from physgen.sampling import manifold
from physgen.surrogates.base import Surrogate
from physgen.systems.base import System
from physgen.systems.family import Family
from physgen.systems.gauge import Gauge
from physgen.systems.kernels import gauge_flow as kernel
from physgen.systems.kernels import gauge_steps
from physgen.transforms.base import Chain, Transform

Links = NDArray[np.complex128]
"""(B, links, N, N)."""

_NODES = (0.0, 0.25, 2 / 3)
"""Of a Runge-Kutta step."""


class LinkFlow(Surrogate):
    """A gradient flow dU / dt = (grad Phi_t) U of gauge links over `start` <= t <= 1.

    It passes the couplings t beta. Of links with the condition beta, it is trained to the largest
    one, and samples at another are those at t = beta / the largest.

    Raises:
        RecipeError: the samples are no links, or a transform is given, which would break gauge
            invariance.
    """

    at_once = 512

    not_exported = (
        "links are moved on their group by compiled kernels, which are no operators of ONNX; "
        "generate files of configurations"
    )

    start = 0.0
    """Time at which the flow begins; 0 is Haar's measure."""

    symmetries: tuple[str, ...] = ("gauge transformation", "translation", "charge conjugation")
    """Names (of `Gauge.moves`) of those the density has, whatever it learns."""

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None,
        n_times: Positive,
        integration_steps: Positive,
    ) -> None:
        super().__init__(schema, transform)
        name = type(self).__name__
        self.n, self.lattice_shape = _links_of(schema, name)
        if not (isinstance(self.transform, Chain) and len(self.transform.transforms) == 0):
            raise RecipeError(f"{name} keeps gauge invariance: leave 'transform' empty")
        self.terms = _terms(self.n, len(self.lattice_shape))
        self.integration_steps = integration_steps
        self.coefficients = nn.Parameter(torch.zeros(len(self.terms), n_times))

    def high_precision(self) -> Self:
        """Return a copy in float64 with twice the steps, which divides their error by eight."""
        other = super().high_precision()
        other.integration_steps = 2 * self.integration_steps
        return other

    def haar(self, n: int, generator: torch.Generator) -> Links:
        """Draw (n, links, N, N) from Haar's measure."""
        links = n, len(self.lattice_shape), *self.lattice_shape
        if self.n > 1:
            return self.matrices(manifold.haar(links, self.n, generator))
        uniform = torch.rand(
            links, generator=generator, device=generator.device, dtype=torch.float64
        )
        return self.matrices((2 * uniform - 1) * math.pi)

    def flow(self, links: Links, start: float, stop: float) -> NDArray[np.float64]:
        """Move configurations (B, links, N, N) from one time to another in place.

        The steps are as long as those of a flow from `start` to 1.

        Returns:
            (B,) int dt L Phi_t, by which ln q has fallen.
        """
        share = abs(stop - start) / (1 - self.start)
        n_steps = math.ceil(share * self.integration_steps - 1e-9)
        if n_steps == 0 or not bool((self.coefficients != 0).any()):
            return np.zeros(len(links))
        size = (stop - start) / n_steps
        times = start + size * (np.arange(n_steps)[:, None] + np.array(_NODES))
        where = kernel.lattice(self.lattice_shape)
        change: NDArray[np.float64]
        change = gauge_steps.integrate(links, where, self.coefficients_at(times), size)
        return change

    def by_coupling(
        self, condition: Tensor | None, n: int
    ) -> Iterator[tuple[NDArray[np.int64], float]]:
        """Yield the rows of `n` samples that have one coupling, and the time t of this coupling.

        Raises:
            DomainError: a coupling is outside the trained range, or missing, or there is none to
                choose.
        """
        if not self.schema.condition and condition is None:
            yield np.arange(n), 1.0
            return
        if condition is None or not self.schema.condition:
            expected = "one beta a sample" if self.schema.condition else "none"
            raise DomainError(f"conditions of {type(self).__name__}: expected {expected}")
        self.conditions.check(condition)
        given = condition.detach().double().cpu().numpy()[:, 0]
        largest = float(self.conditions.high)
        for beta in np.unique(given):
            time = 1.0 if beta >= largest else float(beta) / largest
            yield np.flatnonzero(given == beta), time

    def basis(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (*times.shape, n_times), P_k(x), x being -1 at `start` and 1 at time 1."""
        x = 2 * (times - self.start) / (1 - self.start) - 1
        return np.asarray(legvander(x, self.coefficients.shape[1] - 1), np.float64)

    def coefficients_at(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (*times.shape, number of all terms) of the kernel, those not in use being 0."""
        learned = self.coefficients.detach().double().cpu().numpy()
        values = self.basis(times) @ learned.T
        c = np.zeros((*times.shape, len(kernel.TERMS)))
        c[..., list(self.terms)] = values
        return c

    def matrices(self, x: Tensor) -> Links:
        """Return links (B, links, N, N) of samples (B, *shape), in double precision; a copy."""
        given = x.detach().double().cpu()
        u = manifold.matrices(given) if self.n > 1 else torch.polar(torch.ones_like(given), given)
        flat = u.reshape(len(x), -1, self.n, self.n).numpy()
        return np.array(flat, order="C")

    def stored(self, links: Links) -> Tensor:
        """Return samples (B, *shape) of links (B, links, N, N)."""
        u = torch.from_numpy(links)
        x = u.angle() if self.n == 1 else manifold.stored(u)
        return x.reshape(len(links), *self.schema.shape).to(self.device, self.dtype)

    def to_tensor(self, values: NDArray[np.float64]) -> Tensor:
        """Return numbers of samples on the device, in the type of samples."""
        return torch.from_numpy(values).to(self.device, self.dtype)


def theory_of(system: System) -> Gauge | None:
    """Return the gauge theory that a flow is trained to, of several that of the largest beta."""
    members = list(system.members.values()) if isinstance(system, Family) else [system]
    theories = [member for member in members if isinstance(member, Gauge)]
    if len(theories) < len(members):
        return None
    return max(theories, key=lambda theory: theory.beta)


def _links_of(schema: Schema, who: str) -> tuple[int, tuple[int, ...]]:
    """Return N and the shape of the lattice of samples that are links."""
    domain, shape = schema.variables[0].domain, schema.shape
    n = 1
    if domain == "special-unitary" and len(shape) > 3:
        n, shape = shape[-2], shape[:-3]
    good = domain == "angle" or n in (2, 3)
    d = len(shape) - 1
    conditions = [variable.name for variable in schema.condition]
    if (
        not good
        or len(schema.variables) != 1
        or conditions not in ([], ["beta"])
        or not (2 <= d <= 4 and shape[0] == d)
    ):
        raise RecipeError(
            f"{who} models links of U(1), SU(2) or SU(3) on a lattice of two to four dimensions "
            f"at one beta or several, and the samples are {', '.join(schema.names)} of shape "
            f"{schema.shape}" + (f" at conditions {', '.join(conditions)}" if conditions else "")
        )
    return n, shape[1:]


def _terms(n: int, d: int) -> tuple[int, ...]:
    """Return which of the kernel's terms are independent of one another.

    The trace of SU(2) is real, and that of U(1) has length one, so that rectangles and figure
    eights give products of traces.
    """
    single = ("u", "u^2", "u^3", *(("v^2", "u v^2") if n == 3 else ()))
    pairs = ("R", "F", *(("uu", "vv") if n == 3 else ()))
    cubic = ("(u + u) R", *(("(u + u) F",) if n != 2 else ()), *(("uu (u + u)",) if n > 1 else ()))
    planar = tuple(f"planar {p}" for p in (*pairs, *cubic))
    names = (*single, *planar, *(f"bent {p}" for p in pairs if d > 2))
    return tuple(kernel.TERMS.index(name) for name in names)
