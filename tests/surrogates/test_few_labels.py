"""Semi-supervised adversarial networks: K classes of data, and generated samples as one more."""

import pytest
import torch
from randomised import generator
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import InputError, RecipeError
from physgen.networks.mlp import MLPOptions
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.gan.adversarial import Adversarial
from physgen.surrogates.gan.few_labels import (
    LabelledGenerator,
    SemiSupervised,
    plainly_trained,
)
from physgen.transforms.images import OneHot

SMALL = MLPOptions(hidden=(16,), activation="leaky-relu")


def labelled(n_classes=3):
    label = Variable("label", domain="integer", low=0, high=n_classes - 1)
    return Schema((2,), (Variable("x"), Variable("y")), (label,))


def model_of(n_classes=3, per_class=2):
    schema = labelled(n_classes)
    torch.manual_seed(0)
    options = {"latent": 4, "network": SMALL, "per_class": per_class}
    return LabelledGenerator(schema, OneHot(schema), **options)


def rows(n=60, n_classes=3):
    """Each class about a point of its own on a circle."""
    classes = torch.arange(n) % n_classes
    angle = 2 * torch.pi * classes / n_classes
    centres = torch.stack([angle.cos(), angle.sin()], 1)
    x = 2 * centres + 0.3 * torch.randn(n, 2, generator=generator(1))
    return Batch(x, classes[:, None].float())


def test_the_losses_are_those_of_one_class_more():
    """-log p(k | x) of K + 1 logits, of which the last is 0."""
    model = model_of()
    model.initialise(rows())
    method = SemiSupervised(model, r1=0.0)
    batch = method.prepare(rows(12), generator(2))
    noise = torch.randn(12, model.latent, generator=generator(3))
    known, labels = model.drawn_known(torch.rand(12, generator=generator(4)), generator(5))
    fake = model.decode_noise(noise, batch.condition)

    def log_p(x):
        logits = model.classifier(x)
        return torch.cat([logits, torch.zeros(len(x), 1)], 1).log_softmax(1)

    real = 1 - log_p(batch.x)[:, -1].exp()
    within = log_p(known)[:, :-1].log_softmax(1)
    expected = -real.log() - log_p(fake)[:, -1] - within[torch.arange(12), labels]
    torch.testing.assert_close(method.classifier_loss(batch, noise, known, labels), expected)
    wanted = -log_p(fake)[torch.arange(12), batch.condition.argmax(1)]
    torch.testing.assert_close(method.generator_loss(batch, noise), wanted)


def test_few_labels_are_known_and_no_others_are_looked_at():
    model = model_of()
    batch = rows()
    model.initialise(batch)
    assert model.known_labels.tolist() == [0, 0, 1, 1, 2, 2]
    of = {tuple(x.tolist()): int(c) for x, c in zip(batch.x, batch.condition, strict=True)}
    assert [of[tuple(x.tolist())] for x in model.known] == model.known_labels.tolist()
    assert len({tuple(x.tolist()) for x in model.known}) == 6
    x, labels = model.drawn_known(torch.tensor([0.0, 0.5, 0.999]), generator(1))
    assert torch.equal(x, model.known[[0, 3, 5]])
    assert labels.tolist() == [0, 1, 2]


def test_a_classifier_of_few_labels_and_its_generator_are_learned():
    model, data = model_of(per_class=1), rows(600)
    torch.manual_seed(1)
    model.initialise(data)
    method = SemiSupervised(model, learning_rate=5e-3)
    context = StubContext(128)
    for step in range(300):
        chosen = torch.randint(600, (128,), generator=generator(step))
        method.step({"data": method.prepare(data[chosen], generator(step))}, context)
    classes = data.condition[:, 0].long()
    found = model.probabilities(data.x).argmax(1)
    assert float((found == classes).float().mean()) > 0.95
    # What is generated on request is of its class: nearest to the centre of the class.
    made = model.sample(300, data.condition[:300], seed=1).x
    centres = torch.stack([data.x[classes == k].mean(0) for k in range(3)])
    nearest = torch.cdist(made, centres).argmin(1)
    assert float((nearest == classes[:300]).float().mean()) > 0.8


def test_plain_classifiers_know_the_same_labels_and_differ_by_their_seeds():
    model = model_of()
    model.initialise(rows())
    first, again, other = (plainly_trained(model, 400, seed) for seed in (1, 1, 2))
    answers = [model.probabilities(model.known, one) for one in (first, again, other)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert answers[0].argmax(1).tolist() == model.known_labels.tolist()


def test_what_does_not_fit_is_refused():
    schema = labelled()
    with pytest.raises(RecipeError, match=r"one condition.*one-hot"):
        LabelledGenerator(schema)
    with pytest.raises(RecipeError, match="one condition"):
        LabelledGenerator(Schema((2,), (Variable("x"), Variable("y"))))
    with pytest.raises(RecipeError, match="semi-supervised trains the surrogate labelled-gen"):
        SemiSupervised(Flow(schema))
    with pytest.raises(RecipeError, match="take semi-supervised"):
        Adversarial(model_of(), steps=1)
    with pytest.raises(InputError, match="per_class=30: class 0 has 20 training rows"):
        model_of(per_class=30).initialise(rows())
    with pytest.raises(InputError, match="labelled rows"):
        model_of().initialise(None)
