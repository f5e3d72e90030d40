"""Files from one layout to another, block by block, and what is lost on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from physgen.arguments import user_path
from physgen.batch import Batch, Schema
from physgen.errors import FormatError, InputError
from physgen.io.calochallenge import (
    BINNING,
    GEOMETRY_SHA256,
    CaloChallengeSource,
    stated_geometry,
)
from physgen.io.joined import expand
from physgen.io.lattice.arrays import links_hint
from physgen.io.lattice.content import lattice_format
from physgen.io.lattice.conversion import UNCHANGED, ConfigurationOptions, convert_configurations
from physgen.io.layouts import LAYOUTS, Kind, Layout, Written, layout_called, layout_of
from physgen.io.shipped import resolve_path, shipped_or_own
from physgen.io.shower_source import write_calorimeters
from physgen.io.showerdata import ShowerdataSource
from physgen.io.showers import deposited, point_schema, voxel_schema
from physgen.io.source import Source, blocks
from physgen.io.writer import refuse_existing, sha256
from physgen.isolation import isolated
from physgen.systems.geometry import Geometry, read_geometry
from physgen.systems.geometry_of_files import check_stated, with_geometry
from physgen.systems.voxelisation import Cells, Losses, to_cells, to_points, to_voxels
from physgen.version import __version__

SUFFIXES = {".npz": "npz"}
"""Layouts that the ending of a file tells; HDF5 is many."""

HDF5 = (".h5", ".hdf5")
"""Endings of all other layouts."""

Step = Callable[[Batch], Batch]


@dataclass(frozen=True)
class ShowerOptions:
    """How showers are converted.

    Attributes:
        binning: CaloChallenge XML, or the name of a shipped one, where voxels become points, or
            points voxels, or layers of voxels must be known.
        particle: name or code in it, where it holds several.
        cells: the grid, where points become rectangular cells.
    """

    binning: str | PathLike[str] | None = None
    particle: str | None = None
    cells: Cells | None = None


@isolated()
def convert(
    source: str | PathLike[str] | Sequence[str],
    output: str | PathLike[str],
    *,
    to: str | None = None,
    showers: ShowerOptions = ShowerOptions(),
    configurations: ConfigurationOptions = UNCHANGED,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write showers, or gauge configurations, in another layout; the output is whole, or absent.

    Args:
        source: of any layout that `physgen.io.layouts` knows, recognised by its content; a
            pattern (part_*.h5), or a list of files of one layout, whose showers follow one another.
        output: file to write.
        to: layout of it; `None` takes what its ending says.
        showers, configurations: options of what is converted.
        overwrite: replace an existing file.

    Returns:
        from, to: the layouts. showers: how many. energy: after over before. lost: sentences. Of
        gauge configurations what `convert_configurations` does.

    Raises:
        InputError: a layout, or the geometry, is missing or does not fit.
        FormatError: the source cannot be read; the row is named.

    >>> import tempfile
    >>> import torch
    >>> from physgen.io.calochallenge import calochallenge_writer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path, output = Path(folder) / "voxels.hdf5", Path(folder) / "points.h5"
    ...     with calochallenge_writer(path) as append:
    ...         append(Batch(torch.ones(2, 368), condition=torch.full((2, 1), 500.0)))
    ...     by = ShowerOptions(binning="calo-368.xml")
    ...     report = convert(path, output, to="showerdata", showers=by)
    >>> report["showers"], report["to"]
    (2, 'showerdata HDF5')
    """
    several = [source] if isinstance(source, str | PathLike) else source
    paths = expand([str(user_path(one)) for one in several])
    output = user_path(output)
    if lattice_format(paths[0], configurations.given) is not None:
        return convert_configurations(
            paths, output, to=to, options=configurations, overwrite=overwrite
        )
    if (hint := links_hint(paths[0])) is not None:
        raise FormatError(f"{paths[0]}: {hint}")
    old, new = _layout(paths), _target(output, to)
    refuse_existing(output, overwrite)
    if output.exists() and any(output.samefile(path) for path in paths):
        raise InputError(f"{output} is the file to convert; choose another path")
    geometry, cells = _geometry(showers), showers.cells
    if geometry is not None and old.holds == "voxels":
        for path in paths:
            check_stated(path, str(showers.binning), geometry)
    sources = [_open(path, old, geometry) for path in paths]
    first = sources[0]
    for other in sources:
        _check(other, old, new, geometry, cells)
        _check_alike(first, other)
    schema = _schema(first.schema, new, geometry)
    losses = Losses(), Losses()
    steps = list(_steps(old.holds, new.takes or new.holds, geometry, cells, losses))
    written = Written(
        output,
        schema,
        grid=None if geometry is None else geometry.grid,
        layer_sizes=() if geometry is None else [layer.n_voxels for layer in geometry.layers],
        cell_mm=0.0 if cells is None else cells.mm,
        pdg=_pdg(sources) or (0 if geometry is None else geometry.pid),
        facts={
            "converted_from": f"{', '.join(path.name for path in paths)}, {old.name}",
            "source_sha256": ", ".join(map(sha256, paths)),
            "physgen_version": __version__,
            **(write_calorimeters(_calorimeters(sources)) if new.holds == "points" else {}),
            **(_geometry_facts(paths, showers, geometry) if new.key == "calochallenge" else {}),
        },
        overwrite=overwrite,
    )
    before = after = 0.0
    with new.writer(written) as append:
        for batch in itertools.chain.from_iterable(map(blocks, sources)):
            before += float(deposited(batch).sum())
            for step in steps:
                batch = step(batch)
            after += float(deposited(batch).sum())
            append(_fitting(batch, schema))
    lost = [sentence for part in losses for sentence in part.sentences()]
    return {
        "file": str(output),
        "from": old.name,
        "to": new.name,
        "showers": sum(map(len, sources)),
        "energy": float(f"{after / before:.9g}") if before else 1.0,
        "lost": [*lost, *_dropped(sources, schema, new)],
    }


