r"""Distillation: a few-step sampler that learns the map of noise to samples of a trained model.

A sampler that adds no noise makes a map of noise, x = T(eps, c), of many evaluations of the
teacher's network. The student has the same network, begins with the teacher's weights, and has a
sampler of N steps, such as DDIM over levels at t = 1, 1 - 1/N, ..., 1/N. Its own map S is fitted to
T as a whole,

    minimise    E_{eps, c} |S(eps, c) - T(eps, c)|^2,

gradients going through all N steps (for N = 1: Luhman & Luhman, arXiv 2101.02388). Between its
levels the student may go another way than the teacher, and later steps mend what earlier ones left;
halving the steps time and again (progressive distillation: Salimans & Ho, arXiv 2202.00512) is not
needed for the few steps of small networks.

No data are learned from: conditions are drawn as the teacher draws them, and a student is as good
as its teacher at best. Its network no longer denoises, so that it is of use with this sampler only,
and knows no density.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.ranges import PositiveFloat
from physgen.surrogates.base import HasBound
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.method import Method, StepContext
from physgen.surrogates.sampler_options import SamplerOptions


class Distillation(Method):
    """Train a `Diffusion` to give the samples of its teacher by its own sampler, of few steps.

    All that is not the network stays the teacher's: transform, conditions, schedule, and what is
    drawn first, such as the number of points.

    Args:
        surrogate: a `Diffusion` that draws by a sampler of few steps.
        trained: its teacher, a `Diffusion` of the same kind, network and samples.
        teacher: run directory that the teacher comes from.
        sampler: of the teacher, with its guidance.
        learning_rate: of Adam, before the engine's schedule.

    Raises:
        RecipeError: the surrogate is another one, there is no teacher, the teacher differs from it,
            or one of the two samplers adds noise.

    >>> from physgen.batch import Schema, Variable
    >>> schema = Schema((2,), (Variable("x"),))
    >>> teacher, student = Diffusion(schema), Diffusion(schema)
    >>> student.use_sampler(SamplerOptions(kind="ddim", steps=2, spacing="even"))
    >>> method = Distillation(student, teacher)
    >>> method.pairs(torch.randn(5, 2), None).x.shape  # noise, and what the teacher makes of it
    torch.Size([5, 2, 2])
    """

    inputs = ()

    def __init__(
        self,
        surrogate: Diffusion,
        trained: Diffusion | None = None,
        *,
        teacher: str | None = None,
        sampler: SamplerOptions = SamplerOptions(),
        learning_rate: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, Diffusion) or isinstance(surrogate, HasBound):
            raise RecipeError(
                "method.kind: distillation trains diffusion, point-diffusion, shower-diffusion or "
                f"bridge, not {type(surrogate).__name__}: a distilled network no longer denoises, "
                "and has no density"
            )
        if trained is None:
            raise RecipeError(
                "method.teacher is missing: name the directory of a finished run "
                "(method.teacher=runs/...) of the same system, transform and surrogate"
            )
        for name, one in (("method.sampler", sampler), ("sampling.sampler", surrogate.sampler)):
            if one.kind == "ancestral":
                raise RecipeError(
                    f"{name}.kind: ancestral adds noise at every step, so that it is no map of "
                    "noise; take ddim, heun or dpm-solver"
                )
        _check_alike(surrogate, trained)
        trained.use_sampler(sampler)
        try:
            surrogate.load_state_dict(trained.state_dict())
        except RuntimeError as error:
            raise RecipeError(
                "surrogate: a student has the network of its teacher, and this one differs "
                f"({' '.join(str(error).split())[:200]}); take the options of the teacher"
            ) from error
        self.model = surrogate
        self.modules["teacher"] = trained.requires_grad_(False).eval()
        self.teacher = trained
        surrogate.requires_grad_(False)
        network = surrogate.denoiser.body.requires_grad_(True)
        self.optimisers["network"] = torch.optim.Adam(network.parameters(), lr=learning_rate)

    def pairs(self, noise: Tensor, condition: Tensor | None) -> Batch:
        """Return x (B, 2, D), noise and the teacher's samples of it, with all that is given.

        Args:
            noise: (B, *noise_shape), normal.
            condition: (B, C), physical.
        """
        with torch.no_grad():
            start, given = self.teacher.given(noise, condition)
            target = self.teacher.cleaned(start, given)
        return Batch(torch.stack([start, target], 1), given)

    def loss(self, pairs: Batch) -> Tensor:
        """Return (B,) squared distances of the student's samples from the teacher's."""
        start, target = pairs.x.unbind(1)
        found = self.model.cleaned(start, pairs.condition)
        return self.model.distance(found, target, pairs.condition)

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step on new noise at new conditions."""
        condition = self.teacher.conditions.draw(ctx.batch_size, ctx.generator)
        pairs = self.pairs(ctx.randn(*self.model.noise_shape), condition)
        return {"loss": ctx.minimise(self.loss, self.optimisers["network"], pairs)}


def _check_alike(student: Diffusion, teacher: Diffusion) -> None:
    """Raise `RecipeError` if they do not make the same samples by the same denoiser."""
    if type(student) is not type(teacher):
        raise RecipeError(
            f"method.teacher is a {type(teacher).__name__}, and this surrogate a "
            f"{type(student).__name__}: a student is of the kind of its teacher"
        )
    if student.schema != teacher.schema:
        raise RecipeError(
            "method.teacher makes other samples than this recipe describes: "
            f"{_first_difference(student.schema.to_dict(), teacher.schema.to_dict())}"
        )
    named: dict[str, tuple[Any, Any]] = {
        "schedule": (type(student.schedule), type(teacher.schedule)),
        "prediction": (student.denoiser.prediction, teacher.denoiser.prediction),
        "condition_dropout": (student.condition_dropout > 0, teacher.condition_dropout > 0),
    }
    for name, (ours, theirs) in named.items():
        if ours != theirs:
            raise RecipeError(f"surrogate.{name} differs from that of method.teacher")


def _first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Name the first entry in which two mappings differ, with both values."""
    name = next(key for key in ours if ours[key] != theirs.get(key))
    return f"{name} is {ours[name]}, and {theirs.get(name)} there"
