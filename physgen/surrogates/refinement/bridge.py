r"""Bridges: flow matching that begins at the event itself, not at pure noise.

For pairs of a fast event y and the full event x of the same collision, paths are straight lines

    z_t = (1 - t) x + t z_1,      z_1 = y + s eps,      eps ~ N(0, 1),

and a network learns the mean velocity E[z_1 - x | z_t, y]. For every y, the flow from t = 1 to 0
carries N(y, s^2) to p(x | y): lines begin where the event is, so that they are short, and what the
full simulation adds at random comes from eps ("data-dependent couplings" of Albergo et al.,
arXiv 2310.03725; for calorimeter showers as a Schroedinger bridge, Diefenbacher et al.,
arXiv 2308.12339). All is in the transform's space, in which y is scaled as conditions are.
"""

from __future__ import annotations

from torch import Tensor

from physgen.batch import Schema
from physgen.errors import RecipeError
from physgen.networks.residual import ResidualOptions
from physgen.ranges import PositiveFloat
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.refinement.origin import Origin
from physgen.transforms.base import Transform


class Bridge(Diffusion):
    """A flow from fast events to full ones, trained by `flow-matching` on pairs (`FromNoise`).

    Args:
        schema: of full events; its conditions hold the same columns of fast ones, and others.
        transform: from physical events to real numbers of order one, column by column; it scales
            the conditions too (end it with `standardise`).
        noise: s, the deviation of what is added to fast events, in units of the transform's space.
        unchanged: columns that are taken from the fast event as they are, such as what is known of
            the incoming particle.
        network: that learns the velocity.

    Raises:
        RecipeError: the conditions do not hold the columns, or the transform mixes columns.

    >>> import torch
    >>> from physgen.batch import Variable
    >>> model = Bridge(Schema((1,), (Variable("x"),), (Variable("fast_x"),)), noise=0.1)
    >>> x = model.sample(500, torch.full((500, 1), 2.0), seed=1).x  # untrained: about where it was
    >>> bool((x.mean() - 2).abs() < 0.1)
    True
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        noise: PositiveFloat = 0.5,
        unchanged: tuple[str, ...] = (),
        network: ResidualOptions = ResidualOptions(),
    ) -> None:
        super().__init__(
            schema, transform, schedule="straight", prediction="velocity", network=network
        )
        self.noise, self.origin = noise, Origin.of(schema, "bridge", unchanged)
        n = len(schema.condition)
        shapes = self.latent_shape, self.transform.latent_condition(n)
        if self.transform.mixes or shapes != (schema.shape, n):
            raise RecipeError(
                "surrogate.kind: bridge begins at an event, column by column, and the transform "
                "mixes columns, or changes what there are; take gaussianise and standardise"
            )

    def begin(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return fast events with noise, (B, D), from mapped conditions (B, C)."""
        assert condition is not None  # The schema has conditions.
        return self.origin.events(condition) + self.noise * noise

    def physical(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Map refined events (B, D) back to physical units; columns that stay are theirs."""
        assert condition is not None
        return self.origin.restored(super().physical(x, condition), condition)
