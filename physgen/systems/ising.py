r"""The two-dimensional Ising model on a periodic lattice.

A configuration of spins s_i = -1 or +1 on N sites has probability exp(-E / T) / Z with

    E = - sum_<ij> s_i s_j - h sum_i s_i,

nearest neighbours counted once (J = 1, k_B = 1). It orders below Tc = 2 / ln(1 + sqrt 2). Measured
on a configuration are E / N and the magnetisation m = sum_i s_i / N; derived from means,

    C / N = N (<e^2> - <e>^2) / T^2,  chi = N (<m^2> - <|m|>^2) / T,  U4 = 1 - <m^4> / (3 <m^2>^2).

Without a field, the partition function is known exactly on every finite lattice: `kaufman`.
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

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError
from physgen.io.arrays import Axes
from physgen.io.spins import SpinSource, spin_writer
from physgen.io.writer import Append
from physgen.systems.base import Derived
from physgen.systems.family import refuse_condition, refuse_lists
from physgen.systems.kaufman import kaufman
from physgen.systems.lattice_files import check_parameters

CRITICAL_TEMPERATURE = 2 / math.log(1 + math.sqrt(2))

_BINDER = {8: (0.61295, 0.00009), 16: (0.61123, 0.00016)}
"""U4 at Tc on L x L, value and error, from long Monte Carlo runs."""


@dataclass(frozen=True, kw_only=True)
class Ising:
    """The Ising model on a torus of `shape`.

    Attributes:
        shape: rows and columns, each at least 2.
        temperature: T > 0, in units of the coupling; Tc by default.
        field: h, in units of the coupling.
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
    axes: Axes | None = None

    file_keys: ClassVar[frozenset[str]] = frozenset({"axes"})
    couplings: ClassVar[tuple[Variable, ...]] = (
        Variable("temperature", domain="non-negative", dtype="float64"),
        Variable("field", dtype="float64"),
    )

    def __post_init__(self) -> None:
        refuse_lists(self)
        if len(self.shape) != 2 or min(self.shape) < 2:
            raise DomainError(
                f"ising of shape {list(self.shape)}: a lattice has rows and columns, at least 2 of "
                "each, as in system.shape=[16,16]"
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise DomainError(f"ising at temperature {self.temperature:g}: it must be positive")
        if not math.isfinite(self.field):
            raise DomainError(f"ising in a field of {self.field}: it must be finite")

    @property
    def n_sites(self) -> int:
        """N."""
        return math.prod(self.shape)

    @property
    def schema(self) -> Schema:
        """One spin a site."""
        return Schema(
            tuple(self.shape), (Variable("spin", domain="spin", dtype="int8", low=-1, high=1),)
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
        neighbours = x.roll(1, -1) + x.roll(1, -2) + self.field
        return -(x * neighbours).flatten(1).sum(1) / self.temperature

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return E/N, m and their powers, (B,) float64, and the correlation "G(r)".

        G(r) is <s_i s_{i + r}> along the axes, (B, shortest length / 2), r = 1, 2, ...

        >>> up = Batch(x=torch.ones(1, 4, 4))
        >>> values = Ising(shape=(4, 4)).observables(up)
        >>> values["E/N"].item(), values["m"].item()
        (-2.0, 1.0)
        """
        x = batch.x if batch.x.is_floating_point() else batch.x.float()
        g = torch.stack([self._correlation(x, r) for r in range(1, min(self.shape) // 2 + 1)], 1)
        m = x.flatten(1).mean(1).double()
        # Two bonds a site: the mean over both axes at distance 1, twice.
        e = -2 * g[:, 0] - self.field * m
        return {
            "E/N": e,
            "(E/N)^2": e**2,
            "m": m,
            "|m|": m.abs(),
            "m^2": m**2,
            "m^4": m**4,
            "G(r)": g,
        }

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the (B, N) spins, or E/N, m, |m|, G(r) and the power of the longest waves."""
        x = batch.x if batch.x.is_floating_point() else batch.x.float()
        if level == "low":
            return x.flatten(1)
        o = self.observables(batch)
        spectrum = torch.fft.rfft2(x.double(), norm="ortho").abs().square()
        waves = torch.stack([spectrum[:, 1, 0], spectrum[:, 0, 1], spectrum[:, 1, 1]], 1)
        columns = torch.stack([o["E/N"], o["m"], o["|m|"]], 1)
        return torch.cat([columns, o["G(r)"], waves.log1p()], 1).to(x.dtype)

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` configurations, far enough apart in Monte Carlo time to be independent.

        In the disordered phase without a field by 64 bit-packed Metropolis chains, 10 + 20 xi^2
        sweeps apart (xi the exact correlation length), some of which leave out half of the flips,
        so that they decorrelate at any temperature. Else by cluster updates, each
        configuration about 10 N sites after the last (and, in a field, which rejects clusters, 100
        Metropolis sweeps), and turned round at random where there is no field: between neighbours
        |m| and E then correlate by about 0.01 on 16x16 at Tc.
        """
        refuse_condition(condition, self)
        even = not any(length % 2 for length in self.shape)
        xi = self._correlation_length() if self.field == 0 and even else math.inf
        spins = self._packed(n, seed, xi) if xi <= 4 else self._clusters(n, seed)
        return Batch(x=torch.from_numpy(spins))

    def exact(self) -> dict[str, float]:
        """Return F/N, E/N, C/N and ln Z of this finite lattice, and <m> = 0, where h = 0."""
        if self.field != 0:
            return {}
        result = kaufman(self.shape[0], self.shape[1], self.temperature)
        log_z = -result["F/N"] * self.n_sites / self.temperature
        return {**result, "ln Z": log_z, "m": 0.0}

    def reference(self) -> dict[str, tuple[float, float]]:
        """Return Monte Carlo values with their errors, where they are tabulated."""
        critical = math.isclose(self.temperature, CRITICAL_TEMPERATURE) and self.field == 0
        square = self.shape[0] == self.shape[1]
        known = critical and square and self.shape[0] in _BINDER
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
        t = self.temperature
        parameters: dict[str, tuple[float, str]] = {}
        if "temperature" not in varying:
            remedy = "set system.temperature"
            parameters |= dict.fromkeys(("temperature", "temp", "t"), (t, remedy))
            parameters["beta"] = (1 / t, f"{remedy} to 1/beta")
        if "field" not in varying:
            parameters |= dict.fromkeys(("field", "h"), (self.field, "set system.field"))
        check_parameters(path, source.dataset, parameters)
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
        here = {"temperature": self.temperature, "field": self.field}
        fixed = {name: value for name, value in here.items() if name not in varying}
        return spin_writer(path, tuple(self.shape), {**(facts or {}), **fixed}, varying)

    def _correlation(self, x: Tensor, r: int) -> Tensor:
        """Return (B,), the mean of s_i s_{i + r} over sites and both axes."""
        return (x * (x.roll(r, -1) + x.roll(r, -2))).flatten(1).mean(1).double() / 2

    def _correlation_length(self) -> float:
        """Correlation length of the infinite lattice above Tc, 1 / xi = -ln tanh K - 2K."""
        k = 1 / self.temperature
        inverse = -math.log(math.tanh(k)) - 2 * k
        return 1 / inverse if inverse > 0 else math.inf

    def _packed(self, n: int, seed: int, xi: float) -> NDArray[np.int8]:
        from physgen.systems.kernels import ising as kernel

        state = kernel.random_state(seed)
        words = np.random.default_rng(seed).integers(2**64, size=self.shape, dtype=np.uint64)
        sweeps = math.ceil(10 + 20 * xi**2)
        spins = np.empty((-(-n // 64), 64, *self.shape), np.int8)
        kernel.metropolis_64(words, self.temperature, 10 * sweeps, state)
        for block in spins:
            kernel.metropolis_64(words, self.temperature, sweeps, state)
            kernel.unpack_64(words, block)
        return spins.reshape(-1, *self.shape)[:n]

    def _clusters(self, n: int, seed: int) -> NDArray[np.int8]:
        from physgen.systems.kernels import ising as kernel

        state, t, h = kernel.random_state(seed), self.temperature, self.field
        # Along the field, so that no metastable state has to be left.
        spins = np.full(self.shape, -1 if h < 0 else 1, np.int8)
        kernel.metropolis(spins, t, h, 100, state)
        trial = 200
        kernel.wolff(spins, t, h, trial, state)
        size = kernel.wolff(spins, t, h, trial, state) / trial
        # A fixed number of clusters: to stop when enough sites were flipped would favour states
        # that large clusters lead to.
        n_clusters = math.ceil(10 * self.n_sites / size)
        updates = kernel.Updates(n_clusters, 1 if h == 0 else 100)
        chain = np.empty((n, *self.shape), np.int8)
        kernel.wolff(spins, t, h, 20 * n_clusters, state)
        kernel.cluster_chain(spins, t, h, updates, chain, state)
        if h == 0:
            turn = np.random.default_rng(seed).integers(2, size=(n, 1, 1), dtype=np.int8)
            chain *= 1 - 2 * turn
        return chain
