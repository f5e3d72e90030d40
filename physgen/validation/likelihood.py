r"""How probable held-out samples are under a model, and with it the Kullback-Leibler divergence.

The mean over true samples x (never trained on) of log q(x | c) in nats, or of a lower bound on it;
for samples of D numbers also

    bits/dim = - mean log q(x | c) / (D ln 2).

For discrete samples log q is the logarithm of a probability; for real ones it is that of a density
in the unit of the samples, its bits/dim depend on that unit, and it may be as large as one likes
for numbers that are in fact rounded. Where the truth has an action S and a known ln Z,

    KL(truth || model) = < -S(x) - ln Z - log q(x) >_truth >= 0,

exact up to its error for an exact q, an upper limit for a bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Batch
from physgen.systems.base import HasAction
from physgen.validation.comparison import Comparison, HeldOut, Role, evenly_spaced
from physgen.validation.scorecard import Row
from physgen.validation.uncertainty import Estimate, gamma_method

Array = NDArray[float64]


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Held-out log-likelihood, exact or bounds, in nats and bits/dim.

    Attributes:
        n: at most so many samples of the truth, and as many of the floor.
        draws: latent vectors a sample, where there is an importance-weighted bound.

    >>> import torch
    >>> from physgen.batch import Batch
    >>> from physgen.systems.scalar import Phi4
    >>> x = torch.randn(3, 500, 4, generator=torch.Generator().manual_seed(0))
    >>> samples = Comparison(Phi4(shape=(4,)), *map(Batch, x))
    >>> Likelihood().rows(samples)[0].note
    'the model knows neither its density nor a bound on it'
    """

    n: int = 1000
    draws: int = 64

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return two rows a likelihood, and the KL divergence where it is known.

        The names of all but the closest say what it is.
        """
        truth = comparison.truth
        if truth is None or not comparison.held_out:
            note = (
                "there are no held-out samples of the truth"
                if truth is None
                else "the model knows neither its density nor a bound on it"
            )
            return [Row(name="log-likelihood", metric="likelihood", value=None, note=note)]
        rows = []
        for i, (name, held_out) in enumerate(comparison.held_out.items()):
            # The closest has the plain names, so that it is found whatever it is.
            suffix = f", {name}" if i else ""
            rows += _rows(comparison, name, suffix, held_out)
            rows += _divergence(comparison, truth, name, suffix, held_out)
        return rows


def _rows(comparison: Comparison, name: str, suffix: str, held_out: HeldOut) -> list[Row]:
    mean = _mean(comparison, "truth", held_out.truth)
    error = math.hypot(mean.error, held_out.error)
    floor = floor_error = None
    if held_out.floor is not None:
        other = _mean(comparison, "floor", held_out.floor)
        floor, floor_error = abs(other.value - mean.value), math.hypot(other.error, mean.error)
    kind = "probabilities" if held_out.discrete else "densities in the unit of the samples"
    note = "; ".join(filter(None, (name, held_out.note, f"{len(held_out.truth)} samples", kind)))
    impossible = int((~np.isfinite(held_out.truth)).sum())
    if held_out.warning:
        note = "not known: its normalisation could not be found"
    elif impossible:
        note += f"; the model gives no finite value for {impossible} of them"
    bits = 1 / (math.prod(comparison.system.schema.shape) * math.log(2))

    def row(kind: str, scale: float, unit: str) -> Row:
        width = abs(scale)
        return Row(
            name=f"{kind}{suffix}",
            metric="likelihood",
            value=mean.value * scale,
            error=error * width,
            floor=None if floor is None else floor * width,
            floor_error=None if floor_error is None else floor_error * width,
            unit=unit,
            note=note,
            warning=held_out.warning if scale > 0 else "",
        )

    rows = [row("log-likelihood", 1.0, "nat")]
    # Sets of items have no one number of dimensions.
    return rows if comparison.system.schema.masked else [*rows, row("bits/dim", -bits, "bit")]


def _divergence(
    comparison: Comparison, truth: Batch, name: str, suffix: str, held_out: HeldOut
) -> list[Row]:
    known = comparison.known("ln Z")
    if known is None or held_out.warning or not isinstance(comparison.system, HasAction):
        return []
    system, log_z = comparison.system, known[0]

    def gap_of(role: Role, sample: Batch, log_q: Array) -> Estimate:
        rows = sample[torch.from_numpy(evenly_spaced(len(sample), len(log_q)))]
        with torch.no_grad():
            action = system.action(rows.x, rows.condition).double().cpu().numpy()
        return _mean(comparison, role, -action - log_z - log_q)

    gap = gap_of("truth", truth, held_out.truth)
    floor = floor_error = None
    if held_out.floor is not None and comparison.floor is not None:
        other = gap_of("floor", comparison.floor, held_out.floor)
        floor, floor_error = abs(other.value - gap.value), math.hypot(other.error, gap.error)
    return [
        Row(
            name=f"KL(truth || model){suffix}",
            metric="likelihood",
            value=gap.value,
            error=math.hypot(gap.error, math.hypot(known[1], held_out.error)),
            floor=floor,
            floor_error=floor_error,
            unit="nat",
            note=name if held_out.exact else f"at most: from a {name} on the likelihood",
        )
    ]


def _mean(comparison: Comparison, role: Role, values: Array) -> Estimate:
    """Return the mean of (n,) values of evenly spaced rows; rows of one group move together."""
    if not np.isfinite(values).all():
        return Estimate(-math.inf, math.nan)
    measured, groups = comparison.measured[role], comparison.groups.get(role)
    rows = evenly_spaced(len(comparison.samples[role]), len(values))
    weight = None if measured.weight is None else measured.weight[rows]
    group = None if groups is None else groups[rows]
    chain = None if measured.chain is None else measured.chain[rows]
    return gamma_method(values, chain=chain, group=group, weight=weight)
