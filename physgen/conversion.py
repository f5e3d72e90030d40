"""Showers from one layout to another, block by block, and what is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from physgen.arguments import user_path
from physgen.batch import Batch, Schema
from physgen.errors import InputError
from physgen.io.calochallenge import shower_schema
from physgen.io.layouts import LAYOUTS, Layout, Written, layout_called, layout_of
from physgen.io.shipped import shipped_or_own
from physgen.io.showers import deposited, point_schema
from physgen.io.source import Source, blocks
from physgen.io.writer import refuse_existing, sha256
from physgen.isolation import isolated
from physgen.systems.geometry import Geometry, read_geometry
from physgen.systems.voxelisation import Losses, to_points, to_voxels
from physgen.version import __version__

SUFFIXES = {".npz": "npz"}
"""Layouts that the ending of a file tells; HDF5 is many."""


@isolated()
def convert(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    to: str | None = None,
    binning: str | PathLike[str] | None = None,
    particle: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the showers of a file in another layout; the output is whole, or absent.

    Args:
        source: of any layout that `physgen.io.layouts` knows, recognised by its content.
        output: file to write.
        to: layout of it; `None` takes what its ending says.
        binning: CaloChallenge XML, or the name of a shipped one, where voxels become points, or
            points voxels.
        particle: name or code in it, where it holds several.
        overwrite: replace an existing file.

    Returns:
        from, to: the layouts. showers: how many. energy: after over before. lost: sentences.

    Raises:
        InputError: a layout, or the geometry, is missing or does not fit.
        FormatError: the source cannot be read; the row is named.
    """
    path, output = user_path(source), user_path(output)
    old, new = layout_of(path), _target(output, to)
    refuse_existing(output, overwrite)
    if output.exists() and output.samefile(path):
        raise InputError(f"{output} is the file to convert; choose another path")
    opened = old.open(path, 1)
    geometry = None if binning is None else _geometry(Path(binning), particle)
    losses = Losses()
    schema = _schema(opened, old, new, geometry)
    written = Written(
        output,
        schema,
        grid=None if geometry is None else geometry.grid,
        pdg=getattr(opened, "pdg", None) or (0 if geometry is None else geometry.pid),
        facts={
            "converted_from": f"{path.name}, {old.name}",
            "source_sha256": sha256(path),
            "physgen_version": __version__,
        },
        overwrite=overwrite,
    )
    write, before, after = layout_called(new.key).write, 0.0, 0.0
    assert write is not None  # `layout_called` gives those that are written.
    with write(written) as append:
        for batch in blocks(opened):
            before += float(deposited(batch).sum())
            made = _converted(batch, old, new, geometry, losses)
            after += float(deposited(made).sum())
            append(_fitting(made, schema))
    return {
        "file": str(output),
        "from": old.name,
        "to": new.name,
        "showers": len(opened),
        "energy": float(f"{after / before:.9g}") if before else 1.0,
        "lost": [*losses.sentences(), *_dropped(opened.schema, schema)],
    }


def _target(output: Path, to: str | None) -> Layout:
    if to is not None:
        return layout_called(to)
    if output.suffix in SUFFIXES:
        return layout_called(SUFFIXES[output.suffix])
    keys = ", ".join(layout.key for layout in LAYOUTS if layout.write is not None)
    raise InputError(f"{output}: its ending does not tell the layout; say --to, one of {keys}")


def _geometry(path: Path, particle: str | None) -> Geometry:
    return read_geometry(shipped_or_own("datasets", path), particle)


def _schema(source: Source, old: Layout, new: Layout, geometry: Geometry | None) -> Schema:
    """Return what the converted showers are."""
    given = source.schema.condition[: None if new.directed else 1]
    if new.holds == old.holds:
        if old.holds == "voxels":
            _check_voxels(source, geometry)
        return replace(source.schema, condition=given)
    if geometry is None:
        raise InputError(
            f"{source.name} holds {old.holds}, and {new.key} {new.holds}: say by which geometry "
            "one becomes the other, with --binning (a CaloChallenge XML)"
        )
    if new.holds == "points":
        _check_voxels(source, geometry)
        return point_schema(1, "layer", 4, len(given) > 1)
    if "layer" not in source.schema.names:
        raise InputError(
            f"{source.name}: depths of its points are lengths, and a binning knows no depth of its "
            "layers; write the number of the layer as the third column"
        )
    return replace(shower_schema(geometry.n_voxels), condition=given)


def _check_voxels(source: Source, geometry: Geometry | None) -> None:
    n_voxels = source.schema.shape[0]
    if geometry is not None and geometry.n_voxels != n_voxels:
        raise InputError(
            f"{source.name}: showers of {n_voxels} voxels, but the binning has "
            f"{geometry.n_voxels}; give the one that belongs to this data"
        )


def _converted(
    batch: Batch, old: Layout, new: Layout, geometry: Geometry | None, losses: Losses
) -> Batch:
    if geometry is None or old.holds == new.holds:
        return batch
    convert = to_points if new.holds == "points" else to_voxels
    return convert(batch, geometry, losses)


def _fitting(batch: Batch, schema: Schema) -> Batch:
    """Return a batch with those conditions only that the schema knows."""
    if batch.condition is None:
        return batch
    return batch.replace(condition=batch.condition[:, : len(schema.condition)])


def _dropped(old: Schema, new: Schema) -> Iterator[str]:
    """Yield what the new layout has no place for."""
    directions = {variable.name for variable in old.condition}
    if directions - {variable.name for variable in new.condition}:
        yield "directions of the particles"
    if old.masked and not new.masked:
        yield "places of points within their voxels"
        if "time" in old.names:
            yield "times"
