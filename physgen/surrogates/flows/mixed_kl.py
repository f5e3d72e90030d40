r"""Training against an action and on its configurations: a mixture of both divergences.

    f KL(p || q) + (1 - f) KL(q || p),    up to constants  f <-log q>_p + (1 - f) <log q + S>_q.

The second alone does not see a sector that the model never visits (mode collapse); the first, on
configurations of all sectors, does (Nicoli et al., arXiv 2302.14082; Hackett et al., 2107.00734).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.ranges import PositiveFloat
from physgen.surrogates.base import Surrogate
from physgen.surrogates.flows.likelihood import HasLatentDensity
from physgen.surrogates.flows.reverse_kl import ReverseKL
from physgen.surrogates.method import StepContext
from physgen.systems.base import System


class MixedKL(ReverseKL):
    """Minimises f KL(p || q) on configurations plus (1 - f) KL(q || p) on samples of the model.

    Args:
        surrogate, system, learning_rate, path_gradients, anneal: see `ReverseKL`.
        forward: f, between 0 and 1.

    Raises:
        RecipeError: see `ReverseKL`, or the system is a family, or f is no such number.

    >>> from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
    >>> from physgen.systems.scalar import Phi4
    >>> system = Phi4(shape=(4,))
    >>> MixedKL(ContinuousLatticeFlow(system.schema), system, forward=0.3).inputs
    ('data',)
    """

    inputs = ("data",)

    def __init__(
        self,
        surrogate: Surrogate,
        system: System,
        steps: int = 0,
        *,
        learning_rate: PositiveFloat = 2e-3,
        path_gradients: bool = True,
        anneal: dict[str, float] | None = None,
        forward: float = 0.5,
    ) -> None:
        super().__init__(
            surrogate,
            system,
            steps,
            learning_rate=learning_rate,
            path_gradients=path_gradients,
            anneal=anneal,
        )
        if surrogate.schema.condition:
            raise RecipeError("method.kind: mixed-kl learns one target; take reverse-kl")
        if not 0 <= forward <= 1:
            raise RecipeError(f"method.forward is {forward}: a share lies between 0 and 1")
        if not isinstance(surrogate, HasLatentDensity):
            raise RecipeError(
                f"method.kind: mixed-kl needs the density of data, which "
                f"{type(surrogate).__name__} has not"
            )
        self._of_data: HasLatentDensity = surrogate
        self._forward = forward

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Do one step on as many fresh samples as configurations."""
        optimiser = self.optimisers["surrogate"]
        return {"loss": ctx.minimise(self._mixed, optimiser, *self._draw(ctx), batches["data"])}

    def _mixed(self, noise: Tensor, data: Batch) -> Tensor:
        """Return (B,) losses."""
        own = self._loss(noise)
        return (1 - self._forward) * own - self._forward * self._of_data.latent_log_prob(data)
