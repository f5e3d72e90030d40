"""Every surrogate computes where its parameters are: on CUDA, and on a device without numbers.

Tensors of the device "meta" have shapes and types but no values, and refuse to be mixed with those
of other devices: what was left on the CPU is found without a CUDA device.
"""

import math
from functools import partial

import pytest
import torch
from randomised import generator, randomised
from registered import KINDS, SAMPLES, UNTRAINED, built, class_of, methods_of
from stub import StubContext

from physgen.batch import Batch
from physgen.engine.loop import _place

CUDA = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
ASK_FOR_VALUES = {
    *("energy", "gaussian-rbm", "rbm", "rbm, potts"),  # how often chains are thinned
    *("gauge-flow", "stochastic-gauge-flow"),  # kernels on the CPU
    *("reweighting", "reweighted", "independent-items"),
    *("likelihood-flow", "likelihood-ratio"),  # which data are the same, and how likely they are
    *("shower-copula", "shower-diffusion", "shower-flow"),
    *("bridge", "translator", "unrefined"),  # whether conditions were trained on
    "labelled-generator",  # which labels were
    *("point-diffusion, groups", "point-diffusion, moments"),  # whether points lie on a grid
    "flow, normflows",
}
"""Families that look at numbers to sample."""
ITERATED = {"diffusion-flow", *ASK_FOR_VALUES} - {"flow, normflows"}
"""Families that look at numbers to give densities."""
DENSE = [kind for kind in KINDS if hasattr(class_of(kind), "log_prob")]
"""Families that know their density."""
FEW = 16


def ready(kind):
    surrogate, _, batch = built(kind)
    surrogate.initialise(batch)
    randomised(surrogate, 0.1)
    return surrogate.eval(), Batch(**{k: v[:FEW] for k, v in batch.fields().items()})


def there(batch, device):
    return Batch(**{name: value.to(device) for name, value in batch.fields().items()})


@pytest.mark.parametrize("kind", sorted({*KINDS} - ASK_FOR_VALUES))
def test_samples_lie_where_the_parameters_do(kind):
    surrogate, batch = ready(kind)
    batch = there(batch, "meta")
    with torch.no_grad():
        drawn = surrogate.to("meta").sample(FEW, batch.condition, generator=torch.Generator())
    assert drawn.x.device.type == "meta"
    assert drawn.x.shape == batch.x.shape


@pytest.mark.parametrize("kind", sorted({*DENSE} - ITERATED))
def test_densities_lie_where_the_parameters_do(kind):
    surrogate, batch = ready(kind)
    with torch.no_grad():
        value = surrogate.to("meta").log_prob(there(batch, "meta"))
    assert (value.device.type, value.shape) == ("meta", (FEW,))


NETWORKS = sorted({*KINDS} - {*SAMPLES})
"""Families of networks that learn from tables; lattices are trained in double precision."""


@pytest.mark.parametrize("kind", NETWORKS)
def test_losses_in_bfloat16_are_finite_and_leave_parameters_as_they_are(kind):
    for name, surrogate, method, whole in methods_of(kind):
        whole = whole.replace(weight=None)
        surrogate.initialise(whole)
        rows = Batch(**{k: v[:FEW] for k, v in whole.fields().items()})
        context = StubContext(FEW)
        minimise = context.minimise
        losses = []

        def in_bfloat16(loss, optimiser, *arguments, minimise=minimise, losses=losses):
            losses.append(minimise(partial(cast, loss), optimiser, *arguments))
            return losses[-1]

        def cast(loss, *arguments):
            with torch.autocast("cpu", torch.bfloat16):
                return loss(*arguments)

        kinds = {key: value.dtype for key, value in surrogate.named_parameters()}
        context.minimise = in_bfloat16
        batch = method.prepare(rows, generator(3))
        context.next = lambda name="data", batch=batch: batch
        method.step(dict.fromkeys(method.inputs, batch), context)
        assert all(math.isfinite(value) for value in losses), f"{kind} by {name}"
        for key, value in surrogate.named_parameters():
            assert value.dtype == kinds[key], f"{kind} by {name}: {key}"
            assert torch.isfinite(value).all(), f"{kind} by {name}: {key}"


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=CUDA) for kind in DENSE])
def test_cuda_gives_the_densities_of_the_cpu(kind):
    surrogate, batch = ready(kind)
    surrogate, batch = surrogate.double(), batch.to(dtype=torch.float64)
    with torch.no_grad():
        expected = surrogate.log_prob(batch)
        found = surrogate.to("cuda").log_prob(there(batch, "cuda")).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=CUDA) for kind in KINDS])
def test_cuda_samples_and_learns(kind):
    surrogate, batch = ready(kind)
    batch = there(batch, "cuda")
    draws = torch.Generator("cuda").manual_seed(1)
    with torch.no_grad():
        drawn = surrogate.to("cuda").sample(FEW, batch.condition, generator=draws)
    assert drawn.x.device.type == "cuda"
    assert torch.isfinite(drawn.x).all()
    for name, model, method, whole in () if kind in UNTRAINED else methods_of(kind):
        whole = whole.replace(weight=None)
        model.initialise(whole)
        _place(model, method, torch.device("cuda"), torch.float32)
        context = StubContext(FEW)
        context.generator = draws
        rows = there(Batch(**{k: v[:FEW] for k, v in whole.fields().items()}), "cuda")
        rows = method.prepare(rows, draws)
        method.step(dict.fromkeys(method.inputs, rows), context)
        for key, value in model.named_parameters():
            assert torch.isfinite(value).all(), f"{kind} by {name}: {key}"
