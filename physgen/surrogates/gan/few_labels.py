r"""Semi-supervised adversarial networks: few labels, and many samples without (K + 1 classes).

The critic tells K classes of data, and generated samples as one class more (Salimans et al., arXiv
1606.03498, section 5). With logits l_1 ... l_K, that of the class more being 0,

    p(k | x) = exp l_k / (1 + Z),    D(x) = Z / (1 + Z),    Z = sum_k exp l_k,

so that log Z is the score of an ordinary discriminator. What it minimises is

    -log D(x) - log(1 - D(G(z, c))) - log(exp l_k / Z)(x_k),

the last term being of the few samples x_k whose labels k are known. The generator is shown classes
c and minimises -log p(c | G(z, c)): its samples are to pass for data of the class that was asked
for. All samples shape the features, few say which class is which.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import InputError, RecipeError, errors_of
from physgen.isolation import global_generators
from physgen.networks.bodies import Encoder, NetworkOptions
from physgen.networks.mlp import MLPOptions
from physgen.ranges import NotNegative, Positive, PositiveFloat
from physgen.surrogates.gan.losses import LOSSES, squared_slope
from physgen.surrogates.gan.networks import Generator
from physgen.surrogates.method import Method, StepContext
from physgen.transforms.base import Transform

BETAS = (0.0, 0.99)
"""Of Adam: the opponents move, so that no momentum is most stable."""


class LabelledGenerator(Generator):
    """A generator of samples of classes, with the classifier that it learned from few labels.

    The labels of all rows are conditions; `per_class` rows of each class are drawn at the
    start, and the labels of others only say how often classes are generated.

    Args:
        schema: of the samples; one condition, a label.
        transform: with `one-hot`, which makes a column of each class.
        latent: dimension of the latent vector.
        network: of the generator, and of a classifier of K logits.
        bounded: end in tanh, for transforms into [-1, 1].
        per_class: rows of each class whose labels are known.

    Raises:
        RecipeError: the samples have no label, or it is not one column a class.

    >>> from physgen.batch import Variable
    >>> from physgen.transforms.images import OneHot
    >>> label = Variable("label", domain="integer", low=0, high=1)
    >>> schema = Schema((2,), (Variable("x"), Variable("y")), (label,))
    >>> model = LabelledGenerator(schema, OneHot(schema), latent=4, per_class=3)
    >>> model.initialise(Batch(torch.randn(20, 2), torch.arange(20)[:, None] % 2))
    >>> model.probabilities(torch.zeros(5, 2)).shape, model.known_labels.tolist()
    (torch.Size([5, 2]), [0, 0, 0, 1, 1, 1])
    """

    classifies = True

    known: Tensor
    known_labels: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        latent: Positive = 64,
        network: NetworkOptions = MLPOptions(activation="leaky-relu"),
        bounded: bool = False,
        per_class: Positive = 10,
    ) -> None:
        super().__init__(schema, transform, latent=latent, network=network, bounded=bounded)
        sizes = [v.range[1] - v.range[0] + 1 for v in schema.condition]
        n_classes = self.n_condition
        if n_classes < 2 or sizes != [n_classes]:
            raise RecipeError(
                "surrogate.kind: labelled-generator learns the classes of samples, which are their "
                "one condition: set system.labels=true, and let the transform end in one-hot"
            )
        self.per_class, self.network = per_class, network
        with errors_of("surrogate.network"):
            self.classifier = self.new_classifier()
        self.register_buffer("known", torch.zeros(n_classes * per_class, *schema.shape))
        classes = torch.arange(n_classes).repeat_interleave(per_class)
        self.register_buffer("known_labels", classes)

    def new_classifier(self) -> nn.Module:
        """Return an untrained classifier, (B, *latent_shape) -> (B, K) logits."""
        return Encoder(self.latent_shape, self.n_condition, 0, self.network)

    def initialise(self, data: Batch | None) -> None:
        """Draw the rows whose labels are known.

        Raises:
            InputError: there are no labelled rows, or too few of a class.
        """
        super().initialise(data)
        if data is None or data.condition is None:
            raise InputError("labelled-generator learns from labelled rows; give it a file of them")
        classes = self.transform.map_condition(data.condition).argmax(1)
        for label in range(self.n_condition):
            rows = (classes == label).nonzero()[:, 0]
            if len(rows) < self.per_class:
                raise InputError(
                    f"surrogate.per_class={self.per_class}: class {label} has {len(rows)} training "
                    "rows; ask for fewer, or give more data"
                )
            chosen = rows[torch.randperm(len(rows))[: self.per_class]]
            self.known[self.known_labels == label] = data.x[chosen].to(self.known)

    def drawn_known(self, uniform: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return known samples of the transform's space, with its noise, and their (B,) labels.

        Args:
            uniform: (B,) numbers in [0, 1), which choose them.
            generator: of the noise.
        """
        rows = (uniform * len(self.known)).long()
        return self.transform(Batch(self.known[rows]), generator)[0].x, self.known_labels[rows]

    @torch.no_grad()
    def probabilities(self, x: Tensor, classifier: nn.Module | None = None) -> Tensor:
        """Return the (B, K) probabilities of the classes of samples (B, *shape) in physical units.

        Args:
            x: the samples.
            classifier: another one than its own, such as `plainly_trained`.
        """
        generator = torch.Generator(self.device).manual_seed(0)
        mapped = self.transform(Batch(x.to(self.device, self.dtype)), generator)[0].x
        logits: Tensor = (classifier or self.classifier)(mapped)
        return logits.softmax(1)


