"""The energies of showers divided among voxels, one shower after the other, compiled.

`ShowerFlow` draws a block of splits by some tens of operations on all showers at once. For few
showers the operations cost less than calling them: there this does the same, shower by shower, so
that a shower takes about a millisecond. A shower's voxels do not depend on the others'.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE

Array = NDArray[np.floating]
Ints = NDArray[np.int64]
# Sums of products may be reordered (for vector instructions), no more than that.
_SUMS = {"reassoc", "contract"}


class Weights(NamedTuple):
    """Those of `BlockNetwork`; matrices of layers are (inputs, outputs).

    Attributes:
        begin, begin_bias: (n_context, n_running), (n_running,).
        absorb: (n_splits * n_shown, n_running).
        own: (n_running, n_splits * n_own).
        of_block: (n_blocks, hidden).
        shower_in, shower_hidden, shower_out: layers of a block.
        shower_in_bias, shower_hidden_bias, shower_out_bias: (hidden,).
        of_split: (n_splits, hidden).
        split_in, split_hidden, split_out: layers of a split.
        split_in_bias, split_hidden_bias, split_out_bias: (hidden,), the last (n_outputs,).
        offset: (n_splits, n_outputs).
        log_scale_limit, farthest, shown_scale, shown_limit: the constants of `ShowerFlow`.
    """

    begin: Array
    begin_bias: Array
    absorb: Array
    own: Array
    of_block: Array
    shower_in: Array
    shower_in_bias: Array
    shower_hidden: Array
    shower_hidden_bias: Array
    shower_out: Array
    shower_out_bias: Array
    of_split: Array
    split_in: Array
    split_in_bias: Array
    split_hidden: Array
    split_hidden_bias: Array
    split_out: Array
    split_out_bias: Array
    offset: Array
    log_scale_limit: float
    farthest: float
    shown_scale: float
    shown_limit: float


class Tree(NamedTuple):
    """The splits in the order of their blocks, and what `ShowerTransform` knows of them.

    Attributes:
        first: (n_blocks + 1,) where blocks begin.
        visible: (n_blocks,) whether the energies of layers are known.
        neighbours: (n_splits, n_neighbours); n_splits is none.
        place: (n_splits,) numbers in the tree.
        parent, base, group: (n_splits,) of the `SplitTree`.
        spread: (n_splits,) of the contrasts.
        layers: (n_layers,) nodes.
        centre, scale: (2 + n_layers,) of the logarithms of energies.
        below: F, (n_groups, n_knots, n_bins + 1).
        atoms: (2, n_groups, n_knots).
        scarce: (n_groups,).
        first_knot, last_knot: of the tables.
        threshold: v_0.
        enough: below as many thresholds, an energy does not suffice for two.
        near, least: the constants of the transform.
    """

    first: Ints
    visible: NDArray[np.bool_]
    neighbours: Ints
    place: Ints
    parent: Ints
    base: Ints
    group: Ints
    spread: Array
    layers: Ints
    centre: Array
    scale: Array
    below: Array
    atoms: Array
    scarce: Array
    first_knot: float
    last_knot: float
    threshold: float
    enough: float
    near: float
    least: float


@njit(cache=CACHE, nogil=True, fastmath=_SUMS)
def _add(out: Array, weights: Array, x: Array) -> None:
    """Add x @ weights to `out`, four rows at a time: `out` is loaded and stored less often."""
    fours = len(x) - len(x) % 4
    for j in range(0, fours, 4):
        x0, x1, x2, x3 = x[j], x[j + 1], x[j + 2], x[j + 3]
        w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        for q in range(len(out)):
            out[q] += x0 * w0[q] + x1 * w1[q] + x2 * w2[q] + x3 * w3[q]
    for j in range(fours, len(x)):
        for q in range(len(out)):
            out[q] += x[j] * weights[j, q]


@njit(cache=CACHE, nogil=True)
def _sum(out: Array, a: Array, b: Array) -> None:
    """Fill `out` with a + b; array expressions would take seconds each to compile."""
    for q in range(len(out)):
        out[q] = a[q] + b[q]


@njit(cache=CACHE, nogil=True, fastmath=_SUMS)
def _silu(x: Array) -> None:
    one = x.dtype.type(1)
    for q in range(len(x)):
        x[q] = x[q] / (one + np.exp(-x[q]))


@njit(cache=CACHE, nogil=True)
def _context(nodes: Array, incident: float, visible: bool, tree: Tree, out: Array) -> None:
    """Fill what the splits may see: mapped energies, and which layers are not empty."""
    n = len(tree.layers)
    v0 = tree.threshold
    out[0] = (math.log(incident) - tree.centre[0]) / tree.scale[0]
    out[1] = (math.log(max(nodes[0], v0)) - tree.centre[1]) / tree.scale[1]
    out[2:] = 0.0
    if visible:
        for i in range(n):
            energy = max(nodes[tree.layers[i]], v0)
            out[2 + i] = (math.log(energy) - tree.centre[2 + i]) / tree.scale[2 + i]
            floor = (math.log(v0) - tree.centre[2 + i]) / tree.scale[2 + i] + 1e-5
            out[2 + n + i] = 1.0 if out[2 + i] > floor else 0.0


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
def _outcomes(w: float, group: int, k: int, fraction: float, tree: Tree) -> tuple[float, ...]:
    """Return p of all right, all left and both (`ShowerTransform.outcomes`)."""
    if w < tree.enough:
        return tree.scarce[group], 1 - tree.scarce[group], 0.0
    right = _between(tree.atoms[0, group], tree.atoms[0, group, 1:], k, fraction)
    left = _between(tree.atoms[1, group], tree.atoms[1, group, 1:], k, fraction)
    least = tree.least
    return max(right, least), max(left, least), max(1 - right - left, least)


@njit(cache=CACHE, nogil=True)
def _component(u: float, logistic: float, out: Array, weights: Weights) -> float:
    """Return x of a mixture, given its outputs (`_draw` of `ShowerFlow`)."""
    n = len(out) // 3
    largest, total = out[2 * n :].max(), 0.0
    for q in range(n):
        total += math.exp(out[2 * n + q] - largest)
    which, below = 0, math.exp(out[2 * n] - largest)
    while which < n - 1 and u * total >= below:
        which += 1
        below += math.exp(out[2 * n + which] - largest)
    limit = weights.log_scale_limit
    scale = math.exp(limit * math.tanh(out[n + which] / limit))
    x = float(out[which]) + scale * logistic
    return min(max(x, -weights.farthest), weights.farthest)


@njit(cache=CACHE, nogil=True)
def divide_showers(
    nodes: Array, incident: Array, u: Array, logistic: Array, weights: Weights, tree: Tree
) -> None:
    """Fill in the energies of all nodes of the tree, (B, n_nodes), in MeV.

    Args:
        nodes: holds the energies of the showers, the first node, and 0.
        incident: (B,) in MeV.
        u: (B, n_splits) uniform, decides outcomes and components, in the order of the blocks.
        logistic: (B, n_splits) standard logistic.
        weights, tree: see there.
    """
    n_splits, n_neighbours = tree.neighbours.shape
    hidden, n_outputs = weights.of_split.shape[1], weights.offset.shape[1]
    n_inputs, n_running = weights.split_in.shape[0], weights.begin.shape[1]
    n_own, n_shown = weights.own.shape[1] // n_splits, len(weights.absorb) // n_splits
    n_knots, v0, kind = tree.below.shape[1], tree.threshold, nodes.dtype
    n_context = len(weights.begin)
    shown, logs = np.zeros((n_splits + 1, n_shown), kind), np.zeros(n_splits + 1, kind)
    # The running sum, and the context after it.
    known = np.empty(n_running + n_context, kind)
    running, context = known[:n_running], known[n_running:]
    start, added = np.empty(n_running, kind), np.empty(n_running, kind)
    h1, h2, whole = np.empty(hidden, kind), np.empty(hidden, kind), np.empty(hidden, kind)
    inputs, out = np.empty(n_inputs, kind), np.empty(n_outputs, kind)
    at_ratio, at_own = n_neighbours * n_shown, n_neighbours * (n_shown + 1)
    at_energy = at_own + n_own
    for row in range(len(nodes)):
        energies = nodes[row]
        shown[:], logs[:] = 0.0, -1.0
        added[:] = 0.0
        for k in range(len(tree.visible)):
            if k == 0 or tree.visible[k] != tree.visible[k - 1]:
                _context(energies, incident[row], tree.visible[k], tree, context)
                start[:] = weights.begin_bias
                _add(start, weights.begin, context)
            _sum(running, start, added)
            ready = False
            for i in range(tree.first[k], tree.first[k + 1]):
                energy = energies[tree.parent[i]]
                if energy <= 0:  # Nothing to divide, and nothing for the others to see.
                    continue
                if not ready:
                    ready = True
                    _sum(h1, weights.shower_in_bias, weights.of_block[k])
                    _add(h1, weights.shower_in, known)
                    _silu(h1)
                    h2[:] = weights.shower_hidden_bias
                    _add(h2, weights.shower_hidden, h1)
                    _silu(h2)
                    _sum(h1, h1, h2)
                    _sum(whole, weights.shower_out_bias, weights.split_in_bias)
                    _add(whole, weights.shower_out, h1)
                w = max(energy / v0, 1.0)
                log_whole = math.log(w)
                log_base = math.log(max(energies[tree.base[i]] / v0, 1.0))
                for m in range(n_neighbours):
                    other = tree.neighbours[i, m]
                    for q in range(n_shown):
                        inputs[m * n_shown + q] = shown[other, q]
                    ratio = 0.2 * (logs[other] - log_whole)
                    inputs[at_ratio + m] = ratio if other < n_splits else 0.0
                own = inputs[at_own:at_energy]
                own[:] = 0.0
                _add(own, weights.own[:, i * n_own : (i + 1) * n_own], running)
                inputs[at_energy] = 0.3 * log_whole
                inputs[at_energy + 1] = 0.3 * (log_whole - log_base)
                inputs[at_energy + 2] = 0.3 * math.log(max(w - 1.9, 0.1))
                inputs[at_energy + 3] = 1.0 if log_whole < math.log(2.0) else 0.0
                _sum(h1, whole, weights.of_split[i])
                _add(h1, weights.split_in, inputs)
                _silu(h1)
                h2[:] = weights.split_hidden_bias
                _add(h2, weights.split_hidden, h1)
                _silu(h2)
                _sum(out, weights.split_out_bias, weights.offset[i])
                _add(out, weights.split_out, h2)
                out[0] += inputs[at_own]
                out[1] += inputs[at_own + 1]
                for q in range(2, 2 + (n_outputs - 2) // 3):
                    out[q] += inputs[at_own + 2]

                group = tree.group[i]
                y = math.log(max(w - 2.0 + tree.near, tree.near))
                y = (y - tree.first_knot) / (tree.last_knot - tree.first_knot) * (n_knots - 1)
                y = min(max(y, 0.0), n_knots - 1.0)
                knot = min(int(y), n_knots - 2)
                right, left, both = _outcomes(w, group, knot, y - knot, tree)
                right, left = right * math.exp(out[0]), left * math.exp(out[1])
                place = u[row, i] * (right + left + both)
                side = 2 * tree.place[i] + 1
                limit = weights.shown_limit
                if place < right:
                    energies[side], energies[side + 1] = 0.0, energy
                    shown[i, 0] = -limit
                elif place >= right + both:
                    energies[side], energies[side + 1] = energy, 0.0
                    shown[i, 0] = limit
                else:
                    x = _component((place - right) / both, logistic[row, i], out[2:], weights)
                    level = 1 / (1 + math.exp(-x))
                    s = _number(level, tree.below[group, knot : knot + 2], y - knot)
                    t = (2 * s - 1) * math.log(max(w - 1, 1.0))
                    energies[side] = max(energy / (1 + math.exp(-t)), v0)
                    energies[side + 1] = max(energy / (1 + math.exp(t)), v0)
                    shown[i, 0] = min(max(weights.shown_scale * x, -limit), limit)
                    shown[i, 1] = 1.0
                difference = energies[side] - energies[side + 1]
                shown[i, 2] = difference / energies[tree.base[i]] / tree.spread[i]
                logs[i] = log_whole
                _add(added, weights.absorb[i * n_shown : (i + 1) * n_shown], shown[i])
