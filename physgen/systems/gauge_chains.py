"""Markov chains of gauge links that are tuned by what they measure on themselves.

Half of the chains begin at the unit, half with random links, so that chains that do not forget it
are seen. A step is a sweep of heat bath and a few of overrelaxation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from physgen.sampling.autocorrelation import mixed
from physgen.sampling.thinning import spacing

LOG = logging.getLogger("physgen")

Links = NDArray[np.float64]
Measure = Callable[[Links], Mapping[str, NDArray[np.float64]]]
"""Maps (C, ...) links to what changes slowly, (C,) each; "Q" is a topological charge."""

_WARM, _TRIAL, _LONGEST = 100, 100, 800
"""Steps before anything is measured, and in the series that measure the autocorrelation."""
_MOST = 80
"""Steps from one kept configuration to the next, at most."""
_SMALL = 1 << 17
"""Links of all chains together up to which there are many chains."""


def n_chains(n: int, n_links: int) -> int:
    """Return how many chains make `n` configurations: 8 of a large lattice, 64 of a small one."""
    return int(np.clip(8 * min(-(-n // 8), _SMALL // n_links // 8), 8, 64))


def simulate(start: Links, beta: float, n_keep: int, seed: int, slow: Measure) -> Links:
    """Return (C, n_keep, ...) links of chains that begin at (C, ...) links.

    Kept configurations are two autocorrelation times of the slowest quantity apart, as a run before
    measures them, but not more than `_MOST` steps. Chains that do not mix, and a topological charge
    that hardly changes, are told in the log.
    """
    from physgen.systems.kernels.gauge.heatbath import Chains

    chains = Chains(start, beta, seed)
    n_relax = int(np.clip(max(chains.shape) // 4, 1, 4))

    def series(n_skip: int, length: int, keep: Links | None = None) -> dict[str, Links]:
        """Return (T, C) each."""
        rows = []
        for number in range(length):
            chains.sweep(n_skip, n_relax)
            links = chains.links()
            if keep is not None:
                keep[:, number] = links
            rows.append(slow(links))
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    chains.sweep(_WARM, n_relax)
    trial = _TRIAL
    while True:
        before = series(1, trial)
        apart = max(map(spacing, _without_charge(before).values()))
        if 10 * apart <= trial or trial >= _LONGEST:
            break
        trial *= 2
    result = np.empty((len(start), n_keep, *start.shape[1:]))
    measured = series(min(apart, _MOST), n_keep, result)
    if "Q" in measured:
        _judge_charge(np.rint(np.concatenate([before["Q"], measured["Q"]])), beta)
    _judge(_without_charge(measured), beta, apart)
    return result


def _without_charge(series: dict[str, Links]) -> dict[str, Links]:
    """Replace Q by Q^2: a mean of Q that is zero in every chain hides what its size does."""
    return {
        name if name != "Q" else "Q^2": s if name != "Q" else s**2 for name, s in series.items()
    }


def _judge_charge(charge: Links, beta: float) -> None:
    """Say if (T, C) charges of a run, and of that before it, hardly change."""
    still = (charge == charge[0]).all(0)
    if 2 * still.sum() <= still.size:
        return
    if np.ptp(charge) == 0:
        LOG.warning(
            "at beta = %g the topological charge is %d all the time in all of %d chains: other "
            "sectors are very rare, or are not reached",
            beta,
            charge[0, 0],
            still.size,
        )
        return
    LOG.warning(
        "the topological charge is frozen at beta = %g: it never changes in %d of %d chains, and "
        "in %.2g%% of the steps of all; <Q^2> is that of where the chains began",
        beta,
        still.sum(),
        still.size,
        100 * (np.diff(charge, axis=0) != 0).mean(),
    )


def _judge(series: dict[str, Links], beta: float, apart: int) -> None:
    stuck = [name for name, one in series.items() if len(one) > 1 and not mixed(one)]
    if stuck:
        LOG.warning(
            "at beta = %g the chains do not mix in %s; means depend on where the chains began",
            beta,
            ", ".join(stuck),
        )
    if apart > _MOST:
        LOG.warning(
            "at beta = %g configurations that are %d sweeps apart, as they are here, are not "
            "independent: that takes about %d; trust errors that know the autocorrelation time",
            beta,
            _MOST,
            apart,
        )
