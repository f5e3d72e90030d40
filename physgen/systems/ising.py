r"""The Ising model on a periodic lattice: square, chain, cubic or triangular.

A configuration of spins s_i = -1 or +1 on N sites has probability exp(-E / T) / Z with

    E = - sum_<ij> J_ij s_i s_j - h sum_i s_i,

nearest neighbours counted once (k_B = 1), and J_ij = 1, or -1 (antiferromagnet), or one of both for
each bond, drawn once and for all (the Edwards-Anderson model). On the square lattice the
ferromagnet orders below Tc = 2 / ln(1 + sqrt 2). Measured on a configuration are E / N and the
magnetisation m = sum_i s_i / N, of an antiferromagnet with two sublattices also the staggered ms;
derived from means,

    C / N = N (<e^2> - <e>^2) / T^2,  chi = N (<m^2> - <|m|>^2) / T,  U4 = 1 - <m^4> / (3 <m^2>^2).

Without disorder and field, the partition function is known exactly on every finite square lattice
(`kaufman`), triangular lattice and chain (`spin_exact`), on chains in a field as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.io.arrays import Axes
from physgen.io.spins import SpinSource, spin_writer
from physgen.io.writer import Append
from physgen.systems import ising_chains
from physgen.systems.base import Derived, Distribution
from physgen.systems.family import refuse_condition, refuse_lists
from physgen.systems.kaufman import kaufman
from physgen.systems.lattice_files import check_parameters, names_of_temperature
from physgen.systems.spin_exact import energy_levels, ring, torus
from physgen.systems.spin_lattices import (
    DIRECTIONS,
    LatticeName,
    at_neighbours,
    behind,
    bipartite,
    check_bonds,
    check_lattice,
    check_stated_bonds,
    check_stated_lattice,
    check_temperature,
    neighbours,
    random_signs,
    staggered,
)

CRITICAL_TEMPERATURE = 2 / math.log(1 + math.sqrt(2))

_BINDER = {8: (0.61295, 0.00009), 16: (0.61123, 0.00016)}
"""U4 at Tc on L x L, value and error, from long Monte Carlo runs."""

_MOST_LEVELS = 1024
"""Sites of a lattice whose levels are computed in about a second."""


@dataclass(frozen=True, kw_only=True)
class Ising:
    """The Ising model on a torus of `shape`.

    Attributes:
        shape: extents, each at least 2: rows and columns, or one or three of them.
        temperature: T > 0, in units of the coupling; Tc of the square lattice by default.
        field: h, in units of the coupling.
        lattice: with two neighbours along each axis, and two more along a diagonal if triangular.
        coupling: J, 1 of a ferromagnet, -1 of an antiferromagnet.
        disorder: seed of bonds +1 and -1, drawn with equal odds (`spin_lattices.random_signs`).
        axes: of the spins in files of several chains, ("chain", "time") or the other way round.

    Raises:
        DomainError: there is no such model.

    >>> round(Ising(shape=(2, 2), temperature=2.0).exact()["E/N"], 6)
    -1.800825
    >>> round(-4 * (math.exp(4) - math.exp(-4)) / (2 * math.exp(4) + 12 + 2 * math.exp(-4)), 6)
    -1.800825
    """

    shape: tuple[int, ...] = (16, 16)
    temperature: float = CRITICAL_TEMPERATURE
    field: float = 0.0
    lattice: LatticeName = "square"
    coupling: Literal[1, -1] = 1
    disorder: int | None = None
    axes: Axes | None = None

    file_keys: ClassVar[frozenset[str]] = frozenset({"axes"})
    couplings: ClassVar[tuple[Variable, ...]] = (
        Variable("temperature", domain="non-negative", dtype="float64"),
        Variable("field", dtype="float64"),
    )

    def __post_init__(self) -> None:
        refuse_lists(self)
        check_lattice("ising", self.lattice, self.shape)
        check_temperature("ising", self.temperature)
        check_bonds(self.lattice, self.shape, self.coupling, self.disorder)
        if not math.isfinite(self.field):
            raise DomainError(f"ising in a field of {self.field}: it must be finite")

    @property
    def n_sites(self) -> int:
        """N."""
        return math.prod(self.shape)

    @property
    def ferromagnetic(self) -> bool:
        """Whether all bonds are +1."""
        return self.disorder is None and self.coupling > 0

    @property
    def schema(self) -> Schema:
        """One spin a site."""
        return Schema(
            tuple(self.shape), (Variable("spin", domain="spin", dtype="int8", low=-1, high=1),)
        )

    @property
    def frustrated(self) -> bool:
        """Whether no configuration satisfies all bonds, so that clusters do not help."""
        antiferromagnet = self.coupling < 0 and not bipartite(self.lattice)
        return self.disorder is not None or antiferromagnet

    @cached_property
    def bonds(self) -> NDArray[np.int8]:
        """(n_directions, *shape), J of the bond of each site x with x - d."""
        if self.disorder is not None:
            return random_signs(self.lattice, self.shape, self.disorder)
        signs = np.ones((len(DIRECTIONS[self.lattice]), *self.shape), np.int8)
        return self.coupling * signs

    @property
    def model(self) -> ising_chains.Model:
        """What the chains are told."""
        table = neighbours(self.lattice, self.shape)
        signs = at_neighbours(self.bonds, self.lattice, self.shape)
        fast = self.lattice == "square" and self.ferromagnetic
        ground = staggered(self.shape) if self.coupling < 0 else np.ones(self.shape, np.int8)
        return ising_chains.Model(
            self.shape, table, signs, fast, ground, self.temperature, self.field
        )

    @property
    def derived(self) -> Mapping[str, Derived]:
        """C/N, chi and U4 of the module's head."""
        n, t = self.n_sites, self.temperature

        def specific_heat(means: NDArray[np.float64]) -> float:
            return float(n * (means[0] - means[1] ** 2) / t**2)

        def susceptibility(means: NDArray[np.float64]) -> float:
            return float(n * (means[0] - means[1] ** 2) / t)

        def binder(means: NDArray[np.float64]) -> float:
            return float(1 - means[0] / (3 * means[1] ** 2))

        return {
            "C/N": Derived(("(E/N)^2", "E/N"), specific_heat),
            "chi": Derived(("m^2", "|m|"), susceptibility),
            "U4": Derived(("m^4", "m^2"), binder),
        }

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), E / T of (B, rows, columns) spins in their own precision."""
        refuse_condition(condition, self)
        x = x if x.is_floating_point() else x.float()
        return -(x * (self._pull(x) + self.field)).flatten(1).sum(1) / self.temperature

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return E/N, m and their powers, (B,) float64, and the correlation "G(r)".

        G(r) is <s_i s_{i + r}> along the axes, (B, shortest length / 2), r = 1, 2, ... The
        antiferromagnet has "|ms|" and "ms^2".

        >>> up = Batch(x=torch.ones(1, 4, 4))
        >>> values = Ising(shape=(4, 4)).observables(up)
        >>> values["E/N"].item(), values["m"].item()
        (-2.0, 1.0)
        """
        x = batch.x if batch.x.is_floating_point() else batch.x.float()
        g = torch.stack([self._correlation(x, r) for r in range(1, min(self.shape) // 2 + 1)], 1)
        m = x.flatten(1).mean(1).double()
        e = -(x * self._pull(x)).flatten(1).mean(1).double() - self.field * m
        values = {
            "E/N": e,
            "(E/N)^2": e**2,
            "m": m,
            "|m|": m.abs(),
            "m^2": m**2,
            "m^4": m**4,
            "G(r)": g,
        }
        if self.coupling < 0 and bipartite(self.lattice):
            signs = torch.from_numpy(staggered(self.shape)).to(x)
            ms = (x * signs).flatten(1).mean(1).double()
            values |= {"|ms|": ms.abs(), "ms^2": ms**2}
        return values

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the (B, N) spins, or E/N, m, |m|, G(r) and the power of the longest waves."""
        x = batch.x if batch.x.is_floating_point() else batch.x.float()
        if level == "low":
            return x.flatten(1)
        o = self.observables(batch)
        axes = range(1, x.ndim)
        spectrum = torch.fft.fftn(x.double(), dim=tuple(axes), norm="ortho").abs().square()
        # One wave along each axis, and one along all.
        places = [*torch.eye(len(axes), dtype=torch.long), torch.ones(len(axes), dtype=torch.long)]
        if len(axes) == 1:
            places = places[:1]
        waves = torch.stack([spectrum[(slice(None), *place)] for place in places], 1)
        columns = torch.stack([o["E/N"], o["m"], o["|m|"]], 1)
        return torch.cat([columns, o["G(r)"], waves.log1p()], 1).to(x.dtype)

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` configurations, far enough apart in Monte Carlo time to be independent.

        The ferromagnet on the square lattice in the disordered phase without a field by 64
        bit-packed Metropolis chains, 10 + 20 xi^2 sweeps apart (xi the exact correlation length),
        some of which leave out half of the flips, so that they decorrelate at any temperature.
        Frustrated bonds by parallel tempering of 8 chains, which say in the log if they do not mix.
        Else by cluster updates, each configuration about 10 N sites after the last (and, in a
        field, which rejects clusters, 100 sweeps), and all its spins turned with the probability of
        that: between neighbours |m| and E then correlate by about 0.01 on 16x16 at Tc.
        """
        refuse_condition(condition, self)
        if self.frustrated:
            chains = ising_chains.tempered(self.model, -(-n // ising_chains.CHAINS), seed)
            number = torch.arange(len(chains)).repeat_interleave(chains.shape[1])
            x = torch.from_numpy(chains).reshape(-1, *self.shape)
            return Batch(x=x[:n].contiguous(), chain=number[:n])
        even = not any(length % 2 for length in self.shape)
        packed = self.lattice == "square" and self.ferromagnetic and self.field == 0 and even
        xi = ising_chains.correlation_length(self.temperature) if packed else math.inf
        if xi <= 4:
            spins = ising_chains.packed(self.shape, self.temperature, xi, n, seed)
        else:
            spins = ising_chains.clusters(self.model, n, seed)
        return Batch(x=torch.from_numpy(spins))

    def exact(self) -> dict[str, float]:
        """Return F/N, E/N, C/N, ln Z and <m> of this finite lattice, as far as they are known."""
        if self.lattice == "chain" and self.disorder is None:
            return ring(self.n_sites, self.coupling, self.temperature, self.field)
        if self.field != 0 or self.disorder is not None or self.lattice == "cubic":
            return {"m": 0.0} if self.field == 0 else {}
        if self.lattice == "triangular":
            return {**torus(self.lattice, self.shape, self.coupling, self.temperature), "m": 0.0}
        result = kaufman(self.shape[0], self.shape[1], self.temperature)
        log_z = -result["F/N"] * self.n_sites / self.temperature
        return {**result, "ln Z": log_z, "m": 0.0}

    def distributions(self) -> Mapping[str, Distribution]:
        """Return the exact distribution of E/N, without field and disorder, to 32x32 sites.

        On square and triangular lattices; Beale's, see `spin_exact`.
        """
        planar = self.lattice in ("square", "triangular") and self.disorder is None
        if not planar or self.field != 0 or self.n_sites > _MOST_LEVELS:
            return {}
        e, p = energy_levels(self.lattice, self.shape, self.coupling, self.temperature)
        order = e.argsort()
        return {"E/N": Distribution(e[order] / self.n_sites, p[order])}

    def reference(self) -> dict[str, tuple[float, float]]:
        """Return Monte Carlo values with their errors, where they are tabulated."""
        critical = math.isclose(self.temperature, CRITICAL_TEMPERATURE) and self.field == 0
        square = self.lattice == "square" and self.shape[0] == self.shape[1]
        known = critical and square and self.ferromagnetic and self.shape[0] in _BINDER
        return {"U4": _BINDER[self.shape[0]]} if known else {}

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".h5", ".hdf5", ".npz")

    def open(self, path: Path, *, varying: Sequence[str] = ()) -> SpinSource:
        """Open an HDF5 or npz file of configurations; raises `FormatError` if it is not one.

        What it says of the `varying` couplings is not compared with this model.
        """
        source = SpinSource(path, shape=tuple(self.shape), axes=self.axes)
        parameters: dict[str, tuple[float, str]] = {}
        if "temperature" not in varying:
            parameters |= names_of_temperature(self.temperature)
        if "field" not in varying:
            parameters |= dict.fromkeys(("field", "h"), (self.field, "set system.field"))
        check_parameters(path, source.dataset, parameters)
        check_stated_lattice(path, self.lattice)
        check_stated_bonds(path, self.coupling, self.disorder)
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
        here = {"temperature": self.temperature, "field": self.field, "lattice": self.lattice}
        bonds = (
            {"coupling": self.coupling} if self.disorder is None else {"disorder": self.disorder}
        )
        fixed = {name: value for name, value in (here | bonds).items() if name not in varying}
        return spin_writer(path, tuple(self.shape), {**(facts or {}), **fixed}, varying)

    def _correlation(self, x: Tensor, r: int) -> Tensor:
        """Return (B,), the mean of s_i s_{i + r} over sites and axes."""
        near = sum((x.roll(r, axis) for axis in range(x.ndim - 2, 0, -1)), x.roll(r, -1))
        return (x * near).flatten(1).mean(1).double() / len(self.shape)

    def _pull(self, x: Tensor) -> Tensor:
        """Return (B, *shape), sum_d J s_{x - d}: the part of each site in the sum over bonds."""
        first, *others = behind(x, self.lattice)
        if self.disorder is not None:
            signs = torch.from_numpy(self.bonds).to(x)
            return sum(
                (s * near for s, near in zip(signs[1:], others, strict=True)), signs[0] * first
            )
        return self.coupling * sum(others, first)
