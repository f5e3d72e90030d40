r"""CycleGAN: from fast events to full ones without knowing which belong together.

Two maps G: fast -> full and F: full -> fast, and two critics. G(y) must look like full events to
one critic, F(x) like fast ones to the other, and (Zhu et al., arXiv 1703.10593)

    cycle:     lambda   (|F(G(y)) - y| + |G(F(x)) - x|)
    identity:  lambda_i (|G(x) - x| + |F(y) - y|),

with |.| the mean over the columns: events come back, and what is full already stays. So G moves
events no further than it must. Maps that carry one distribution into another are many; these terms
choose among them, and an event is only refined to a probable partner, not to its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.networks.mlp import MLP, MLPOptions
from physgen.ranges import NotNegative, PositiveFloat
from physgen.surrogates.base import Surrogate
from physgen.surrogates.gan.losses import LOSSES, squared_slope
from physgen.surrogates.gan.networks import Critic
from physgen.surrogates.method import Method, StepContext
from physgen.surrogates.refinement.origin import Origin
from physgen.transforms.base import Transform

BETAS = (0.0, 0.99)
"""Of Adam: the opponents move, so that no momentum is most stable."""


class Residual(nn.Module):
    """A map of events (B, D) that starts as the identity: y + h(y) on the columns that may change.

    Args:
        free: (D,), 1 for the columns that may change, 0 for the others.
        options: of the network h.

    >>> map = Residual(torch.tensor([1.0, 0.0]), MLPOptions(hidden=(8,)))
    >>> map(torch.ones(1, 2)).tolist()
    [[1.0, 1.0]]
    """

    free: Tensor

    def __init__(self, free: Tensor, options: MLPOptions) -> None:
        super().__init__()
        self.register_buffer("free", free)
        n = len(free)
        self.body = MLP(
            n, n, hidden=options.hidden, activation=options.activation, zero_output=True
        )

    def forward(self, y: Tensor) -> Tensor:
        """Return (B, D)."""
        out: Tensor = y + self.free * self.body(y)
        return out


class Translator(Surrogate):
    """A map from fast events to full ones, trained by `cycle-consistency` on unpaired samples.

    Args:
        schema: of full events; its conditions hold the same columns of fast ones.
        transform: from physical events to real vectors, the same for both samples.
        unchanged: columns that are taken from the fast event as they are, such as what is known of
            the incoming particle; the critics see them.
        network: of the change.

    Raises:
        RecipeError: the conditions do not hold the columns, or the transform changes their number.

    >>> from physgen.batch import Variable
    >>> model = Translator(Schema((1,), (Variable("x"),), (Variable("fast_x"),)))
    >>> model.sample(2, torch.tensor([[1.0], [2.0]]), seed=1).x.tolist()  # untrained
    [[1.0], [2.0]]
    """

    not_exported = "it makes events of other events, without noise; use `physgen refine`"

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        unchanged: tuple[str, ...] = (),
        network: MLPOptions = MLPOptions(hidden=(128, 128)),
    ) -> None:
        super().__init__(schema, transform)
        self.origin = Origin.of(schema, "translator", unchanged)
        self.network = network
        if self.transform.latent_shape(schema.shape) != schema.shape:
            raise RecipeError(
                "surrogate.kind: translator maps events column by column, and the transform "
                "changes what columns there are; take standardise"
            )
        free = torch.ones(schema.shape)
        free[list(self.origin.unchanged)] = 0
        self.forth = Residual(free, network)

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Return the events among (n, C) conditions, refined."""
        assert condition is not None  # The schema has conditions.
        y = self.transform(Batch(self.origin.events(condition)), generator)[0].x
        x = self.transform.inverse(Batch(self.forth(y))).x
        return Batch(self.origin.restored(x, condition), condition)


class CycleConsistency(Method):
    """Train a `Translator` against two critics, with a second map that goes back.

    The journal shows the critics' losses ("critic_loss"), the sum of both cycle terms ("cycle") and
    of both identity terms ("identity"), without their factors.

    Args:
        surrogate: a `Translator`.
        cycle: lambda.
        identity: lambda_i.
        r1: gamma of the penalty on the critics' slopes at their data.
        critic: network of each critic.
        learning_rate: of Adam, for all.

    Raises:
        RecipeError: the surrogate is another one.

    >>> from physgen.batch import Variable
    >>> model = Translator(Schema((1,), (Variable("x"),), (Variable("fast_x"),)))
    >>> method = CycleConsistency(model)
    >>> method.inputs, sorted(method.optimisers)
    (('source', 'target'), ['critics', 'maps'])
    """

    inputs = ("source", "target")

    def __init__(
        self,
        surrogate: Surrogate,
        *,
        cycle: NotNegative = 1.0,
        identity: NotNegative = 0.5,
        r1: NotNegative = 0.1,
        critic: MLPOptions = MLPOptions(hidden=(128, 128), activation="leaky-relu"),
        learning_rate: PositiveFloat = 5e-4,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, Translator):
            raise RecipeError(
                "method.kind: cycle-consistency trains the surrogate translator, not "
                f"{type(surrogate).__name__}"
            )
        self.model, self.loss = surrogate, LOSSES["non-saturating"]
        self.cycle, self.identity, self.r1 = cycle, identity, r1
        self.back = Residual(surrogate.forth.free, surrogate.network)
        shape = surrogate.schema.shape
        self.critics = nn.ModuleList(Critic(shape, 0, critic) for _ in self.inputs)
        self.modules |= {"back": self.back, "critics": self.critics}
        maps = [*surrogate.parameters(), *self.back.parameters()]
        self.optimisers["critics"] = torch.optim.Adam(
            self.critics.parameters(), lr=learning_rate, betas=BETAS
        )
        self.optimisers["maps"] = torch.optim.Adam(maps, lr=learning_rate, betas=BETAS)
        self._terms: list[Tensor] = []

    def critic_loss(self, source: Batch, target: Batch) -> Tensor:
        """Return (B,) losses of both critics on prepared fast and full events."""
        with torch.no_grad():
            made = self.back(target.x), self.model.forth(source.x)
        total = torch.zeros_like(source.x[:, 0])
        for critic, real, fake in zip(self.critics, (source.x, target.x), made, strict=True):
            total = total + self.loss.real(critic(real)) + self.loss.fake(critic(fake))
            if self.r1:
                total = total + 0.5 * self.r1 * squared_slope(critic, real, None)
        return total

    def map_loss(self, source: Batch, target: Batch) -> Tensor:
        """Return (B,) losses of both maps on prepared fast and full events."""
        y, x = source.x, target.x
        full, fast = self.model.forth(y), self.back(x)
        of_fast, of_full = self.critics
        played = self.loss.generator(of_full(full)) + self.loss.generator(of_fast(fast))
        cycle = _distance(self.back(full), y) + _distance(self.model.forth(fast), x)
        same = _distance(self.model.forth(x), x) + _distance(self.back(y), y)
        self._terms.append(torch.stack([cycle.detach().mean(), same.detach().mean()]))
        return played + self.cycle * cycle + self.identity * same

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Move the critics, then the maps."""
        events = batches["source"], batches["target"]
        critic = ctx.minimise(self.critic_loss, self.optimisers["critics"], *events)
        loss = ctx.minimise(self.map_loss, self.optimisers["maps"], *events)
        cycle, identity = torch.stack(self._terms).mean(0)
        self._terms.clear()
        return {"loss": loss, "critic_loss": critic, "cycle": cycle, "identity": identity}


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return (B,) means over the columns of |a - b|."""
    return (a - b).abs().mean(1)
