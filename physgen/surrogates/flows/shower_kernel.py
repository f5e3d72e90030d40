"""Layer energies divided among voxels, one shower after the other, compiled.

`ShowerFlow.from_noise` goes through the splits in order, each a few operations on all showers at
once. For few showers the operations cost less than calling them: there this does the same, shower
by shower, so that a shower takes about a millisecond. A shower's voxels do not depend on the
others'.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE

Array = NDArray[np.floating]
# Sums of products may be reordered (for vector instructions), no more than that.
_SUMS = {"reassoc", "contract"}


class Network(NamedTuple):
    """Weights of the masked network and of the splits' own networks; masks are multiplied in.

    Attributes:
        first, first_bias: (hidden, n_in), (hidden,).
        second, second_bias: (hidden, hidden), (hidden,).
        last, last_bias: (n_splits * split_hidden, hidden), (n_splits * split_hidden,).
        direct: (n_splits * n_direct, n_in).
        known: (n_splits,) how many hidden units each split may use.
        inward: (n_splits, split_hidden).
        outward: (n_splits, split_hidden, 6).
        offset: (n_splits, 6).
        bounds: of |ln sigma|, |epsilon| and |ln delta|.
    """

    first: Array
    first_bias: Array
    second: Array
    second_bias: Array
    last: Array
    last_bias: Array
    direct: Array
    known: NDArray[np.int64]
    inward: Array
    outward: Array
    offset: Array
    bounds: tuple[float, float, float]


class Tables(NamedTuple):
    """What `ShowerTransform` knows of the splits.

    Attributes:
        parent, layer, group: (n_splits,) of the `SplitTree`.
        spread: (n_splits,) of the contrasts.
        first_knot, last_knot: in ln W.
        top: (n_groups,).
        tails: F and 1 - F, (2, n_groups, n_knots, n_bins + 1).
        atoms: (2, n_groups, n_knots).
        threshold: v_0.
        atom: how the later splits see one that gives all to one side.
    """

    parent: NDArray[np.int64]
    layer: NDArray[np.int64]
    group: NDArray[np.int64]
    spread: Array
    first_knot: float
    last_knot: float
    top: Array
    tails: Array
    atoms: Array
    threshold: float
    atom: float


@njit(cache=CACHE, nogil=True, fastmath=_SUMS)
def _dot(weights: Array, values: Array, n: int) -> float:
    total: float = weights[0] * 0
    for i in range(n):
        total += weights[i] * values[i]
    return total


@njit(cache=CACHE, nogil=True)
def _silu(x: float) -> float:
    return x / (1.0 + math.exp(-x))


@njit(cache=CACHE, nogil=True)
def _bounded(raw: float, limit: float) -> float:
    return raw / (1.0 + abs(raw) / limit)


@njit(cache=CACHE, nogil=True)
def _locate(y: float, first: float, last: float, n_knots: int) -> tuple[int, float]:
    position = min(max((y - first) / (last - first) * (n_knots - 1), 0.0), n_knots - 1.0)
    k = min(int(position), n_knots - 2)
    return k, position - k


@njit(cache=CACHE, nogil=True)
def _between(row: Array, following: Array, j: int, fraction: float) -> float:
    value: float = row[j] + (following[j] - row[j]) * fraction
    return value


@njit(cache=CACHE, nogil=True)
def _fraction_of(z: float, k: int, fraction: float, table: Array, top: float) -> float:
    """Return the s in [0, top] of a Gaussian number, by its tail (`QuantileTable.number`)."""
    tail, sign = 0.5 * math.erfc(abs(z) / math.sqrt(2.0)), 1.0 if z <= 0 else -1.0
    n_bins = table.shape[1] - 1
    low, step = 0, n_bins // 2
    while step:
        if sign * (tail - _between(table[k], table[k + 1], low + step, fraction)) >= 0:
            low += step
        step //= 2
    left = _between(table[k], table[k + 1], low, fraction)
    right = _between(table[k], table[k + 1], low + 1, fraction)
    width = sign if right == left else right - left
    s: float = (low + min(max((tail - left) / width, 0.0), 1.0)) / n_bins * top
    return s


@njit(cache=CACHE, nogil=True)
def _sides(whole: float, s: float, side: int, v0: float) -> tuple[float, float]:
    """Return (L, R) of W (`ShowerTransform.part`); `side` is -1 or 1 if all goes right or left."""
    if whole < 2 * v0 and side == 0:
        side = 1 if s > 0.5 else -1
    if side < 0:
        return 0.0, whole
    if side > 0:
        return whole, 0.0
    t = (2 * min(max(s, 0.0), 1.0) - 1) * math.log(max(whole / v0 - 1, 1.0))
    return max(whole / (1 + math.exp(-t)), v0), max(whole / (1 + math.exp(t)), v0)


@njit(cache=CACHE, nogil=True)
def divide_layers(
    energies: Array,
    context: Array,
    u: Array,
    normal: Array,
    network: Network,
    tables: Tables,
) -> Array:
    """Return the energies of all nodes of the tree, (B, n_layers + 2 n_splits), in MeV.

    Args:
        energies: (B, n_layers) of the layers.
        context: (B, n_context) of the network.
        u: (B, n_splits) uniform, decides the outcomes.
        normal: (B, n_splits) standard normal.
        network, tables: see there.
    """
    n, n_layers = energies.shape
    n_splits, n_out = network.inward.shape
    n_direct = len(network.direct) // n_splits
    n_knots, v0 = tables.tails.shape[2], tables.threshold
    nodes = np.zeros((n, n_layers + 2 * n_splits), energies.dtype)
    nodes[:, :n_layers] = energies
    n_context = context.shape[1]
    x = np.empty(network.first.shape[1], energies.dtype)
    h1 = np.empty(len(network.first_bias), energies.dtype)
    h2 = np.empty_like(h1)
    parameters = np.empty(6, energies.dtype)
    for row in range(n):
        x[:n_context] = context[row]
        end, ready = n_context, 0
        for i in range(n_splits):
            units = network.known[i]
            for j in range(ready, units):
                h1[j] = _silu(network.first_bias[j] + _dot(network.first[j], x, end))
            for j in range(ready, units):
                h2[j] = _silu(network.second_bias[j] + _dot(network.second[j], h1, units))
            ready = max(ready, units)
            whole = nodes[row, tables.parent[i]]
            if whole <= 0:  # Nothing to divide, and nothing for the others to see.
                x[end : end + 3] = 0.0
                end += 3
                continue
            energy = math.log(max(whole / v0, 1.0))
            parameters[:] = network.offset[i]
            for j in range(n_out):
                place = i * n_out + j
                value = network.last_bias[place] + _dot(network.last[place], h2, ready)
                if j < n_direct:
                    value += _dot(network.direct[i * n_direct + j], x, end)
                value = _silu(value + energy * network.inward[i, j])
                for m in range(6):
                    parameters[m] += value * network.outward[i, j, m]
            group = tables.group[i]
            y = math.log(max(whole, v0))
            k, fraction = _locate(y, tables.first_knot, tables.last_knot, n_knots)
            right = _between(tables.atoms[0, group], tables.atoms[0, group, 1:], k, fraction)
            left = _between(tables.atoms[1, group], tables.atoms[1, group, 1:], k, fraction)
            both = max(0.0 if whole < 2 * v0 else 1 - right - left, 1e-6)
            right = max(right, 1e-6) / both * math.exp(parameters[0])
            left = max(left, 1e-6) / both * math.exp(parameters[1])
            place = u[row, i] * (1 + right + left)
            side = -1 if place < right else 1 if place > 1 + right else 0
            log_scale = _bounded(parameters[3], network.bounds[0])
            skew = _bounded(parameters[4], network.bounds[1])
            log_tail = _bounded(parameters[5], network.bounds[2])
            bent = math.sinh((math.asinh(normal[row, i]) + skew) * math.exp(-log_tail))
            z = min(max(parameters[2] + math.exp(log_scale) * bent, -8.0), 8.0)
            table = tables.tails[0 if z <= 0 else 1, group]
            s = _fraction_of(z, k, fraction, table, tables.top[group])
            lesser, greater = _sides(whole, s, side, v0)
            nodes[row, n_layers + 2 * i], nodes[row, n_layers + 2 * i + 1] = lesser, greater
            z = z if side == 0 else 4 * tables.atom * side
            floor = max(nodes[row, tables.layer[i]], v0)
            x[end] = min(max(z, -tables.atom), tables.atom)
            x[end + 1] = 1.0 if lesser > 0 and greater > 0 else 0.0
            x[end + 2] = (lesser - greater) / floor / tables.spread[i]
            end += 3
    return nodes
