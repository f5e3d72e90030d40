r"""O(N) models: unit vectors of N components on a periodic lattice of one to four dimensions.

    S = -beta sum_x sum_mu s_x . s_{x+mu},    s_x . s_x = 1,

the prior being the uniform distribution on the sphere, so that ln Z = 0 at beta = 0; N = 2 is the
XY model, N = 3 the Heisenberg model. With M = sum_x s_x of V sites, measured are

    s.s = mean of s_x . s_{x+mu},    |m| = |M| / V,    M^2,  M^4,  |phi(k)|^2,

the last with phi = s, summed over components, at the smallest momentum along the longest axes; and
derived from means

    chi2 = <M^2> / V,    U4 = 1 - N <M^4> / ((N + 2) <M^2>^2),    xi2 as of any scalar field
    (`physgen.systems.real_field`).

In one dimension all that is linear in correlations is known: see `ring`. The XY model has currents,
a helicity modulus and, from two dimensions on, vortices as well: see `physgen.systems.xy`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
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
from physgen.io.source import Source
from physgen.sampling.autocorrelation import mixed
from physgen.sampling.thinning import spacing
from physgen.systems import lattice_files, xy
from physgen.systems.base import Derived
from physgen.systems.family import refuse_condition, refuse_lists
from physgen.systems.real_field import check_shape, lowest_modes, magnetic

LOG = logging.getLogger("physgen")

CHAINS = 8
_TRIAL = 500
"""Configurations of the run before, which tells how far apart the kept ones must be."""
_ROWS_CHECKED = 64
"""Configurations of a file whose vectors are looked at before any is used."""
_LENGTH = 1e-5
"""Distance of a length from one that single precision explains."""


@dataclass(frozen=True, kw_only=True)
class ONModel(lattice_files.EnsembleFiles):
    """An O(N) model.

    Attributes:
        shape: extents of the lattice, one to four of them, each at least 2.
        components: N, at least 2 (one component is the Ising model).
        beta: the inverse coupling, not negative.
        axes: of the field in files of several chains, ("chain", "time") or the other way round.

    Raises:
        DomainError: there is no such model.

    >>> exact = ONModel(shape=(64,), components=3, beta=1.5).exact()
    >>> round(exact["s.s"], 6), round(1 / math.tanh(1.5) - 1 / 1.5, 6)  # of a long chain
    (0.438125, 0.438125)
    """

    shape: tuple[int, ...] = (16, 16)
    components: int = 3
    beta: float = 1.0
    axes: Axes | None = None

    couplings: ClassVar[tuple[Variable, ...]] = (
        Variable("beta", domain="non-negative", dtype="float64"),
    )

    def __post_init__(self) -> None:
        refuse_lists(self)
        check_shape(self.shape)
        if self.components < 2:
            raise DomainError(
                f"an O(N) model of {self.components} components: N is at least 2; of one component "
                "it is system.kind=ising"
            )
        if not (self.beta >= 0 and math.isfinite(self.beta)):
            raise DomainError(f"an O(N) model at beta = {self.beta:g}: it must not be negative")

    @property
    def n_sites(self) -> int:
        """V."""
        return math.prod(self.shape)

    @property
    def schema(self) -> Schema:
        """(*shape, N) components of unit vectors."""
        vector = Variable("s", domain="unit-vector", dtype="float64")
        return Schema((*self.shape, self.components), (vector,))

    @property
    def attributes(self) -> dict[str, Any]:
        """The action in words, and its parameters."""
        convention = "S = -beta sum_<xy> s_x.s_y, |s| = 1, uniform prior"
        return {"convention": convention, "components": self.components, "beta": self.beta}

    @property
    def derived(self) -> Mapping[str, Derived]:
        """chi2, U4 and xi2 of the module's head."""
        factor = self.components / (self.components + 2)

        def binder(means: NDArray[np.float64]) -> float:
            return float(1 - factor * means[1] / means[0] ** 2)

        result = {**magnetic(self.shape), "U4": Derived(("M^2", "M^4"), binder)}
        if self.components == 2:
            result["helicity"] = xy.helicity(self.beta, self.n_sites)
        return result

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the action of (B, *shape, N) vectors in their own precision."""
        refuse_condition(condition, self)
        return -self.beta * len(self.shape) * self.n_sites * self._links(x)

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each, those of the module's head.

        >>> system = ONModel(shape=(4, 4), components=2)
        >>> up = torch.tensor([1.0, 0.0]).expand(1, 4, 4, 2)
        >>> values = system.observables(Batch(up))
        >>> values["s.s"].item(), values["|m|"].item()
        (1.0, 1.0)
        """
        components = batch.x.unbind(-1)
        square = torch.stack([s.flatten(1).sum(1) ** 2 for s in components]).sum(0)
        values = {
            "s.s": self._links(batch.x),
            "|m|": square.sqrt() / self.n_sites,
            "M^2": square,
            "M^4": square**2,
            "|phi(k)|^2": torch.stack([lowest_modes(s) for s in components]).sum(0),
        }
        if self.components == 2:
            values["j^2"] = xy.currents(batch.x)
            if len(self.shape) > 1:
                values["vortices"] = xy.vortices(batch.x)
        return values

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the (B, V N) components, or the (B, F) observables."""
        if level == "low":
            return batch.x.flatten(1)
        return torch.stack(list(self.observables(batch).values()), 1)

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` configurations by cluster updates, chain after chain, in float64.

        Half of the chains begin ordered, half at random. Kept configurations are two
        autocorrelation times of the slowest of s.s and M^2 apart, as a run before measures them;
        where chains do not mix, it is said in the log.
        """
        refuse_condition(condition, self)
        length = -(-n // CHAINS)
        x = torch.from_numpy(self._chains(length, seed)).reshape(-1, *self.schema.shape)
        chain = torch.arange(CHAINS).repeat_interleave(length)
        return Batch(x=x[:n].contiguous(), chain=chain[:n])

    def exact(self) -> dict[str, float]:
        """Return what is known exactly: all at beta = 0, and on a ring.

        At beta = 0 M is a sum of V independent vectors.
        """
        v, n = self.n_sites, self.components
        if self.beta == 0:
            fourth = v**2 + 2 * v * (v - 1) / n  # <M^4>
            return {
                "ln Z": 0.0,
                "s.s": 0.0,
                "M^2": v,
                "M^4": fourth,
                "|phi(k)|^2": v,
                "chi2": 1.0,
                "U4": 1 - n / (n + 2) * fourth / v**2,
            }
        if len(self.shape) > 1:
            return {}
        known = ring(v, n, self.beta)
        return known | (xy.ring(v, self.beta) if n == 2 else {})

    def open(self, path: Path, *, varying: Sequence[str] = ()) -> Source:
        """Open an ensemble; raises `FormatError` where it is none, or of another model.

        What it says of the `varying` couplings is not compared with this model.
        """
        source = super().open(path)
        off = (source.read(0, _ROWS_CHECKED).x.double().norm(dim=-1) - 1).abs()
        if off.numel() and not off.max() < _LENGTH:
            raise FormatError(
                f"{path}: vectors of row {int(off.flatten(1).amax(1).argmax())} have lengths that "
                f"are {off.max():.2g} away from one; components are on the last axis"
            )
        if "beta" not in varying:
            parameters = {"beta": (self.beta, "set system.beta")}
            lattice_files.check_parameters(path, lattice_files.FIELD, parameters)
        return source

    def _links(self, x: Tensor) -> Tensor:
        """Return (B,), the mean of s_x . s_{x+mu}."""
        axes = range(1, x.ndim - 1)
        near = torch.stack([torch.roll(x, -1, axis) for axis in axes]).sum(0)
        return (x * near).flatten(1).sum(1) / (len(axes) * self.n_sites)

    def _chains(self, length: int, seed: int) -> NDArray[np.float64]:
        """Return (CHAINS, length, V, N)."""
        from physgen.systems.kernels import scalar, sigma

        table, states = scalar.neighbours(self.shape), scalar.streams(seed, CHAINS)
        v, n = self.n_sites, self.components
        spins = np.random.default_rng(seed).normal(size=(CHAINS, v, n))
        spins /= np.linalg.norm(spins, axis=-1, keepdims=True)
        spins[::2] = np.eye(n)[0]

        def run(n_skip: int, n_keep: int) -> tuple[NDArray[np.float64], float]:
            """Return (CHAINS, n_keep, V, N), and the mean size of a cluster."""
            out, total = np.empty((CHAINS, n_keep, v, n)), 0
            for chain in range(CHAINS):
                given = (table, self.beta, n_skip, out[chain], states[chain])
                total += sigma.clusters(spins[chain], *given)
            return out, total / (CHAINS * n_skip * n_keep)

        run(20, 10)
        # A fixed number of clusters: to stop when enough sites were reflected would favour states
        # that large clusters lead to.
        n_clusters = math.ceil(v / run(20, 10)[1])
        run(n_clusters, 50)
        apart = max(spacing(one) for one in self._slow(run(n_clusters, _TRIAL)[0]).values())
        out, _ = run(apart * n_clusters, length)
        stuck = [name for name, one in self._slow(out).items() if length > 1 and not mixed(one)]
        if stuck:
            LOG.warning(
                "at beta = %g the chains do not mix in %s; means depend on where the chains began",
                self.beta,
                ", ".join(stuck),
            )
        return out

    def _slow(self, chains: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return (T, C) s.s and M^2 of (C, T, V, N) chains."""
        x = torch.from_numpy(chains).reshape(-1, *self.schema.shape)
        square = x.flatten(1, -2).sum(1).square().sum(-1)
        found = {"s.s": self._links(x), "M^2": square}
        return {
            name: np.ascontiguousarray(value.reshape(chains.shape[:2]).T.numpy())
            for name, value in found.items()
        }


def ring(length: int, components: int, beta: float) -> dict[str, float]:
    r"""Return exact values of a ring of unit vectors.

    The transfer matrix exp(beta s . s') is diagonal in spherical harmonics; with nu = N/2 - 1 its
    eigenvalues lambda_l = Gamma(N/2) (2 / beta)^nu I_{nu+l}(beta) are d_l-fold (Stanley, Phys. Rev.
    179 (1969) 570, has those of an open chain), and with the products of the vector with them,

        n_{l,l+1} = n_{l+1,l} = d_{l+1} (l + 1) / (2 (l + 1 + nu)),
        Z = sum_l d_l lambda_l^L,
        <s_0 . s_r> = sum_l n_{l,l+1} (lambda_l^{L-r} lambda_{l+1}^r + lambda_{l+1}^{L-r}
            lambda_l^r) / Z.

    Args:
        length: L, at least 2.
        components: N, at least 2.
        beta: positive.
    """
    from scipy.special import gammaln, ive

    nu = components / 2 - 1
    order = np.arange(64 + math.ceil(4 * beta), dtype=np.float64)
    ratio = ive(nu + order, beta) / ive(nu, beta)
    order, ratio = order[ratio > 0], ratio[ratio > 0]
    # d_l = (2 l + N - 2) (l + N - 3)! / (l! (N - 2)!), and 1 for l = 0.
    n = components
    rising = order[1:]
    count = gammaln(rising + n - 2) - gammaln(rising + 1) - gammaln(n - 1)
    log_d = np.concatenate([[0.0], np.log(2 * rising + n - 2) + count])
    log_ratio = np.log(ratio)
    log_z = float(np.logaddexp.reduce(log_d + length * log_ratio))
    log_n = log_d[1:] + np.log(rising / (2 * (rising + nu)))
    r = np.arange(length)[:, None]
    left, right = log_ratio[:-1], log_ratio[1:]
    terms = np.logaddexp(
        (length - r) * left + r * right,
        (length - r) * right + r * left,
    )
    g = np.exp(np.logaddexp.reduce(log_n + terms, axis=1) - log_z)
    chi2 = float(g.sum())
    lowest = float(g @ np.cos(2 * math.pi / length * np.arange(length)))
    log_first = gammaln(n / 2) + nu * math.log(2 / beta) + math.log(ive(nu, beta)) + beta
    return {
        "ln Z": float(length * log_first + log_z),
        "s.s": float(g[1]),
        "M^2": length * chi2,
        "|phi(k)|^2": length * lowest,
        "chi2": chi2,
        "xi2": math.sqrt(max(chi2 / lowest - 1, 0.0)) / (2 * math.sin(math.pi / length)),
    }
