r"""Samples of exp(-S) / Z out of those of a surrogate.

A proposal x of a surrogate that knows its density q has the log-weight -S(x) - log q(x).
Independence Metropolis makes a Markov chain of the target out of proposals and their weights
(`physgen.sampling.metropolis`), in turn with trajectories of Hybrid Monte Carlo if asked for. Of a
surrogate without density, Langevin steps with the force of the action move the samples
(`physgen.sampling.local`). Spins at several conditions are tempered with the samples as global
moves (`physgen.surrogates.autoregressive.tempering`). The first states, which may be untypical, are
left out. Each condition has a target and chains of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError
from physgen.sampling import local
from physgen.sampling.hmc import Schedule
from physgen.sampling.manifold import BY_DOMAIN, Manifold
from physgen.sampling.metropolis import independence_metropolis
from physgen.sampling.reweighting import Reference
from physgen.surrogates.autoregressive.tempering import tempered
from physgen.surrogates.base import HasDensity, HasLogWeight, Surrogate, density_of
from physgen.surrogates.conditions import ConditionPrior

Action = Callable[[Tensor, Tensor | None], Tensor]
Correction = Literal[
    "none", "independence-metropolis", "independence-metropolis+hmc", "langevin", "tempering"
]

AT_ONCE = 4096
"""Proposals drawn together."""
BURN_IN = 512
"""States of a chain that are left out, after which it has forgotten where it began: a chance of
less than 1e-6 at an acceptance of 3%."""
TARGETS = 64
"""Different conditions of which chains are made at once: each spends `BURN_IN` proposals."""
TURNS = local.Turns(n_chains=64, n_warm=32)
LANGEVIN = Schedule(n_keep=16, n_skip=50, n_warm=500)


class Corrected:
    """A surrogate corrected to sample exp(-action), drawn from like a surrogate.

    Args:
        surrogate: one that knows its density is copied in double precision, and finely integrated
            where it is integrated at all, so that the weights are those of the samples.
        action: (B, *shape) samples and (B, C) conditions to (B,) actions.
        method: "independence-metropolis" draws chains of the target, with "+hmc" of proposals and
            trajectories in turn; "langevin" begins chains at samples of any surrogate, and moves
            them by the force of the action; "tempering" makes chains of spins of all conditions,
            of proposals, heat bath and exchanges; "none" draws the proposals, with `log_weight`.

    Raises:
        RecipeError: the surrogate does not know its density, which all but "langevin" need; or
            samples are of a kind that no force moves.

    >>> from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
    >>> from physgen.systems.scalar import Phi4
    >>> system = Phi4(shape=(4,))
    >>> flow = ContinuousLatticeFlow(system.schema)
    >>> proposals = Corrected(flow, system.action, "none").sample(5, generator=torch.Generator())
    >>> proposals.log_weight.shape
    torch.Size([5])
    """

    def __init__(
        self, surrogate: Surrogate, action: Action, method: Correction = "independence-metropolis"
    ) -> None:
        self.original, self.action, self.method = surrogate, action, method
        exact = surrogate.high_precision().eval()
        self._weighing = None if method == "langevin" else _weighing(exact)
        self._drawing = exact
        domain = surrogate.schema.variables[0].domain
        if method == "tempering" and domain != "spin":
            raise RecipeError(
                "sampling.correction: tempering draws spins by the heat bath, and these samples "
                f"are of the domain {domain!r}; set sampling.correction=independence-metropolis"
            )
        if (
            method not in ("none", "independence-metropolis", "tempering")
            and domain not in BY_DOMAIN
        ):
            raise RecipeError(
                f"sampling.correction: {method} moves fields along the force of the action, and "
                f"these are of the domain {domain!r}; set sampling.correction=none"
            )

    @property
    def schema(self) -> Schema:
        """Of the samples."""
        return self.original.schema

    @property
    def conditions(self) -> ConditionPrior:
        """Of the training."""
        return self.original.conditions

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.original.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the samples."""
        return self.original.dtype

    @property
    def reference(self) -> Reference | None:
        """What the mean weight is Z in units of (`HasLogWeight`)."""
        return None if self._weighing is None else self._weighing.reference

    def propose(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` independent samples of the surrogate, in double precision.

        With `log_weight`, unless the correction does without.
        """
        parts = []
        for first in range(0, n, AT_ONCE):
            rows = slice(first, min(first + AT_ONCE, n))
            given = None if condition is None else condition[rows]
            size = rows.stop - rows.start
            with torch.no_grad():
                if self._weighing is None:
                    batch = self._drawing.sample(size, given, generator=generator)
                    parts.append(batch.to(dtype=torch.float64))
                    continue
                batch, weight = self._weighing.sample_with_log_weight(
                    size, self.action, given, generator=generator
                )
            parts.append(batch.replace(log_weight=weight))
        return Batch.concatenate(parts)

    def log_weight(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Return (B,) log-weights of other samples under the surrogate, such as true ones.

        Random only where a sample is weighed by a way that led to it (`HasLogWeight`).
        """
        parts = []
        assert self._weighing is not None, f"{self.method} weighs nothing"
        for first in range(0, len(batch), AT_ONCE):
            part = batch[first : first + AT_ONCE].to(self.device, torch.float64)
            with torch.no_grad():
                given = Batch(part.x, part.condition, mask=part.mask)
                parts.append(self._weighing.log_weight(given, self.action, generator=generator))
        return torch.cat(parts)

    def correct(self, proposals: Batch, *, generator: torch.Generator) -> Batch:
        """Make chains of each target out of its proposals, of which the first states are spent.

        Raises:
            DomainError: there are more than `TARGETS` different conditions.
        """
        parts = [proposals[r] for r in _rows_by_condition(proposals.condition, len(proposals))]
        if self.method == "tempering":
            moved = tempered(
                parts,
                self.action,
                lambda batch: self.log_weight(batch, generator=generator).to(batch.x.device),
                TURNS,
                generator=generator,
            )
            return _numbered(moved)
        make = {
            "independence-metropolis": self._one_chain,
            "independence-metropolis+hmc": self._in_turn,
            "langevin": self._langevin,
        }[self.method]
        return _numbered([make(part, generator) for part in parts])

    def _one_chain(self, proposals: Batch, generator: torch.Generator) -> Batch:
        return independence_metropolis(proposals, generator=generator, burn_in=BURN_IN).batch

    def _in_turn(self, proposals: Batch, generator: torch.Generator) -> Batch:
        def log_weight(x: Tensor) -> Tensor:
            given = None if proposals.condition is None else proposals.condition[: len(x)]
            return self.log_weight(Batch(x, given), generator=generator).to(x.device)

        moved = local.in_turn(
            proposals,
            self._action_at(proposals.condition),
            log_weight,
            TURNS,
            generator=generator,
            manifold=self._manifold,
        )
        return self._conditioned(moved, proposals)

    def _langevin(self, starts: Batch, generator: torch.Generator) -> Batch:
        moved = local.langevin(
            starts.x,
            self._action_at(starts.condition),
            LANGEVIN,
            generator=generator,
            manifold=self._manifold,
        )
        return self._conditioned(moved, starts)

    @property
    def _manifold(self) -> Manifold:
        return BY_DOMAIN[self.schema.variables[0].domain]

    def _action_at(self, condition: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Return the action of configurations at the one condition of all these rows."""
        if condition is None:
            return lambda x: self.action(x, None)
        return lambda x: self.action(x, condition[:1].expand(len(x), -1).to(x))

    def _conditioned(self, moved: Batch, proposals: Batch) -> Batch:
        if proposals.condition is None:
            return moved
        return moved.replace(condition=proposals.condition[:1].expand(len(moved), -1))

    def n_proposals(self, n: int) -> int:
        """Return how many proposals `n` samples of a target take."""
        if self.method == "independence-metropolis":
            return n + BURN_IN
        if self.method == "langevin":
            return -(-n // LANGEVIN.n_keep)
        return TURNS.n_chains * (-(-n // TURNS.n_chains) + TURNS.n_warm)

    def for_proposals(self, condition: Tensor) -> Tensor:
        """Return (N, C) conditions of the proposals that samples at (n, C) take, sorted."""
        groups = _rows_by_condition(condition, len(condition))
        sizes = [len(group) for group in groups]
        if self.method == "tempering":  # Replicas go on together.
            sizes = [max(sizes)] * len(sizes)
        rows = [
            group[:1].expand(self.n_proposals(size))
            for group, size in zip(groups, sizes, strict=True)
        ]
        return condition[torch.cat(rows)]

    def sample(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Batch:
        """Draw `n` samples: a chain of each target, or proposals with `log_weight`.

        Raises:
            DomainError: chains of more than `TARGETS` different conditions are asked for, or of
                those that the surrogate draws itself, which all differ.
        """
        if self.method == "none":
            return self.propose(n, condition, generator=generator).to(dtype=self.dtype)
        if condition is None and self.schema.condition:
            names = ", ".join(variable.name for variable in self.schema.condition)
            raise DomainError(
                f"{self.method} makes a chain of each target, and the target depends on {names}: "
                "give a condition, or draw proposals with their log-weights (--uncorrected)"
            )
        if condition is None:
            proposals = self.propose(self.n_proposals(n), generator=generator)
            return self.correct(proposals, generator=generator)[:n].to(dtype=self.dtype)
        given = self.for_proposals(condition)
        proposals = self.propose(len(given), given, generator=generator)
        batch = self.correct(proposals, generator=generator)
        # Chains stand one after the other; a row goes back to where its condition was.
        wanted = _rows_by_condition(condition, n)
        made = _rows_by_condition(batch.condition, len(batch))
        rows = torch.cat([some[: len(group)] for some, group in zip(made, wanted, strict=True)])
        return batch[rows[torch.cat(wanted).argsort()]].to(dtype=self.dtype)


def _numbered(parts: Sequence[Batch]) -> Batch:
    """Join the chains of several targets, all with numbers of their own."""
    numbered, n_chains = [], 0
    for part in parts:
        assert part.chain is not None
        numbered.append(part.replace(chain=part.chain + n_chains))
        n_chains += 1 + int(part.chain.max())
    return Batch.concatenate(numbered)


class _ByDensity:
    """Log-weights -S(x) - log q(x) of a density that is known."""

    reference: Reference | None = None

    def __init__(self, density: HasDensity) -> None:
        self._density = density

    def sample_with_log_weight(
        self,
        n: int,
        action: Action,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> tuple[Batch, Tensor]:
        batch, log_prob = self._density.sample_with_log_prob(n, condition, generator=generator)
        return batch, -action(batch.x, batch.condition) - log_prob

    def log_weight(self, batch: Batch, action: Action, *, generator: torch.Generator) -> Tensor:
        return -action(batch.x, batch.condition) - self._density.log_prob(batch)


def _weighing(surrogate: Surrogate) -> HasLogWeight:
    """Return what weighs the samples of a surrogate; `RecipeError` if nothing does."""
    density = density_of(surrogate)
    if density is not None:
        return _ByDensity(density)
    if isinstance(surrogate, HasLogWeight):
        return surrogate
    raise RecipeError(
        f"sampling.correction: {type(surrogate).__name__} does not know its density, "
        "without which nothing can be corrected; set sampling.correction=none, or take a "
        "flow with an exact density"
    )


def _rows_by_condition(condition: Tensor | None, n: int) -> list[Tensor]:
    """Return the numbers of the rows of each different condition, ascending.

    Raises:
        DomainError: there are more than `TARGETS`.
    """
    if condition is None:
        return [torch.arange(n)]
    values, which = torch.unique(condition, dim=0, return_inverse=True)
    if len(values) > TARGETS:
        raise DomainError(
            f"{len(values)} different conditions: chains are made of {TARGETS} targets at most; "
            "give fewer, or draw proposals with their log-weights (--uncorrected)"
        )
    return [(which == number).nonzero()[:, 0] for number in range(len(values))]
