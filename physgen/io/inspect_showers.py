"""What `physgen inspect` says of showers, whatever the layout of their file."""

from __future__ import annotations

from shlex import quote
from typing import Any

import numpy as np

from physgen.errors import FormatError
from physgen.io.showers import SHARES, deposited
from physgen.io.source import Source
from physgen.io.statistics import BYTES_READ, Statistics


def inspect_showers(source: Source, report: dict[str, Any], *, own_geometry: bool = False) -> None:
    """Describe the columns of points, find the first problem, and compare the energies.

    Of large files evenly spaced blocks are read.

    Args:
        source: the showers.
        report: what `physgen inspect` says, added to.
        own_geometry: whether the file itself says as much of its geometry as is needed to judge it.
    """
    schema, names = source.schema, source.schema.names
    columns = {name: Statistics() for name in names}
    counts, given, shares, empty = Statistics(), Statistics(), [], []
    bytes_of_block = 4 * source.block * int(np.prod(schema.shape))
    n_blocks = -(-len(source) // source.block)
    stride = max(1, round(n_blocks * bytes_of_block / BYTES_READ))
    report["showers"] = {"showers": len(source)}
    for number in range(0, n_blocks, stride):
        start = number * source.block
        try:
            batch = source.read(start, min(start + source.block, len(source)))
        except FormatError as error:
            report["problem"] = report["problem"] or str(error)
            continue
        if batch.mask is not None:
            points = batch.x[batch.mask].numpy()
            for name, column in zip(names, points.T, strict=True):
                columns[name].update(column)
            counts.update(batch.mask.sum(1).numpy())
        if batch.condition is not None:
            energy = batch.condition[:, 0].double().numpy()
            given.update(energy)
            total = deposited(batch)
            empty += (start + np.flatnonzero(total == 0)).tolist()
            shares.append(total / energy)
    described = report["showers"]
    if stride > 1:
        described["looked at"] = f"1 / {stride} of the showers"
    for name, layers in getattr(source, "calorimeters", {}).items():
        described[name] = f"layers {layers[0]} to {layers[-1]}"
    if schema.masked and counts.count:
        described["points"] = counts.to_dict()
        for variable in schema.variables:
            entry = columns[variable.name].to_dict()
            described[variable.name] = entry | {"unit": variable.unit}
    if given.count:
        described["incident energy"] = given.to_dict() | {"unit": "MeV"}
        share = float(np.median(np.concatenate(shares)))
        described["median of E_tot/E_inc"] = float(f"{share:.4g}")
        _advise(source, share, empty, given.count, report)
    how = "" if schema.masked or own_geometry else " --binning GEOMETRY.xml"
    report["hints"].append(
        f"to judge samples by it: physgen validate GENERATED --against {quote(source.name)}{how}"
    )


def _advise(source: Source, share: float, empty: list[int], n: int, report: dict[str, Any]) -> None:
    if empty:
        stated = f"{len(empty)} of {n} showers have no energy at all, the first in row {empty[0]}"
        if len(empty) == n:
            report["problem"] = report["problem"] or f"{source.name}: {stated}"
        else:
            report["hints"].append(stated)
    if share > 0 and (wrong := unit_fault(share)):
        report["problem"] = report["problem"] or f"{source.name}: {wrong}"


def unit_fault(share: float) -> str:
    """Return what is wrong with units where showers deposit such a share of their energy.

    >>> unit_fault(0.9), unit_fault(0.03)
    ('', '')
    >>> unit_fault(31.0)[:60]
    'showers deposit 31 times the energy of their particle: are t'
    """
    if share > SHARES[1]:
        return (
            f"showers deposit {share:.3g} times the energy of their particle: are the energies of "
            "particles in GeV and those deposited in MeV? State the unit of each dataset in its "
            "attribute `unit`"
        )
    if share < SHARES[0]:
        return (
            f"showers deposit {share:.3g} of the energy of their particle: are the energies of "
            "particles in MeV and those deposited in GeV? State the unit of each dataset in its "
            "attribute `unit`"
        )
    return ""
