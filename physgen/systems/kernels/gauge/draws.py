r"""Random numbers of heat baths, made in advance where they do not depend on the staples.

Candidates of Kennedy and Pendleton's heat bath (Phys. Lett. B 156 (1985) 393) for the weight
sqrt(1 - a_0^2) exp(alpha a_0) are a_0 = 1 - g / alpha, g = -ln r_1 cos^2(2 pi r_2) - ln r_3, and
are accepted if r_4^2 <= 1 - g / (2 alpha). Neither g nor r_4 depends on alpha; with the numbers
that make g comes the direction of (a_1, a_2, a_3), since sqrt(2 g) is the length of a vector of
three normal numbers. Candidates of Best and Fisher (Appl. Stat. 28 (1979) 152) for
exp(kappa cos theta) are Moebius maps of a uniform point of a circle.

A pool holds such numbers for each lane, made by vector code. Random words are those of SplitMix64,
each lane with a counter of its own that begins at random: a chain does not depend on its neighbours
in other lanes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from physgen.systems.kernels.cache import CACHE
from physgen.systems.kernels.gauge.lanes import LANES, fast
from physgen.systems.kernels.splitmix import STRIDE, mix

Words = NDArray[np.uint64]
Real = NDArray[np.float64]

POOL = 64
"""Candidates of a lane that are made at once."""

_MANTISSA, _ONE, _HALF = (
    np.uint64(0x000FFFFFFFFFFFFF),
    np.uint64(0x3FF0000000000000),
    np.uint64(0x3FE0000000000000),
)
_INTEGER = np.uint64(0x4330000000000000)  # the bits of 2^52, whose last ones count in units of one
_S12, _S52 = np.uint64(12), np.uint64(52)
_NONE, _BIT_0, _BIT_1 = np.uint64(0), np.uint64(1), np.uint64(2)
_TINY = 2.0**-53


class Pool(NamedTuple):
    """Candidates of all lanes.

    Attributes:
        numbers: (LANES, 5, POOL), by the group: g, 2 (1 - r_4^2) and a unit vector of SU(N); the
            cosine and sine of a uniform angle, and a uniform number, of U(1).
        next: (LANES,), the first candidate that is not used.
        counters: (LANES,) of the random words.
        words: (5, POOL), for what is being made; `reals` are the same bits.
    """

    numbers: Real
    next: NDArray[np.int64]
    counters: Words
    words: Words
    reals: Real


def pool(counters: Words) -> Pool:
    """Return an empty pool that advances (LANES,) counters in place."""
    words = np.empty((5, POOL), np.uint64)
    spent = np.full(LANES, POOL)
    return Pool(np.empty((LANES, 5, POOL)), spent, counters, words, words.view(np.float64))


def counters(seed: int, n: int) -> Words:
    """Return (n,) counters, each random; the first ones do not depend on how many there are."""
    return np.random.SeedSequence(seed).generate_state(n, np.uint64).astype(np.uint64)


@njit(cache=CACHE)
def uniform(counters: Words, lane: int) -> float:
    """Return one number in (0, 1) of a lane."""
    counters[lane] += STRIDE
    u: float = (np.float64(mix(counters[lane]) >> np.uint64(11)) + 0.5) * 2.0**-53
    return u


@njit(cache=CACHE)
def _fill(words: Words, counter: Any) -> Any:
    for i in range(words.size):
        words[i] = mix(counter + np.uint64(i + 1) * STRIDE)
    return counter + np.uint64(words.size) * STRIDE


@njit(cache=CACHE)
def _to_uniform(words: Words, reals: Real) -> None:
    """Turn words into numbers in (0, 1)."""
    for i in range(words.size):
        words[i] = (words[i] >> _S12) | _ONE
    for i in range(words.size):
        reals[i] = reals[i] - (1.0 - _TINY)


@fast
def _minus_log(words: Words, reals: Real, exponents: Words, exponent: Real) -> None:
    """Turn numbers u in (0, 1) into -ln u, by ln m = 2 artanh((m - 1) / (m + 1))."""
    for i in range(words.size):
        exponents[i] = (words[i] >> _S52) | _INTEGER
        words[i] = (words[i] & _MANTISSA) | _HALF
    for i in range(words.size):
        m, e = reals[i], exponent[i] - (4503599627370496.0 + 1022.0)
        low = m < 0.7071067811865476
        m, e = (2.0 * m if low else m), (e - 1.0 if low else e)
        s = (m - 1.0) / (m + 1.0)
        q = s * s
        series = 1.0 / 19.0
        series = series * q + 1.0 / 17.0
        series = series * q + 1.0 / 15.0
        series = series * q + 1.0 / 13.0
        series = series * q + 1.0 / 11.0
        series = series * q + 1.0 / 9.0
        series = series * q + 1.0 / 7.0
        series = series * q + 1.0 / 5.0
        series = series * q + 1.0 / 3.0
        reals[i] = -(e * 0.6931471805599453 + 2.0 * s * (1.0 + q * series))


@fast
def _circle(words: Words, cosine: Real, sine: Real) -> None:
    """Make of each word the cosine and sine of a uniform angle, by Taylor's series to pi / 4.

    The lowest bits, which are not in the angle, exchange and turn both.
    """
    for i in range(words.size):
        swap, turn = words[i] & _BIT_0, words[i] & _BIT_1
        a = _signed(words[i]) * 0.7853981633974483
        q = a * a
        s = -1.0 / 1307674368000.0
        s = s * q + 1.0 / 6227020800.0
        s = s * q - 1.0 / 39916800.0
        s = s * q + 1.0 / 362880.0
        s = s * q - 1.0 / 5040.0
        s = s * q + 1.0 / 120.0
        s = s * q - 1.0 / 6.0
        s = a + a * q * s
        c = 1.0 / 20922789888000.0
        c = c * q - 1.0 / 87178291200.0
        c = c * q + 1.0 / 479001600.0
        c = c * q - 1.0 / 3628800.0
        c = c * q + 1.0 / 40320.0
        c = c * q - 1.0 / 720.0
        c = c * q + 1.0 / 24.0
        c = c * q - 0.5
        c = 1.0 + q * c
        sign = 1.0 if turn == _NONE else -1.0
        cosine[i] = sign * (c if swap == _NONE else s)
        sine[i] = sign * (s if swap == _NONE else c)


@njit(cache=CACHE, inline="always")
def _signed(word: Any) -> float:
    """Return a uniform number in (-1, 1), made of all but the lowest bits."""
    return (np.float64(np.int64(word) >> np.int64(11)) + 0.5) * 2.0**-52


@fast
def refill_su(pool: Pool, lane: int) -> None:
    """Make new candidates of the heat bath of SU(2) for a lane."""
    words, reals, out = pool.words, pool.reals, pool.numbers[lane]
    pool.counters[lane] = _fill(words.reshape(words.size), pool.counters[lane])
    _circle(words[0], out[2], out[3])
    _circle(words[1], out[4], out[1])
    # ln r_1, ln r_3, and r_4 from the rest; rows 0 and 1 are free now.
    for k in range(2, 5):
        _to_uniform(words[k], reals[k])
    for k in range(2, 4):
        _minus_log(words[k], reals[k], words[0], reals[0])
    for i in range(POOL):
        z_square = reals[2, i] * out[4, i] * out[4, i]
        g = reals[3, i] + z_square
        length = 1.0 / math.sqrt(g)
        across = math.sqrt(reals[3, i]) * length
        out[0, i] = g
        out[2, i] *= across
        out[3, i] *= across
        out[4, i] *= math.sqrt(reals[2, i]) * length
        out[1, i] = 2.0 * (1.0 - reals[4, i] * reals[4, i])
    pool.next[lane] = 0


@fast
def refill_u1(pool: Pool, lane: int) -> None:
    """Make new candidates of the heat bath of U(1) for a lane."""
    words, reals, out = pool.words[:2], pool.reals, pool.numbers[lane]
    pool.counters[lane] = _fill(words.reshape(words.size), pool.counters[lane])
    _circle(words[0], out[0], out[1])
    _to_uniform(words[1], reals[1])
    for i in range(POOL):
        out[2, i] = reals[1, i]
    pool.next[lane] = 0


@fast
def normals(pool: Pool, lane: int, out: Real) -> None:
    """Write (2 POOL,) standard normal numbers of a lane (Box & Muller 1958)."""
    words, reals = pool.words, pool.reals
    pool.counters[lane] = _fill(words[0], pool.counters[lane])
    pool.counters[lane] = _fill(words[1], pool.counters[lane])
    _circle(words[0], reals[2], reals[3])
    _to_uniform(words[1], reals[1])
    _minus_log(words[1], reals[1], words[4], reals[4])
    for i in range(POOL):
        radius = math.sqrt(2.0 * reals[1, i])
        out[i], out[POOL + i] = radius * reals[2, i], radius * reals[3, i]