def _layout(paths: Sequence[Path]) -> Layout:
    """Return the layout of all files; `FormatError` if they differ."""
    layout = layout_of(paths[0])
    for path in paths[1:]:
        if layout_of(path) is not layout:
            raise FormatError(
                f"{path} is {layout_of(path).name}, and {paths[0]} {layout.name}; convert files of "
                "different layouts separately"
            )
    return layout


def _check_alike(first: Source, other: Source) -> None:
    """Raise `FormatError` if the showers of two files are not of the same columns."""

    def columns(source: Source) -> tuple[object, ...]:
        schema = source.schema
        n_voxels = None if schema.masked else schema.shape[0]
        return n_voxels, schema.names, len(schema.condition), set(source.read(0, 1).fields())

    if columns(first) != columns(other):
        raise FormatError(
            f"{other.name} and {first.name} hold showers of different columns, or of different "
            "numbers of voxels; convert them separately"
        )


def _pdg(sources: Sequence[Source]) -> int | None:
    """Return the code of the particles, `None` if it is not known, or there are several."""
    codes = {getattr(source, "pdg", None) for source in sources}
    return codes.pop() if len(codes) == 1 else None


def _calorimeters(sources: Sequence[Source]) -> Mapping[str, range]:
    """Return the layers of each calorimeter, none where files differ, or do not say."""
    first, *others = (getattr(source, "calorimeters", {}) for source in sources)
    return first if all(other == first for other in others) else {}


def _open(path: Path, layout: Layout, geometry: Geometry | None) -> Source:
    if geometry is not None and layout.key == "calochallenge":
        return CaloChallengeSource(path, geometry.n_voxels, geometry.grid)
    return layout.open(path, 1)


def _target(output: Path, to: str | None) -> Layout:
    if to is not None:
        layout = layout_called(to)
        fitting = [ending for ending, key in SUFFIXES.items() if key == layout.key] or HDF5
        if output.suffix not in fitting:
            raise InputError(
                f"{output}: the ending {output.suffix!r} does not fit {layout.name}; name the file "
                f"{' or '.join(output.stem + ending for ending in fitting)}"
            )
        return layout
    if output.suffix in SUFFIXES:
        return layout_called(SUFFIXES[output.suffix])
    keys = ", ".join(layout.key for layout in LAYOUTS if layout.write is not None)
    raise InputError(f"{output}: its ending does not tell the layout; say --to, one of {keys}")


