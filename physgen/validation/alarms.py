"""What is asked of every comparison with truth: are there copies, and are the scales the same?

Rows are copies of each other if all their bits are the same. Of independent samples, generated rows
are found among known ones (of the truth and of its second sample) no more often than rows of the
second sample among the first: given r hits in all, those of the generated rows are binomial, by the
numbers of pairs that were compared. So where copies are natural (few spins, events without the
object) they are no alarm. Rows that stand several times in the truth are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import bdtrc

from physgen.batch import Batch
from physgen.systems.base import HasPlausible
from physgen.validation.comparison import Comparison, Measured, Role
from physgen.validation.copies import EMPTY, keys_of, learned
from physgen.validation.estimates import USABLE, effective_samples, usable
from physgen.validation.repeats import repeats
from physgen.validation.rows_read import negative
from physgen.validation.scorecard import ALARM, Row

_NEAR = 0.15
"""How far, in powers of ten, a ratio of scales may be from one of 1000 to be taken for it."""


def alarms(comparison: Comparison) -> list[Row]:
    """Return the rows about copies and repeated values, and about weights and units that are wrong.

    There are none without truth.
    """
    if comparison.truth is None or len(comparison.truth) == 0:
        return []
    rows = [*_weights(comparison), *_negative(comparison), *_units(comparison)]
    rows += repeats(comparison)
    if comparison.generated.chain is None and comparison.truth.chain is None:
        rows += _copies(comparison.truth, comparison.generated, comparison.floor)
        rows += _trained_on(comparison, comparison.truth)
    return rows


def _weights(comparison: Comparison) -> list[Row]:
    """Return an alarm for each of both samples whose weights are those of a few rows."""
    rows = []
    names: dict[Role, str] = {"truth": "weights of the truth", "generated": "weights"}
    for role, name in names.items():
        measured = comparison.measured[role]
        if not usable(measured):
            n, equal = measured.n, effective_samples(measured)
            warning = (
                f"{n} rows are worth {equal:.3g} of equal weights, fewer than {USABLE}: a few have "
                "nearly all of the weight, and nothing can be judged by them; give more rows, or "
                "leave the weights out"
            )
            rows.append(Row(name=name, metric="weights", value=equal, warning=warning))
    return rows


def _negative(comparison: Comparison) -> list[Row]:
    """Return an alarm for each variable that cannot be negative, and is in one of both samples."""
    rows = []
    names: dict[Role, str] = {"truth": "true", "generated": "generated"}
    for role, name in names.items():
        batch = comparison.samples[role]
        for variable, below in negative(batch, comparison.system.schema):
            if below.any():
                warning = (
                    f"{variable!r} is negative in {int(below.sum())} of {len(batch)} {name} rows, "
                    f"the first being row {int(below.int().argmax())} of those looked at: it "
                    "cannot be; put the rows right (padding is 0 where there is a mask), or leave "
                    "them out"
                )
                label = f"negative {variable}, {name} rows"
                rows.append(
                    Row(name=label, metric="domains", value=int(below.sum()), warning=warning)
                )
    return rows


def _copies(truth: Batch, generated: Batch, floor: Batch | None) -> list[Row]:
    """Return how many generated rows are known ones, and how many repeat each other."""
    every, made = keys_of(truth), keys_of(generated)
    first, counts = np.unique(every, return_counts=True)
    natural = first[counts > 1]
    if floor is None:  # Halves of the truth say how many copies are usual.
        order = np.random.default_rng(0).permutation(len(every))
        first, second = (every[half] for half in (order[::2], order[1::2]))
        first, counts = np.unique(first, return_counts=True)
        natural = first[counts > 1]
    else:
        second = keys_of(floor)
    empty, usual_empty = (int((keys == EMPTY).sum()) for keys in (made, every))
    natural = np.append(natural, EMPTY)
    first, ours, theirs = (k[~np.isin(k, natural)] for k in (first, made, second))
    n, m = len(generated), len(second)
    shared = int((np.isin(ours, first) | np.isin(ours, theirs)).sum())
    usual = int(np.isin(theirs, first).sum())
    repeated, usual_repeated = (len(keys) - len(np.unique(keys)) for keys in (ours, theirs))
    n_first = len(every) - (m if floor is None else 0)
    pairs = n * (n_first + m), m * n_first
    rows = []
    if empty:
        where = int((made == EMPTY).argmax())
        said = (
            f"{empty} of {n} rows hold nothing but zeros, the first being row {where} of those "
            f"looked at, and {usual_empty} of {len(truth)} true ones: see why they are made, or "
            "leave them out"
        )
        rows.append(_copies_row("empty rows", (empty, usual_empty), n / (n + len(truth)), said))
    return [
        *rows,
        _copies_row(
            "rows that are in the truth",
            (shared, usual),
            pairs[0] / sum(pairs),
            f"{shared} of {n} rows are copies of true ones: the same events stand in both samples, "
            "or training rows were learned by heart; compare with other events",
        ),
        _copies_row(
            "rows that repeat",
            (repeated, usual_repeated),
            # Of independent rows, repeats grow as their pairs do.
            n**2 / (n**2 + m**2),
            f"{repeated} of {n} rows repeat others of the sample, which holds fewer independent "
            "ones than it seems: remove the copies, or see why they are made",
        ),
    ]


def _trained_on(comparison: Comparison, truth: Batch) -> list[Row]:
    """Return how many generated rows are training rows, beside how many true ones are."""
    known = comparison.once(learned)
    if known is None:
        return []
    n, m = len(comparison.generated), len(truth)
    # Rows of zeros are alike without being copied, and have a row of their own.
    keys = known.keys[known.keys != EMPTY]
    copied, usual = (
        int(np.isin(keys_of(batch), keys).sum()) for batch in (comparison.generated, truth)
    )
    warning = (
        f"{copied} of {n} rows ({copied / n:.2%}) are training rows, bit by bit: they were learned "
        "by heart or copied; leave them out, and see why they are made"
    )
    return [_copies_row("rows that are training rows", (copied, usual), n / (n + m), warning)]


def _copies_row(name: str, counts: tuple[int, int], share: float, warning: str) -> Row:
    p_value = float(bdtrc(counts[0] - 1, sum(counts), share))
    return Row(
        name=name,
        metric="copies",
        value=counts[0],
        floor=counts[1],
        p_value=p_value,
        warning=warning if p_value < ALARM else "",
    )


def _units(comparison: Comparison) -> list[Row]:
    """Return an alarm where observables are powers of 1000 off, or as no sample can be."""
    truth, ours = comparison.measured["truth"], comparison.measured["generated"]
    off_by: dict[int, list[str]] = {}
    for name in truth.scalars:
        scales = _scale(truth, name), _scale(ours, name)
        if min(scales) > 0:
            power = np.log10(scales[1] / scales[0])
            thousands = round(power / 3)
            if thousands != 0 and abs(power - 3 * thousands) < _NEAR:
                off_by.setdefault(thousands, []).append(name)
    said = {name for names in off_by.values() for name in names}
    rows, implausible = [], ""
    plausible = comparison.system.plausible if isinstance(comparison.system, HasPlausible) else {}
    for name, (low, high) in plausible.items():
        for role, measured in (("true", truth), ("generated", ours)):
            middle = float(np.nanmedian(measured.values[name]))
            if low <= middle <= high:
                continue
            what = (
                f"the median of {name} is {middle:.3g} in the {role} sample, and cannot be outside "
                f"of {low:g} to {high:g}"
            )
            if name in said and role == "generated":  # One mistake is one alarm.
                implausible += f"; {what}"
                continue
            why = "its quantities are in different units" if middle else "most rows are empty"
            rows.append(_unit_row(name, measured, f"{what}: {why}"))
    if off_by:
        # Squares of what is a thousand off are a million off, by the same mistake.
        thousands, *others = sorted(off_by, key=abs)
        names = off_by[thousands]
        besides = "".join(
            f"; {_some(off_by[other])}: about 1e{3 * other:+03d} times" for other in others
        )
        question = _question({comparison.unit(name) for name in said})
        text = f"{_some(names)}: about 1e{3 * thousands:+03d} times those of the truth"
        rows.insert(0, _unit_row(names[0], ours, f"{text}{besides}{implausible}: {question}"))
    return rows


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:4])}{' and others' if len(names) > 4 else ''}"


def _question(units: set[str]) -> str:
    """Return what may be the reason, of quantities that are in `units` ("1" for pure numbers)."""
    if units == {"1"}:
        return "is one of the samples scaled, or normalised otherwise?"
    example = " (MeV and GeV)" if any("eV" in unit for unit in units) else ""
    return f"are the units of both samples the same{example}?"


def _unit_row(name: str, measured: Measured, warning: str) -> Row:
    middle = float(np.nanmedian(measured.values[name]))
    return Row(name=f"scale of {name}", metric="units", value=middle, warning=warning)


def _scale(measured: Measured, name: str) -> float:
    """Return the median size of the values that are not zero, 0 if there are none."""
    values = np.abs(measured.values[name])
    values = values[np.isfinite(values) & (values > 0)]
    return float(np.median(values)) if len(values) else 0.0
