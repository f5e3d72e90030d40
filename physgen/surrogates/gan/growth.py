"""How far networks that grow have grown at a step: it follows from the step alone."""

from __future__ import annotations

from torch import Tensor

from physgen.errors import RecipeError
from physgen.networks.growing import GrowingDecoder, GrowingEncoder, coarsened, growth
from physgen.networks.stacked import StackedDecoder
from physgen.surrogates.gan.networks import Critic, Generator


class Growth:
    """Sets the levels of a generator and its critic, where they have any.

    Args:
        generator: perhaps of levels.
        critic: perhaps of as many.
        steps: of the training.
        share: of them in which the last level is reached.

    Raises:
        RecipeError: the critic grows, and the generator does not, or otherwise.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.networks.stacked import StackedOptions
    >>> from physgen.networks.conv import ConvOptions
    >>> images = Schema((8, 8), (Variable("grey"),))
    >>> generator = Generator(images, network=StackedOptions(channels=(4,)))
    >>> growing = Growth(generator, Critic((8, 8), 0, ConvOptions(channels=(4,))), 100, 0.5)
    >>> growing.begin(30)
    >>> round(growing.level, 2)
    0.2
    """

    def __init__(self, generator: Generator, critic: Critic, steps: int, share: float) -> None:
        self._steps, self._share = max(1, steps), share
        body = generator.body
        self._level = body.level if isinstance(body, GrowingDecoder | StackedDecoder) else None
        self.n_levels = 1 if self._level is None else self._level.n_levels
        self._critic = critic.body if isinstance(critic.body, GrowingEncoder) else None
        if self._critic is not None and self._critic.n_levels != self.n_levels:
            raise RecipeError(
                f"method.critic grows over {self._critic.n_levels} levels, and the generator over "
                f"{self.n_levels}: give both as many channels, or take a critic of kind conv"
            )
        self.level = self.n_levels - 1.0

    def begin(self, step: int) -> None:
        """Go to the level of a step."""
        if self._level is None:
            return
        self.level = growth(step / self._steps, self.n_levels, self._share)
        self._level.set(self.level)
        if self._critic is not None:
            self._critic.level = self.level

    def seen(self, x: Tensor) -> Tensor:
        """Return samples of the transform's space as the critic sees them at this level."""
        return x if self.level == self.n_levels - 1 else coarsened(x, self.n_levels, self.level)