def _geometry(options: ShowerOptions) -> Geometry | None:
    if options.binning is None:
        return None
    file = shipped_or_own("datasets", resolve_path(str(options.binning), Path.cwd()))
    return read_geometry(file, options.particle)


def _geometry_facts(
    paths: Sequence[Path], options: ShowerOptions, geometry: Geometry | None
) -> dict[str, Any]:
    """Return the attributes that say the geometry: the one given, or the one of all files."""
    if geometry is not None:
        return with_geometry({}, str(options.binning), geometry)
    stated = {stated_geometry(path) for path in paths}
    known = stated.pop() if len(stated) == 1 else None
    return {} if known is None else dict(zip((BINNING, GEOMETRY_SHA256), known, strict=True))


def _check(
    source: Source, old: Layout, new: Layout, geometry: Geometry | None, cells: Cells | None
) -> None:
    """Raise `InputError` if what is needed to get from one layout to the other is missing."""
    takes = new.takes or new.holds
    if "voxels" in (old.holds, takes) and old.holds != takes and geometry is None:
        raise InputError(
            f"{source.name} holds {old.holds}, and {new.key} {takes}: say by which geometry one "
            "becomes the other, with --binning (a CaloChallenge XML)"
        )
    if takes == "cells" and (cells is None or cells.mm <= 0):
        raise InputError(f"{new.key}: say the grid, as in --cells 30,30,49 --cell-mm 5.088333")
    n_voxels = source.schema.shape[0]
    if old.holds == "voxels" and geometry is not None and geometry.n_voxels != n_voxels:
        raise InputError(
            f"{source.name}: showers of {n_voxels} voxels, but the binning has "
            f"{geometry.n_voxels}; give the one that belongs to this data"
        )
    if old.holds == "points" != takes and "layer" not in source.schema.names:
        raise InputError(
            f"{source.name}: depths of its points are lengths, and neither a binning nor a grid "
            "knows how deep its layers lie; write the number of the layer as the third column"
        )


def _schema(old: Schema, new: Layout, geometry: Geometry | None) -> Schema:
    """Return what the converted showers are; those in cells, before they are."""
    given = old.condition[: None if new.directed else 1]
    if (new.holds == "points") == old.masked:
        return replace(old, condition=given)
    if old.masked and geometry is not None:
        return replace(voxel_schema(geometry.n_voxels), condition=given)
    return point_schema(1, "layer", 4, len(given) > 1)


def _steps(
    old: Kind,
    takes: Kind,
    geometry: Geometry | None,
    cells: Cells | None,
    losses: tuple[Losses, Losses],
) -> Iterator[Step]:
    """Yield what makes showers of one kind those of another."""
    if old != takes and geometry is not None and "voxels" in (old, takes):
        step = to_points if old == "voxels" else to_voxels
        yield partial(step, geometry=geometry, losses=losses[0])
    if takes == "cells" and cells is not None:
        yield partial(to_cells, cells=cells, losses=losses[1])


def _fitting(batch: Batch, schema: Schema) -> Batch:
    """Return a batch with those conditions only that the schema knows."""
    if batch.condition is None:
        return batch
    return batch.replace(condition=batch.condition[:, : len(schema.condition)])


def _dropped(sources: Sequence[Source], new: Schema, layout: Layout) -> Iterator[str]:
    """Yield what the new layout has no place for."""
    old = sources[0].schema
    if len(new.condition) < len(old.condition):
        yield "directions of the particles"
    if old.masked and (layout.takes or layout.holds) != "points":
        yield f"places of points within their {layout.takes or layout.holds}"
        if "time" in old.names:
            yield "times"
    if layout.key not in ("calochallenge", "showerdata"):
        others = set(sources[0].read(0, 1).fields()) - {"x", "condition", "mask"}
        yield from (f"the dataset {name!r}" for name in sorted(others))
    if any(isinstance(source, ShowerdataSource) for source in sources) and not _pdg(sources):
        yield "codes of the particles, of which there are several"
    if layout.holds != "points" and (known := _calorimeters(sources)):
        yield f"which layers are those of {', '.join(known)}"
