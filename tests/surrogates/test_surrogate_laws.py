"""What holds for every surrogate and every method that is registered."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from randomised import generator, randomised
from registered import (
    KINDS,
    SAMPLES,
    SURROGATES,
    UNTRAINED,
    asks_for_a_system,
    built,
    class_of,
    data,
    methods_of,
)
from safetensors.torch import load_file, save_file
from stub import StubContext
from torch import nn

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.base import FromNoise
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain

UNCONDITIONAL = {
    *("rbm", "rbm, potts", "gaussian-rbm", "energy", "flow, normflows"),
    *("checkerboard-flow", "closure-defect", "gauge-flow"),
    "stochastic-gauge-flow",
    *("u1-coupling-flow", "link-diffusion"),
}
"""Families that say that they know no conditions."""
DETERMINISTIC = {"reweighting", "translator", "unrefined"}
"""Families whose samples follow from their conditions."""
UNROLLED = {"flow, normflows", "shower-flow"}
"""Families whose map is iterated until it has converged, or is hundreds of steps: minutes."""
TRAINED = [kind for kind in KINDS if kind not in UNTRAINED]


def fitted(kind):
    """A surrogate that has seen data and is none of the special ones that begin a training."""
    surrogate, _, batch = built(kind)
    surrogate.initialise(batch)
    randomised(surrogate, 0.1)
    return surrogate.eval(), batch


def given(batch, n):
    return None if batch.condition is None else batch.condition[:n]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_the_samples(kind):
    surrogate, batch = fitted(kind)
    first, again, other = (surrogate.sample(9, given(batch, 9), seed=s).x for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind in DETERMINISTIC)
    assert first.shape == (9, *surrogate.schema.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_weights_give_the_same_samples(kind, tmp_path):
    surrogate, batch = fitted(kind)
    weights = {key: value.clone() for key, value in surrogate.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    fresh = built(kind)[0].eval()
    fresh.load_state_dict(load_file(tmp_path / "w.safetensors"))
    ours, theirs = (model.sample(9, given(batch, 9), seed=3) for model in (surrogate, fresh))
    assert torch.equal(ours.x, theirs.x)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_that_are_drawn_in_pieces_keep_their_conditions(kind):
    surrogate, batch = fitted(kind)
    if surrogate.at_once is None:
        return
    surrogate.at_once = 4
    drawn = surrogate.sample(10, given(batch, 10), seed=1)
    assert len(drawn) == 10
    if batch.condition is not None:
        assert torch.equal(drawn.condition, given(batch, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_used_or_refused(kind):
    schema, system, batch = data(SAMPLES.get(kind, "table"))
    if schema.condition:
        surrogate, batch = fitted(kind)
        low, high = batch.condition.amin(0), batch.condition.amax(0)
    else:
        conditional = replace(schema, condition=(Variable("c"),))
        table = SAMPLES.get(kind, "table") == "table"
        transform = Chain([Standardise(conditional)] if table else [], conditional)
        low, high = torch.tensor([-1.0]), torch.tensor([1.0])
        c = 2 * torch.rand(len(batch), 1, generator=generator(5)) - 1
        torch.manual_seed(0)
        known = {"system": system} if asks_for_a_system(kind) else {}
        make = partial(class_of(kind), conditional, transform, **known, **SURROGATES.get(kind, {}))
        if kind in UNCONDITIONAL:
            with pytest.raises(RecipeError, match="condition"):
                make()
            return
        surrogate = make()
        surrogate.initialise(batch.replace(condition=c, weight=None))
        randomised(surrogate, 0.1)
    pair = (surrogate.sample(50, end.expand(50, -1), seed=1).x for end in (low, high))
    first, second = pair
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_known_or_refused(kind):
    cls = class_of(kind)
    masked = Schema((3, 2), (Variable("x"), Variable("y")), masked=True)
    if cls.knows_masks:
        surrogate, batch = fitted(kind)
        drawn = surrogate.sample(20, given(batch, 20), seed=1)
        assert drawn.mask.shape == drawn.x.shape[:2]
        assert (drawn.x[~drawn.mask] == 0).all()
        return
    system = data(SAMPLES.get(kind, "table"))[1]
    known = {"system": system} if asks_for_a_system(kind) else {}
    with pytest.raises((RecipeError, DomainError), match=r"samples of one shape|showers of shape"):
        cls(masked, None, **known)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_noise_do_not_mix_samples(kind):
    surrogate, batch = fitted(kind)
    if not isinstance(surrogate, FromNoise):
        return
    surrogate = surrogate.double()
    shape = 6, *surrogate.noise_shape
    noise = torch.randn(shape, generator=generator(2), dtype=torch.float64)
    condition = given(batch, 6)
    condition = None if condition is None else condition.double()
    with torch.no_grad():
        together = surrogate.from_noise(noise, condition)
        alone = surrogate.from_noise(noise[2:3], None if condition is None else condition[2:3])
    torch.testing.assert_close(alone, together[2:3], rtol=1e-6, atol=1e-8)


class Forward(nn.Module):
    """A map of noise as exporters take it."""

    def __init__(self, surrogate):
        super().__init__()
        self.surrogate = surrogate

    def forward(self, noise, condition=None):
        return self.surrogate.from_noise(noise, condition)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_noise_are_one_graph(kind):
    """What exporters ask for: no branch on values, no tensor made outside of it."""
    surrogate, batch = fitted(kind)
    if not isinstance(surrogate, FromNoise) or kind in UNROLLED:
        return
    noise = torch.randn(4, *surrogate.noise_shape, generator=generator(2))
    condition = given(batch, 4)
    graph = torch.export.export(Forward(surrogate), (noise, condition), strict=False).module()
    with torch.no_grad():
        torch.testing.assert_close(
            graph(noise, condition), surrogate.from_noise(noise, condition), rtol=0, atol=0
        )


def step(method, batch, number):
    context = StubContext(len(batch), seed=number, step=number)
    context.next = lambda name="data": method.prepare(
        Batch(batch.condition) if name == "source" else batch, generator(100 + number)
    )
    batches = {name: context.next(name) for name in method.inputs}
    return method.step(batches, context)


@pytest.mark.parametrize("kind", TRAINED)
def test_every_parameter_learns_and_a_method_resumes_exactly(kind):
    tried = []
    for name, surrogate, method, whole in methods_of(kind):
        batch = Batch(**{k: v[:64] for k, v in whole.fields().items()}).replace(weight=None)
        surrogate.initialise(whole.replace(weight=None))
        before = {key: value.clone() for key, value in surrogate.named_parameters()}
        torch.manual_seed(1)
        for number in range(2):
            step(method, batch, number)
        middle = copy.deepcopy((surrogate.state_dict(), method.state_dict()))
        for number in range(2, 4):
            torch.manual_seed(number)
            step(method, batch, number)
        for key, value in surrogate.named_parameters():
            if value.requires_grad and value.numel():
                assert not torch.equal(value, before[key]), f"{kind} by {name}: {key} did not move"
        ended = copy.deepcopy(surrogate.state_dict())
        other, again = next((s, m) for n, s, m, _ in methods_of(kind) if n == name)
        other.initialise(whole.replace(weight=None))
        other.load_state_dict(middle[0])
        again.load_state_dict(middle[1])
        for number in range(2, 4):
            torch.manual_seed(number)
            step(again, batch, number)
        for key, value in other.state_dict().items():
            assert torch.equal(value, ended[key]), f"{kind} by {name}: {key} differs"
        tried.append(name)
    assert tried, f"no method trains {kind}"
