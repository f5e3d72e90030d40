"""Anybody's gauge configurations, the action unknown: what can be measured on the links alone.

What `physgen.systems.gauge` measures: plaquettes of space and with time, Wilson loops, |L|, and, in
four dimensions, the charge and t^2 E after gradient flow; and besides

    Re L, Im L: of L, the mean of tr / N of the lines that wind once round the axis of time;

that of SU(2) is real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import FormatError
from physgen.io.arrays import names_in, stated, stored_schema, text_in
from physgen.io.formats import format_of
from physgen.io.joined import expand
from physgen.io.lattice.configuration import Given
from physgen.io.lattice.source import ConfigurationSource
from physgen.sampling.manifold import matrices
from physgen.systems.base import Derived
from physgen.systems.gauge import Gauge
from physgen.systems.gauge_loops import winding
from physgen.systems.lattice_files import FIELD

_GROUPS = {2: "SU(2)", 3: "SU(3)"}


@dataclass(frozen=True, kw_only=True)
class GaugeEnsemble:
    """Gauge configurations, as files hold them.

    Attributes:
        path: a file of one configuration or several, a pattern, a folder or a list of files;
            replicas and trajectory numbers are in their names.
        shape: extents, time first, where files do not say them.
        n: N of SU(N), where files do not say it.
        dataset: array of the links, in HDF5 or npz.
        order: of its axes, as in "t z y x mu(x y z t) a b".
        force: measure configurations though their checks fail.

    Raises:
        FormatError: when `source` is first looked at; see `ConfigurationSource`.

    >>> import tempfile
    >>> import numpy as np
    >>> links = np.broadcast_to(np.eye(3), (4, 2, 2, 2, 4, 3, 3)).astype(complex)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/unit.npy", links)
    ...     ensemble = GaugeEnsemble(path=f"{folder}/unit.npy")
    ...     values = ensemble.observables(ensemble.source.read(0, 1))
    >>> values["plaquette of space"].item(), values["Re L"].item()
    (1.0, 1.0)
    """

    file_keys: ClassVar[frozenset[str]] = frozenset({"path"})

    path: str | Path | tuple[str, ...]
    shape: tuple[int, ...] | None = None
    n: int | None = None
    dataset: str | None = None
    order: str | None = None
    force: bool = False

    @cached_property
    def source(self) -> ConfigurationSource:
        """The files as one source."""
        given = Given(self.shape, self.n, self.dataset, self.order)
        return ConfigurationSource(expand(self.path), given=given, force=self.force)

    @cached_property
    def gauge(self) -> Gauge:
        """What measures them; its coupling is of no account.

        Raises:
            FormatError: the group is one of which nothing is measured.
        """
        header = self.source.headers[0]
        if header.n not in _GROUPS:
            raise FormatError(
                f"{self.source.name}: {header.group}; SU(2) and SU(3) are measured (`physgen "
                "inspect` gives plaquette and checks of any SU(N))"
            )
        return Gauge(group=_GROUPS[header.n], shape=header.shape)  # type: ignore[arg-type]

    @property
    def schema(self) -> Schema:
        """Of one configuration."""
        return self.gauge.schema

    @property
    def derived(self) -> Mapping[str, Derived]:
        """That of the theory."""
        return self.gauge.derived

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each, see above."""
        values = self.gauge.observables(batch)
        line = winding(matrices(batch.x))
        values["Re L"] = line.real
        return values if self.gauge.n == 2 else values | {"Im L": line.imag}


def theory_of_angles(path: Path) -> Gauge | None:
    """Return the theory of a file of U(1) angles that states it, as physgen writes them.

    `None` where the file is another, or states no single beta.
    """
    if format_of(path) not in ("HDF5", "npz") or FIELD not in names_in(path):
        return None
    schema, beta = stored_schema(path), stated(path, ["beta", "kappa"], FIELD)
    if text_in(path, "group") != "U(1)" or schema is None or set(beta) != {"beta"}:
        return None
    if len(beta["beta"]) > 1:
        return None
    return Gauge(group="U(1)", shape=schema.shape[1:], beta=float(beta["beta"][0]))
