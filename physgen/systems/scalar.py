r"""Scalar field theory on a periodic lattice.

With V sites in d dimensions, in the convention of Albergo et al. (arXiv 2101.08176),

    S = sum_x [ m^2 phi_x^2 + lambda phi_x^4 + sum_mu (2 phi_x^2 - phi_x phi_{x+mu} - phi_x
        phi_{x-mu}) ],    Z = integral d^V phi exp(-S),

without a factor 1/2. Other conventions (`convention: standard` or `hopping`) and what takes one to
another stand in `physgen.systems.conventions`: couplings, fields and results are then theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Variable
from physgen.errors import DomainError, FormatError
from physgen.io.arrays import Axes, text_in
from physgen.io.source import Source
from physgen.sampling.thinning import spacing
from physgen.systems import lattice_files
from physgen.systems.conventions import TEXTS, Name, Plain, factor, plain
from physgen.systems.family import refuse_condition, refuse_lists
from physgen.systems.real_field import RealField, check_shape, moments

_REFERENCE_NAMES = ("chi2", "|m|", "phi^2", "U4", "xi2")
# (L, lambda): values and errors at m^2 = -4 on L x L, in the order of the names, from long HMC.
_REFERENCE: dict[tuple[int, float], tuple[tuple[float, ...], tuple[float, ...]]] = {
    (8, 8.0): ((0.7452, 0.08709, 0.14344, 0.0826, 1.233), (9e-4, 6e-5, 2e-5, 1e-3, 2e-3)),
    (6, 6.975): ((1.0598, 0.14125, 0.16136, 0.1904, 1.480), (14e-4, 11e-5, 4e-5, 8e-4, 2e-3)),
    (8, 6.008): ((1.9003, 0.14242, 0.18390, 0.2101, 2.003), (38e-4, 16e-5, 3e-5, 9e-4, 4e-3)),
    (10, 5.55): ((2.908, 0.14111, 0.19905, 0.2170, 2.496), (9e-3, 24e-5, 4e-5, 13e-4, 7e-3)),
    (12, 5.276): ((4.111, 0.14017, 0.21045, 0.2263, 2.997), (19e-3, 38e-5, 5e-5, 2e-3, 13e-3)),
    (14, 5.113): ((5.369, 0.13725, 0.21844, 0.2272, 3.450), (31e-3, 46e-5, 6e-5, 25e-4, 18e-3)),
}


@dataclass(frozen=True, kw_only=True)
class Phi4(RealField):
    """phi^4 theory; lambda = 0 is the free field.

    Attributes:
        shape: extents of the lattice, one to four of them, each at least 2.
        m2: the bare mass squared m^2; negative in the interesting region.
        lam: the coupling lambda >= 0.
        kappa: the hopping parameter, in the place of m2, in the convention hopping.
        convention: which action the couplings, and the fields, are those of.
        axes: of the field in files of several chains, ("chain", "time") or the other way round.

    Raises:
        DomainError: if there is no such theory (the action must be bounded from below).

    >>> system = Phi4(shape=(4, 4), m2=1.0, lam=0.0)
    >>> system.action(torch.ones(1, 4, 4))  # no gradients: V m^2 phi^2
    tensor([16.])
    """

    shape: tuple[int, ...] = (8, 8)
    m2: float = -4.0
    lam: float = 8.0
    kappa: float = 0.0
    convention: Name = "plain"
    axes: Axes | None = None

    couplings: ClassVar[tuple[Variable, ...]] = (
        Variable("m2", dtype="float64"),
        Variable("lam", domain="non-negative", dtype="float64"),
        Variable("kappa", domain="non-negative", dtype="float64"),
    )

    def __post_init__(self) -> None:
        refuse_lists(self)
        check_shape(self.shape)
        if self.convention == "hopping" and self.m2 != type(self).m2:
            raise DomainError(
                f"phi4 in the convention hopping has no m2 (it is {self.m2:g}), which follows from "
                "kappa and lam: leave it out"
            )
        if self.plain.lam < 0 or (self.plain.lam == 0 and self.plain.m2 <= 0):
            raise DomainError(
                f"phi4 with m2 = {self.plain.m2:g}, lam = {self.plain.lam:g} has no lowest action: "
                "lam must be positive, or lam = 0 with m2 > 0 (the free field)"
            )

    @cached_property
    def plain(self) -> Plain:
        """The same theory in the convention of the module's head, and the way there."""
        return plain(self.convention, len(self.shape), self.m2, self.lam, self.kappa)

    @property
    def attributes(self) -> dict[str, Any]:
        """The action in words, and its parameters."""
        names = ("kappa", "lam") if self.convention == "hopping" else ("m2", "lam")
        return {"convention": TEXTS[self.convention], **{n: getattr(self, n) for n in names}}

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the action of (B, *shape) fields in their own precision."""
        refuse_condition(condition, self)
        theory = self.plain
        scaled = theory.scale * x
        square = scaled * scaled
        density = (theory.m2 + 2 * len(self.shape)) * square + theory.lam * square * square
        density = density + theory.constant
        for axis in range(1, x.ndim):
            density = density - 2 * scaled * torch.roll(scaled, -1, axis)
        return density.flatten(1).sum(1)

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each: site averages, magnetisation, and the smallest momentum's power."""
        return {
            "action/V": self.action(batch.x) / self.n_sites,
            "phi^4": batch.x.pow(4).flatten(1).mean(1),
            **moments(batch.x),
        }

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` configurations by tuned, thinned HMC, chain after chain, in float64."""
        refuse_condition(condition, self)
        chains = hybrid_monte_carlo(self.shape, self.plain.m2, self.plain.lam, n, seed)
        length = chains.shape[1]
        chain = torch.arange(len(chains)).repeat_interleave(length)
        x = torch.from_numpy(chains).reshape(-1, *self.shape) / self.plain.scale
        return Batch(x=x[:n], chain=chain[:n])

    def exact(self) -> dict[str, float]:
        """Return what is known exactly: by symmetry, for the free field, and in one dimension.

        >>> values = Phi4(shape=(8, 8), m2=0.25, lam=0).exact()
        >>> values["chi2"], values["action/V"]  # 1 / (2 m^2), and half a unit a degree of freedom
        (2.0, 0.5)
        """
        values, theory = {"m": 0.0}, self.plain
        if theory.lam == 0:
            values |= free_field(self.shape, theory.m2)
        elif len(self.shape) == 1:
            values |= transfer_matrix(self.shape[0], theory.m2, theory.lam)
        values = {name: factor(name, theory.scale) * value for name, value in values.items()}
        offset = math.log(theory.scale) + theory.constant
        for name, shift in (("ln Z", -self.n_sites * offset), ("action/V", theory.constant)):
            if name in values:
                values[name] += shift
        return values

    def reference(self) -> dict[str, tuple[float, float]]:
        """Return long-run HMC values with their errors, where they are tabulated."""
        square = len(self.shape) == 2 and self.shape[0] == self.shape[1]
        lam = round(self.plain.lam, 9)
        known = square and math.isclose(self.plain.m2, -4.0, abs_tol=1e-9)
        row = _REFERENCE.get((self.shape[0], lam)) if known else None
        if row is None:
            return {}
        factors = [factor(name, self.plain.scale) for name in _REFERENCE_NAMES]
        scaled = [[f * v for f, v in zip(factors, part, strict=True)] for part in row]
        return dict(zip(_REFERENCE_NAMES, zip(*scaled, strict=True), strict=True))

    def open(self, path: Path, *, varying: Sequence[str] = ()) -> Source:
        """Open an ensemble; raises `FormatError` where it is none, or of another lattice.

        What it says of the `varying` couplings is not compared with this theory.
        """
        source = super().open(path)
        text = text_in(path, "convention")
        for name, known in TEXTS.items():
            if text is not None and text.strip() in (known, name) and name != self.convention:
                raise FormatError(
                    f"{path} says {text}, the convention {name}, and this system has "
                    f"{self.convention}; set system.convention={name}, and its couplings"
                )
        hopping = self.convention == "hopping"
        other = "set system.convention=hopping and system.kappa, or choose another file"
        parameters = {
            "m2": (math.nan if hopping else self.m2, "set system.m2"),
            "lam": (self.lam, "set system.lam"),
            "lambda": (self.lam, "set system.lam"),
            "kappa": (self.kappa, "set system.kappa") if hopping else (math.nan, other),
        }
        names = {"m2": "m2", "lam": "lam", "lambda": "lam", "kappa": "kappa"}
        parameters = {n: here for n, here in parameters.items() if names.get(n) not in varying}
        lattice_files.check_parameters(path, lattice_files.FIELD, parameters)
        return source


def free_field(shape: tuple[int, ...], m2: float) -> dict[str, float]:
    """Return exact values at lambda = 0, from G(k) = 1 / [2 (khat^2 + m^2)] over all momenta."""
    axes = (4 * np.sin(np.pi * np.arange(extent) / extent) ** 2 for extent in shape)
    khat2 = np.asarray(sum(np.ix_(*axes)))
    n_sites = math.prod(shape)
    return {
        "ln Z": float(0.5 * np.log(np.pi / (khat2 + m2)).sum()),
        "phi^2": float((0.5 / (khat2 + m2)).mean()),
        "action/V": 0.5,
        "|m|": math.sqrt(2 / math.pi * 0.5 / m2 / n_sites),
        "M^2": 0.5 * n_sites / m2,
        "chi2": 0.5 / m2,
        "U4": 0.0,
        "xi2": 1 / math.sqrt(m2),
    }


def transfer_matrix(length: int, m2: float, lam: float, n_points: int = 400) -> dict[str, float]:
    """Return exact ln Z, <phi^2>, <phi^4> of a ring of `length` sites.

    Z = tr T^length with T(x, y) = exp(-U(x)/2 + 2 x y - U(y)/2), U = (m^2 + 2) x^2 + lambda x^4,
    on equidistant points, whose error falls faster than any power of their distance.
    """
    # Neighbours only narrow exp(-m2 x^2 - lam x^4): beyond `edge` that is below e^-80 of its top.
    low = min(m2, 0.0)
    edge = math.sqrt(-low / (2 * lam) + 160 / (m2 - low + math.sqrt((m2 - low) ** 2 + 320 * lam)))
    x, spacing = np.linspace(-edge, edge, n_points, retstep=True)
    well = (m2 + 2) * x**2 + lam * x**4
    kernel_matrix = np.exp(2 * np.outer(x, x) - 0.5 * (well[:, None] + well)) * spacing
    values, vectors = np.linalg.eigh(kernel_matrix)
    weights = (values / values[-1]) ** length
    density = (vectors**2 @ weights) / weights.sum()
    return {
        "ln Z": float(length * np.log(values[-1]) + np.log(weights.sum())),
        "phi^2": float(density @ x**2),
        "phi^4": float(density @ x**4),
    }


def hybrid_monte_carlo(
    shape: tuple[int, ...], m2: float, lam: float, n: int, seed: int
) -> NDArray[np.float64]:
    """Return (LANES, ceil(n / LANES), V) configurations of chains that were tuned and thinned.

    Trajectories have length about 1, with cluster updates between them. The step is adapted until
    80 to 95% are accepted; then kept configurations are two autocorrelation times of M^2 apart, as
    a short run measures it.
    """
    from physgen.systems.kernels import scalar as kernel

    theory = kernel.Theory(kernel.neighbours(shape), float(m2), float(lam))
    states = kernel.streams(seed, kernel.LANES)
    n_sites = math.prod(shape)
    phi = np.empty((n_sites, kernel.LANES))
    for lane in range(kernel.LANES):
        kernel.normals(states[lane], phi[:, lane])
    phi *= math.sqrt(0.5 / (abs(m2) + 2 * len(shape)))
    if m2 < 0:  # Half of the lanes begin in the wells, so that chains that do not mix are seen.
        well = math.sqrt(-m2 / (2 * lam))
        phi[:, 0::4] += well
        phi[:, 1::4] -= well

    def run(step: float, n_skip: int, n_keep: int) -> tuple[float, NDArray[np.float64]]:
        out = np.empty((n_keep, kernel.LANES, n_sites))
        steps = kernel.Steps(step, max(2, round(1 / step)))
        rate = kernel.trajectories(phi, states, theory, steps, n_skip, out)
        return float(rate), out

    step = 0.2 / n_sites**0.25
    for _ in range(12):
        rate, _ = run(step, 50, 1)
        if rate < 0.80:
            step *= 0.75
        elif rate > 0.95:
            step *= 1.25
    _, trial = run(step, 1, 500)
    n_skip = spacing(trial.sum(-1) ** 2)
    _, out = run(step, n_skip, -(-n // kernel.LANES))
    return np.ascontiguousarray(out.transpose(1, 0, 2))
