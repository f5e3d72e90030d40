"""What `physgen inspect` says of HDF5 files, by the names of their datasets.

Nothing is proposed but what the reader that it needs has been tried on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

import h5py

from physgen.errors import FormatError, InputError
from physgen.io.arrays import stated, text_in
from physgen.io.attributes import unit_of
from physgen.io.calochallenge import (
    ASSUMED,
    SHOWERS,
    CaloChallengeSource,
    assumption,
    stated_geometry,
)
from physgen.io.guard import library
from physgen.io.hdf5 import (
    DEEPEST,
    MOST_DATASETS,
    Values,
    dataset,
    dataset_names,
    open_hdf5,
    stored_schema,
)
from physgen.io.hdf5_source import HDF5Source
from physgen.io.inspect_showers import inspect_showers
from physgen.io.jetnet import JetNetSource
from physgen.io.layouts import arrays_of, recognised
from physgen.io.potts import PottsSource, is_potts
from physgen.io.proposals import FEWEST, columns_to_learn, train_on
from physgen.io.shipped import shipped
from physgen.io.spins import SpinSource
from physgen.io.statistics import describe_array

_SLOW_CHUNK = 2**14
"""Bytes of a compressed chunk below which reading is mostly overhead."""
_PUBLIC_BINNINGS = {368: "1, photons", 533: "1, pions", 6480: "2, electrons", 40500: "3, electrons"}


def inspect_hdf5(path: Path, report: dict[str, Any]) -> None:
    """Fill in format, contents, the first problem and hints."""
    with open_hdf5(path) as file:
        names = dataset_names(file)
        if len(names) == MOST_DATASETS:
            report["hints"].append(f"only the first {MOST_DATASETS} datasets are listed")
        if not names:
            raise FormatError(
                f"{path}: there is no dataset in this file, or none within {DEEPEST} levels of "
                "groups; links are not followed"
            )
        layout = recognised(arrays_of(file))
        own = frozenset() if layout is None else layout.own
        faults = {name: _inspect_dataset(path, file, name, report, own) for name in names}
        if layout is None:
            _recognise(path, file, set(names), report)
        _advise_on_chunks(file, report)
    if layout is not None:
        report["format"] = layout.name
        if layout.key == "calochallenge":
            _inspect_calochallenge(path, report)
        else:
            inspect_showers(layout.open(path, 1), report, own_geometry=layout.binning is not None)
        return
    readable = [name for name, entry in report["contents"].items() if "not read" not in entry]
    if not readable:
        report["reader"] = "no"
        reason = next((text for text in faults.values() if text), str(path))
        report["problem"] = report["problem"] or f"{reason}; no dataset here can be read"


def _inspect_dataset(
    path: Path, file: h5py.File, name: str, report: dict[str, Any], own: frozenset[str]
) -> str | None:
    """Describe a dataset; return why it cannot be read, if so; not of those of the layout's own."""
    where = f"{path}: dataset {name!r}"
    if name in own:
        return None
    try:
        node = dataset(file, name)
        entry, problem = describe_array(where, Values(node))
    except FormatError as error:
        fault, companions = str(error), False
        # A damaged type is report again by whoever asks for it.
        with suppress(FormatError), library(where):
            companions = _is_next_to(file[name])
        report["contents"][name] = {"not read": fault.removeprefix(f"{where} ")}
        if not companions:
            report["problem"] = report["problem"] or fault
        return fault
    report["contents"][name] = entry | _storage(node)
    report["problem"] = report["problem"] or problem
    return None


def _is_next_to(node: h5py.Dataset) -> bool:
    """Names and types written beside the numbers, tables and what is empty are no problem."""
    # The shape of a virtual dataset may be that of another file, which must not be opened.
    return node.dtype.kind in "OSUV" or (not node.is_virtual and node.shape is None)


def _storage(node: h5py.Dataset) -> dict[str, Any]:
    unit = unit_of(node)
    return {
        key: value
        for key, value in {
            "chunks": list(node.chunks) if node.chunks else None,
            "compression": node.compression,
            "unit": None if unit == "1" else unit,
        }.items()
        if value is not None
    }


def _recognise(path: Path, file: h5py.File, names: set[str], report: dict[str, Any]) -> None:
    contents, hints = report["contents"], report["hints"]
    if "samples" in names and is_potts(path):
        report["format"] = "Potts configurations in HDF5 (rbms style)"
        _inspect_potts(path, report)
    elif "samples" in names:
        report["format"] = "spin configurations in HDF5 (rbms style)"
        _inspect_spins(path, contents["samples"], report)
    elif "particle_features" in names:
        report["format"] = "JetNet HDF5"
        _inspect_jets(path, contents, report)
    elif (schema := stored_schema(file)) is not None:
        report["format"] = "HDF5 written by physgen"
        report["variables"] = {variable.name: variable.unit for variable in schema.variables}
        report["conditions"] = {variable.name: variable.unit for variable in schema.condition}
    else:
        report["format"] = "HDF5"
        tables = [n for n, c in contents.items() if len(c.get("shape", [])) >= 1]
        if tables:
            hints.append("datasets are named by their paths, such as " + repr(tables[0]))
        hints += _inspect_columns(path, contents)


def _advise_on_chunks(file: h5py.File, report: dict[str, Any]) -> None:
    contents, hints = report["contents"], report["hints"]
    for name, entry in contents.items():
        chunks, shape = entry.get("chunks"), entry.get("shape")
        if not chunks or not entry.get("compression") or len(chunks) < 2:
            continue
        small = math.prod(chunks) * file[name].dtype.itemsize < _SLOW_CHUNK
        if chunks[1:] != shape[1:] or (small and shape[0] > chunks[0]):
            hints.append(
                f"dataset {name!r} is compressed in chunks of {chunks}, slow to read by rows; "
                f"rewrite it: h5repack -l {name}:CHUNK={'x'.join(map(str, [1024, *shape[1:]]))}"
            )


