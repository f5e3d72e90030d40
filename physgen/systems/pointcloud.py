"""Calorimeter showers as sets of points (x, y, depth, energy [, time]), in mm, MeV and ns.

What is measured of them is in `physgen.systems.point_observables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from physgen.arguments import user_path
from physgen.batch import Batch, Schema
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.io.joined import expand, joined
from physgen.io.layouts import open_points
from physgen.io.showerdata import showerdata_writer
from physgen.io.showers import ENERGY
from physgen.io.source import Source
from physgen.io.writer import Append
from physgen.systems import point_observables
from physgen.systems.base import Derived
from physgen.systems.point_observables import Bins
from physgen.systems.shower_observables import PLAUSIBLE, RESOLUTION

DEEPER = 0.01
"""Of the energy of showers, the share in deeper layers that is no chance."""

N_SEEN = 64
"""Points of a shower, those with the most energy, that a classifier sees one by one."""


@dataclass(frozen=True, kw_only=True)
class PointCloud:
    """Showers of points, under the energy and direction of the incoming particle.

    The number of layers, and the bins of profiles and spectra, are those of the files described.

    Args:
        path: of a file, or several, of showers of points; see `physgen.io.layouts`.
        n_points: places of a shower; `None` takes as many as the largest one of the files needs.

    Raises:
        FormatError: a file is absent or unfit.

    >>> import tempfile
    >>> import h5py, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/a.h5", "w") as file:  # x, y, layer and energy of a point
    ...         showers = file.create_dataset("showers", (1,), h5py.vlen_dtype("f4"))
    ...         showers[0] = [3, 4, 0, 0.06, 0, 1, 2, 0.02]
    ...         file["energies"], file["shape"] = [[0.1]], [1, 2, 4]
    ...         file["num_points"], file["pdg"], file["directions"] = [2], [22], [[0, 0, 1]]
    ...     system = PointCloud(path=f"{folder}/a.h5")
    ...     values = system.observables(system.source.read(0, 1))
    >>> int(values["number of points"]), round(float(values["E_tot"]))  # MeV
    (2, 80)
    """

    file_keys: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str | tuple[str, ...] | None = None
    n_points: int | None = None

    @cached_property
    def _sources(self) -> list[Source]:
        if self.path is None:
            raise RecipeError("system point-cloud: say which file to read in data.path")
        files = [user_path(file) for file in expand(self.path)]
        return [open_points(file, self.n_points or 1) for file in files]

    @cached_property
    def source(self) -> Source:
        """The files described."""
        source = joined(self._sources)
        most = source.schema.shape[0]
        if self.n_points is not None and most > self.n_points:
            raise RecipeError(
                f"system.n_points = {self.n_points}, and there are showers of {most} points in "
                f"{self.path}; set system.n_points={most}, or leave it out"
            )
        return source

    @cached_property
    def schema(self) -> Schema:
        """(n_points, 4 or 5), masked."""
        return self.source.schema

    @cached_property
    def bins(self) -> Bins:
        """Layers or slices, rings, and the energies of the spectrum."""
        known = [getattr(source, "calorimeters", {}) for source in self._sources]
        return point_observables.bins_of(
            self.source, known[0] if known.count(known[0]) == len(known) else {}
        )

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Relative width of the response, sigma(E_tot)/<E_tot>, at the energies of the sample."""
        return RESOLUTION

    @property
    def units(self) -> Mapping[str, str]:
        """Energies are in MeV, centres and widths in mm or layers, times in ns."""
        length = "1" if self.bins.depth == "layer" else "mm"
        units = {f"{kind}_{self.bins.depth}": length for kind in ("centre", "width")}
        units |= {"E_tot": "MeV", "centre_x": "mm", "centre_y": "mm", "width_r": "mm"}
        units |= {f"E_{kind}_{i}": "MeV" for kind in ("layer", "slice") for i in range(self._n)}
        for part in self.bins.parts:
            units |= {f"E_{part.name}": "MeV", f"width_r_{part.name}": "mm"}
        return units | {"mean_time": "ns"}

    @property
    def _n(self) -> int:
        return len(self.bins.slices) - 1

    @property
    def plausible(self) -> Mapping[str, tuple[float, float]]:
        """Showers deposit between a sampling fraction of 1/500 and a few times their energy."""
        return PLAUSIBLE

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return what `point_observables` measures."""
        _check(batch)
        return point_observables.observables(batch, self.bins)

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return what a classifier looks at, float32.

        "low": the conditions (log10 of E_inc), the number of points, and the columns of the 64
        points of the most energy, over E_inc; absent ones are 0. "high": the conditions and the
        observables that are one number, log10 of energies, 0 where they are not defined.
        """
        mask, condition = _check(batch)
        given = torch.cat([torch.log10(condition[:, :1]), condition[:, 1:]], 1)
        if level == "low":
            x = torch.where(mask[..., None], batch.x, 0.0).to(given)
            x = torch.cat([x, x.new_zeros(len(x), max(0, N_SEEN - x.shape[1]), x.shape[2])], 1)
            order = x[..., ENERGY].argsort(stable=True, dim=1, descending=True)[:, :N_SEEN]
            seen = x.gather(1, order[..., None].expand(-1, -1, x.shape[2])).clone()
            seen[..., ENERGY] /= condition[:, :1]
            return torch.cat([given, mask.sum(1, keepdim=True).to(given), seen.flatten(1)], 1)
        columns = [given.float()]
        for name, value in self.observables(batch).items():
            if value.ndim == 1:
                column = torch.log10(value + 1e-3) if self.units.get(name) == "MeV" else value
                columns.append(column.nan_to_num(0.0).float()[:, None])
        return torch.cat(columns, 1)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".h5", ".hdf5")

    def open(self, path: Path) -> Source:
        """Open a file of showers of points.

        Raises:
            FormatError: it is none, or points have other columns, or showers other conditions.
        """
        source = open_points(path, self.schema.shape[0])
        for what, ours, theirs in (
            ("points of", self.schema.names, source.schema.names),
            ("showers at", *(_names(schema.condition) for schema in (self.schema, source.schema))),
        ):
            if ours != theirs:
                raise FormatError(
                    f"{path} holds {what} {', '.join(theirs)}, and {self.source.name} {what} "
                    f"{', '.join(ours)}; the two are not of one geometry, or not written alike"
                )
        deeper = self._share_deeper(source.read(0, source.block))
        if deeper > DEEPER:
            raise FormatError(
                f"{path}: {deeper:.2g} of the energy lies in layers beyond the {self._n} of "
                f"{self.source.name}; the two are not of one geometry"
            )
        return source

    def _share_deeper(self, batch: Batch) -> float:
        """Return the share of the energy in layers that the files described have not."""
        mask, _ = _check(batch)
        if self.bins.depth != "layer" or not mask.any():
            return 0.0
        points = batch.x[mask].double()
        energy = points[:, ENERGY]
        return float((energy * (points[:, 2] > self.bins.slices[-1])).sum() / energy.sum())

    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Append]:
        """Write showers as a file of the library `showerdata` piece by piece."""
        pdg = getattr(self.source, "pdg", None) or 0
        return showerdata_writer(path, self.schema.shape[1], pdg=pdg, facts=facts)


def _names(variables: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(variable.name for variable in variables)


def _check(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the mask and the conditions; raise `DomainError` if either is missing."""
    if batch.mask is None or batch.condition is None:
        raise DomainError(
            "showers of points need their mask, and the energies of the incoming particles as the "
            "first column of the condition"
        )
    return batch.mask, batch.condition
