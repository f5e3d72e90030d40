r"""Exact results of Ising and Potts models on finite chains, and square and triangular tori.

With w = sum_<ij> s_i s_j and Z(K) = sum exp(K w), the partition function of a torus of n x m sites
is (Kasteleyn, Physica 27 (1961) 1209; Houtappel, Physica 16 (1950) 425, of the infinite triangular
lattice)

    Z = exp(N e) / 2 [P(1, 1) + P(1, 0) + P(0, 1) - P(0, 0)],    P(a, b) = prod_{p,q} A(p, q)^(1/2),
    p = 2 pi (i + a / 2) / n,    q = 2 pi (j + b / 2) / m,

the lattices differing in e and A. With V = sum over directions of 1 - cos, taken at p, q and, on
triangular lattices, p - q,

    square, u = exp(-2K):          e = 2K,    A = (u^2 + 2u - 1)^2 + 2u (1 - u^2) V;
    triangular, u = exp(-4K):      e = 3K,    A = (3u - 1)^2 + 2u (1 - u) V;
    triangular, K < 0, u = exp(4K):  e = -K,  A = u^2 + 3u + (1 - u) (9 - 2V),

which are written so that nothing cancels. Momenta p and -p have the same A, so that each pair has
no root to be taken, and those that are their own opposites have A that are squares of polynomials
in u: Z is analytic in K, as far as it is computed, too.

Therefore the distribution of w, which Beale (Phys. Rev. Lett. 76 (1996) 78) has in integers from
the expansion of Z, is a Fourier transform of Z(K + i theta) / Z(K), in double precision, at any T.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def torus(
    lattice: str, shape: tuple[int, ...], coupling: int, temperature: float
) -> dict[str, float]:
    """Return F/N, E/N, C/N and ln Z of a square or triangular torus without a field.

    >>> result = torus("triangular", (2, 2), 1, 2.0)
    >>> states = 2 * math.exp(12 / 2) + 8 + 6 * math.exp(-4 / 2)  # by w = 12, 0 and -4
    >>> abs(result["ln Z"] - math.log(states)) < 1e-12
    True
    """
    beta = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    log_z = log_partition(lattice, shape, (coupling * beta)[None])[0].real
    return _thermodynamics(log_z, beta, math.prod(shape))


def ring(length: int, coupling: int, temperature: float, field: float) -> dict[str, float]:
    r"""Return F/N, E/N, C/N, ln Z, m and m^2 of a ring of spins, by its transfer matrix.

    Z is the trace of the L-th power of ((exp(K + B), exp(-K)), (exp(-K), exp(K - B))), K = J / T
    and B = h / T (Ising, Z. Phys. 31 (1925) 253).

    >>> round(ring(64, 1, 2.0, 0.0)["E/N"], 6), round(-math.tanh(0.5), 6)  # of a long chain
    (-0.462117, -0.462117)
    """
    beta = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    source = torch.zeros((), dtype=torch.float64, requires_grad=True)
    k, b = coupling * beta, field * beta + source
    k0, b0 = k.detach().abs(), b.detach().abs()  # Taken out, against overflow.
    rows = [torch.stack([k + b, -k]), torch.stack([-k, k - b])]
    log_z = length * (k0 + b0) + _log_trace((torch.stack(rows) - k0 - b0).exp(), length)
    (first,) = torch.autograd.grad(log_z, source, create_graph=True)
    (second,) = torch.autograd.grad(first, source, retain_graph=True)
    m = first.item() / length
    magnetic = {"m": m, "m^2": second.item() / length**2 + m**2}
    return _thermodynamics(log_z, beta, length) | magnetic


def potts_strip(
    lattice: str, shape: tuple[int, ...], q: int, temperature: float
) -> dict[str, float]:
    """Return F/N, E/N, C/N and ln Z of a Potts chain, or of a narrow triangular torus.

    By the transfer matrix between rows of the shorter extent w, of q^w states (one on a chain).

    >>> round(potts_strip("chain", (64,), 3, 1.0)["E/N"], 6)  # -e / (e + q - 1) of a long chain
    -0.576117
    """
    beta = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    width = 1 if lattice == "chain" else min(shape)
    rows = torch.cartesian_prod(*[torch.arange(q)] * width).reshape(-1, width)
    shifts = [0] if lattice == "chain" else [0, 1]
    pairs = [rows[:, None] == rows.roll(shift, 1)[None] for shift in shifts]
    equal = torch.stack(pairs).sum((0, 3)).double()
    if lattice != "chain":
        along = (rows == rows.roll(1, 1)).sum(1) / 2
        equal = equal + along[:, None] + along[None]
    most = equal.max()
    length = max(shape)
    log_z = length * most * beta + _log_trace((beta * (equal - most)).exp(), length)
    return _thermodynamics(log_z, beta, math.prod(shape))


def energy_levels(
    lattice: str, shape: tuple[int, ...], coupling: int, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the energies (N + 1,) that a torus may have, and their probabilities, to 1e-14.

    >>> energies, p = energy_levels("square", (2, 2), 1, 1e6)
    >>> energies.tolist(), (16 * p).round(3).tolist()
    ([8.0, 4.0, 0.0, -4.0, -8.0], [2.0, 0.0, 12.0, 0.0, 2.0])
    """
    n = math.prod(shape)
    w = (3 if lattice == "triangular" else 2) * n - 4.0 * np.arange(n, -1, -1)
    # Those of the other half are their complex conjugates, since probabilities are real.
    theta = 2 * np.pi / (4 * (n + 1)) * np.arange((n + 1) // 2 + 1)
    k = coupling / temperature
    points = torch.from_numpy(k + 1j * theta)
    parts = torch.split(points, 64)
    log_z = torch.cat([log_partition(lattice, shape, part) for part in parts]).numpy()
    wave = np.exp(log_z - log_z[0].real - 1j * theta * w[0])
    p = np.asarray(np.maximum(np.fft.irfft(wave.conj(), n + 1), 0.0), np.float64)
    return np.asarray(0.0 - coupling * w, np.float64), np.asarray(p / p.sum(), np.float64)


def log_partition(lattice: str, shape: tuple[int, ...], k: Tensor) -> Tensor:
    """Return (M,) complex ln Z (up to 2 pi i) at (M,) K, all positive or all negative."""
    ferromagnetic = bool(k[0].real > 0)
    if lattice == "square":
        k = k if ferromagnetic else -k  # The same, as a lattice with two colours has.
        u = (-2 * k).exp()
        ground, alone, slope = 2 * k, u * u + 2 * u - 1, 2 * u * (1 - u * u)
        constant, roots = alone * alone, {2: 1 + u * u, 4: 1 + 2 * u - u * u}
    elif ferromagnetic:
        u = (-4 * k).exp()
        ground, alone, slope = 3 * k, 3 * u - 1, 2 * u * (1 - u)
        constant, roots = alone * alone, {4: 1 + u}
    else:
        u = (4 * k).exp()
        ground, alone, slope = -k, 3 - u, 1 - u
        constant, roots = u * u + 3 * u, {4: 1 + u}
    terms, logs = [], []
    for a, b in ((1, 1), (1, 0), (0, 1), (0, 0)):
        v, w, own = _modes(lattice, shape, a, b)
        of = w if lattice == "triangular" and not ferromagnetic else v
        log = (constant[:, None] + slope[:, None] * of).to(torch.complex128).log().sum(1)
        # The root at zero momentum changes sign at Tc, and has no logarithm there.
        terms.append(-alone if 0 in own else torch.ones_like(alone))
        logs.append(sum((roots[x].to(torch.complex128).log() for x in own if x), log))
    largest = torch.stack([log.real for log in logs]).amax(0).detach()
    total = torch.stack([t * (x - largest).exp() for t, x in zip(terms, logs, strict=True)]).sum(0)
    return math.prod(shape) * ground - math.log(2) + largest + total.log()


def _modes(
    lattice: str, shape: tuple[int, ...], a: int, b: int
) -> tuple[Tensor, Tensor, list[int]]:
    """Return V and 9 - 2V of one momentum of each pair, and V of those that are their opposites."""
    n, m = shape
    # In units of pi / n and pi / m, so that opposites are known exactly.
    i, j = np.meshgrid(2 * np.arange(n) + a, 2 * np.arange(m) + b, indexing="ij")
    opposite = (-i) % (2 * n) * 2 * m + (-j) % (2 * m)
    number = i * 2 * m + j
    p, q = np.pi * i / n, np.pi * j / m
    third = 2 * np.sin((p - q) / 2) ** 2 if lattice == "triangular" else 0.0
    v = 2 * np.sin(p / 2) ** 2 + 2 * np.sin(q / 2) ** 2 + third
    w = abs(1 + np.exp(1j * p) + np.exp(1j * q)) ** 2  # 9 - 2V of triangular lattices.
    one = number < opposite
    own = [round(float(value)) for value in v[number == opposite]]
    return torch.from_numpy(v[one]), torch.from_numpy(w[one]), own


def _log_trace(matrix: Tensor, power: int) -> Tensor:
    """Return ln tr M^power of a matrix of numbers that are not negative, by repeated squaring."""
    result, log = torch.eye(len(matrix), dtype=matrix.dtype), matrix.new_zeros(())
    log_result = log
    while power:
        if power % 2:
            result, log_result = result @ matrix, log_result + log
            scale = result.detach().amax()
            result, log_result = result / scale, log_result + scale.log()
        power //= 2
        matrix = matrix @ matrix
        scale = matrix.detach().amax()
        matrix, log = matrix / scale, 2 * log + scale.log()
    return log_result + result.trace().log()


def _thermodynamics(log_z: Tensor, beta: Tensor, n_sites: int) -> dict[str, float]:
    """Return F/N, E/N, C/N and ln Z from ln Z, a function of beta."""
    (first,) = torch.autograd.grad(log_z, beta, create_graph=True)
    (second,) = torch.autograd.grad(first, beta)
    b = beta.item()
    return {
        "F/N": -log_z.item() / (b * n_sites),
        "E/N": -first.item() / n_sites,
        "C/N": max(0.0, b * b * second.item() / n_sites),  # Rounding, where it vanishes.
        "ln Z": log_z.item(),
    }
