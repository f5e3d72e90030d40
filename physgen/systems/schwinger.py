r"""The Schwinger model on a periodic lattice: U(1) in two dimensions with two flavours of fermions.

Wilson fermions of equal mass are integrated out exactly,

    S = -beta sum_P cos theta_P - 2 ln |det D|,

with D = 1 - kappa H of `physgen.systems.wilson`, antiperiodic in time, the first axis. The prior is
Haar's measure. Measured are, besides what `physgen.systems.gauge` measures,

    condensate = tr D^-1 / V,    sign = that of det D, which is real.

Two flavours have the weight det^2, whatever the sign; at one flavour it would count, and where it
changes D is singular: HMC does not cross there.

`simulate` moves chains by the exact determinant on few sites, by pseudofermions on more (see
`physgen.systems.schwinger_chains`); action and observables are exact on all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, FormatError
from physgen.io.arrays import Axes, text_in
from physgen.io.source import Source
from physgen.systems import lattice_files, schwinger_chains, wilson
from physgen.systems.base import Derived, Moves
from physgen.systems.family import refuse_condition, refuse_lists
from physgen.systems.gauge import Gauge

LOG = logging.getLogger("physgen")

LARGEST = 1024
"""Sites up to which determinants are computed: 32 x 32."""


@dataclass(frozen=True, kw_only=True)
class Schwinger(lattice_files.EnsembleFiles):
    """Two flavours of Wilson fermions on U(1) in two dimensions.

    Attributes:
        shape: extents in time and space, each at least 2, with at most 1024 sites.
        beta: the inverse gauge coupling, not negative.
        kappa: the hopping parameter, not negative; free fermions are massless at 1/4.
        axes: of the links in files of several chains, ("chain", "time") or the other way round.

    Raises:
        DomainError: there is no such theory, or its determinant is too large.

    >>> system = Schwinger(shape=(4, 4), beta=2.0, kappa=0.26)
    >>> unit = torch.zeros(1, 2, 4, 4)
    >>> round(system.action(unit).item(), 6)  # -beta V - 2 ln det D of free fermions
    -35.323032
    """

    shape: tuple[int, ...] = (8, 8)
    beta: float = 2.0
    kappa: float = 0.26
    axes: Axes | None = None

    couplings: ClassVar[tuple[Variable, ...]] = (
        Variable("beta", domain="non-negative", dtype="float64"),
        Variable("kappa", domain="non-negative", dtype="float64"),
    )

    def __post_init__(self) -> None:
        refuse_lists(self)
        if len(self.shape) != 2 or min(self.shape) < 2:
            raise DomainError(
                f"Schwinger model of shape {list(self.shape)}: give two extents of at least 2, as "
                "in system.shape=[8,8]"
            )
        if math.prod(self.shape) > LARGEST:
            raise DomainError(
                f"Schwinger model of shape {list(self.shape)}: determinants are exact, of matrices "
                f"with {2 * math.prod(self.shape)} rows; take at most {LARGEST} sites, as in "
                "system.shape=[32,32]"
            )
        for name in ("beta", "kappa"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise DomainError(
                    f"Schwinger model at {name} = {getattr(self, name):g}: it must not be negative"
                )

    @cached_property
    def gauge(self) -> Gauge:
        """The theory without fermions."""
        return Gauge(group="U(1)", shape=self.shape, beta=self.beta)

    @property
    def schema(self) -> Schema:
        """(2, *shape) angles."""
        return self.gauge.schema

    @property
    def attributes(self) -> dict[str, Any]:
        """The action in words, and its parameters."""
        return {
            "convention": "S = -beta sum_P cos theta_P - 2 ln |det(1 - kappa H)|, Wilson's H with "
            "r = 1, fermions antiperiodic round the first axis, Haar measure",
            "beta": self.beta,
            "kappa": self.kappa,
        }

    @property
    def derived(self) -> Mapping[str, Derived]:
        """chi_Q = <Q^2> / V."""
        return self.gauge.derived

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the action of (B, *shape) links; its gradient cannot be differentiated."""
        refuse_condition(condition, self)
        fermions = wilson.determinant(x, self.kappa)[1]
        return self.gauge.action(x) - (2 * fermions).to(x.dtype)

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each: those of the gauge theory, the condensate, and the sign of det D."""
        values = self.gauge.observables(batch)
        values["condensate"] = wilson.condensate(batch.x, self.kappa).to(batch.x.dtype)
        values["sign"] = wilson.determinant(batch.x.detach(), self.kappa)[0].to(batch.x.dtype)
        return values

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the links, (B, 4 V) cosines and sines, or the (B, F) observables."""
        if level == "low":
            return self.gauge.features(batch, level)
        return torch.stack(list(self.observables(batch).values()), 1)

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` configurations by tuned, thinned HMC, chain after chain, in float64.

        Half of the chains begin at the unit, half with random links. Where they do not forget it it
        is said in the log, as is the number of configurations with a negative determinant.
        """
        refuse_condition(condition, self)
        n_sites = math.prod(self.shape)
        n_chains = schwinger_chains.n_chains(n_sites)
        start = self.arbitrary(n_chains, torch.Generator().manual_seed(seed))
        start[::2] = 0
        length = -(-n // n_chains)
        if n_sites <= schwinger_chains.EXACT:
            x = schwinger_chains.exact(start, self.action, length, seed + 1, self._slow)
        else:
            x = schwinger_chains.with_pseudofermions(
                start, self.beta, self.kappa, length, seed, self._slow
            )
        schwinger_chains.judge(self._slow(x), self.beta, self.kappa)
        chain = torch.arange(len(x)).repeat_interleave(length)
        batch = Batch(x=x.flatten(0, 1)[:n].contiguous(), chain=chain[:n])
        negative = int((wilson.determinant(batch.x, self.kappa)[0] < 0).sum())
        if negative:
            LOG.warning(
                "Schwinger model at beta = %g, kappa = %g: det D is negative on %d of %d "
                "configurations; two flavours do not see it, but HMC crosses between the signs "
                "rarely",
                self.beta,
                self.kappa,
                negative,
                n,
            )
        return batch

    def exact(self) -> dict[str, float]:
        """Return what is known without fermions, at kappa = 0."""
        return {**self.gauge.exact(), "condensate": 2.0, "sign": 1.0} if self.kappa == 0 else {}

    def reference(self) -> dict[str, tuple[float, float]]:
        """Return nothing: no published values are tabulated."""
        return {}

    def arbitrary(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, *shape) links from Haar's measure, in float64."""
        return self.gauge.arbitrary(n, generator)

    def moves(self) -> Moves:
        """Return the symmetries of the action: what they make of (B, *shape) links."""
        # Fermions tell the axes apart, being antiperiodic in time alone; mirrors reverse Q.
        keep = ("gauge transformation", "translation", "charge conjugation")
        return {name: move for name, move in self.gauge.moves().items() if name in keep}

    def open(self, path: Path, *, varying: Sequence[str] = ()) -> Source:
        """Open an ensemble; raises `FormatError` where it is none, or of another lattice or action.

        What it says of the `varying` couplings is not compared with this theory.
        """
        source = super().open(path)
        if text_in(path, "convention") == self.gauge.attributes["convention"] and self.kappa:
            raise FormatError(
                f"{path} says it is of links without fermions, and this system has kappa = "
                f"{self.kappa:g}; set system.kind=gauge, or choose another file"
            )
        parameters = {
            name: (float(getattr(self, name)), f"set system.{name}")
            for name in ("beta", "kappa")
            if name not in varying
        }
        if parameters:
            lattice_files.check_parameters(path, lattice_files.FIELD, parameters)
        return source

    def _slow(self, x: Tensor) -> list[Any]:
        """Return series (T, C) of chains (C, T, ...) that are slow: plaquette, |L| and Q^2."""
        values = [self.gauge.observables(Batch(x=fields)) for fields in x.unbind(1)]
        return [
            torch.stack([value[name] for value in values]).numpy()
            for name in ("plaquette", "|L|", "Q^2")
        ]
