"""The readout threshold below which the reference evaluation takes energies for 0.

It belongs to a data set: one that is too high removes true voxels from both samples, and with them
whatever is wrong with the generated ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from physgen.systems.base import HasCut
from physgen.validation.comparison import Comparison, in_blocks
from physgen.validation.scorecard import Row


@dataclass(frozen=True)
class Threshold:
    """What a threshold does to the truth.

    Attributes:
        cut: in MeV.
        least: the least energy above 0 in the truth, in MeV; infinite if there is none.
        removed: share of the energies above 0 that are below the threshold.

    >>> Threshold(cut=1.0, least=0.0151509, removed=0.5).warning
    'energies below system.cut_mev = 1 MeV are taken for 0, which removes 50% of the hit voxels of \
the truth, whose least is 0.01515 MeV: give the threshold of the set, as in --set \
system.cut_mev=0.01515'
    """

    cut: float
    least: float
    removed: float

    @property
    def warning(self) -> str:
        """What is wrong, and what to do; nothing where no true energy is removed."""
        if self.removed == 0:
            return ""
        step = 10.0 ** (math.floor(math.log10(self.least)) - 3)
        # Not rounded up, so that it removes nothing.
        least = f"{math.floor(self.least / step) * step:.4g}"
        return (
            f"energies below system.cut_mev = {self.cut:.4g} MeV are taken for 0, which removes "
            f"{100 * self.removed:.2g}% of the hit voxels of the truth, whose least is {least} "
            f"MeV: give the threshold of the set, as in --set system.cut_mev={least}"
        )


def cut_in_words(comparison: Comparison) -> str:
    """Return what the note of a row says whose energies are cut; nothing where none are."""
    system = comparison.system
    if not isinstance(system, HasCut) or system.cut_mev <= 0:
        return ""
    return f"voxels below {system.cut_mev:.4g} MeV taken for 0"


def threshold_alarm(comparison: Comparison, rows: Iterable[Row]) -> list[Row]:
    """Return an alarm if the threshold that some of the rows speak of removes true energies."""
    words = cut_in_words(comparison)
    if not words or not any(words in row.note for row in rows):
        return []
    found = comparison.once(threshold_of)
    if found is None or not found.warning:
        return []
    warning = found.warning
    return [
        Row(name="readout threshold", metric="units", value=found.cut, unit="MeV", warning=warning)
    ]


def threshold_of(comparison: Comparison) -> Threshold | None:
    """Look at the truth; `None` without truth, or without a threshold."""
    system, truth = comparison.system, comparison.truth
    if truth is None or not isinstance(system, HasCut):
        return None
    least, hit, below = math.inf, 0, 0
    for part in in_blocks(truth):
        energies = part.x[part.x > 0]
        if len(energies):
            least = min(least, float(energies.min()))
            hit += len(energies)
            below += int((energies < system.cut_mev).sum())
    return Threshold(float(system.cut_mev), least, below / hit if hit else 0.0)
