r"""Ordinary differential equations by classical Runge-Kutta steps of fourth order.

With h the step, y' = y + h/6 (k_1 + 2 k_2 + 2 k_3 + k_4), where k_1 = v(t, y),
k_2 = v(t + h/2, y + h/2 k_1), k_3 = v(t + h/2, y + h/2 k_2), k_4 = v(t + h, y + h k_3). The number
of steps is fixed, so that the map is smooth in all parameters, compiles and exports; the error
falls with its fourth power.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

State = tuple[Tensor, ...]
"""What goes along: positions, and log-densities where they are asked for."""


def runge_kutta(
    slope: Callable[[float, State], State],
    state: State,
    *,
    start: float,
    stop: float,
    n_steps: int,
) -> State:
    """Return the state at time `stop` of what moves with `slope(time, state)`, from `start`."""
    size = (stop - start) / n_steps
    for index in range(n_steps):
        time = start + index * size
        k1 = slope(time, state)
        k2 = slope(time + size / 2, _moved(state, size / 2, k1))
        k3 = slope(time + size / 2, _moved(state, size / 2, k2))
        k4 = slope(time + size, _moved(state, size, k3))
        state = tuple(
            y + (size / 6) * (a + 2 * (b + c) + d)
            for y, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)
        )
    return state


def _moved(state: State, size: float, slope: State) -> State:
    return tuple(y + size * k for y, k in zip(state, slope, strict=True))
