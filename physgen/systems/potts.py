r"""The Potts model on a periodic lattice: square, chain, cubic or triangular.

A configuration of spins s_i = 0, ..., q - 1 on N sites has probability exp(-E / T) / Z with

    E = - sum_<ij> delta(s_i, s_j),

nearest neighbours counted once. On the square lattice it orders below Tc = 1 / ln(1 + sqrt q),
continuously up to q = 4 and with latent heat above, where E / N = -(1 + 1 / sqrt q) in the infinite
lattice, by duality (Wu, Rev. Mod. Phys. 54 (1982) 235); q = 2 is the Ising model at twice the
temperature. Measured on a configuration are E / N and the order parameter m = (q max_s n_s / N -
1) / (q - 1), n_s being the number of sites of the value s; derived from means,

    C / N = N (<e^2> - <e>^2) / T^2,    chi = N (<m^2> - <m>^2) / T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.io.arrays import Axes
from physgen.io.potts import PottsSource, potts_writer
from physgen.io.writer import Append
from physgen.systems.base import Derived
from physgen.systems.family import refuse_condition, refuse_lists
from physgen.systems.ising import Ising
from physgen.systems.lattice_files import check_parameters, names_of_temperature
from physgen.systems.potts_torus import potts_torus
from physgen.systems.spin_chains import by_clusters
from physgen.systems.spin_exact import potts_strip
from physgen.systems.spin_lattices import (
    DIRECTIONS,
    LatticeName,
    behind,
    check_lattice,
    check_stated_lattice,
    check_temperature,
    neighbours,
)

_MOST = 100
"""Largest q, for which one byte a spin is enough."""
_MOST_ROWS = 256
"""Rows and columns of a transfer matrix that is quickly taken to a power."""
_MOST_STATES = 10_000
"""States of a row for which a transfer matrix is quickly applied site by site."""


def critical_temperature(q: int) -> float:
    """Return Tc of the infinite square lattice.

    >>> round(2 * critical_temperature(2), 6)  # of the Ising model
    2.269185
    """
    return 1 / math.log(1 + math.sqrt(q))


@dataclass(frozen=True, kw_only=True)
class Potts:
    """The ferromagnetic Potts model on a torus of `shape`.

    Attributes:
        shape: extents, each at least 2: rows and columns, or one or three of them.
        q: how many values a spin has, 2 to 100.
        temperature: T > 0, in units of the coupling; Tc of q = 3 on the square lattice by default.
        lattice: with two neighbours along each axis, and two more along a diagonal if triangular.
        axes: of the spins in files of several chains, ("chain", "time") or the other way round.

    Raises:
        DomainError: there is no such model.

    >>> system = Potts(shape=(4, 4), q=3)
    >>> system.observables(Batch(x=torch.ones(1, 4, 4)))["E/N"].item()
    -2.0
    """

    shape: tuple[int, ...] = (16, 16)
    q: int = 3
    temperature: float = critical_temperature(3)
    lattice: LatticeName = "square"
    axes: Axes | None = None

    file_keys: ClassVar[frozenset[str]] = frozenset({"axes"})
    couplings: ClassVar[tuple[Variable, ...]] = (
        Variable("temperature", domain="non-negative", dtype="float64"),
    )

    def __post_init__(self) -> None:
        refuse_lists(self)
        check_lattice("potts", self.lattice, self.shape)
        check_temperature("potts", self.temperature)
        if not 2 <= self.q <= _MOST:
            raise DomainError(f"potts of system.q={self.q} values: take 2 to {_MOST}")

    @property
    def n_sites(self) -> int:
        """N."""
        return math.prod(self.shape)

    @property
    def schema(self) -> Schema:
        """One whole number a site, 0 to q - 1."""
        high = float(self.q - 1)
        spin = Variable("spin", domain="integer", dtype="int8", low=0.0, high=high)
        return Schema(tuple(self.shape), (spin,))

    @property
    def derived(self) -> Mapping[str, Derived]:
        """C/N and chi of the module's head."""
        n, t = self.n_sites, self.temperature

        def specific_heat(means: NDArray[np.float64]) -> float:
            return float(n * (means[0] - means[1] ** 2) / t**2)

        def susceptibility(means: NDArray[np.float64]) -> float:
            return float(n * (means[0] - means[1] ** 2) / t)

        return {
            "C/N": Derived(("(E/N)^2", "E/N"), specific_heat),
            "chi": Derived(("m^2", "m"), susceptibility),
        }

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), E / T of (B, *shape) whole numbers."""
        refuse_condition(condition, self)
        return self._energy(x) / self.temperature

    def value_fields(self, x: Tensor) -> Tensor:
        """Return (B, q, *shape), the neighbours of a site that have each value, over T.

        The distribution of a spin given all others is their softmax. Sites of (B, *shape) values
        that are none of the q count for nothing.
        """
        table = torch.from_numpy(neighbours(self.lattice, self.shape)).long().to(x.device)
        near = x.flatten(1)[:, table]
        counts = torch.stack([(near == value).sum(2) for value in range(self.q)], 1)
        fields = counts.to(x.dtype if x.is_floating_point() else torch.float32) / self.temperature
        return fields.reshape(len(x), self.q, *self.shape)

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return E/N, m and their squares, (B,) float64, and "fractions" (B, q), largest first."""
        e = self._energy(batch.x).double() / self.n_sites
        counts = one_hot(batch.x.flatten(1).round().long().clamp(0, self.q - 1), self.q).sum(1)
        fractions = (counts.double() / self.n_sites).sort(1, descending=True).values
        m = (self.q * fractions[:, 0] - 1) / (self.q - 1)
        return {"E/N": e, "(E/N)^2": e**2, "m": m, "m^2": m**2, "fractions": fractions}

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return (B, N q), one where a site has a value, or E/N, m and the fractions."""
        dtype = batch.x.dtype if batch.x.is_floating_point() else torch.float32
        if level == "low":
            whole = batch.x.flatten(1).round().long().clamp(0, self.q - 1)
            return one_hot(whole, self.q).flatten(1).to(dtype)
        o = self.observables(batch)
        return torch.cat([o["E/N"][:, None], o["m"][:, None], o["fractions"]], 1).to(dtype)

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` configurations by clusters, each about 10 N sites after the last.

        Values are exchanged at random in each, as the model allows.
        """
        from physgen.systems.kernels import ising, potts

        refuse_condition(condition, self)
        state, table = ising.random_state(seed), neighbours(self.lattice, self.shape)
        options = (self.q, self.temperature)
        spins = np.zeros(self.n_sites, np.int8)
        potts.metropolis(spins, table, options, 100, state)

        def flip(number: int) -> int:
            return int(potts.clusters(spins, table, options, number, state))

        def fill(n_clusters: int, out: NDArray[np.int8]) -> None:
            for one in out.reshape(len(out), -1):
                potts.clusters(spins, table, options, n_clusters, state)
                potts.metropolis(spins, table, options, 1, state)
                one[:] = spins

        chain = np.empty((n, *self.shape), np.int8)
        by_clusters(flip, fill, chain)
        draws = np.random.default_rng(seed).random((n, self.q))
        names = draws.argsort(1).astype(np.int8)
        renamed = np.take_along_axis(names, chain.reshape(n, -1).astype(np.int64), 1)
        return Batch(x=torch.from_numpy(renamed.reshape(chain.shape)))

    def exact(self) -> dict[str, float]:
        """Return F/N, E/N, C/N and ln Z of this finite lattice, as far as they are known.

        Of chains, of square and triangular lattices where q = 2, and of narrow ones: q^w, w being
        the shorter extent, is at most 10,000 on square and 256 on triangular lattices.
        """
        if self.lattice == "cubic":
            return {}
        if self.q == 2 and self.lattice != "chain":
            return self._as_ising()
        states = self.q ** (1 if self.lattice == "chain" else min(self.shape))
        if self.lattice == "square":
            known = states <= _MOST_STATES
            return potts_torus(self.shape, self.q, self.temperature) if known else {}
        if states > _MOST_ROWS:
            return {}
        return potts_strip(self.lattice, self.shape, self.q, self.temperature)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".h5", ".hdf5", ".npz")

    def open(self, path: Path, *, varying: Sequence[str] = ()) -> PottsSource:
        """Open an HDF5 or npz file of configurations; raises `FormatError` if it is not one.

        What it says of the `varying` couplings is not compared with this model.
        """
        source = PottsSource(path, q=self.q, shape=tuple(self.shape), axes=self.axes)
        if "temperature" not in varying:
            check_parameters(path, source.dataset, names_of_temperature(self.temperature))
        check_stated_lattice(path, self.lattice)
        return source

    def writer(
        self,
        path: Path,
        n: int,
        facts: Mapping[str, Any] | None = None,
        *,
        varying: Sequence[str] = (),
    ) -> AbstractContextManager[Append]:
        """Write configurations piece by piece as HDF5, or npz by the name.

        Conditions become columns that are called as the `varying` couplings.
        """
        names = [name for name in ("temperature", "lattice") if name not in varying]
        fixed = {name: getattr(self, name) for name in names}
        return potts_writer(path, tuple(self.shape), self.q, {**(facts or {}), **fixed}, varying)

    def _energy(self, x: Tensor) -> Tensor:
        """Return (B,) E, in the precision of floating-point spins, else in float32."""
        equal = torch.stack([x == near for near in behind(x, self.lattice)]).sum(0)
        dtype = x.dtype if x.is_floating_point() else torch.float32
        return -equal.flatten(1).sum(1).to(dtype)

    def _as_ising(self) -> dict[str, float]:
        """Return the exact values of q = 2.

        delta = (1 + s s') / 2: half the energy of Ising spins, and half of each bond.
        """
        ising = Ising(shape=self.shape, lattice=self.lattice, temperature=2 * self.temperature)
        known, bonds = ising.exact(), len(DIRECTIONS[self.lattice])
        f, e = (known[name] / 2 - bonds / 2 for name in ("F/N", "E/N"))
        log_z = -f * self.n_sites / self.temperature
        return {"F/N": f, "E/N": e, "C/N": known["C/N"], "ln Z": log_z}
