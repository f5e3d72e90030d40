"""Features of digits by a classifier of our own, and of systems without labels."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from toy import Normal, compare, draw

from physgen.batch import Batch
from physgen.errors import FormatError, InputError
from physgen.systems.images import Images
from physgen.validation import feature_classifier
from physgen.validation.comparison import Comparison
from physgen.validation.feature_classifier import FeatureClassifier, Labelled, trained
from physgen.validation.features import embed
from physgen.validation.metrics import Coverage, Frechet, InceptionScore, NearestNeighbour

DIGITS = Images(path="digits.yaml")


def labelled():
    """All digits in another order: the file's goes by writers."""
    x, labels = DIGITS.labelled(2000)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], labels[order]


def digits(generated, n=300):
    """Truth and floor are the last digits; `generated` is what stands beside them."""
    x = labelled()[0]
    return Comparison(DIGITS, Batch(generated), Batch(x[-n:]), Batch(x[-2 * n : -n]))


def scores(comparison):
    metrics = (Frechet(), Coverage(), InceptionScore(), NearestNeighbour())
    return {row.name: row for metric in metrics for row in metric.rows(comparison)}


def test_the_classifier_knows_digits_it_has_not_seen():
    x, labels = labelled()
    before = torch.get_rng_state()
    everything = DIGITS.labelled(2000)
    network = trained(Labelled.apart_from(everything, [x[-300:], x[-600:-300]]))
    features, probabilities = network.embed(x[-600:])
    assert (probabilities.argmax(1) == labels[-600:]).double().mean() > 0.94
    assert features.shape == (600, feature_classifier.N_FEATURES)
    assert torch.equal(before, torch.get_rng_state())
    assert network is trained(Labelled.apart_from(everything, [x[-600:]]))


def test_samples_that_are_compared_do_not_train():
    x, labels = labelled()
    left = Labelled.apart_from((x, labels), [x[:100], x[50:200]])
    assert len(left.x) == len(x) - 200
    with pytest.raises(InputError, match="too few to train a classifier"):
        Labelled.apart_from((x, labels), [x])
    with pytest.raises(InputError, match="of 1 classes"):
        Labelled.apart_from((x, torch.zeros(len(x))), [])


def test_good_digits_score_like_truth():
    found = scores(digits(labelled()[0][:300]))
    assert found["Frechet distance"].value < 3 * found["Frechet distance"].floor
    assert found["coverage"].value > 0.9
    assert found["smallest class share"].value > 0.05
    assert abs(found["1-NN accuracy"].value - 0.5) < 0.1
    assert found["inception score"].value > 8.5
    assert found["inception score"].floor > 8.5
    assert "of labelled samples that it never saw" in found["coverage"].note


@pytest.mark.parametrize("kind", ["constant", "one image", "noise", "far", "not finite"])
def test_degenerate_samples_have_scores(kind):
    x = labelled()[0]
    generated = {
        "constant": torch.full((300, 8, 8), 0.5),
        "one image": x[:1].repeat(300, 1, 1),
        "noise": torch.rand(300, 8, 8, generator=torch.Generator().manual_seed(0)),
        "far": torch.full((300, 8, 8), 3e38),
        "not finite": torch.full((300, 8, 8), float("nan")),
    }[kind]
    found = scores(digits(generated))
    assert found["Frechet distance"].value > 10 * found["Frechet distance"].floor
    assert found["Frechet distance"].p_value < 2e-4  # no permutation of 10^4 reaches it
    assert found["coverage"].value < 0.2
    assert "uncovered" in found["coverage"].warning
    assert found["1-NN accuracy"].value > 0.9
    if kind != "noise":
        assert found["inception score"].value == pytest.approx(1.0)
        assert "mode collapse" in found["smallest class share"].warning
    holes = "300 generated samples hold values that are not finite"
    assert (holes in found["coverage"].note) == (kind == "not finite")


def test_a_forgotten_digit_is_named():
    x, labels = labelled()
    row = scores(digits(x[labels != 7][:300]))["smallest class share"]
    assert row.value < 0.01
    assert "classes 7" in row.warning


def test_other_systems_are_seen_by_their_own_features():
    embedded = compare(draw(300, 3, shift=1.0)).once(embed)
    assert embedded.probabilities is None
    assert set(embedded.values) == {"generated", "truth", "floor"}
    truth = embedded.values["truth"]
    np.testing.assert_allclose(truth.mean(0), 0.0, atol=1e-6)
    assert truth.var(0).sum() == pytest.approx(1.0)
    with pytest.raises(InputError, match="leave it out"):
        InceptionScore().rows(compare(draw(300, 3)))


def test_images_without_labels_are_seen_by_their_observables():
    @dataclass(frozen=True)
    class Unlabelled(Normal):
        def labelled(self, n):
            raise FormatError("no labels")

    comparison = Comparison(Unlabelled(), draw(50, 1), draw(50, 2))
    assert comparison.once(embed).probabilities is None


def test_rows_are_independent_and_equally_many():
    groups = np.arange(300) // 3
    grouped = compare(draw(300, 3), groups={"truth": groups}).once(embed)
    assert not grouped.exchangeable
    assert {role: len(np.unique(unit)) for role, unit in grouped.unit.items()} == {
        "generated": 300,
        "truth": 100,
        "floor": 300,
    }
    slow = Batch(x=draw(200, 3).x.repeat_interleave(10, 0), chain=torch.zeros(2000))
    chained = compare(slow).once(embed)
    assert not chained.exchangeable
    assert {len(values) for values in chained.values.values()} == {len(chained.unit["generated"])}
    assert 100 < len(chained.values["truth"]) < 200
    assert Frechet().rows(compare(slow))[0].p_value is None
    single = compare(draw(100, 3).replace(chain=torch.arange(100))).once(embed)
    assert single.exchangeable
    assert len(single.values["truth"]) == 100


def test_what_cannot_be_scored_is_refused():
    weighted = draw(100, 3).replace(weight=torch.ones(100))
    with pytest.raises(InputError, match="generated sample is weighted"):
        _ = compare(weighted).once(embed)
    with pytest.raises(InputError, match="5 independent samples are too few"):
        _ = compare(draw(5, 3)).once(embed)
    with pytest.raises(InputError, match="needs a sample of the truth"):
        _ = Comparison(Normal(), draw(100, 3)).once(embed)


def test_any_shape_has_a_classifier(monkeypatch):
    monkeypatch.setattr(feature_classifier, "STEPS", 60)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    for shape in ((3,), (5, 7), (2, 6)):
        x = torch.randn(200, *shape, generator=generator)
        x += 3 * labels.reshape(-1, *(1,) * len(shape))
        network = trained(Labelled.apart_from((x, labels), []))
        assert network.accuracy > 0.8
        assert isinstance(network, FeatureClassifier)
