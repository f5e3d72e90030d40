r"""Ordinary differential equations by classical Runge-Kutta steps of fourth order.

With h the step, y' = y + h/6 (k_1 + 2 k_2 + 2 k_3 + k_4), where k_1 = v(t, y),
k_2 = v(t + h/2, y + h/2 k_1), k_3 = v(t + h/2, y + h/2 k_2), k_4 = v(t + h, y + h k_3). The steps
are fixed, so that the map is smooth in all parameters, compiles and exports; the error falls with
the fourth power of their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from torch import Tensor

Time = TypeVar("Time", float, Tensor)
State = tuple[Tensor, ...]
"""What goes along: positions, and log-densities where they are asked for."""


def runge_kutta(
    slope: Callable[[Time, State], State], state: State, times: Sequence[Time]
) -> State:
    """Return the state, at the last of the times, of what moves with `slope(time, state)`.

    Args:
        slope: the rates of all entries of a state.
        state: at the first time.
        times: between which the steps are, floats or () tensors.
    """
    for time, following in pairwise(times):
        size = following - time
        middle = time + size / 2
        k1 = slope(time, state)
        k2 = slope(middle, _moved(state, size / 2, k1))
        k3 = slope(middle, _moved(state, size / 2, k2))
        k4 = slope(following, _moved(state, size, k3))
        state = tuple(
            y + (size / 6) * (a + 2 * (b + c) + d)
            for y, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)
        )
    return state


def even(start: float, stop: float, n_steps: int) -> list[float]:
    """Return n_steps + 1 times, evenly spaced."""
    return [start + (stop - start) * index / n_steps for index in range(n_steps + 1)]


def _moved(state: State, size: float | Tensor, slope: State) -> State:
    return tuple(y + size * k for y, k in zip(state, slope, strict=True))
