"""Monte Carlo updates of the two-dimensional Ising model, compiled.

The weight of a configuration s, s_i = -1 or +1, on a periodic lattice is exp(-E / T) with

    E = - sum_<ij> s_i s_j - h sum_i s_i.

Three kernels leave it invariant:

- `metropolis`: single spins, one byte a spin, any field;
- `wolff`: clusters (Wolff, Phys. Rev. Lett. 62 (1989) 361), which hardly slow down at the critical
  point; in a field the flip of a cluster C is accepted with min(1, exp(-2 h sum_C s / T));
- `metropolis_64`: 64 replicas in the bits of a word, no field. Each replica compares a uniform
  number of its own with its own acceptance probability, bit by bit from the highest until all are
  decided: replicas never share a number, which would correlate them.

Lattices of even lengths are swept in checkerboard order, each colour in an array of its own, so
that the sites of a row and their neighbours are contiguous and the loops become vector code. Flips
that cost nothing are certain, and at high temperatures nearly all are, so that stripes of one site,
or the whole lattice, would flip back and forth for ever. Therefore `metropolis` leaves one row,
drawn at random, alone in every half sweep, and `metropolis_64` leaves out half of the flips in some
sweeps, drawn for every spin of every replica.

Random numbers are SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the state is a counter, one draw
does not wait for the one before. It is an array of one uint64 that the kernels advance in place:
the same state gives the same chain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.splitmix import STRIDE, mix

_S11, _S32 = (np.uint64(n) for n in (11, 32))
_NONE, _ALL = np.uint64(0), np.uint64(0xFFFFFFFFFFFFFFFF)
_TO_UNIT = 2.0**-53
_ROUNDS = 40
"""Bits of an acceptance probability that `metropolis_64` compares."""
_LAZY = 4
"""Of so many sweeps of `metropolis_64` one leaves out half of the flips."""
_STRIP = 32
"""Words that `metropolis_64` decides together: long enough for vector code, short enough that the
last undecided replica does not hold up many."""


def random_state(seed: int) -> NDArray[np.uint64]:
    """Return the (1,) state of a random stream; different seeds start far apart."""
    return np.random.SeedSequence(seed).generate_state(1, np.uint64).astype(np.uint64)


@njit(cache=CACHE)
def _fill(words: NDArray[np.uint64], counter: Any) -> Any:
    """Fill an array with random words; return the counter after them."""
    for i in range(words.size):
        words[i] = mix(counter + np.uint64(i + 1) * STRIDE)
    return counter + np.uint64(words.size) * STRIDE


@njit(cache=CACHE, inline="always")
def _choose(draw: Any, n: int) -> Any:
    """Return one of n numbers by the high half of a random word, uniform to n / 2^32."""
    return np.int64(((draw >> _S32) * np.uint64(n)) >> _S32)


@njit(cache=CACHE)
def _split(lattice: NDArray[Any]) -> NDArray[Any]:
    """Return (2, rows, columns / 2 + 2): the colours, with a ghost column on either side."""
    rows, columns = lattice.shape
    half = columns // 2
    colours = np.empty((2, rows, half + 2), lattice.dtype)
    for i in range(rows):
        for j in range(columns):
            colours[(i + j) & 1, i, 1 + j // 2] = lattice[i, j]
        colours[:, i, 0] = colours[:, i, half]
        colours[:, i, half + 1] = colours[:, i, 1]
    return colours


@njit(cache=CACHE)
def _join(colours: NDArray[Any], lattice: NDArray[Any]) -> None:
    """Write the colours back into the lattice."""
    rows, columns = lattice.shape
    for i in range(rows):
        for j in range(columns):
            lattice[i, j] = colours[(i + j) & 1, i, 1 + j // 2]


@njit(cache=CACHE)
def _thresholds(temperature: float, field: float) -> Any:
    """Return, at 5 * (s > 0) + (sum of the neighbours + 4) / 2, the largest draw that flips s."""
    table = np.empty(10, np.uint32)
    for up in range(2):
        for k in range(5):
            cost = 2.0 * (2 * up - 1) * ((2 * k - 4) + field)
            probability = 1.0 if cost <= 0.0 else np.exp(-cost / temperature)
            table[5 * up + k] = np.uint32(max(probability * 4294967296.0 - 1.0, 0.0))
    return table


@njit(cache=CACHE)
def _sweep_by_colour(
    spins: NDArray[np.int8], table: NDArray[np.uint32], n_sweeps: int, counter: Any
) -> Any:
    """Sweep a lattice of even lengths, all even sites, then all odd ones."""
    colours = _split(spins)
    rows, half = spins.shape[0], spins.shape[1] // 2
    words = np.empty((half + 1) // 2, np.uint64)
    draws = words.view(np.uint32)
    for _ in range(n_sweeps):
        for colour in range(2):
            mine, other = colours[colour], colours[1 - colour]
            counter += STRIDE
            idle = _choose(mix(counter), rows)
            for i in range(rows):
                if i == idle:
                    continue
                counter = _fill(words, counter)
                here = mine[i, 1 : half + 1]
                above = other[i - 1 if i > 0 else rows - 1, 1 : half + 1]
                below = other[i + 1 if i + 1 < rows else 0, 1 : half + 1]
                # In its row a site has the other colour's site of the same column and, by the
                # parity of the row, the one before or after that.
                side = other[i, 1 : half + 1]
                shifted = other[i, 2 * ((i + colour) & 1) :][:half]
                for j in range(half):
                    total = np.int8(np.int8(side[j] + shifted[j]) + np.int8(above[j] + below[j]))
                    up = np.uint8(5) if here[j] > 0 else np.uint8(0)
                    index = np.uint8((total + np.int8(4)) >> 1) + up
                    here[j] = -here[j] if draws[j] <= table[index] else here[j]
                mine[i, 0] = mine[i, half]
                mine[i, half + 1] = mine[i, 1]
    _join(colours, spins)
    return counter


@njit(cache=CACHE)
def _sweep_in_order(
    spins: NDArray[np.int8], table: NDArray[np.uint32], n_sweeps: int, counter: Any
) -> Any:
    """Sweep any lattice site by site."""
    rows, columns = spins.shape
    for _ in range(n_sweeps):
        for i in range(rows):
            above, here, below = spins[i - 1], spins[i], spins[i + 1 if i + 1 < rows else 0]
            for j in range(columns):
                total = above[j] + below[j] + here[j - 1] + here[j + 1 if j + 1 < columns else 0]
                counter += STRIDE
                if (mix(counter) >> _S32) <= table[(total + 4) // 2 + (5 if here[j] > 0 else 0)]:
                    here[j] = -here[j]
    return counter


@njit(cache=CACHE)
def metropolis(
    spins: NDArray[np.int8],
    temperature: float,
    field: float,
    n_sweeps: int,
    state: NDArray[np.uint64],
) -> None:
    """Sweep (rows, columns) spins in place with Metropolis trials (acceptance to 2^-32)."""
    table = _thresholds(temperature, field)
    # On a torus of odd length neighbours would share a colour.
    if spins.shape[0] % 2 or spins.shape[1] % 2:
        state[0] = _sweep_in_order(spins, table, n_sweeps, state[0])
    else:
        state[0] = _sweep_by_colour(spins, table, n_sweeps, state[0])


@njit(cache=CACHE)
def wolff(
    spins: NDArray[np.int8],
    temperature: float,
    field: float,
    n_clusters: int,
    state: NDArray[np.uint64],
) -> int:
    """Grow and flip clusters in place; return the sum of their sizes (rejected ones count)."""
    rows, columns = spins.shape
    n_sites = rows * columns
    flat = spins.reshape(n_sites)
    bond = np.uint64((1.0 - np.exp(-2.0 / temperature)) * 4294967296.0)
    members = np.empty(n_sites, np.int64)
    counter = state[0]
    total = 0
    for _ in range(n_clusters):
        counter += STRIDE
        seed = _choose(mix(counter), n_sites)
        spin = flat[seed]
        flat[seed] = -spin
        members[0] = seed
        size, done = 1, 0
        while done < size:
            site = members[done]
            done += 1
            i, j = site // columns, site % columns
            for direction in range(4):
                if direction == 0:
                    near = site - columns if i > 0 else site + n_sites - columns
                elif direction == 1:
                    near = site + columns if i + 1 < rows else site - n_sites + columns
                elif direction == 2:
                    near = site - 1 if j > 0 else site + columns - 1
                else:
                    near = site + 1 if j + 1 < columns else site - columns + 1
                if flat[near] == spin:
                    counter += STRIDE
                    if (mix(counter) >> _S32) < bond:
                        flat[near] = -spin
                        members[size] = near
                        size += 1
        if field * spin > 0.0:
            counter += STRIDE
            draw = np.float64(mix(counter) >> _S11) * _TO_UNIT
            if draw >= np.exp(-2.0 * field * spin * size / temperature):
                for k in range(size):
                    flat[members[k]] = spin
        total += size
    state[0] = counter
    return total


class Updates(NamedTuple):
    """What lies between two states of a chain: so many clusters, then so many sweeps."""

    clusters: int
    sweeps: int


@njit(cache=CACHE)
def cluster_chain(
    spins: NDArray[np.int8],
    temperature: float,
    field: float,
    updates: Updates,
    chain: NDArray[np.int8],
    state: NDArray[np.uint64],
) -> None:
    """Fill (n, rows, columns) with states that are some `updates` apart."""
    for k in range(len(chain)):
        wolff(spins, temperature, field, updates.clusters, state)
        metropolis(spins, temperature, field, updates.sweeps, state)
        chain[k] = spins


@njit(cache=CACHE)
def _probability_bits(probability: float) -> Any:
    """Return (_ROUNDS,) words, all ones where the binary fraction has a one, highest bit first."""
    bits = np.zeros(_ROUNDS, np.uint64)
    for k in range(_ROUNDS):
        probability *= 2.0
        if probability >= 1.0:
            bits[k] = _ALL
            probability -= 1.0
    return bits


@njit(cache=CACHE)
def metropolis_64(
    words: NDArray[np.uint64], temperature: float, n_sweeps: int, state: NDArray[np.uint64]
) -> None:
    """Sweep 64 replicas in place: bit r of words[i, j] is set where replica r has spin +1.

    Both lengths are even. Acceptance to 2^-40. In the first of every `_LAZY` sweeps each flip is
    left out with probability 1/2.
    """
    colours = _split(words)
    rows, half = words.shape[0], words.shape[1] // 2
    bits_4, bits_8 = (
        _probability_bits(np.exp(-4.0 / temperature)),
        _probability_bits(np.exp(-8.0 / temperature)),
    )
    one, none = np.empty(_STRIP, np.uint64), np.empty(_STRIP, np.uint64)
    open_, flip = np.empty(_STRIP, np.uint64), np.empty(_STRIP, np.uint64)
    counter = state[0]
    for sweep in range(n_sweeps):
        for colour in range(2):
            mine, other = colours[colour], colours[1 - colour]
            for i in range(rows):
                start_shifted = 2 * ((i + colour) & 1)
                up, down = (i - 1 if i > 0 else rows - 1), (i + 1 if i + 1 < rows else 0)
                for start in range(0, half, _STRIP):
                    n = min(_STRIP, half - start)
                    here = mine[i, 1 + start : 1 + start + n]
                    above = other[up, 1 + start : 1 + start + n]
                    below = other[down, 1 + start : 1 + start + n]
                    side = other[i, 1 + start : 1 + start + n]
                    shifted = other[i, start_shifted + start : start_shifted + start + n]
                    for j in range(n):
                        # Which neighbours differ: with two or more the flip costs nothing, with
                        # one it costs 4, with none 8.
                        a, b = here[j] ^ above[j], here[j] ^ below[j]
                        c, d = here[j] ^ side[j], here[j] ^ shifted[j]
                        ab, cd = a ^ b, c ^ d
                        two = (a & b) | (c & d) | (ab & cd)
                        one[j] = (ab ^ cd) & ~two
                        none[j] = ~(a | b | c | d)
                        open_[j] = one[j] | none[j]
                        flip[j] = two
                    for k in range(_ROUNDS):
                        left = _NONE
                        for j in range(n):
                            draw = mix(counter + np.uint64(j + 1) * STRIDE)
                            bit = (one[j] & bits_4[k]) | (none[j] & bits_8[k])
                            flip[j] |= open_[j] & bit & ~draw
                            open_[j] &= ~(bit ^ draw)
                            left |= open_[j]
                        counter += np.uint64(n) * STRIDE
                        if left == _NONE:
                            break
                    if sweep % _LAZY == 0:
                        for j in range(n):
                            flip[j] &= mix(counter + np.uint64(j + 1) * STRIDE)
                        counter += np.uint64(n) * STRIDE
                    for j in range(n):
                        here[j] ^= flip[j]
                mine[i, 0] = mine[i, half]
                mine[i, half + 1] = mine[i, 1]
    state[0] = counter
    _join(colours, words)


@njit(cache=CACHE)
def unpack_64(words: NDArray[np.uint64], spins: NDArray[np.int8]) -> None:
    """Write the replicas of `metropolis_64` as (64, rows, columns) spins of -1 and +1."""
    for r in range(64):
        for i in range(words.shape[0]):
            for j in range(words.shape[1]):
                spins[r, i, j] = 1 if (words[i, j] >> np.uint64(r)) & np.uint64(1) else -1
