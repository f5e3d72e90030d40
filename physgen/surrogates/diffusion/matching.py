r"""Flow matching: learn the velocity of straight lines between noise and samples.

On z = (1 - t) x + t eps the velocity is eps - x, and the network learns its mean at z (Lipman et
al., arXiv 2210.02747; Liu et al., arXiv 2209.03003; Albergo & Vanden-Eijnden, arXiv 2209.15571).
Which noise goes with which sample is free. Independent, lines cross, and the flow is curved; paired
by optimal transport within each batch (Pooladian et al., arXiv 2304.14772; Tong et al., arXiv
2302.00482),

    minimise over permutations pi:    sum_i |x_i - eps_pi(i)|^2,

they hardly do, and few steps suffice. Noise changes places only among samples of one condition:
otherwise it would depend on the condition, which sampling does not know of. Of sets of points the
noise changes places within each set (Klein, Kraemer & Noe, arXiv 2306.15030).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.ranges import NotNegative, PositiveFloat
from physgen.surrogates.diffusion.model import Denoising, Diffusion
from physgen.surrogates.method import StepContext

Coupling = Literal["independent", "optimal-transport"]


class FlowMatching(Denoising):
    """Train a `Diffusion` of straight schedule and velocity prediction.

    Args:
        surrogate: a `Diffusion` with schedule "straight" and prediction "velocity".
        coupling: which noise goes with which sample; "optimal-transport" exchanges noise among
            samples of equal conditions, so that where all differ it does nothing, and of sets
            among the points of each.
        learning_rate: of AdamW, before the engine's schedule.
        weight_decay: of AdamW.

    Raises:
        RecipeError: the surrogate is another one.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.surrogates.diffusion.likelihood import DiffusionFlow
    >>> method = FlowMatching(DiffusionFlow(Schema((2,), (Variable("x"),))))
    >>> method.prepare(Batch(torch.zeros(5, 2)), torch.Generator()).x.shape  # samples and noise
    torch.Size([5, 2, 2])
    """

    def __init__(
        self,
        surrogate: Diffusion,
        *,
        coupling: Coupling = "independent",
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NotNegative = 0.0,
    ) -> None:
        super().__init__(surrogate, learning_rate=learning_rate, weight_decay=weight_decay)
        chosen = (surrogate.schedule.scaling, surrogate.denoiser.prediction)
        if chosen != ("straight", "velocity"):
            raise RecipeError(
                "method.kind: flow-matching needs surrogate.schedule=straight and "
                "surrogate.prediction=velocity"
            )
        self.coupling = coupling
        # There is no pairing with less than nothing.
        self.negative_weights = coupling == "independent"

    def prepare(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Map to the transform's space; x becomes (B, 2, D), a sample and where its path begins.

        They are paired here, where the whole batch is, not a rank's part of it.
        """
        mapped = super().prepare(batch, generator)
        x = mapped.x
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        if self.coupling == "optimal-transport":
            noise = self.model.exchanged(x, noise, mapped.condition)
        noise = self.model.begin(noise, mapped.condition)
        return mapped.replace(x=torch.stack([x, noise], 1))

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Take one step."""
        x, noise = batches["data"].x.unbind(1)
        return self.learn(batches["data"].replace(x=x), noise, ctx)
