r"""Pure gauge theories with Wilson's action on a periodic lattice of two to four dimensions.

Links U_mu(x) are in U(1), SU(2) or SU(3), N = 1, 2, 3, and

    S = -(beta / N) sum_P Re tr P,    P = U_mu(x) U_nu(x + mu) U_mu(x + nu)^+ U_nu(x)^+,

summed over all plaquettes, without a constant; the prior is Haar's measure. A link of U(1) is its
angle; one of SU(N) is stored as the real and imaginary parts of its matrix, (N, N, 2). The first
axis is time. Measured are

    plaquette = mean of Re tr P / N,    of space: without, with time: with the first axis,
    W(r x t), the mean of Re tr / N of rectangles r by t,
    |L|, L being the mean of tr / N of the lines that wind once round the first axis,

of U(1) in two dimensions the topological charge Q = sum_P theta_P / 2 pi, theta_P in (-pi, pi), and
of SU(N) in four dimensions the clover's Q and t^2 E after gradient flow (`flow_time`), of lattices
of up to 2^19 links.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, FormatError
from physgen.io.arrays import Axes
from physgen.io.joined import joined
from physgen.io.lattice.configuration import AS_STATED, Reading
from physgen.io.lattice.source import ConfigurationSource
from physgen.io.source import Source
from physgen.sampling import manifold
from physgen.systems import gauge_chains, gauge_loops, lattice_files
from physgen.systems.base import Derived, Moves
from physgen.systems.family import refuse_condition, refuse_lists
from physgen.systems.gauge_exact import strong_coupling, torus
from physgen.systems.gauge_loops import energy_and_charge, plaquettes, wilson, winding

_LARGEST = 1 << 19
"""Links of a configuration up to which it is brought to a flow time to measure its charge."""
_TABULATED: dict[tuple[str, tuple[int, ...], float], tuple[float, float]] = {
    ("SU(3)", (8, 8, 8, 8), 5.7): (0.5500, 0.0005),
    ("SU(3)", (8, 8, 8, 8), 6.0): (0.59405, 0.00019),
}
ROWS_CHECKED = 64
"""Configurations of a file whose matrices are looked at before any is used."""
_UNITARY = 1e-5
"""Distance from the group that single precision explains."""


@dataclass(frozen=True, kw_only=True)
class Gauge(lattice_files.EnsembleFiles):
    """A gauge theory without matter.

    Attributes:
        group: "U(1)", "SU(2)" or "SU(3)".
        shape: extents of the lattice, two to four of them, each at least 2.
        beta: the inverse coupling, not negative.
        axes: of the links in files of several chains, ("chain", "time") or the other way round.

    Raises:
        DomainError: there is no such theory.

    >>> exact = Gauge(group="U(1)", shape=(8, 8), beta=2.0).exact()
    >>> round(exact["plaquette"], 4)  # I_1(2) / I_0(2), but for the torus
    0.6978
    """

    group: Literal["U(1)", "SU(2)", "SU(3)"] = "U(1)"
    shape: tuple[int, ...] = (8, 8)
    beta: float = 2.0
    axes: Axes | None = None

    couplings: ClassVar[tuple[Variable, ...]] = (
        Variable("beta", domain="non-negative", dtype="float64"),
    )

    def __post_init__(self) -> None:
        refuse_lists(self)
        if not 2 <= len(self.shape) <= 4 or min(self.shape) < 2:
            raise DomainError(
                f"gauge theory of shape {list(self.shape)}: give two to four extents of at least "
                "2, as in system.shape=[8,8]"
            )
        if not (self.beta >= 0 and math.isfinite(self.beta)):
            raise DomainError(f"gauge theory at beta = {self.beta:g}: it must not be negative")

    @property
    def n(self) -> int:
        """N."""
        return {"U(1)": 1, "SU(2)": 2, "SU(3)": 3}[self.group]

    @property
    def n_plaquettes(self) -> int:
        """Of the lattice."""
        return math.prod(self.shape) * math.comb(len(self.shape), 2)

    @property
    def schema(self) -> Schema:
        """(d, *shape) angles of U(1), (d, *shape, N, N, 2) numbers of SU(N)."""
        links = len(self.shape), *self.shape
        if self.n == 1:
            return Schema(links, (Variable("theta", domain="angle", dtype="float64"),))
        matrix = Variable("U", domain="special-unitary", dtype="float64")
        return Schema((*links, self.n, self.n, 2), (matrix,))

    @property
    def attributes(self) -> dict[str, Any]:
        """The action in words, and its parameters."""
        convention = "S = -(beta/N) sum_P Re tr P, Haar measure"
        return {"convention": convention, "group": self.group, "beta": self.beta}

    @property
    def derived(self) -> Mapping[str, Derived]:
        """chi_L = V_space (<|L|^2> - <|L|>^2); chi_Q = <Q^2> / V where there is a charge."""
        n_sites = math.prod(self.shape)
        n_lines = n_sites // self.shape[0]
        derived = {
            "chi_L": Derived(("|L|", "|L|^2"), lambda m: float(n_lines * (m[1] - m[0] ** 2)))
        }
        if self._has_charge or self._has_flow:
            derived["chi_Q"] = Derived(("Q^2",), lambda means: float(means[0] / n_sites))
        return derived

    @property
    def flow_time(self) -> float:
        """Of the gradient flow in four dimensions: (8 t)^1/2 is half of the lattice, t <= 1."""
        return min(1.0, min(self.shape) ** 2 / 32)

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the action of (B, *shape) links, differentiable."""
        refuse_condition(condition, self)
        if self.n == 1:  # Angles add up, without matrices.
            return -self.beta * gauge_loops.plaquette_angles(x).cos().flatten(1).sum(1)
        return -self.beta * self.n_plaquettes * wilson(self._links(x), 1, 1)

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each: plaquettes, W up to half of the lattice, |L|, |L|^2; Q, Q^2, t^2E.

        Q and t^2E of four dimensions are those of the links after gradient flow, in float64.
        """
        links = self._links(batch.x)
        values = {"plaquette": wilson(links, 1, 1)}
        if len(self.shape) > 2:
            values["plaquette of space"], values["plaquette with time"] = plaquettes(links)
        for r, t in ((1, 2), (2, 2)):
            if max(r, t) <= min(self.shape) // 2:
                values[f"W({r}x{t})"] = wilson(links, r, t)
        values["|L|"] = winding(links).abs()
        values["|L|^2"] = values["|L|"] ** 2
        if self._has_charge:
            charge = self._charge(batch.x)
            values |= {"Q": charge, "Q^2": charge**2}
        elif self._has_flow and len(batch):
            values |= self._flowed(batch.x)
        return values

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the links, (B, numbers of a link), or the (B, F) observables."""
        if level == "high":
            return torch.stack(list(self.observables(batch).values()), 1)
        x = batch.x.flatten(1)
        return torch.cat([x.cos(), x.sin()], 1) if self.n == 1 else x

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` configurations by heat bath and overrelaxation, chain after chain, in float64.

        Half of the chains begin at the unit, half with random links. Where they do not forget it,
        as the topological charge does at large beta, it is said in the log.
        """
        refuse_condition(condition, self)
        generator = torch.Generator().manual_seed(seed)
        chains = gauge_chains.n_chains(n, len(self.shape) * math.prod(self.shape))
        start = self.beginnings(chains, generator)
        length = -(-n // chains)
        found = gauge_chains.simulate(start.numpy(), self.beta, length, seed, self.slow)
        chain = torch.arange(chains).repeat_interleave(length)
        x = torch.from_numpy(found).flatten(0, 1)
        return Batch(x=x[:n].contiguous(), chain=chain[:n])

    def exact(self) -> dict[str, float]:
        """Return ln Z, the plaquette and <Q^2> in two dimensions; at beta = 0 the plaquette.

        >>> from scipy.special import i0, i1
        >>> value = Gauge(group="U(1)", shape=(16, 16), beta=2.0).exact()["plaquette"]
        >>> abs(value - float(i1(2) / i0(2))) < 1e-12  # as on an infinite lattice
        True
        """
        if self.beta == 0:
            return {"plaquette": 0.0, "ln Z": 0.0}
        if len(self.shape) != 2:
            return {}
        values = torus(self.n, self.beta, self.n_plaquettes)
        if "Q^2" in values:
            values |= {"Q": 0.0, "chi_Q": values["Q^2"] / self.n_plaquettes}
        return values

    def arbitrary(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, *shape) links from Haar's measure, in float64."""
        links = n, len(self.shape), *self.shape
        if self.n > 1:
            return manifold.haar(links, self.n, generator)
        uniform = torch.rand(links, generator=generator, dtype=torch.float64)
        return (2 * uniform - 1) * math.pi

    def beginnings(self, n: int, generator: torch.Generator) -> Tensor:
        """Return links where `n` chains begin, in float64: in turns unit and random ones."""
        start = self.arbitrary(n, generator)
        start[::2] = 0.0
        if self.n > 1:
            start[::2, ..., 0] = torch.eye(self.n).to(start)
        return start

    def moves(self) -> Moves:
        """Return the symmetries of the action: what they make of (B, *shape) links."""
        return {
            "gauge transformation": self._gauge_transformed,
            "translation": lambda x: (
                torch.roll(x, 1, 2 + axis) for axis in range(len(self.shape))
            ),
            "charge conjugation": lambda x: iter([self._conjugated(x)]),
            "axis exchange": self._exchanged,
            "reflection": lambda x: (self._reflected(x, a) for a in range(len(self.shape))),
        }

    def open(self, path: Path, *, varying: Sequence[str] = ()) -> Source:
        """Open an ensemble; raises `FormatError` where it is none, or of another lattice or group.

        What it says of the `varying` couplings is not compared with this theory.
        """
        if lattice_files.is_configuration(path):
            return self.open_ensemble([path])
        source = super().open(path)
        if self.n > 1:
            off = manifold.not_unitary(source.read(0, ROWS_CHECKED).x.double())
            if off.numel() and not off.max() < _UNITARY:
                raise FormatError(
                    f"{path}: matrices of row {int(off.flatten(1).amax(1).argmax())} are "
                    f"{off.max():.2g} away from {self.group}: of U U^+ or det U from one; real and "
                    "imaginary parts are on the last axis"
                )
        parameters = {"kappa": (0.0, "with fermions it is system.kind=schwinger")}
        parameters |= {} if "beta" in varying else {"beta": (self.beta, "set system.beta")}
        lattice_files.check_parameters(path, lattice_files.FIELD, parameters)
        return source

    def open_ensemble(self, paths: Sequence[Path], reading: Reading = AS_STATED) -> Source:
        """Open files of configurations as one ensemble, those that hold ensembles one by one.

        Raises:
            FormatError: they are of another lattice or group, or of several.
        """
        if reading == AS_STATED and not all(map(lattice_files.is_configuration, paths)):
            return joined([self.open(path) for path in paths])
        source = ConfigurationSource(paths, given=reading.given, force=reading.force)
        if source.schema.shape != self.schema.shape:
            header = source.headers[0]
            raise FormatError(
                f"{source.name}: links of {header.group} on {list(header.shape)} (t, z, y, x), and "
                f"this system is {self.group} on {list(self.shape)}; set system.group and "
                "system.shape"
            )
        return source

    def reference(self) -> dict[str, tuple[float, float]]:
        """Return tabulated plaquettes of SU(3), or the strong coupling series where it is good."""
        if (self.group, self.shape, self.beta) in _TABULATED:
            return {"plaquette": _TABULATED[self.group, self.shape, self.beta]}
        return strong_coupling(self.n, self.beta, self.shape)

    @property
    def _has_charge(self) -> bool:
        return self.n == 1 and len(self.shape) == 2

    @property
    def _has_flow(self) -> bool:
        return self.n > 1 and len(self.shape) == 4 and 4 * math.prod(self.shape) <= _LARGEST

    def _flowed(self, x: Tensor) -> dict[str, Tensor]:
        """Return (B,) Q, Q^2 and t^2 E of SU(N) in four dimensions after gradient flow."""
        from physgen.systems.kernels.gauge.flow import flowed

        links = flowed(x.detach().double().cpu().numpy(), self.flow_time, step=0.05)
        energy, charge = energy_and_charge(self._links(torch.from_numpy(links)))
        assert charge is not None
        values = {"Q": charge, "Q^2": charge**2, "t^2E": self.flow_time**2 * energy}
        return {name: value.to(x.device) for name, value in values.items()}

    def _links(self, x: Tensor) -> Tensor:
        """Return (B, d, *shape, N, N) complex matrices."""
        if self.n == 1:
            return torch.polar(torch.ones_like(x), x)[..., None, None]
        return manifold.matrices(x)

    def _charge(self, x: Tensor) -> Tensor:
        """Return (B,), Q of U(1) in two dimensions."""
        angles = manifold.wrapped(gauge_loops.plaquette_angles(x))
        return (angles.flatten(1).sum(1) / (2 * math.pi)).round()

    def slow(self, x: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return what changes slowly of (C, ...) links: plaquette, |L| and Q."""
        links = self._links(torch.from_numpy(x))
        values = {"plaquette": wilson(links, 1, 1), "|L|": winding(links).abs()}
        if self._has_charge:
            values["Q"] = self._charge(torch.from_numpy(x))
        return {name: value.numpy() for name, value in values.items()}

    def _gauge_transformed(self, x: Tensor) -> Iterator[Tensor]:
        """Yield g(x) U_mu(x) g(x + mu)^+ for random g."""
        generator = torch.Generator().manual_seed(1)
        g = self.arbitrary(len(x), generator)[:, 0].to(x)
        axes = range(len(self.shape))
        if self.n == 1:
            yield torch.stack([x[:, mu] + g - torch.roll(g, -1, 1 + mu) for mu in axes], 1)
            return
        at, links = manifold.matrices(g), manifold.matrices(x)
        moved = [at @ links[:, mu] @ torch.roll(at, -1, 1 + mu).mH for mu in axes]
        yield manifold.stored(torch.stack(moved, 1))

    def _exchanged(self, x: Tensor) -> Iterator[Tensor]:
        """Yield links with two axes of the same length exchanged."""
        for a, b in itertools.combinations(range(len(self.shape)), 2):
            if self.shape[a] == self.shape[b]:
                order = list(range(len(self.shape)))
                order[a], order[b] = b, a
                yield x.transpose(2 + a, 2 + b)[:, order]

    def _reflected(self, x: Tensor, axis: int) -> Tensor:
        """Return links seen in a mirror: those along the axis run backwards."""
        flipped = x.flip(2 + axis)
        along = torch.roll(flipped[:, axis], -1, 1 + axis)
        back = self._conjugated(along)
        back = back if self.n == 1 else back.transpose(-3, -2)
        return torch.stack(
            [back if mu == axis else flipped[:, mu] for mu in range(len(self.shape))], 1
        )

    def _conjugated(self, x: Tensor) -> Tensor:
        """Return the complex conjugates of links."""
        return -x if self.n == 1 else torch.stack([x[..., 0], -x[..., 1]], -1)
