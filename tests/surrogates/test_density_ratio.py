"""Events weighted to be those of another sample: the density ratio of two normal distributions."""

import os
import signal

import pytest
import torch
from randomised import generator

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import InputError, RecipeError
from physgen.io.source import ArraySource
from physgen.io.stream import Stream
from physgen.networks.mlp import MLPOptions
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.reweighting import DensityRatio, Reweighting
from physgen.transforms.affine import Standardise

SCHEMA = Schema((1,), (Variable("x"),), (Variable("source_x"),))
SHIFT, N = 0.5, 20_000


def samples():
    source = torch.randn(N, 1, generator=generator(1))
    target = SHIFT + torch.randn(N, 1, generator=generator(2))
    return Batch(source), Batch(target)


def train(folder, steps=400, progress=None):
    source, target = samples()
    torch.manual_seed(0)
    model = Reweighting(SCHEMA, Standardise(SCHEMA), network=MLPOptions(hidden=(32,)))
    model.initialise(target)
    model.conditions.fit(source.x, as_they_are=True)
    method = DensityRatio(model, learning_rate=5e-3)
    rows = {"source": source, "target": target}
    streams = {
        name: Stream(ArraySource(batch, SCHEMA), batch_size=512, seed=3)
        for name, batch in rows.items()
    }
    options = Engine(steps=steps, batch_size=512, schedule="cosine", checkpoint_every=100)
    return model, fit(model, method, streams, folder, options, progress=progress)


def test_the_known_ratio_is_found(tmp_path):
    """log w = x mu - mu^2 / 2; of n events count n exp(-mu^2)."""
    model, _ = train(tmp_path)
    x = torch.linspace(-1.5, 2, 8)[:, None]
    with torch.no_grad():
        torch.testing.assert_close(
            model.log_ratio(x), (SHIFT * x - SHIFT**2 / 2)[:, 0], atol=0.1, rtol=0
        )
    fresh = torch.randn(N, 1, generator=generator(9)).clamp(
        *model.conditions.low.new_tensor([-3, 3])
    )
    weighted = model.sample(N, fresh, seed=1)
    w = weighted.weight.double()
    assert torch.equal(weighted.x, fresh)
    # Errors: sqrt(<w^2> - 1) / sqrt(N) = .004 of the norm; .008 of the mean.
    assert float(w.mean()) == pytest.approx(1, abs=0.03)
    assert float((w * weighted.x[:, 0]).sum() / w.sum()) == pytest.approx(SHIFT, abs=0.04)
    effective = float(w.sum() ** 2 / w.square().sum()) / N
    assert effective == pytest.approx(float(torch.tensor(-(SHIFT**2)).exp()), abs=0.05)


def test_events_that_nobody_gives_are_those_of_the_source_sample(tmp_path):
    model, _ = train(tmp_path, steps=2)
    drawn = model.sample(500, seed=1)
    assert torch.isin(drawn.x, samples()[0].x).all(), "no event lies between two others"
    assert drawn.weight is not None


def test_two_inputs_resume_exactly(tmp_path):
    whole, _ = train(tmp_path / "whole")

    def stop(step, metrics):
        if step == 100:
            os.kill(os.getpid(), signal.SIGTERM)

    _, first = train(tmp_path / "parts", progress=stop)
    assert not first.finished
    resumed, second = train(tmp_path / "parts")
    assert second.resumed_at == first.step
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_an_input_that_is_missing_is_named(tmp_path):
    model = Reweighting(SCHEMA)
    stream = Stream(ArraySource(samples()[1], SCHEMA), batch_size=64)
    with pytest.raises(InputError, match="needs the input 'source' and got"):
        fit(model, DensityRatio(model), {"target": stream}, tmp_path, Engine(steps=1))


@pytest.mark.parametrize(
    "condition",
    [(), (Variable("x"),), (Variable("source_x", unit="GeV"),), (Variable("a_x"), Variable("b_x"))],
)
def test_other_columns_are_refused(condition):
    with pytest.raises(RecipeError, match=r"need the columns x, in this order and these units"):
        Reweighting(Schema((1,), (Variable("x"),), condition))


def test_other_surrogates_are_refused():
    with pytest.raises(RecipeError, match="density-ratio trains the surrogate reweighting"):
        DensityRatio(Flow(Schema((2,), (Variable("x"),))))
