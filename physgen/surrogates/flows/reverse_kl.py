r"""Training against an action, without data: reverse Kullback-Leibler divergence.

KL(q || p) = <log q(x) + S(x)>_q + ln Z is minimised over samples x = g(z) of the model. Its
gradient has two parts: through the sample, and through the parameters in log q at a fixed sample.
The second has mean zero but does not vanish near the optimum; path gradients drop it,

    d KL / d theta = < grad_x [log q(x) + S(x)] . dx / d theta >,

and their variance does vanish where q = p (Roeder, Wu & Duvenaud 2017; for flows Vaitl, Nicoli,
Nakajima & Kessel, arXiv 2207.08219; for continuous ones the same, arXiv 2206.09016).

Of a family of theories, whose couplings are conditions of the surrogate, the mean over couplings is
minimised, which are drawn anew each step (`physgen.surrogates.flows.couplings`).

Where samples jump with a parameter, as they do with the probability of a topological sector, there
is no gradient through them. Such parameters minimise KL(p || q) instead, along

    - < w d log q / d theta >,    w ~ exp(-S) / q normalised over the samples of a step:

a sector that is too rare is not lost, as it would be to KL(q || p).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.ranges import PositiveFloat
from physgen.surrogates.base import FromNoise, HasDensity, Surrogate, density_of
from physgen.surrogates.flows.couplings import Action, Annealed, couplings_of
from physgen.surrogates.method import Method, StepContext
from physgen.systems.base import HasAction, HasMoves, System
from physgen.systems.family import Family
from physgen.systems.symmetries import broken


@runtime_checkable
class HasScore(Protocol):
    """Knows the gradient of its log-density in the sample, cheaper than by going back to noise."""

    def from_noise_with_score(
        self, noise: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map noise to samples, differentiable, and their detached log-density and its gradient."""
        ...


@runtime_checkable
class HasSymmetries(Protocol):
    """Has symmetries (names of `physgen.systems.symmetries`) whatever it learns."""

    symmetries: tuple[str, ...]


@runtime_checkable
class HasJumps(Protocol):
    """Has parameters with which its samples jump."""

    def jump_log_prob(self, noise: Tensor) -> Tensor:
        """Return (B,) log q of what noise is mapped to, differentiable in these parameters."""
        ...


_REMEDY = {"sign": "surrogate.sign_symmetric=false", "axis exchange": "surrogate.isotropic=false"}


