"""The energies of showers divided among voxels, one shower after the other, compiled.

`ShowerFlow` draws a block of splits by some tens of operations on all showers at once. For few of
them the operations cost less than calling them: there this does the same, shower by shower.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from physgen.surrogates.flows.mixture_kernel import (
    add_product,
    apply_silu,
    draw_mixture,
    fill_layer,
    fill_mixture,
    fill_sum,
    narrow,
    normal_cdf,
    product,
)
from physgen.surrogates.flows.shower_arrays import Array, Network, Tree, Weights
from physgen.systems.kernels.cache import CACHE


@njit(cache=CACHE, nogil=True)
def _context(nodes: Array, incident: float, visible: bool, tree: Tree, out: Array) -> None:
    """Fill which mapped energies the splits may see (`CountedShowers.energies_of`)."""
    n, v0 = 2 + len(tree.layers) if visible else 2, tree.threshold
    out[:] = 0.0
    out[0], out[1] = math.log(incident), math.log(max(nodes[0], v0))
    for i in range(2, n):
        out[i] = math.log(max(nodes[tree.layers[i - 2]], v0))
    for q in range(n):
        out[q] = (out[q] - tree.centre[q]) / tree.scale[q]


@njit(cache=CACHE, nogil=True)
def _between(row: Array, following: Array, j: int, fraction: float) -> float:
    left = float(row[j])
    return left + (float(following[j]) - left) * fraction


@njit(cache=CACHE, nogil=True)
def _number(level: float, rows: Array, fraction: float) -> float:
    """Return s of a level F (`QuantileTable.number`), given the rows of two knots."""
    low, step = 0, (rows.shape[1] - 1) // 2
    while step:
        if level >= _between(rows[0], rows[1], low + step, fraction):
            low += step
        step //= 2
    left = _between(rows[0], rows[1], low, fraction)
    right = _between(rows[0], rows[1], low + 1, fraction)
    width = right - left if right > left else 1.0
    s: float = (low + min(max((level - left) / width, 0.0), 1.0)) / (rows.shape[1] - 1)
    return s


@njit(cache=CACHE, nogil=True)
def _knot(y: float, n_knots: int) -> tuple[int, float]:
    """Return the knot below y, of 0 to 1, and how far y is from it."""
    position = min(max(y * (n_knots - 1), 0.0), n_knots - 1.0)
    knot = min(int(position), n_knots - 2)
    return knot, position - knot


@njit(cache=CACHE, nogil=True)
def _of_layers(energy: float, tree: Tree) -> float:
    """Return N of a split of layers (`CountedShowers.of_layers`)."""
    number = math.floor(energy / tree.threshold * (1 + tree.rounding))
    return min(max(number, 1.0), 2.0) if energy > 0 else 0.0


@njit(cache=CACHE, nogil=True)
def _place(k: float, size: float, i: int, tree: Tree) -> float:
    """Return where the tables have a k (`CountedShowers.place`)."""
    if size == 3 and tree.is_of_layers[i]:
        return (k + min(max(k - 1, 0.0), 1.0)) / 4
    return k / size


@njit(cache=CACHE, nogil=True)
def _log_odds(place: float, rows: Array, fraction: float, tree: Tree) -> float:
    """Return logit of how much of the divisions lies below a place of [0, 1], given two knots."""
    n_bins = rows.shape[1] - 1
    j = min(int(place * n_bins), n_bins - 1)
    left = _between(rows[0], rows[1], j, fraction)
    right = _between(rows[0], rows[1], j + 1, fraction)
    level = left + (right - left) * (place * n_bins - j)
    level = min(max(level, tree.edge), 1 - tree.edge)
    level = (1 - tree.anywhere) * level + tree.anywhere * place
    return math.log(level / (1 - level))


@njit(cache=CACHE, nogil=True)
def _count(
    u: float, number: float, w: float, i: int, out: Array, tree: Tree
) -> tuple[float, float]:
    """Return k by bisection, and its logit, given N and W."""
    leaves, n = tree.leaves, len(out) // 3
    least = max(number - leaves[1, i], 0.0)
    size = min(number, float(leaves[0, i])) - least + 1
    y = math.log(number) / math.log(leaves[0, i] + leaves[1, i])
    y = math.log(w) / tree.last_knot if tree.is_of_layers[i] else y
    knot, fraction = _knot(y, tree.counts.shape[1])
    rows = tree.counts[tree.group[i], knot : knot + 2]
    low, high = 0.0, size - 1
    while high > low:
        middle = math.floor((low + high + 1) / 2)
        x, below = _log_odds(_place(middle, size, i, tree), rows, fraction, tree), 0.0
        for q in range(n):
            below += out[2 * n + q] / (1 + math.exp((out[q] - x) * out[n + q]))
        if below <= u:
            low = middle
        else:
            high = middle - 1
    return least + low, _log_odds(_place(low + 0.5, size, i, tree), rows, fraction, tree)


@njit(cache=CACHE, nogil=True)
def _mean(energies: Array, i: int, tree: Tree) -> float:
    """Return the mean of the number of an N_i (`Occupancy.means`)."""
    a, e, r, own = tree.of_layers[i], energies[0], energies[1] - energies[0], energies[2 + i]
    mean = a[0] + own * (a[1] + own * (a[2] + own * a[3])) + a[4] * e + a[5] * r + a[8] * e * own
    if i > 0:
        mean += a[6] * energies[1 + i]
    if i + 1 < len(tree.layers):
        mean += a[7] * energies[3 + i]
    return float(mean)


@njit(cache=CACHE, nogil=True)
def _occupy(
    nodes: Array, counts: Array, context: Array, noise: Array, weights: Weights, tree: Tree
) -> None:
    """Fill in the N_i of a shower, and in its context (`ShowerNumbers.draw_voxels`)."""
    n, kind, limit = len(tree.layers), nodes.dtype, weights.farthest_distance
    n_mixture = weights.voxels_out.shape[1] // n
    e = min(max(context[0], -weights.farthest_energy), weights.farthest_energy)
    h, h_more = np.empty_like(weights.voxels_in_bias), np.empty_like(weights.voxels_in_bias)
    fill_layer(h, weights.voxels_in_bias, weights.voxels_in, context[: 2 + n])
    fill_layer(h_more, weights.voxels_hidden_bias, weights.voxels_hidden, h)
    fill_sum(h, h, h_more)
    outs, seen = weights.voxels_out_bias.copy(), np.zeros(n, kind)
    add_product(outs, weights.voxels_out, h)
    for i in range(n):
        energy, size, number = nodes[tree.layers[i]], tree.n_voxels[i], 0.0
        if energy > 0:
            out = outs[i * n_mixture : (i + 1) * n_mixture]
            for p in range(3):
                out[: n_mixture // 3] += e**p * product(weights.linear[p, i, :i], seen[:i])
            fill_mixture(out, weights.log_scale_limit)
            x, mean = draw_mixture(noise[i], out, math.inf), _mean(context, i, tree)
            number = np.round((size + 1) / (1 + math.exp(-(tree.units[i] * x + mean))))
            most = min(math.floor(energy / tree.threshold * (1 + tree.rounding)), size)
            number = max(min(number, most), 1.0)
            distance = math.log(number / max(size + 1 - number, 0.5)) - mean
            seen[i] = min(max(distance / tree.units[i], -limit), limit)
        counts[tree.layers[i]] = number
        q = 2 + n + i
        context[q] = (math.log(max(number, tree.none)) - tree.centre[q]) / tree.scale[q]


@njit(cache=CACHE, nogil=True)
def divide_showers(
    nodes: Array, incident: Array, of_layers: Array, noise: Array, network: Network
) -> None:
    """Fill in the energies of all nodes of the tree, (B, n_nodes), in MeV.

    Args:
        nodes: holds the energies of the showers, the first node, and 0.
        incident: (B,) in MeV.
        of_layers: (B, n_layers, 2) standard normal, for the numbers of occupied voxels.
        noise: (B, 3, n_splits) the same of splits by blocks: numbers, components, energies.
        network: see there.
    """
    weights, tree = network
    n_splits, n_neighbours = tree.neighbours.shape
    hidden, n_mixture = weights.of_split.shape[1], weights.count_out.shape[1]
    n_inputs, n_running = weights.split_in.shape[0], weights.begin.shape[1]
    n_own, n_shown = len(weights.own) // n_splits, len(weights.absorb) // n_splits
    v0, kind, limit, shift = tree.threshold, nodes.dtype, weights.shown_limit, tree.shift
    n_context, n_components = len(weights.begin), n_mixture // 3
    shown, logs = np.zeros((n_splits + 1, n_shown), kind), np.zeros((n_splits + 1, 2), kind)
    # The running sum, and the context after it.
    known = np.empty(n_running + n_context, kind)
    running, context = known[:n_running], known[n_running:]
    start, added = np.empty(n_running, kind), np.empty(n_running, kind)
    h1, whole = np.empty(hidden, kind), np.empty(hidden, kind)
    # How a split is, and after it how its voxels are divided.
    split = np.empty(weights.energy_in.shape[0], kind)
    h2, sides = split[:hidden], split[hidden:]
    inputs, out = np.empty(n_inputs, kind), np.empty(n_mixture, kind)
    at_ratio, at_own = n_neighbours * n_shown, n_neighbours * (n_shown + 2)
    at_sizes, numbers = at_own + n_own, np.zeros(nodes.shape[1], kind)
    for row in range(len(nodes)):
        energies, numbers[:] = nodes[row], 0.0
        numbers[0] = _of_layers(energies[0], tree)
        shown[:], added[:], logs[:, 0], logs[:, 1] = 0.0, 0.0, -1.0, 0.0
        for k in range(len(tree.visible)):
            if k == 0 or tree.visible[k] != tree.visible[k - 1]:
                _context(energies, incident[row], tree.visible[k], tree, context)
                if tree.visible[k]:
                    _occupy(energies, numbers, context, of_layers[row], weights, tree)
                start[:] = weights.begin_bias
                add_product(start, weights.begin, context)
            fill_sum(running, start, added)
            ready = False
            for i in range(tree.first[k], tree.first[k + 1]):
                energy, number = energies[tree.parent[i]], numbers[tree.parent[i]]
                if number <= 0:
                    continue  # Nothing to divide, and nothing for the others to see.
                if not ready:
                    ready = True
                    fill_sum(h1, weights.shower_in_bias, weights.of_block[k])
                    add_product(h1, weights.shower_in, known)
                    apply_silu(h1)
                    fill_layer(h2, weights.shower_hidden_bias, weights.shower_hidden, h1)
                    fill_sum(h1, h1, h2)
                    fill_sum(whole, weights.shower_out_bias, weights.split_in_bias)
                    add_product(whole, weights.shower_out, h1)
                w = max(energy / v0, 1.0)
                log_whole, log_number = math.log(w), math.log(number)
                for m in range(n_neighbours):
                    other = tree.neighbours[i, m]
                    for q in range(n_shown):
                        inputs[m * n_shown + q] = shown[other, q]
                    near = 1.0 if other < n_splits else 0.0
                    inputs[at_ratio + 2 * m] = near * 0.2 * (logs[other, 0] - log_whole)
                    inputs[at_ratio + 2 * m + 1] = near * 0.2 * (logs[other, 1] - log_number)
                for q in range(n_own):
                    inputs[at_own + q] = product(weights.own[i * n_own + q], running)
                base = max(energies[tree.base[i]] / v0, 1.0)
                base_number = 1.0 if tree.is_of_layers[i] else numbers[tree.base[i]]
                inputs[at_sizes] = 0.3 * (log_whole - math.log(base))
                inputs[at_sizes + 1] = 0.3 * (log_number - math.log(base_number))
                inputs[at_sizes + 2] = 0.3 * log_whole
                inputs[at_sizes + 3] = 0.5 * log_number
                inputs[at_sizes + 4] = 0.3 * math.log(max(w / number - 0.9, 0.1))
                inputs[at_sizes + 5] = 1 / number
                fill_sum(h1, whole, weights.of_split[i])
                add_product(h1, weights.split_in, inputs)
                apply_silu(h1)
                fill_layer(h2, weights.split_hidden_bias, weights.split_hidden, h1)
                fill_sum(out, weights.count_out_bias, weights.offset[i, :n_mixture])
                add_product(out, weights.count_out, h2)
                for q in range(n_components):
                    out[q] += inputs[at_own]
                narrow(out)
                fill_mixture(out, weights.log_scale_limit)
                one, middle = _count(normal_cdf(noise[row, 0, i]), number, w, i, out, tree)
                two = number - one
                shown[i, 0] = limit if one > 0 else -limit
                left, right = (energy, 0.0) if one > 0 else (0.0, energy)
                if one > 0 and two > 0:
                    sides[0], sides[1] = 0.5 * math.log(one), 0.5 * math.log(two)
                    sides[2] = (one - two) / number
                    tilt = weights.tilt_unit * weights.tilt[i] * (sides[0] - sides[1])
                    fill_layer(h1, weights.energy_in_bias, weights.energy_in, split)
                    fill_sum(h1, h1, h2)
                    fill_sum(out, weights.energy_out_bias, weights.offset[i, n_mixture:])
                    add_product(out, weights.energy_out, h1)
                    y = math.log(max(w - number + tree.near, tree.near)) - tree.first_knot
                    y /= tree.last_knot - tree.first_knot
                    knot, fraction = _knot(y, tree.below.shape[1])
                    group = tree.group[i]
                    table = tree.tables[group, 2 * int(one > 1) + int(two > 1)]
                    rows = tree.below[table, knot : knot + 2]
                    free = max(w - number, 0.0)
                    low = math.log(shift * one / (shift * two + free))
                    span = math.log((shift * one + free) / (shift * two)) - low
                    centre = (tree.power[group] * math.log(one / two) - low) / max(span, tree.least)
                    centre = min(max(centre, tree.nearest), 1 - tree.nearest)
                    for q in range(n_components):
                        out[q] += inputs[at_own + 1] + tilt
                    narrow(out)
                    fill_mixture(out, weights.log_scale_limit)
                    x = draw_mixture(noise[row, 1:, i], out, weights.farthest)
                    s = _number(1 / (1 + math.exp(-x)), rows, fraction)
                    t = low + span * s * centre / (s * centre + (1 - s) * (1 - centre))
                    free, fixed = energy - (1 - shift) * number * v0, (1 - shift) * v0
                    left = max(fixed * one + free / (1 + math.exp(-t)), one * v0)
                    right = max(fixed * two + free / (1 + math.exp(t)), two * v0)
                    shown[i, 0] = min(max(weights.shown_scale * x, -limit), limit)
                side = 2 * tree.place[i] + 1
                energies[side], energies[side + 1] = left, right
                if tree.is_of_layers[i]:
                    one, two = _of_layers(left, tree), _of_layers(right, tree)
                numbers[side], numbers[side + 1] = one, two
                shown[i, 1] = min(max(weights.shown_scale * middle, -limit), limit)
                shown[i, 2] = (left - right) / energies[tree.base[i]] / tree.spread[i]
                logs[i, 0], logs[i, 1] = log_whole, log_number
                add_product(added, weights.absorb[i * n_shown : (i + 1) * n_shown], shown[i])