def _inspect_columns(path: Path, contents: Mapping[str, Any]) -> list[str]:
    """Propose to train on the columns of a table: datasets of one number a row, equally long."""
    flat = {name: entry for name, entry in contents.items() if len(entry.get("shape", ())) == 1}
    longest = max((entry["shape"][0] for entry in flat.values()), default=0)
    weights = [name for name in flat if "weight" in name.lower()]
    table = {n: entry for n, entry in flat.items() if entry["shape"][0] == longest}
    fields = columns_to_learn(table, {*weights, "chain"})
    if not fields or longest < FEWEST:
        return []
    for name in fields:
        HDF5Source(path, x=name).arrays(0, 1)
    stated = [train_on(path, fields)]
    return stated + ([f"event weights? {quote(f'data.weight={weights[0]}')}"] if weights else [])


def _inspect_calochallenge(path: Path, report: dict[str, Any]) -> None:
    contents, hints = report["contents"], report["hints"]
    try:
        source = CaloChallengeSource(path)
    except FormatError as error:
        report["problem"] = report["problem"] or str(error)
        return
    energies = contents[source.energies]
    for entry in (energies, contents[SHOWERS]):
        entry.setdefault("unit", "MeV")
    inspect_showers(source, report)
    n_voxels = source.schema.shape[0]
    known, binning = _PUBLIC_BINNINGS.get(n_voxels), f"calo-{n_voxels}.xml"
    stated = f"{n_voxels} voxels" + (
        f", as many as public CaloChallenge set {known}" if known else ""
    )
    own = stated_geometry(path)
    if own is not None:
        report["showers"]["geometry"] = own[0]
    try:
        shipped("datasets", binning)
        hints.append(
            f"{stated}, and as {binning}; if they lie as there: physgen train calo-flow "
            f"{quote(f'data.path={path}')} data.binning={binning}"
        )
    except InputError:
        hints.append(f"{stated}; name the file of their geometry with data.binning=")
    if own is None and binning == ASSUMED:
        hints.append(assumption())
    if energies["unit"] == "MeV" and energies.get("high", math.inf) < 1000:
        hints.append("incident energies below 1000: are they GeV? MeV are expected")


def _inspect_jets(path: Path, contents: dict[str, Any], report: dict[str, Any]) -> None:
    if "shape" not in contents["particle_features"]:
        return
    try:
        source = JetNetSource(path)
        for start in range(0, len(source), source.block):
            source.arrays(start, start + source.block)
    except FormatError as error:
        report["problem"] = report["problem"] or str(error)
        return
    report["hints"].append(
        f"jets of up to {source.schema.shape[0]} particles (etarel, phirel, ptrel, mask): physgen "
        f"train jets {quote(f'data.path={path}')}; physgen validate GENERATED --against "
        f"{quote(str(path))}"
    )
    report["hints"] += source.notes()


def _inspect_potts(path: Path, report: dict[str, Any]) -> None:
    try:
        source = PottsSource(path)
        for start in range(0, len(source), source.block):
            source.arrays(start, start + source.block)
    except FormatError as error:
        report["problem"] = report["problem"] or str(error)
        return
    shape = ",".join(map(str, source.schema.shape))
    report["hints"].append(f"system.kind=potts system.q={source.q} system.shape=[{shape}] reads it")


def _inspect_spins(path: Path, samples: dict[str, Any], report: dict[str, Any]) -> None:
    hints = report["hints"]
    if "shape" not in samples:
        return
    values = set(samples.get("values", ()))
    try:
        source = SpinSource(path)
        for start in range(0, len(source), source.block):
            source.arrays(start, start + source.block)
    except FormatError as error:
        hints.append("values other than 0/1 or -1/+1: not Ising spins")
        if values and values <= {-1, 0, 1}:
            hints.pop()
            report["problem"] = report["problem"] or str(error)
        return
    if values <= {0, 1} and 0 in values:
        hints.append("spins are 0/1; they are read as -1/+1")
    shape = source.schema.shape
    if len(shape) == 1 and len(source) < shape[0]:
        hints.append(
            f"{len(source)} rows of {shape[0]} spins: transposed? A row is a configuration"
        )
    if len(shape) != 2 or min(shape) < 2 or len(source) < FEWEST:
        return
    words = [f"data.path={path}", f"system.shape=[{shape[0]},{shape[1]}]"]
    temperature = stated(path, ("temperature",), source.dataset)
    for one in temperature.values():
        if len(one) > 1:
            few = ",".join(f"{value:g}" for value in one[:6]) + (",..." if len(one) > 6 else "")
            hints.append(
                f"there are {len(one)} temperatures; keep the rows of one to train on, or make "
                f"them conditions, system.temperature=[{few}]"
            )
            return
        words.append(f"system.temperature={float(one[0]):g}")
    bonds = stated(path, ("coupling", "disorder"), "").items()
    usual = {"coupling": 1}
    words += [f"system.{name}={v[0]:g}" for name, v in bonds if v[0] != usual.get(name)]
    if (lattice := text_in(path, "lattice")) not in (None, "square"):
        words.append(f"system.lattice={lattice}")
    flat = len(samples["shape"]) == 2
    hints.append(
        f"{math.prod(shape)} sites a sample, "
        + (f"a square lattice of {shape[0]}x{shape[1]}? " if flat else "")
        + f"physgen train ising-rbm {' '.join(map(quote, words))}"
    )
