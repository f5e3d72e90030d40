"""Hybrid Monte Carlo of the Schwinger model, tuned by what it measures on itself.

On few sites the force is that of the exact determinant. On more, pseudofermions stand for it: at
8 x 8 a trajectory costs a fifth, and moves as far.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.sampling import hmc, manifold
from physgen.sampling.autocorrelation import mixed
from physgen.sampling.thinning import spacing

LOG = logging.getLogger("physgen")

Slow = Callable[[Tensor], Sequence[NDArray[np.float64]]]
"""Maps (C, T, 2, *shape) links to (T, C) series of what changes slowly."""

EXACT = 36
"""Sites up to which the force is that of the determinant."""
_TRIAL, _WARM = 64, 20
"""Trajectories of tuning and of the series that measures the autocorrelation; of thermalisation."""
_APART = 10
"""Trajectories from one kept configuration to the next, at most."""
_MOST = 1 << 15
"""Trajectories of all chains after which kept configurations stand nearer to one another."""


def n_chains(n_sites: int) -> int:
    """Return how many chains there are: 32 of a small lattice, 8 of a large one.

    >>> n_chains(64), n_chains(256), n_chains(1024)
    (32, 16, 8)
    """
    return 32 if n_sites <= 144 else 16 if n_sites <= 256 else 8


def exact(start: Tensor, action: hmc.Action, n_keep: int, seed: int, slow: Slow) -> Tensor:
    """Return (C, n_keep, ...) links of chains that move by the gradient of an action."""
    generator = torch.Generator().manual_seed(seed)
    trial = hmc.sample(
        start,
        action,
        hmc.Schedule(_TRIAL, n_warm=_TRIAL),
        generator=generator,
        manifold=manifold.CIRCLES,
    )
    return hmc.sample(
        trial.x[:, -1],
        action,
        hmc.Schedule(n_keep, _spacing(slow(trial.x), n_keep), n_warm=_WARM),
        generator=generator,
        manifold=manifold.CIRCLES,
    ).x


def with_pseudofermions(
    start: Tensor, beta: float, kappa: float, n_keep: int, seed: int, slow: Slow
) -> Tensor:
    """Return (C, n_keep, ...) links of chains that move by the force of pseudofermions."""
    from physgen.systems.kernels.gauge.pseudofermions import PseudofermionChains

    chains = PseudofermionChains(start.double().numpy(), beta, kappa, seed)
    # Lengths between 1/2 and 3/2, so that no mode returns to where it was.
    lengths = np.random.default_rng(seed)

    def series(length: int, n_skip: int) -> Tensor:
        result = torch.empty(len(start), length, *start.shape[1:], dtype=torch.float64)
        for number in range(length):
            for _ in range(n_skip):
                chains.run(1, step, max(1, round(lengths.uniform(0.5, 1.5) / step)))
            result[:, number] = torch.from_numpy(chains.links())
        return result

    step = chains.tune()
    trial = series(_TRIAL, 1)
    step = chains.tune()  # The first steps were those of links that are not thermalised.
    chains.run(_WARM, step, math.ceil(1 / step))
    refused = chains.unsolved
    result = series(n_keep, _spacing(slow(trial), n_keep))
    if refused := chains.unsolved - refused:
        LOG.warning(
            "Schwinger model at beta = %g, kappa = %g: %d trajectories were refused since "
            "conjugate gradients did not converge at their ends; configurations with modes that "
            "close to zero are left out",
            beta,
            kappa,
            refused,
        )
    return result


def judge(series: Sequence[NDArray[np.float64]], beta: float, kappa: float) -> None:
    """Say in the log if (T, C) series do not mix."""
    if len(series[0]) > 1 and not all(map(mixed, series)):
        LOG.warning(
            "Schwinger model at beta = %g, kappa = %g: the chains do not mix (the topological "
            "charge is frozen?); means depend on where the chains began",
            beta,
            kappa,
        )


def _spacing(series: Sequence[NDArray[np.float64]], n_keep: int) -> int:
    """Return how many trajectories kept configurations are apart.

    Two autocorrelation times of the slowest of the (T, C) series; nearer, where so many are kept
    that this takes too long. Errors know what neighbours share.
    """
    most: int = min(_APART, max(1, _MOST // (n_keep * series[0].shape[1])))
    return min(max(spacing(one) for one in series), most)
