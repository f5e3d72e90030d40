"""How many events of equal weight weighted ones are worth: what reweighting costs.

Of a generator that weighs its own samples, its weights are looked at without those of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physgen.errors import InputError
from physgen.validation.comparison import Comparison
from physgen.validation.scorecard import Row, at_least
from physgen.validation.uncertainty import gamma_method


@dataclass(frozen=True, kw_only=True)
class EventWeights:
    """Effective share (sum w)^2 / (n sum w^2) of generated events (Kish 1965).

    Attributes:
        minimum_ess: fail below it.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> weighted = Batch(torch.randn(4, 4), weight=torch.tensor([1.0, 1.0, 0.0, 0.0]))
    >>> EventWeights().rows(Comparison(Phi4(shape=(4,)), weighted))[0].value
    0.5
    """

    minimum_ess: float | None = None

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return one row; `InputError` if the events have no weights."""
        measured = comparison.measured["generated"]
        if measured.weight is None:
            raise InputError(
                "event-weights looks at the weights of events, and these have none: leave it out, "
                "or take the surrogate reweighting"
            )
        w = measured.weight if comparison.own_weight is None else comparison.own_weight

        def share(means: NDArray[np.float64]) -> float:
            return float(means[0] ** 2 / means[1])

        means = np.stack([w, w**2], 1)
        ess = share(means.mean(0))
        error = gamma_method(means, function=share, group=measured.group).error
        negative = float(np.abs(w[w < 0]).sum() / np.abs(w).sum())
        note = f"{ess * len(w):.0f} of {len(w)} events"
        if comparison.own_weight is not None:
            both = measured.weight
            note += f"; {both.sum() ** 2 / (both**2).sum():.0f} with the weights of the data"
        return [
            Row(
                name="ESS of event weights",
                metric="event-weights",
                value=ess,
                error=error,
                tolerance=self.minimum_ess,
                verdict=at_least(ess, error, self.minimum_ess),
                note=note + (f"; {negative:.1%} of their weight is negative" if negative else ""),
            )
        ]
