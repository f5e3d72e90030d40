"""Anybody's Markov chain of spins or of a real field on a periodic lattice, the action unknown.

Measured is what needs no action: the field's moments, and the link energy -sum_<xy> phi_x phi_y / V
with nearest neighbours counted once, which is E/N of an Ising model with J = 1. One number a
configuration is no lattice but a series of measurements, of which the mean is all there is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import FormatError, suggest
from physgen.io.hdf5 import dataset_names, open_hdf5
from physgen.io.hdf5_source import HDF5Source
from physgen.io.npz import open_npz, read_arrays
from physgen.io.source import Source
from physgen.io.spins import SpinSource
from physgen.systems.base import Derived
from physgen.systems.scalar import magnetic, moments

FIELDS = ("samples", "configurations", "x", "spins", "phi")
"""Names of datasets that are taken for the field, in this order."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Configurations of a lattice, as a file holds them.

    Attributes:
        path: HDF5 or npz file; rows of one chain in the order of Monte Carlo time.
        dataset: name of the (N, *shape) field, or of a series (N,); `None` takes the usual names,
            or the only candidate.
        chain: name of the (N,) chain numbers; `None` takes "chain" if it is there, else one chain.
    """

    path: str
    dataset: str | None = None
    chain: str | None = None

    @cached_property
    def source(self) -> Source:
        """The file.

        Raises:
            FormatError: there is no such file, no single candidate for the field in it, or no
                dataset of the chain's name.
        """
        path = Path(self.path)
        archive = path.suffix == ".npz"
        names = list(read_arrays(path)) if archive else dataset_names(open_hdf5(path))
        candidates = [name for name in names if name not in ("chain", self.chain)]
        only = candidates[0] if len(candidates) == 1 else None
        field = self.dataset or next((name for name in FIELDS if name in names), only)
        if field is None:
            raise FormatError(
                f"{path}: which dataset is the field?{suggest('', names)}; say it with "
                "--set system.dataset=NAME"
            )
        chain = self.chain or ("chain" if "chain" in names else None)
        plain = (
            open_npz(path, x=field, chain=chain)
            if archive
            else HDF5Source(path, x=field, chain=chain)
        )
        if field == "samples" and math.prod(plain.schema.shape) > 1:
            return SpinSource(path, dataset=field, chain=chain)
        return plain

    @property
    def schema(self) -> Schema:
        """That of the file."""
        return self.source.schema

    @property
    def derived(self) -> Mapping[str, Derived]:
        """chi2, U4 and xi2 as `physgen.systems.scalar` defines them; of a series nothing."""
        return {} if self._is_series else magnetic(self.schema.shape)

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each: the link energy and the moments, or the "value" of a series."""
        x = batch.x.double()
        if self._is_series:
            return {"value": x.flatten()}
        links = torch.stack([x * x.roll(-1, axis) for axis in range(1, x.ndim)]).sum(0)
        energy = -links.flatten(1).sum(1) / math.prod(x.shape[1:])
        return {"link energy": energy, **moments(x)}

    @property
    def _is_series(self) -> bool:
        return math.prod(self.schema.shape) == 1

    def read(self) -> Batch:
        """Return all configurations, with `chain`."""
        batch = self.source.read(0, len(self.source))
        if batch.chain is None:
            return batch.replace(chain=torch.zeros(len(batch), dtype=torch.long))
        return batch
