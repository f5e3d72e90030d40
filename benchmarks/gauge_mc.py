# ruff: noqa: B023, NPY002 (closures are called at once; numba has only this generator)
"""Links a second of compiled Monte Carlo of gauge theories, beside plain versions of the same.

A link counts once a sweep; with overrelaxation it counts once for a heat bath and an overrelaxation
together. HMC counts link-forces: a step of leapfrog has one a link, and momenta and energies are in
the time, too. Eight chains, CPU time of one core.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numba import njit

from physgen.sampling import hmc, manifold
from physgen.systems.gauge import Gauge
from physgen.systems.kernels.gauge.hmc import HybridChains

REPEATS, CHAINS, N_STEPS, STEP = 5, 8, 10, 0.05
POINTS = {
    ("U(1)", (8, 8), 2.0): (600, 60),
    ("U(1)", (4, 4, 4, 4), 1.0): (40, 4),
    ("SU(2)", (4, 4, 4, 4), 2.3): (10, 2),
    ("SU(3)", (8, 8), 5.0): (60, 6),
    ("SU(3)", (4, 4, 4, 4), 6.0): (4, 1),
    ("SU(3)", (8, 8, 8, 8), 6.0): (1, 1),
}
"""Sweeps a repeat, of ours and of the peer."""


@njit
def plain_staple(u, shape, x, mu, out):
    """The sum of the staples of one link, matrices multiplied element by element."""
    d, n = len(shape), u.shape[-1]
    out[:] = 0
    a, b = np.empty((n, n), np.complex128), np.empty((n, n), np.complex128)
    for nu in range(d):
        if nu == mu:
            continue
        for sign in (1, -1):
            at = x.copy()
            if sign < 0:
                at[nu] = (at[nu] - 1) % shape[nu]
            ahead, across = at.copy(), at.copy()
            ahead[mu] = (ahead[mu] + 1) % shape[mu]
            across[nu] = (across[nu] + 1) % shape[nu]
            first = u[nu, site_of(ahead, shape)]
            second = u[mu, site_of(across if sign > 0 else at, shape)]
            last = u[nu, site_of(at, shape)]
            for i in range(n):
                for j in range(n):
                    a[i, j] = 0
                    for k in range(n):
                        left = first[i, k] if sign > 0 else first[k, i].conjugate()
                        a[i, j] += left * second[j, k].conjugate()
            for i in range(n):
                for j in range(n):
                    b[i, j] = 0
                    for k in range(n):
                        right = last[j, k].conjugate() if sign > 0 else last[k, j]
                        b[i, j] += a[i, k] * right
            out += b


@njit
def site_of(x, shape):
    site = 0
    for axis in range(len(shape)):
        site = site * shape[axis] + x[axis]
    return site


@njit
def plain_su2(alpha):
    """Kennedy and Pendleton, one number after the other."""
    while True:
        r = 1 - np.random.random(3)
        c = math.cos(2 * math.pi * r[1])
        lowered = -(math.log(r[0]) * c * c + math.log(r[2])) / alpha
        if np.random.random() ** 2 <= 1 - 0.5 * lowered:
            break
    a0 = 1 - lowered
    length, z = math.sqrt(1 - a0 * a0), 2 * np.random.random() - 1
    phi, across = 2 * math.pi * np.random.random(), math.sqrt(1 - z * z)
    return a0, length * across * math.cos(phi), length * across * math.sin(phi), length * z


@njit
def plain_u1(kappa):
    tau = 1 + math.sqrt(1 + 4 * kappa * kappa)
    rho = (tau - math.sqrt(2 * tau)) / (2 * kappa)
    r = (1 + rho * rho) / (2 * rho)
    while True:
        z = math.cos(math.pi * np.random.random())
        f = (1 + r * z) / (r + z)
        c, v = kappa * (r - f), np.random.random()
        if c * (2 - c) > v or math.log(c / v) + 1 - c >= 0:
            break
    angle = math.acos(f)
    return angle if np.random.random() < 0.5 else -angle


@njit
def plain_sweep(u, shape, beta):
    """A heat bath of (d, V, N, N) complex links."""
    d, n = len(shape), u.shape[-1]
    a, x = np.empty((n, n), np.complex128), np.zeros(d, np.int64)
    for site in range(u.shape[1]):
        rest = site
        for axis in range(d - 1, -1, -1):
            x[axis] = rest % shape[axis]
            rest //= shape[axis]
        for mu in range(d):
            plain_staple(u, shape, x, mu, a)
            link = u[mu, site]
            if n == 1:
                size = abs(a[0, 0])
                angle = plain_u1(beta * size)
                link[0, 0] = complex(math.cos(angle), math.sin(angle)) * a[0, 0].conjugate() / size
                continue
            for i in range(n):
                for j in range(i + 1, n):
                    w = link @ a
                    b0, b3 = (w[i, i] + w[j, j]).real / 2, (w[i, i] - w[j, j]).imag / 2
                    b1, b2 = (w[i, j] + w[j, i]).imag / 2, (w[i, j] - w[j, i]).real / 2
                    size = math.sqrt(b0 * b0 + b1 * b1 + b2 * b2 + b3 * b3)
                    x0, x1, x2, x3 = plain_su2(2 * beta * size / n)
                    one, two = complex(x0, x3), complex(x2, x1)
                    p, q = complex(b0, -b3) / size, complex(-b2, -b1) / size
                    h0 = one * p - two * q.conjugate()
                    h1 = one * q + two * p.conjugate()
                    for k in range(n):
                        top, low = link[i, k], link[j, k]
                        link[i, k] = h0 * top + h1 * low
                        link[j, k] = -h1.conjugate() * top + h0.conjugate() * low


def starts(group: str, shape: tuple[int, ...], beta: float) -> tuple[Gauge, torch.Tensor]:
    system = Gauge(group=group, shape=shape, beta=beta)
    chains = HybridChains(
        system.arbitrary(CHAINS, torch.Generator().manual_seed(1)).numpy(), beta, 1
    )
    chains.sweep(20, 1)
    return system, torch.from_numpy(chains.links())


def plain(x: torch.Tensor, shape: tuple[int, ...], beta: float) -> Callable[[int], None]:
    one = x[0]
    u = torch.polar(torch.ones_like(one), one)[..., None, None]
    u = (u if x.ndim == len(shape) + 2 else torch.view_as_complex(one)).flatten(1, len(shape))
    links, extents = np.ascontiguousarray(u.numpy()), np.array(shape)

    def run(n: int) -> None:
        for _ in range(n):
            plain_sweep(links, extents, beta)

    return run


def seconds(run: Callable[[int], object], n: int) -> float:
    start = time.process_time()
    run(n)
    return (time.process_time() - start) / n


def row(name: str, unit: str, peer: str, pairs: list[tuple[float, float]]) -> dict[str, object]:
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        "name": name,
        "value": statistics.median(ours for ours, _ in pairs) / 1e6,
        "unit": unit,
        "peer": peer,
        "peer_value": statistics.median(theirs for _, theirs in pairs) / 1e6,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def run() -> dict[str, object]:
    torch.set_num_threads(1)
    results = []
    for (group, shape, beta), (n, n_plain) in POINTS.items():
        system, x = starts(group, shape, beta)
        chains, peer = HybridChains(x.numpy(), beta, 2), plain(x, shape, beta)
        n_links, label = len(shape) * math.prod(shape), f"{group} on {'x'.join(map(str, shape))}"
        peer(1)
        for n_relax, what in ((0, "heat bath"), (1, "heat bath + overrelaxation")):
            chains.sweep(1, n_relax)
            pairs = []
            for _ in range(REPEATS):
                mine = CHAINS * n_links / seconds(lambda m: chains.sweep(m, n_relax), n)
                pairs.append((mine, n_links / seconds(peer, n_plain)))
            unit = "million links / s / core"
            results.append(row(f"{what}, {label}", unit, "plain numba heat bath", pairs))
        if max(shape) == 8 and len(shape) == 4:
            continue
        generator = torch.Generator().manual_seed(1)
        on = manifold.CIRCLES if group == "U(1)" else manifold.SPECIAL_UNITARY
        state = hmc.init(x, system.action)

        def torch_hmc(m: int) -> None:
            for _ in range(m):
                hmc.step(
                    state,
                    system.action,
                    step_size=STEP,
                    n_steps=N_STEPS,
                    generator=generator,
                    manifold=on,
                )

        chains.run(1, STEP, N_STEPS, "leapfrog")
        torch_hmc(1)
        forces = CHAINS * n_links * (N_STEPS + 1)
        pairs = []
        for _ in range(3):
            mine = forces / seconds(
                lambda m: chains.run(m, STEP, N_STEPS, "leapfrog"), max(1, n // 4)
            )
            pairs.append((mine, forces / seconds(torch_hmc, 1)))
        unit = "million link-forces / s / core"
        results.append(row(f"HMC, {label}", unit, "torch, autograd", pairs))
    return {"results": results}
