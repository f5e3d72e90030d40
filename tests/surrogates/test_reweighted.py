"""A generator with weights: the known density ratio is found, for samples of the generator."""

import math

import pytest
import torch
from randomised import generator
from stub import StubContext

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.surrogates.base import Surrogate
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.reweighted import ClassifierOptions, GeneratorRatio, Reweighted
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.systems.scalar import Phi4

SYSTEM = Phi4(shape=(2,))
SHIFT = 0.5


class Normal(Surrogate):
    """Independent normal numbers about a mean that is all there is to be loaded."""

    def __init__(self, mean):
        super().__init__(SYSTEM.schema)
        self.mean = torch.nn.Parameter(torch.tensor(mean))

    @property
    def noise_shape(self):
        return self.schema.shape

    def from_noise(self, noise, condition=None):
        return self.mean + noise


def trained(steps=400, **options):
    classifier = ClassifierOptions(levels=("low",), **options)
    model = Reweighted(SYSTEM.schema, inner=Normal(7.0), system=SYSTEM, classifier=classifier)
    data = SHIFT + torch.randn(20000, 2, generator=generator(1))
    model.initialise(Batch(data))
    method = GeneratorRatio(model, Normal(0.0), learning_rate=5e-3, weight_decay=0.0)
    context = StubContext(500, seed=2)
    for _ in range(steps):
        rows = torch.randint(len(data), (500,), generator=context.generator)
        method.step({"data": Batch(data[rows])}, context)
    return model


def test_the_density_ratio_of_two_normal_distributions_is_found():
    """ln w = sum_i (a x_i - a^2 / 2); the effective share is exp(-a^2) for each number."""
    model = trained()
    batch = model.sample(20000, seed=4)
    exact = (SHIFT * batch.x - SHIFT**2 / 2).sum(1)
    inside = batch.x.abs().amax(1) < 2
    assert (batch.weight.log() - exact)[inside].square().mean().sqrt() < 0.2  # 0.7 before training.
    mean = (batch.weight[:, None] * batch.x).sum(0) / batch.weight.sum()
    torch.testing.assert_close(mean, torch.full((2,), SHIFT), rtol=0, atol=0.06)
    share = batch.weight.sum() ** 2 / batch.weight.square().sum() / len(batch)
    assert float(share) == pytest.approx(math.exp(-2 * SHIFT**2), abs=0.08)


def test_the_generator_is_that_of_the_run_and_is_not_changed():
    model = trained(steps=3)
    assert float(model.inner.mean) == 0.0
    batch = model.sample(500, seed=4)
    assert torch.equal(batch.x, Normal(0.0).sample(500, seed=4).x)


def test_what_does_not_go_together_is_refused():
    make = Reweighted
    with pytest.raises(RecipeError, match=r"surrogate\.generator is missing"):
        make(SYSTEM.schema, system=SYSTEM)
    model = make(SYSTEM.schema, inner=Normal(0.0), system=SYSTEM)
    with pytest.raises(RecipeError, match="have weights already"):
        make(SYSTEM.schema, inner=model, system=SYSTEM)
    with pytest.raises(RecipeError, match=r"Normal has no sampler to choose"):
        model.use_sampler(SamplerOptions())
    with pytest.raises(RecipeError, match=r"method\.generator is missing"):
        GeneratorRatio(model)
    with pytest.raises(RecipeError, match=r"method\.generator is a Flow"):
        GeneratorRatio(model, Flow(SYSTEM.schema))
    with pytest.raises(RecipeError, match="generator-ratio trains the surrogate reweighted"):
        GeneratorRatio(Normal(0.0), Normal(0.0))
    with pytest.raises(RecipeError, match="needs features"):
        make(SYSTEM.schema, inner=Normal(0.0), system=object())


def test_one_layer_is_a_linear_log_ratio():
    """Without hidden layers the log-odds of features are linear, as they should be here."""
    model = trained(hidden=())
    slope = model.log_odds(torch.eye(2)) - model.log_odds(torch.zeros(2, 2))
    torch.testing.assert_close(
        slope[:, 0] / model.scale, torch.full((2,), SHIFT), rtol=0, atol=0.08
    )
