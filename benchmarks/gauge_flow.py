# ruff: noqa: B023 (closures are called at once)
"""Steps of a gauge flow beside the same flow in plain torch, whose divergence autograd gives.

The peer writes down the potential, and takes its gradient and its Laplacian, the trace of the
Hessian in the algebra, by reverse mode: one backward pass a generator and sublattice, whose links
share no term and so are probed at once. Instead of the trace it may take one random probe
(Hutchinson), which is cheaper and noisy. Links and densities (of the probe: links alone) are
checked to be the same numbers. A step of sampling is one of Runge-Kutta with the density; one of
training are the derivatives of all terms that the regression needs. Eight configurations on 8x8,
CPU time of one core.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from physgen.surrogates.flows.lattice.gauge import GaugeFlow
from physgen.surrogates.flows.lattice.link_flow import Links
from physgen.surrogates.flows.lattice.regression import derivatives
from physgen.systems.gauge import Gauge
from physgen.systems.kernels.gauge_flow import TERMS

REPEATS, BATCH, SHAPE, PERIOD = 3, 8, (8, 8), 4
"""Links of a direction that are `PERIOD` sites apart along an axis share no term."""


def basis_of(n: int) -> Tensor:
    """T^a of SU(N), tr T^a T^b = -delta / 2."""
    found = []
    for i, j in itertools.combinations(range(n), 2):
        for low, high in ((0.5j, 0.5j), (0.5, -0.5)):
            t = torch.zeros(n, n, dtype=torch.complex128)
            t[i, j], t[j, i] = low, high
            found.append(t)
    for k in range(1, n):
        row = torch.tensor([1.0] * k + [-k] + [0.0] * (n - k - 1), dtype=torch.complex128)
        found.append(0.5j * math.sqrt(2 / (k * (k + 1))) * torch.diag(row))
    return torch.stack(found)


def trace(m: Tensor) -> Tensor:
    return m.diagonal(dim1=-2, dim2=-1).sum(-1)


def terms(u: Tensor) -> dict[str, Tensor]:
    """Sums over the lattice, (B,), of (B, 2, T, L, N, N) links."""
    one, two = u[:, 0], u[:, 1]
    ahead_two, ahead_one = two.roll(-1, 1), one.roll(-1, 2)
    t = trace(one @ ahead_two @ ahead_one.mH @ two.mH)
    x, y = t.real, t.imag
    found = {"u": x, "u^2": x**2, "u^3": x**3, "v^2": y**2, "u v^2": x * y**2}
    planar: dict[str, Tensor] = {}
    for along, link, across in ((1, one, two), (2, two, one)):
        other = 3 - along
        up = across.roll(-1, along) @ link.roll(-1, other).mH @ across.mH
        low = across.roll(1, other)
        down = low.roll(-1, along).mH @ link.roll(1, other).mH @ low
        p, q = link @ up, link @ down
        a, b, r, f = trace(p), trace(q), trace(p @ q.mH).real, trace(p @ q).real
        both = a.real + b.real
        parts = {
            **{"R": r, "F": f, "uu": a.real * b.real, "vv": a.imag * b.imag},
            **{"(u + u) R": both * r, "(u + u) F": both * f},
            "uu (u + u)": a.real * b.real * both,
        }
        for name, part in parts.items():
            planar[f"planar {name}"] = planar.get(f"planar {name}", 0) + part
    return {name: part.flatten(1).sum(1) for name, part in (found | planar).items()}


class Plain:
    """The flow of a potential in torch.

    Args:
        n: of SU(N).
        names: of the terms in use.
        probe: one random probe in place of the trace.
    """

    def __init__(self, n: int, names: list[str], *, probe: bool = False) -> None:
        self.basis, self.names, self.probe = basis_of(n), names, probe

    def tangent(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Coordinates (B, 2, T, L, dim) at zero and the terms as functions of them."""
        s = torch.zeros(*u.shape[:-2], len(self.basis), dtype=torch.float64, requires_grad=True)
        a = torch.einsum("...k,kij->...ij", s.to(torch.complex128), self.basis)
        return s, terms(u + a @ u + 0.5 * (a @ (a @ u)))

    def vectors(self, s: Tensor) -> Iterator[Tensor]:
        if self.probe:
            yield torch.randint(2, s.shape).to(s) * 2 - 1
            return
        for mu, i, j, k in itertools.product(
            range(2), range(PERIOD), range(PERIOD), range(len(self.basis))
        ):
            v = torch.zeros_like(s)
            v[:, mu, i::PERIOD, j::PERIOD, k] = 1
            yield v

    def laplacian(self, s: Tensor, gradient: Tensor) -> Tensor:
        """(B,)."""
        total = torch.zeros(len(s), dtype=torch.float64)
        for v in self.vectors(s):
            (product,) = torch.autograd.grad((gradient * v).sum(), s, retain_graph=True)
            total += (product * v).flatten(1).sum(1)
        return total

    def slope(self, u: Tensor, c: dict[str, float], *, density: bool) -> tuple[Tensor, Tensor]:
        """The algebra elements A of all links, and L Phi (B,)."""
        s, found = self.tangent(u)
        phi = sum((c[name] * found[name] for name in self.names), torch.zeros(len(u)).double())
        (gradient,) = torch.autograd.grad(phi.sum(), s, create_graph=density)
        a = torch.einsum("...k,kij->...ij", gradient.detach().to(torch.complex128), self.basis)
        return a, self.laplacian(s, gradient) if density else torch.zeros(len(u))

    def step(self, u: Tensor, stages: list[dict[str, float]], h: float) -> tuple[Tensor, Tensor]:
        """One Runge-Kutta step, as in `physgen.systems.kernels.gauge_steps`."""
        z0, l0 = self.slope(u, stages[0], density=True)
        u = torch.linalg.matrix_exp(h / 4 * z0) @ u
        z1, _ = self.slope(u, stages[1], density=False)
        second = 8 / 9 * z1 - 17 / 36 * z0
        u = torch.linalg.matrix_exp(h * second) @ u
        z2, l2 = self.slope(u, stages[2], density=True)
        return torch.linalg.matrix_exp(h * (3 / 4 * z2 - second)) @ u, h * (l0 / 4 + 3 / 4 * l2)

    def derivatives(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """L W_i and <grad W_i, grad W>, (B, terms)."""
        s, found = self.tangent(u)
        (along,) = torch.autograd.grad(found["u"].sum(), s, retain_graph=True)
        columns = []
        for name in self.names:
            (gradient,) = torch.autograd.grad(found[name].sum(), s, create_graph=True)
            product = (gradient.detach() * along).flatten(1).sum(1)
            columns.append((self.laplacian(s, gradient), product))
        laplacian, products = zip(*columns, strict=True)
        return torch.stack(laplacian, 1), torch.stack(products, 1)


def fitted(group: str) -> tuple[GaugeFlow, list[str]]:
    """A flow with coefficients of the size that training finds, and the names of its terms."""
    flow = GaugeFlow(Gauge(group=group, shape=SHAPE).schema, n_times=2, integration_steps=8)
    flow = flow.double()
    noise = torch.randn(flow.coefficients.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        flow.coefficients += 0.02 * noise
    return flow, [TERMS[i] for i in flow.terms]


def seconds(run: Callable[[], object], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - start) / times


def row(name: str, peer: str, pairs: list[tuple[float, float]]) -> dict[str, object]:
    """Of pairs of our and the peer's CPU time."""
    ratios = [theirs / ours for ours, theirs in pairs]
    return {
        "name": name,
        "value": statistics.median(1e3 * ours / BATCH for ours, _ in pairs),
        "unit": "ms of CPU time a configuration (less is better)",
        "peer": peer,
        "peer_value": statistics.median(1e3 * theirs / BATCH for _, theirs in pairs),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def check(ours: Tensor, theirs: Tensor, what: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=f"{what} differ")


def timed(
    ours: Callable[[], object], theirs: Callable[[], tuple[Tensor, Tensor]], repeats: int
) -> tuple[tuple[Tensor, Tensor], list[tuple[float, float]]]:
    """Return what the peer found, and pairs of times."""
    pairs, found = [], None
    for _ in range(repeats):
        mine, start = seconds(ours, 10), time.process_time()
        found = theirs()
        pairs.append((mine, time.process_time() - start))
    assert found is not None
    return found, pairs


def run() -> dict[str, object]:
    torch.set_num_threads(1)
    results = []
    for group in ("SU(2)", "SU(3)"):
        flow, names = fitted(group)
        start = flow.haar(BATCH, torch.Generator().manual_seed(1))
        shape = BATCH, 2, *SHAPE, flow.n, flow.n
        u, x, h = torch.from_numpy(start).reshape(shape), flow.stored(start), 1 / 8
        stages = [
            dict(zip(TERMS, values.tolist(), strict=True))
            for values in flow.coefficients_at(h * np.array([0.0, 0.25, 2 / 3]))
        ]

        def sampled() -> tuple[Links, Tensor]:
            links = start.copy()
            return links, torch.from_numpy(flow.flow(links, 0.0, h))

        links, change = sampled()
        laplacian, along, _ = derivatives(flow, x)
        label = f"{group} on {'x'.join(map(str, SHAPE))}"
        for probe in (False, True):
            peer = Plain(flow.n, names, probe=probe)
            # The trace takes a quarter of a minute a step of SU(3), and minutes for all its terms.
            slow = not probe and flow.n == 3
            what = f"plain torch, autograd, {'one random probe' if probe else 'trace'}"
            (moved, lost), pairs = timed(
                sampled, lambda: peer.step(u, stages, h), 1 if slow else REPEATS
            )
            check(torch.from_numpy(links).reshape(shape), moved, "links")
            if not probe:
                check(change, lost, "densities")
            results.append(row(f"sampling step, {label}", what, pairs))
            if slow:
                continue
            (peers, products), pairs = timed(
                lambda: derivatives(flow, x), lambda: peer.derivatives(u), REPEATS
            )
            check(torch.from_numpy(along), products, "products of gradients")
            if not probe:
                check(torch.from_numpy(laplacian), peers, "Laplacians")
            results.append(row(f"training step, {label}", what, pairs))
    return {"results": results}
