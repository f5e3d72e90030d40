"""What `physgen inspect` says of HDF5 files, by the names of their datasets."""

from __future__ import annotations

import math
from pathlib import Path
from shlex import quote
from typing import Any

import h5py

from physgen.errors import FormatError
from physgen.io.hdf5 import MOST_DATASETS, dataset, dataset_names, open_hdf5, stored_schema
from physgen.io.source import blocks
from physgen.io.spins import SpinSource
from physgen.io.statistics import describe_array

_SLOW_CHUNK = 2**14
"""Bytes of a compressed chunk below which reading is mostly overhead."""

_PUBLIC_BINNINGS = {368: "1, photons", 533: "1, pions", 6480: "2, electrons", 40500: "3, electrons"}


def look_at_hdf5(path: Path, found: dict[str, Any]) -> None:
    """Fill in format, contents, the first problem and hints."""
    with open_hdf5(path) as file:
        names = dataset_names(file)
        if len(names) == MOST_DATASETS:
            found["hints"].append(f"only the first {MOST_DATASETS} datasets are listed")
        if not names:
            raise FormatError(f"{path}: there is no dataset in this file")
        for name in names:
            where = f"{path}: dataset {name!r}"
            try:
                node = dataset(file, name)
            except FormatError as error:
                found["contents"][name] = {"not read": str(error).removeprefix(f"{where} ")}
                if not _is_label(file[name]):
                    found["problem"] = found["problem"] or str(error)
                continue
            entry, problem = describe_array(where, node)
            found["contents"][name] = entry | _storage(node)
            found["problem"] = found["problem"] or problem
        _recognise(path, file, set(names), found)


def _is_label(node: h5py.Dataset) -> bool:
    """Names and types written beside the numbers are no problem."""
    return bool(node.dtype.kind in "OSU")


def _storage(node: h5py.Dataset) -> dict[str, Any]:
    return {
        key: value
        for key, value in {
            "chunks": list(node.chunks) if node.chunks else None,
            "compression": node.compression,
            "unit": _text(node.attrs.get("unit", node.attrs.get("units"))),
        }.items()
        if value is not None
    }


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else None


def _recognise(path: Path, file: h5py.File, names: set[str], found: dict[str, Any]) -> None:
    contents, hints = found["contents"], found["hints"]
    if {"incident_energies", "showers"} <= names:
        found["format"] = "CaloChallenge HDF5"
        _look_at_showers(path, contents, found)
    elif "samples" in names:
        found["format"] = "spin configurations in HDF5 (rbms style)"
        _look_at_spins(path, contents["samples"], found)
    elif {"particle_features", "jet_features"} <= names:
        found["format"] = "JetNet HDF5"
        hints.append("particle_features are etarel, phirel, ptrel, mask; jet_features pt, eta, ...")
    elif (schema := stored_schema(file)) is not None:
        found["format"] = "HDF5 written by physgen"
        found["variables"] = {variable.name: variable.unit for variable in schema.variables}
        found["conditions"] = {variable.name: variable.unit for variable in schema.condition}
    else:
        found["format"] = "HDF5"
        tables = [n for n, c in contents.items() if len(c.get("shape", [])) >= 1]
        if tables:
            hints.append("datasets are named by their paths, such as " + repr(tables[0]))
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


def _look_at_showers(path: Path, contents: dict[str, Any], found: dict[str, Any]) -> None:
    energies, showers = contents["incident_energies"], contents["showers"]
    if "shape" not in energies or "shape" not in showers:
        return
    for entry in (energies, showers):
        entry.setdefault("unit", "MeV")
        if "negative" in entry or entry.get("low", 0) < 0:
            found["problem"] = found["problem"] or f"{path}: there are negative energies"
    if len(showers.get("shape", [])) != 2 or energies["shape"][0] != showers["shape"][0]:
        found["problem"] = found["problem"] or (
            f"{path}: 'incident_energies' {energies['shape']} and 'showers' {showers['shape']}; "
            "expected (N, 1) and (N, n_voxels)"
        )
        return
    n_voxels = showers["shape"][1]
    known = _PUBLIC_BINNINGS.get(n_voxels)
    found["hints"].append(
        f"{n_voxels} voxels"
        + (f", as many as public CaloChallenge set {known}" if known else "")
        + f": physgen train calo-flow {quote(f'data.path={path}')} data.binning=BINNING.xml"
    )
    if energies.get("high", math.inf) < 1000:
        found["hints"].append("incident energies below 1000: are they GeV? MeV are expected")


def _look_at_spins(path: Path, samples: dict[str, Any], found: dict[str, Any]) -> None:
    hints = found["hints"]
    if "shape" not in samples:
        return
    values = set(samples.get("values", ()))
    if {-1, 0} <= values <= {-1, 0, 1}:
        try:
            for _ in blocks(SpinSource(path)):
                pass
        except FormatError as error:
            found["problem"] = found["problem"] or str(error)
            return
    sites = math.prod(samples.get("shape", [0])[1:])
    side = math.isqrt(sites)
    if values <= {0, 1} and 0 in values:
        hints.append("spins are 0/1; they are read as -1/+1")
    elif not values <= {-1, 1}:
        hints.append("values other than 0/1 or -1/+1: not Ising spins")
        return
    if side * side == sites:
        hints.append(
            f"{sites} sites a sample, a square lattice of {side}x{side}? physgen train ising-rbm "
            f"{quote(f'data.path={path}')} 'system.shape=[{side},{side}]'"
        )