class ReverseKL(Method):
    """Minimises the reverse Kullback-Leibler divergence to exp(-action).

    Args:
        surrogate: a map of noise with a density.
        system: has the action.
        learning_rate: of Adam, before the engine's schedule.
        path_gradients: drop the part of the gradient that has mean zero.
        bound_pulls: bound on the length of grad_x (log q + S) of one sample in path gradients, in
            units of the median of a step. Near zeros of a fermion determinant, where S is infinite,
            its variance is infinite too.
        anneal: couplings of the system, by name, from which the action is led to its own over the
            first half of the steps: where it has several sectors, they open slowly.
        left_out: range [low, high) of the first coupling of a family that is not learned from, to
            tell how well the surrogate interpolates.

    Raises:
        RecipeError: if the surrogate has no density or has conditions that are no couplings of the
            system, the system no action, or the action not the symmetries that the surrogate
            assumes.

    >>> from physgen.surrogates.flows.flow import Flow
    >>> from physgen.systems.scalar import Phi4
    >>> system = Phi4(shape=(4,))
    >>> ReverseKL(Flow(system.schema), system).inputs  # it needs no data
    ()
    """

    inputs: tuple[str, ...] = ()

    def __init__(
        self,
        surrogate: Surrogate,
        system: System,
        steps: int = 0,
        *,
        learning_rate: PositiveFloat = 2e-3,
        path_gradients: bool = True,
        bound_pulls: PositiveFloat | None = None,
        anneal: dict[str, float] | None = None,
        left_out: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(surrogate)
        density = density_of(surrogate)
        if not isinstance(surrogate, FromNoise) or density is None:
            raise RecipeError(
                f"reverse-kl trains surrogates that map noise and know their density; "
                f"{type(surrogate).__name__} does not"
            )
        if not isinstance(system, HasAction):
            raise RecipeError(f"reverse-kl needs an action, which {type(system).__name__} lacks")
        self._couplings = couplings_of(surrogate, system, left_out, "reverse-kl")
        if isinstance(surrogate, HasSymmetries):
            members = system.members.values() if isinstance(system, Family) else [system]
            for member in members:
                _check_symmetries(surrogate.symmetries, surrogate, member)
        self._flow: FromNoise = surrogate
        self._density: HasDensity = density
        self._action: Action = system.action
        self._annealed = Annealed(system, anneal, steps // 2) if anneal else None
        self._bound = bound_pulls
        self._loss = self._path_loss if path_gradients else self._whole_loss
        self.optimisers = {"surrogate": torch.optim.Adam(surrogate.parameters(), learning_rate)}

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Do one step on fresh samples of the surrogate; the loss is KL(q || p) - ln Z."""
        drawn = self._draw(ctx)
        return {"loss": ctx.minimise(self._loss, self.optimisers["surrogate"], *drawn)}

    def _draw(self, ctx: StepContext) -> list[Tensor]:
        """Return (B, *noise_shape) noise, then (B, C) couplings if they vary; set the action."""
        if self._annealed is not None:
            self._action = self._annealed.at(ctx.step)
        drawn = [ctx.randn(*self._flow.noise_shape)]
        if self._couplings is not None:
            drawn.append(self._couplings.draw(ctx))
        return drawn

    def _whole_loss(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) log q + S, with its whole gradient."""
        x = self._flow.from_noise(noise, condition)
        loss = self._density.log_prob(Batch(x, condition)) + self._action(x, condition)
        return loss + self._along_jumps(noise, loss.detach())

    def _path_loss(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) log q + S, whose gradient is that through the sample alone."""
        x, log_prob, score = self._from_noise_with_score(noise, condition)
        fixed = x.detach().requires_grad_()
        action = self._action(fixed, condition)
        (force,) = torch.autograd.grad(action.sum(), fixed)
        pull = (score + force).flatten(1)
        if self._bound is not None:
            length = pull.norm(dim=1, keepdim=True)
            pull = pull * (self._bound * length.median() / length.clamp_min(1e-30)).clamp(max=1)
        along = (x.flatten(1) * pull).sum(1)
        # The value is log q + S; only the gradient is that of `along`.
        loss = log_prob + action.detach()
        return along - along.detach() + loss + self._along_jumps(noise, loss)

    def _along_jumps(self, noise: Tensor, loss: Tensor) -> Tensor:
        """Return (B,) zeros with the gradient of KL(p || q) in what samples jump with."""
        if not isinstance(self.surrogate, HasJumps):
            return torch.zeros_like(loss)
        weight = len(loss) * torch.softmax(-loss, 0)
        log_prob = self.surrogate.jump_log_prob(noise)
        return -weight * (log_prob - log_prob.detach())

    def _from_noise_with_score(
        self, noise: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if isinstance(self.surrogate, HasScore):
            return self.surrogate.from_noise_with_score(noise, condition)
        x = self._flow.from_noise(noise, condition)
        fixed = x.detach().requires_grad_()
        log_prob = self._density.log_prob(Batch(fixed, condition))
        (score,) = torch.autograd.grad(log_prob.sum(), fixed)
        return x, log_prob.detach(), score


def _check_symmetries(symmetries: tuple[str, ...], surrogate: Surrogate, system: HasAction) -> None:
    """Raise `RecipeError` if a symmetry of the surrogate is none of the action."""
    if not isinstance(system, HasMoves):
        raise RecipeError(
            f"{type(surrogate).__name__} has the symmetries {', '.join(symmetries)}, and "
            f"{type(system).__name__} does not say how they act (HasMoves)"
        )
    fields = system.arbitrary(4, torch.Generator().manual_seed(0))
    lost = broken(system.action, fields, system.moves(), symmetries)
    if lost:
        remedies = [_REMEDY[name] for name in lost if name in _REMEDY]
        raise RecipeError(
            f"{type(surrogate).__name__} has the symmetries {', '.join(symmetries)}, and "
            f"the action is not invariant under {', '.join(lost)}"
            + (f"; set {' '.join(remedies)}" if remedies else "; choose another surrogate")
        )
