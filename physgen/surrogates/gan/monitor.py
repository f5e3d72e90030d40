"""What goes wrong between a generator and its critic, read off the journal, and what to do then."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NEIGHBOURS = 5
"""Which neighbour sets the size of the balls of `coverage`."""

PATIENCE = 5
"""Looks at the journal in a row that must show something wrong before it is said."""

WON = 0.02
"""Loss of a critic that tells all but every sample apart; one that cannot has 1.4 or 2."""

COLLAPSED = 0.3
"""Coverage below which modes are missing; a perfect generator has 0.97."""

ALIKE = 0.5
"""Spread below which samples are too much alike; a perfect generator has 1."""


def coverage(real: Tensor, fake: Tensor) -> Tensor:
    """Return the share of real samples (N, ...) that have a generated one (M, ...) near them.

    Near is closer than the fifth neighbour among the real ones (Naeem et al., arXiv 2002.09797,
    equation 4): of N = M samples of one distribution it is 1 - 2^-5.
    """
    real, fake = real.flatten(1).float(), fake.flatten(1).float()
    # The nearest of all is the sample itself.
    radius = torch.cdist(real, real).kthvalue(min(NEIGHBOURS + 1, len(real))).values
    return (torch.cdist(real, fake).amin(1) < radius).float().mean()


def spread(real: Tensor, fake: Tensor) -> Tensor:
    """Return how far generated samples (M, ...) are from one another, real ones (N, ...) being 1.

    In many dimensions one average image is nearer to each real one than these are to one another,
    so that it covers them all; but it is alone.

    >>> real = torch.tensor([[0.0], [1.0], [2.0]])
    >>> spread(real, real / 2).item()
    0.5
    """
    far = [torch.cdist(x, x).mean() for x in (real.flatten(1).float(), fake.flatten(1).float())]
    return far[1] / far[0]


class GANMonitor:
    """Says once what has been wrong for some time.

    Args:
        saturates: the critic's loss is 0 once it tells all samples apart.
        late: number of steps after which a generator should cover its data.
        meaning: what the journal calls that which the critic says ("D_real", ...).
    """

    def __init__(self, *, saturates: bool, late: float, meaning: str = "D") -> None:
        self._saturates, self._late, self._meaning = saturates, late, meaning
        self._in_a_row: dict[str, int] = {}

    def warnings(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Return sentences on the means of the metrics since the last look."""
        warnings = []
        won = self._saturates and metrics.get("critic_loss", 1.0) < WON
        if self._lasted("won", won):
            real, fake = (metrics[f"{self._meaning}_{which}"] for which in ("real", "fake"))
            warnings.append(
                f"step {step}: the critic has won; it takes {real:.3g} for data and {fake:.3g} for "
                "generated samples, and the generator has nothing to follow: set method.r1=1, or "
                "method.loss=wasserstein with method.gradient_penalty=10, or give the critic less "
                "to learn with (method.critic)"
            )
        # A new generator covers nothing; that is no collapse.
        covered, apart = metrics.get("coverage", 1.0), metrics.get("spread", 1.0)
        few = covered < COLLAPSED or apart < ALIKE
        if self._lasted("collapsed", step > self._late and few):
            warnings.append(
                f"step {step}: generated samples come near {100 * covered:.0f} % of the data, at "
                f"{apart:.2f} of its distances from one another: modes have collapsed, or the "
                "generator is not trained yet. Lower method.learning_rate, set method.r1=1, take "
                "method.loss=wasserstein with method.gradient_penalty=10, or train longer"
            )
        return warnings

    def _lasted(self, name: str, wrong: bool) -> bool:
        self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if wrong else 0
        return self._in_a_row[name] == PATIENCE
