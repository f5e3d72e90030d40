"""Electromagnetic showers in a calorimeter of cylindrical voxels: energies in MeV.

What is measured of them is in `physgen.systems.shower_observables`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, NotMeasurable, RecipeError
from physgen.io.calochallenge import calochallenge_writer
from physgen.io.layouts import open_voxels
from physgen.io.shipped import shipped_or_own
from physgen.io.showers import voxel_schema
from physgen.io.source import Source
from physgen.io.writer import Append, sha256
from physgen.systems import shower_observables, shower_reference
from physgen.systems.base import Bins, Derived, System
from physgen.systems.depths import voxels_of
from physgen.systems.geometry import Geometry, cells_in_layers, read_geometry
from physgen.systems.geometry_of_files import check_stated, with_geometry
from physgen.systems.kernels.parameters import Beam, Detector, Medium, Readout
from physgen.systems.media import homogeneous, material, sampling

SPECTRUM_BINS = 40


@dataclass(frozen=True, kw_only=True)
class Calorimeter:
    """A calorimeter, its geometry, and the built-in simulation of showers in it.

    The simulation is that of `physgen.systems.kernels.shower`: of photons, electrons and positrons.
    It makes about 3,000 showers a second and core, at 1 to 256 GeV in the default medium.

    Attributes:
        binning: path of a CaloChallenge binning XML, or the bare name of a shipped one; or, where
            the places of cells are not known, how many there are, as in "layers:47x2076".
        particle: name or PDG code in the binning file, `None` where it holds one only; photons
            convert at an exponential depth.
        medium: "sampling" (absorber and active layers) or "homogeneous" (active material only).
        absorber, active: names in `physgen.systems.media.MATERIALS`.
        absorber_mm, active_mm: thickness of the layers of a sampling calorimeter.
        resolution: a of the sampling fluctuations a/sqrt(E/GeV); `None` is that of the stack of
            absorber and active layers (`physgen.systems.media`).
        constant_term: c of a response that differs by c from shower to shower at all energies, so
            that (sigma/E)^2 = a^2/E + c^2.
        depths: ends of the layers in radiation lengths, as `physgen.systems.depths` takes them.
        energies_mev: (low, high) of a log-uniform spectrum, or the discrete energies.
        spectrum: which of the two.
        cell_mm: the axis enters uniformly within a square of this side.
        angle_deg: the axis is inclined by an angle uniform between 0 and this, to any side.
        cut_mev: readout threshold of a voxel.
        noise_mev: electronic noise of a voxel, standard deviation, before the cut.
        cross_talk: share of a voxel's energy that its neighbours see, before the cut.
        max_spots: cap on the energy deposits of a shower, for speed; above it they grow instead,
            and fewer voxels are hit than should be. `None` is no cap.

    >>> showers = Calorimeter().simulate(3, seed=1)
    >>> showers.x.shape, showers.condition.shape  # voxels and incident energies in MeV
    (torch.Size([3, 368]), torch.Size([3, 1]))
    """

    file_keys: ClassVar[frozenset[str]] = frozenset({"binning"})

    binning: Path = Path("calo-368.xml")
    particle: str | None = None
    medium: Literal["sampling", "homogeneous"] = "sampling"
    absorber: str = "lead"
    active: str = "liquid-argon"
    absorber_mm: float = 1.5
    active_mm: float = 4.2
    resolution: float | None = None
    constant_term: float = 0.0
    depths: tuple[float, ...] | None = None
    energies_mev: tuple[float, ...] = (1000.0, 256000.0)
    spectrum: Literal["log-uniform", "discrete"] = "log-uniform"
    cell_mm: float = 5.0
    angle_deg: float = 2.0
    cut_mev: float = 1.0
    noise_mev: float = 0.0
    cross_talk: float = 0.0
    max_spots: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            RecipeError: an option is out of range; it is named.
        """
        edges = self.depths
        if edges and (edges[0] < 0 or any(b <= a for a, b in pairwise(edges))):
            raise RecipeError(f"depths must ascend from 0 or more, not {edges}")
        if not self.energies_mev or min(self.energies_mev) <= 0:
            raise RecipeError(f"energies_mev must be positive, not {self.energies_mev}")
        if self.spectrum == "log-uniform" and (
            len(self.energies_mev) != 2 or self.energies_mev[0] >= self.energies_mev[1]
        ):
            raise RecipeError(
                f"a log-uniform spectrum needs energies_mev = [low, high], not {self.energies_mev}"
            )
        for name in (
            *("resolution", "constant_term", "cell_mm", "angle_deg"),
            *("cut_mev", "noise_mev", "cross_talk"),
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise RecipeError(f"{name} must be 0 or more, not {value}")
        if self.medium == "homogeneous" and self.resolution is not None:
            raise RecipeError("resolution: a homogeneous medium has no sampling fluctuations")
        if self.cross_talk > 1 or self.angle_deg >= 60:
            raise RecipeError("cross_talk must be at most 1, angle_deg below 60")
        if self.max_spots is not None and self.max_spots < 1:
            raise RecipeError(f"max_spots must be 1 or more, not {self.max_spots}")
        if min(self.absorber_mm, self.active_mm) <= 0:
            raise RecipeError("absorber_mm and active_mm must be positive")

    @cached_property
    def geometry(self) -> Geometry:
        """The voxels."""
        cells = cells_in_layers(str(self.binning))
        return read_geometry(self._binning_file, self.particle) if cells is None else cells

    @property
    def _binning_file(self) -> Path:
        return shipped_or_own("datasets", self.binning)

    def digest(self) -> str:
        """Return the SHA-256 of the binning file, or of what is said in its place."""
        if cells_in_layers(str(self.binning)) is not None:
            return hashlib.sha256(str(self.binning).encode()).hexdigest()
        return sha256(self._binning_file)

    @cached_property
    def schema(self) -> Schema:
        """Voxel energies in MeV, under the energy of the incoming particle in MeV."""
        return voxel_schema(self.geometry.n_voxels, min(self.energies_mev), max(self.energies_mev))

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Relative width of the response, sigma(E_tot)/<E_tot>, at the energies of the sample."""
        return shower_observables.RESOLUTION

    @property
    def units(self) -> Mapping[str, str]:
        """Layer energies are in MeV, centres and widths in mm."""
        names = (name.split("_")[0] for name in self._names)
        kinds = {"E": "MeV", "centre": "mm", "width": "mm"}
        return {
            name: kinds[kind]
            for name, kind in zip(self._names, names, strict=True)
            if kind in kinds and not name.startswith("E_tot")
        }

    @property
    def plausible(self) -> Mapping[str, tuple[float, float]]:
        """Showers deposit between a sampling fraction of 1/500 and a few times their energy."""
        return shower_observables.PLAUSIBLE

    @cached_property
    def _names(self) -> tuple[str, ...]:
        empty = torch.zeros((1, self.geometry.n_voxels))
        return tuple(self.observables(Batch(x=empty, condition=torch.ones((1, 1)))))

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return what `shower_observables` measures; the spectrum in bins of `spectrum_edges`."""
        energy = self._incident(batch)
        return shower_observables.observables(batch.x, energy, self.geometry, self.spectrum_edges)

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return what a classifier looks at, float32.

        "low": log10 E_inc and voxels over E_inc. "high": log10 E_inc, E_tot/E_inc,
        log10 of the layer energies, centres and widths (over 100 mm, 0 in empty layers), and the
        share of occupied voxels of each layer.
        """
        energy = self._incident(batch)[:, None]
        if level == "low":
            return torch.cat([torch.log10(energy), batch.x / energy], 1).float()
        values = self.observables(batch)
        columns = [torch.log10(energy[:, 0].double()), values["E_tot/E_inc"]]
        for name, value in values.items():
            if name.startswith("E_layer"):
                columns.append(torch.log10(value + 1e-3))
            elif name.startswith("occupied"):
                columns.append(value)
            elif name.split("_")[0] in ("centre", "width"):
                columns.append(value.nan_to_num(0.0) / 100)
        return torch.stack(columns, 1).float()

    @property
    def voxel_grid(self) -> NDArray[np.int64]:
        """(layers, sectors, rings) numbers of the voxels, see `Geometry.voxel_grid`.

        Raises:
            NotMeasurable: it is not known where the voxels lie.
        """
        if not self.geometry.placed:
            raise NotMeasurable(f"{self.binning}: it is not known where these voxels lie")
        return self.geometry.voxel_grid

    def reference_features(
        self, batch: Batch, level: Literal["low", "normalised", "high", "voxels"]
    ) -> Tensor:
        """Return the features of `shower_reference`; voxels below `cut_mev` are taken for 0."""
        x = shower_reference.thresholded(batch.x, self.cut_mev)
        if level == "voxels":
            return shower_reference.log_voxels(x)
        return shower_reference.features(x, self._incident(batch), self.geometry, level)

    def reference_quantities(
        self, batch: Batch, empty: Literal["zero", "excluded"]
    ) -> dict[str, Tensor]:
        """Return `shower_reference.quantities`; voxels below `cut_mev` are taken for 0."""
        x = shower_reference.thresholded(batch.x, self.cut_mev)
        given = 0.0 if empty == "zero" else math.nan
        return shower_reference.quantities(x, self._incident(batch), self.geometry, empty=given)

    def reference_spectra(self, batch: Batch) -> dict[str, Tensor]:
        """Return the voxels, of all layers and layer by layer."""
        return shower_reference.spectra(batch.x, self.geometry)

    def reference_bins(self, name: str, truth: NDArray[np.float64]) -> Bins:
        """Return `shower_reference.bins`."""
        return shower_reference.bins(name, self.geometry, self.cut_mev, truth)

    @property
    def spectrum_edges(self) -> NDArray[np.float64]:
        """(41,) edges of the voxel spectrum in MeV; the outermost bins are open."""
        low = math.log10(self.cut_mev) if self.cut_mev > 0 else -3.0
        high = math.log10(max(self.energies_mev))
        return np.logspace(min(low, high - 1), high, SPECTRUM_BINS + 1)

    def _incident(self, batch: Batch) -> Tensor:
        if batch.condition is None:
            raise DomainError(
                "showers without incident energies: pass them as the condition (B, 1)"
            )
        return batch.condition[:, 0]

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Simulate `n` showers, in blocks of 1024 with a generator each, on all torch threads.

        Args:
            n: how many.
            seed: the same showers for the same seed, whatever the number of threads.
            condition: (n, 1) energies in MeV; `None` draws them from the spectrum.

        Raises:
            RecipeError: the binning is of particles that do not shower electromagnetically.
            DomainError: the energies are not (n, 1), or not positive.

        >>> batch = Calorimeter().simulate(100, seed=1)
        >>> bool((batch.x >= 0).all()), batch.x.shape
        (True, torch.Size([100, 368]))
        """
        if not self.geometry.placed:
            raise RecipeError(
                f"{self.binning}: showers cannot be simulated in cells without places"
            )
        if abs(self.geometry.pid) not in (11, 22):
            raise RecipeError(
                f"the built-in simulation makes electromagnetic showers (photons, electrons), and "
                f"{self.binning} is for {self.geometry.name} ({self.geometry.pid}): give a file of "
                "such showers with data.path"
            )
        from physgen.systems.kernels.shower import BLOCK, in_blocks

        seeds = np.random.SeedSequence(seed).generate_state(n // BLOCK + 2)
        energies = self._draw_energies(n, int(seeds[0]))
        if condition is not None:
            energies = condition.detach().cpu().numpy().astype(np.float64).reshape(-1)
            if len(energies) != n or not (energies > 0).all():
                raise DomainError(f"condition must be ({n}, 1) positive energies in MeV")
        x = in_blocks(energies, self.detector, seeds[1:].tolist(), torch.get_num_threads())
        return Batch(
            x=torch.from_numpy(x),
            condition=torch.from_numpy(energies.astype(np.float32))[:, None],
        )

    def _draw_energies(self, n: int, seed: int) -> NDArray[np.float64]:
        generator = np.random.default_rng(seed)
        if self.spectrum == "discrete":
            return generator.choice(np.array(self.energies_mev, np.float64), n)
        low, high = np.log(self.energies_mev)
        return np.exp(generator.uniform(low, high, n))

    @cached_property
    def detector(self) -> Detector:
        """What the simulation takes of it."""
        beam = Beam(
            converts=self.geometry.pid == 22,
            cell_mm=float(self.cell_mm),
            angle=math.radians(self.angle_deg),
            fluctuates=True,
            max_spots=int(self.max_spots or 0),
        )
        readout = Readout(float(self.cross_talk), float(self.noise_mev), float(self.cut_mev))
        voxels = voxels_of(self.geometry, self.depths)
        return Detector(voxels, self.effective_medium, beam, readout)

    @property
    def effective_medium(self) -> Medium:
        """What the parametrisation sees of the materials."""
        if self.medium == "homogeneous":
            return homogeneous(material(self.active))._replace(constant=float(self.constant_term))
        layers = (self.absorber_mm, self.active_mm)
        pair = (material(self.absorber), material(self.active))
        return sampling(*pair, *layers, self.resolution, self.constant_term)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".h5", ".hdf5")

    def open(self, path: Path) -> Source:
        """Open a file of voxels that fits the binning; raises `FormatError` otherwise."""
        source = open_voxels(path, self.geometry.n_voxels, self.geometry.grid)
        check_stated(path, self.binning, self.geometry)
        return source

    def writer(
        self, path: Path, n: int, facts: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[Append]:
        """Write showers as a CaloChallenge HDF5 file piece by piece; it says its geometry."""
        return calochallenge_writer(path, facts=with_geometry(facts, self.binning, self.geometry))


def geometry_of(system: System, user: str) -> Geometry:
    """Return the geometry of a calorimeter; for others, raise `RecipeError` in the user's name."""
    if not isinstance(system, Calorimeter):
        raise RecipeError(
            f"{user} is for showers: it needs system.kind=calorimeter, not a system of "
            f"{type(system).__name__}"
        )
    return system.geometry
