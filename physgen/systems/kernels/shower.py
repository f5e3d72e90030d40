"""Electromagnetic showers after Grindhammer and Peters (hep-ex/0001020), put into voxels.

With E in GeV, y = E/Ec, depths t in radiation lengths from the start of the shower, radii in
Moliere radii and tau = t/T (times a factor for the shape of this shower, 1 on the average):

    longitudinal   (1/E) dE/dt = (beta t)^(alpha-1) beta exp(-beta t) / Gamma(alpha),
                   beta = (alpha-1)/T;  ln T and ln alpha are correlated Gaussians
    radial         f(r) = p 2 r Rc^2/(r^2+Rc^2)^2 + (1-p) 2 r Rt^2/(r^2+Rt^2)^2
    spots          N_spot of them, gamma-distributed in depth with T_spot and alpha_spot

The shower starts after an exponential conversion depth of 9/7 radiation lengths (photons). It is
walked through in slices of at most half a radiation length: the slice's energy is the integral of
the profile, in sampling media replaced by a gamma variate with variance a^2 E (E in GeV); it is
shared among the slice's spots in exponential (Dirichlet) parts, so that energy is conserved and no
voxel is a multiple of a spot. Draws in which alpha or alpha_spot does not exceed 1 (beta would not
be positive) are repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.parameters import Beam, Detector, Medium

BLOCK = 1024
"""Showers of a seed."""
_SLICE = 0.5


@njit(cache=CACHE, nogil=True)
def gamma_cdf(a: float, x: float) -> float:
    """Regularised lower incomplete gamma function P(a, x), by series or continued fraction."""
    if x <= 0.0:
        return 0.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1.0:
        term = 1.0 / a
        total = term
        k = a
        while term > 1e-12 * total:
            k += 1.0
            term *= x / k
            total += term
        return front * total
    # Modified Lentz evaluation of the continued fraction of the upper function.
    b = x + 1.0 - a
    c = 1e300
    d = 1.0 / b
    h = d
    for i in range(1, 300):
        an = -i * (i - a)
        b += 2.0
        d = 1.0 / (an * d + b)
        c = b + an / c
        h *= c * d
        if abs(c * d - 1.0) < 1e-12:
            break
    return 1.0 - front * h


@njit(cache=CACHE, nogil=True)
def profile_means(log_y: float, medium: Medium) -> tuple[float, float, float, float, float]:
    """Return (mean ln T, sigma, mean ln alpha, sigma, correlation).

    Arguments of logarithms below 0.1 and widths above 0.5, which only energies near the critical
    one have, are cut off there.
    """
    t = max(log_y - 0.812, 0.1)
    a = max(0.81 + (0.458 + 2.26 / medium.z) * log_y, 0.1)
    if not medium.sampling:
        sigma_t, sigma_a = -1.4 + 1.26 * log_y, -0.58 + 0.86 * log_y
        rho = 0.705 - 0.023 * log_y
    else:
        t = max(t - 0.55 * medium.inverse_frequency - 0.69 * (1.0 - medium.ehat), 0.1)
        a = max(a - 0.476 * medium.inverse_frequency, 0.1)
        sigma_t, sigma_a = -2.5 + 1.25 * log_y, -0.82 + 0.79 * log_y
        rho = 0.784 - 0.023 * log_y
    width_t = 1.0 / sigma_t if sigma_t > 2.0 else 0.5
    width_a = 1.0 / sigma_a if sigma_a > 2.0 else 0.5
    return math.log(t), width_t, math.log(a), width_a, rho


@njit(cache=CACHE, nogil=True)
def spot_factors(energy_gev: float, medium: Medium) -> tuple[float, float, float]:
    """Return (number of spots, T_spot / T, alpha_spot / alpha)."""
    z = medium.z
    if medium.sampling:
        number = 10.3 * math.log(z) * energy_gev**0.959
        return number, 0.813 + 0.0019 * z, 0.844 + 0.0026 * z
    number = 93.0 * math.log(z) * energy_gev**0.876
    return number, 0.698 + 0.00212 * z, 0.639 + 0.00334 * z


@njit(cache=CACHE, nogil=True)
def radial_parameters(tau: float, energy_gev: float, medium: Medium) -> tuple[float, float, float]:
    """Return (core radius, tail radius, weight of the core), radii in Moliere radii."""
    z, log_e = medium.z, math.log(energy_gev)
    core = 0.0251 + 0.00319 * log_e + (0.1162 - 0.000381 * z) * tau
    k = tau - 0.645
    tail = (0.659 - 0.00309 * z) * (math.exp(-2.59 * k) + math.exp((0.3585 + 0.0412 * log_e) * k))
    q = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * log_e)
    weight = (2.632 - 0.00094 * z) * math.exp(q - math.exp(q))
    if medium.sampling:
        loss, inverse = 1.0 - medium.ehat, medium.inverse_frequency
        core += -0.0203 * loss + 0.0397 * inverse * math.exp(-tau)
        tail += -0.14 * loss - 0.495 * inverse * math.exp(-tau)
        weight += loss * (0.348 - 0.642 * inverse * math.exp(-((tau - 1.0) ** 2)))
    return max(core, 1e-3), max(tail, 1e-3), min(max(weight, 0.0), 1.0)


@njit(cache=CACHE, nogil=True)
def draw_profile(energy_gev: float, medium: Medium, beam: Beam) -> tuple[float, float, float]:
    """Return (T, alpha, factor from t/T to tau) of one shower."""
    log_t, width_t, log_a, width_a, rho = profile_means(
        math.log(energy_gev / medium.critical_gev), medium
    )
    _, _, spot_alpha = spot_factors(energy_gev, medium)
    mean_alpha = math.exp(log_a)
    if not beam.fluctuates:
        return math.exp(log_t), max(mean_alpha, 1.05 / min(spot_alpha, 1.0)), 1.0
    plus, minus = math.sqrt((1.0 + rho) / 2.0), math.sqrt((1.0 - rho) / 2.0)
    while True:
        u, v = np.random.normal(), np.random.normal()  # noqa: NPY002 (numba has only this one)
        alpha = math.exp(log_a + width_a * (plus * u - minus * v))
        if alpha > 1.0 and alpha * spot_alpha > 1.0:
            break
    factor = 1.0
    if mean_alpha > 1.0:
        factor = (alpha - 1.0) / alpha * mean_alpha / (mean_alpha - 1.0)
    return math.exp(log_t + width_t * (plus * u + minus * v)), alpha, factor


@njit(cache=CACHE, nogil=True)
def draw_radius(core: float, tail: float, weight: float) -> float:
    """Draw a radius, whose distribution function is a mixture of r^2/(r^2 + R^2)."""
    u = np.random.random()  # noqa: NPY002
    scale = core if np.random.random() < weight else tail  # noqa: NPY002
    return scale * math.sqrt(u / (1.0 - u))


@njit(cache=CACHE, nogil=True)
def find_voxel(
    x: float,
    y: float,
    edges: NDArray[np.float64],
    n_alpha: int,
    first: int,
) -> int:
    """Return the flat index of the voxel at (x, y) mm in a layer, -1 outside."""
    radius = math.sqrt(x * x + y * y)
    n_r = len(edges) - 1
    if radius >= edges[n_r]:
        return -1
    low, high = 0, n_r
    while high - low > 1:
        middle = (low + high) // 2
        if radius < edges[middle]:
            high = middle
        else:
            low = middle
    if n_alpha == 1:
        return first + low
    sector = int((math.atan2(y, x) + math.pi) / (2.0 * math.pi) * n_alpha)
    return first + min(sector, n_alpha - 1) * n_r + low


@njit(cache=CACHE, nogil=True)
def add_cross_talk(
    row: NDArray[np.float64], share: float, first: int, n_r: int, n_alpha: int
) -> None:
    """Move a quarter of `share` to each neighbour in radius and angle; at a rim it stays."""
    before = row[first : first + n_r * n_alpha].copy()
    for i in range(n_alpha):
        for j in range(n_r):
            energy = 0.25 * share * before[i * n_r + j]
            for k, m in ((i, j - 1), (i, j + 1), (i - 1, j), (i + 1, j)):
                if 0 <= m < n_r and (k == i or n_alpha > 1):
                    row[first + i * n_r + j] -= energy
                    row[first + (k % n_alpha) * n_r + m] += energy


@njit(cache=CACHE, nogil=True)
def showers(
    energies_mev: NDArray[np.float64], detector: Detector, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Simulate showers.

    Args:
        energies_mev: (N,) of the incoming particles.
        detector: see there.
        seed: of the random numbers.

    Returns:
        (N, n_voxels) energies in MeV, and (N,) depths at which the showers began, in radiation
        lengths.
    """
    np.random.seed(seed)  # noqa: NPY002
    voxels, medium, beam, readout = detector
    depths, edges, first_edge, n_alpha, first_voxel = voxels
    n, n_layers, n_voxels = len(energies_mev), len(n_alpha), first_voxel[-1]
    result = np.empty((n, n_voxels), np.float32)
    starts = np.empty(n)
    row = np.empty(n_voxels)
    parts = np.empty(1024)
    variance = medium.resolution * medium.resolution
    for i in range(n):
        row[:] = 0.0
        energy = 1e-3 * energies_mev[i]
        peak, alpha, factor = draw_profile(energy, medium, beam)
        beta = (alpha - 1.0) / peak
        spots, spot_peak, spot_alpha = spot_factors(energy, medium)
        if beam.max_spots > 0:
            spots = min(spots, float(beam.max_spots))
        if spots + 2 > len(parts):
            parts = np.empty(2 * int(spots))
        alpha_s = alpha * spot_alpha
        beta_s = (alpha_s - 1.0) / (peak * spot_peak)
        start = np.random.exponential(9.0 / 7.0) if beam.converts else 0.0  # noqa: NPY002
        starts[i] = start
        response = 1e3
        if medium.constant > 0.0:
            response *= max(1.0 + medium.constant * np.random.normal(), 0.0)  # noqa: NPY002
        x0 = (np.random.random() - 0.5) * beam.cell_mm  # noqa: NPY002
        y0 = (np.random.random() - 0.5) * beam.cell_mm  # noqa: NPY002
        turn = np.random.random() * (beam.angle - beam.least_angle)  # noqa: NPY002
        slope = math.tan(beam.least_angle + turn)
        azimuth = np.random.random() * 2.0 * math.pi  # noqa: NPY002
        slope_x, slope_y = slope * math.cos(azimuth), slope * math.sin(azimuth)
        for layer in range(n_layers):
            radii = edges[first_edge[layer] : first_edge[layer + 1]]
            # Slices begin at the layer's front or at the shower's start, whichever is deeper.
            front = max(depths[layer] - start, 0.0)
            back = depths[layer + 1] - start
            if back <= 0.0:
                continue
            n_slices = math.ceil((back - front) / _SLICE)
            width = (back - front) / n_slices
            done, done_s = gamma_cdf(alpha, beta * front), gamma_cdf(alpha_s, beta_s * front)
            for s in range(n_slices):
                end = front + (s + 1) * width
                middle = end - 0.5 * width
                reached, reached_s = gamma_cdf(alpha, beta * end), gamma_cdf(alpha_s, beta_s * end)
                deposit = energy * (reached - done)
                wanted = spots * (reached_s - done_s)
                done, done_s = reached, reached_s
                if deposit <= 1e-9 * energy:
                    continue
                if variance > 0.0:
                    deposit = variance * np.random.gamma(deposit / variance)  # noqa: NPY002
                count = max(int(wanted + np.random.random()), 1)  # noqa: NPY002
                total = 0.0
                for k in range(count):
                    parts[k] = np.random.exponential(1.0)  # noqa: NPY002
                    total += parts[k]
                core, tail, weight = radial_parameters(factor * middle / peak, energy, medium)
                depth_mm = (start + middle) * medium.x0_mm
                axis_x, axis_y = x0 + slope_x * depth_mm, y0 + slope_y * depth_mm
                for k in range(count):
                    radius = medium.moliere_mm * draw_radius(core, tail, weight)
                    angle = np.random.random() * 2.0 * math.pi  # noqa: NPY002
                    voxel = find_voxel(
                        axis_x + radius * math.cos(angle),
                        axis_y + radius * math.sin(angle),
                        radii,
                        n_alpha[layer],
                        first_voxel[layer],
                    )
                    if voxel >= 0:
                        row[voxel] += response * deposit * parts[k] / total
            if readout.cross_talk > 0.0:
                n_r = len(radii) - 1
                add_cross_talk(row, readout.cross_talk, first_voxel[layer], n_r, n_alpha[layer])
        for v in range(n_voxels):
            value = row[v]
            if readout.noise_mev > 0.0:
                value += np.random.normal(0.0, readout.noise_mev)  # noqa: NPY002
            result[i, v] = value if value >= readout.cut_mev and value > 0.0 else 0.0
    return result, starts


def in_blocks(
    energies_mev: NDArray[np.float64], detector: Detector, seeds: Sequence[int], n_threads: int
) -> NDArray[np.float32]:
    """Simulate showers, a block with each seed, on several threads: (N, n_voxels) in MeV."""

    def block(i: int) -> NDArray[np.float32]:
        rows = energies_mev[i * BLOCK : (i + 1) * BLOCK]
        result: NDArray[np.float32] = showers(rows, detector, seeds[i])[0]
        return result

    n_blocks = -(-len(energies_mev) // BLOCK)
    with ThreadPoolExecutor(n_threads) as pool:
        blocks = list(pool.map(block, range(n_blocks)))
    return np.concatenate(blocks or [np.empty((0, detector.voxels.first_voxel[-1]), np.float32)])