class SemiSupervised(Method):
    """Train a `LabelledGenerator`: K classes of data, and generated samples as one class more.

    The journal shows "D_real" and "D_fake", and the cross-entropy of known labels ("labels").

    Args:
        surrogate: a `LabelledGenerator`.
        r1: gamma of the penalty on the slopes of log Z at the data.
        learning_rate: of Adam, for both.

    Raises:
        RecipeError: the surrogate is another one.

    >>> from physgen.batch import Variable
    >>> from physgen.transforms.images import OneHot
    >>> label = Variable("label", domain="integer", low=0, high=1)
    >>> schema = Schema((2,), (Variable("x"), Variable("y")), (label,))
    >>> sorted(SemiSupervised(LabelledGenerator(schema, OneHot(schema))).optimisers)
    ['classifier', 'generator']
    """

    def __init__(
        self,
        surrogate: Generator,
        *,
        r1: NotNegative = 0.5,
        learning_rate: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__(surrogate)
        if not isinstance(surrogate, LabelledGenerator):
            raise RecipeError(
                "method.kind: semi-supervised trains the surrogate labelled-generator, not "
                f"{type(surrogate).__name__}"
            )
        self.model, self.r1, self.loss = surrogate, r1, LOSSES["non-saturating"]
        for name, network in (("classifier", surrogate.classifier), ("generator", surrogate.body)):
            self.optimisers[name] = torch.optim.Adam(
                network.parameters(), lr=learning_rate, betas=BETAS
            )
        self._curves: list[Tensor] = []

    def score(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,) log Z, the log-odds that samples are data."""
        logits: Tensor = self.model.classifier(x)
        return logits.logsumexp(1)

    def classifier_loss(self, batch: Batch, noise: Tensor, known: Tensor, labels: Tensor) -> Tensor:
        """Return (B,) losses of the classifier.

        Args:
            batch: prepared data, whose labels only say which classes are generated.
            noise: (B, latent), normal.
            known: (B, *latent_shape), prepared samples of known labels.
            labels: (B,) of these.
        """
        with torch.no_grad():
            fake = self.model.decode_noise(noise, batch.condition)
        scores = self.score(batch.x), self.score(fake)
        supervised = functional.cross_entropy(
            self.model.classifier(known), labels, reduction="none"
        )
        shown = *map(self.loss.shown, scores), supervised
        self._curves.append(torch.stack([values.detach().float().mean() for values in shown]))
        loss = self.loss.real(scores[0]) + self.loss.fake(scores[1]) + supervised
        if self.r1:
            loss = loss + 0.5 * self.r1 * squared_slope(self.score, batch.x, None)
        return loss

    def generator_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """Return (B,) losses -log p(c | G(z, c)) at the classes of a prepared batch."""
        logits = self.model.classifier(self.model.decode_noise(noise, batch.condition))
        every = torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)
        assert batch.condition is not None  # The schema has a label.
        return functional.cross_entropy(every, batch.condition.argmax(1), reduction="none")

    def step(self, batches: Mapping[str, Batch], ctx: StepContext) -> dict[str, Tensor]:
        """Move the classifier, then the generator."""
        batch, latent = batches["data"], self.model.latent
        known, labels = self.model.drawn_known(ctx.rand(1)[:, 0], ctx.generator)
        ctx.minimise(
            self.classifier_loss,
            self.optimisers["classifier"],
            *(batch, ctx.randn(latent), known.to(batch.x), labels),
        )
        loss = ctx.minimise(
            self.generator_loss, self.optimisers["generator"], batch, ctx.randn(latent)
        )
        real, fake, supervised = torch.stack(self._curves).mean(0)
        self._curves.clear()
        return {"loss": loss, "D_real": real, "D_fake": fake, "labels": supervised}


def plainly_trained(model: LabelledGenerator, steps: int, seed: int) -> nn.Module:
    """Return a classifier of the same network, trained on the known labels alone.

    Args:
        model: knows the labels.
        steps: of Adam, as many samples each as there are known ones.
        seed: of its weights and of the transform's noise.
    """
    with global_generators(seed), torch.enable_grad():
        network = model.new_classifier().to(model.device, model.dtype)
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        generator = torch.Generator(model.device).manual_seed(seed)
        for _ in range(steps):
            x = model.transform(Batch(model.known), generator)[0].x
            loss = functional.cross_entropy(network(x), model.known_labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return network.eval()
