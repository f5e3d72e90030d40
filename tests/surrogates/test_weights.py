"""Every family learns the weighted distribution of events, or refuses their weights.

Half of the events lie in one half plane, which has nine tenths of the weight. The law holds for
every surrogate that is registered, and every method that trains it; a new one has nothing to add
here but, where its samples are not two real numbers, what they are.
"""

import pytest
import torch
from randomised import generator
from registered import KINDS, ONE_OF_A_KIND, SHARE, UNTRAINED, built, class_of, methods_of

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import InputError
from physgen.io.source import ArraySource
from physgen.io.stream import Stream
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.flows.likelihood import MaximumLikelihood
from physgen.surrogates.flows.normflows import NormflowsOptions

DRAWN = 2048
TOLERANCE = 0.04
"""Six binomial errors of the drawn samples; unweighted rows are ten times as far away."""

STEPS = {
    "pca": 0,
    "shower-diffusion": 60,
    "shower-flow": 20,
    "flow, continuous": 60,
    "flow, normflows": 60,
    "energy": 100,
    "bottleneck-autoencoder": 400,
    "generator": 300,
    "labelled-generator": 400,
    "reweighting": 600,
    "reweighted": 300,
    "bridge": 800,
    "translator": 400,
}
BATCH = 64
SYMMETRIC = {"checkerboard-flow", "continuous-lattice-flow"}
"""They have the symmetries of the lattice, so that they cannot learn any half plane."""
GAUGE_INVARIANT = {"link-diffusion"}
"""They cannot either; see the test of their own."""
AS_GIVEN = {"unrefined"}
"""They learn nothing."""


def share(batch):
    if batch.condition is not None and batch.x.shape[1] > 2:  # The energy of a shower.
        up = batch.x.sum(1) > 0.825 * batch.condition[:, 0]
    else:
        up = batch.x.flatten(1)[:, 0] > 0
    weight = torch.ones(len(up)) if batch.weight is None else batch.weight
    return float((weight * up).sum() / weight.sum())


def learn(surrogate, method, batch, directory, steps):
    surrogate.initialise(batch)
    streams = {}
    for name in method.inputs:
        rows = Batch(batch.condition) if name == "source" else batch
        source = ArraySource(rows, surrogate.schema, block=256)
        streams[name] = Stream(source, batch_size=BATCH, seed=len(streams))
    options = Engine(
        steps=steps, batch_size=BATCH, device="cpu", schedule="cosine", checkpoint_every=10**6
    )
    fit(surrogate, method, streams, directory, options)
    return surrogate.sample(DRAWN, generator=generator(3))


TRIED = sorted(set(KINDS) - SYMMETRIC - GAUGE_INVARIANT - AS_GIVEN - ONE_OF_A_KIND)


@pytest.mark.parametrize("kind", TRIED)
def test_the_weighted_share_of_a_half_plane_is_learned_or_weights_are_refused(kind, tmp_path):
    tried = []
    if kind in UNTRAINED:
        tried.append(kind)
        surrogate, _, batch = built(kind)
        surrogate.initialise(batch)
        made = surrogate.sample(DRAWN, generator=generator(3))
        assert share(made) == pytest.approx(SHARE, abs=TOLERANCE)
    for name, surrogate, method, batch in methods_of(kind):
        tried.append(name)
        if not method.inputs:  # It sees no events.
            continue
        assert share(batch) == pytest.approx(SHARE, abs=1e-6)
        folder, steps = tmp_path / str(len(tried)), STEPS.get(kind, 200)
        try:
            made = learn(surrogate, method, batch, folder, steps)
        except InputError as error:
            if "data.weight" in str(error):
                continue
            raise
        assert share(made) == pytest.approx(SHARE, abs=TOLERANCE), f"{kind} by {name}"
    assert tried, f"no method trains {kind} on the samples it is tried with: say which it takes"


@pytest.mark.parametrize("kind", sorted(SYMMETRIC))
def test_lattice_flows_learn_the_weighted_mean_of_the_field(kind, tmp_path):
    """Fields about 1/2 have nine tenths of the weight, those about -1/2 the rest."""
    schema = Schema((4, 4), (Variable("phi"),))
    surrogate = class_of(kind)(schema, sign_symmetric=False)
    up = torch.rand(2000, generator=generator(1)) < 0.5
    x = torch.where(up, 0.5, -0.5)[:, None, None] + torch.randn(2000, 4, 4, generator=generator(2))
    batch = Batch(x, weight=torch.where(up, SHARE, 1 - SHARE))
    mean = float((batch.weight[:, None, None] * x).mean() / batch.weight.mean())
    method = MaximumLikelihood(surrogate, learning_rate=5e-3)
    made = learn(surrogate, method, batch, tmp_path, 150)
    assert made.x.mean().item() == pytest.approx(mean, abs=0.1)
    assert mean > 0.35


def test_surrogates_that_are_fitted_at_once_refuse_negative_weights():
    for kind in ("pca", "shower-copula"):
        surrogate, _, batch = built(kind)
        weight = batch.weight.clone()
        weight[3] = -1
        with pytest.raises(InputError, match=r"data.weight: 1 of 2000 training events"):
            surrogate.initialise(batch.replace(weight=weight))


def test_activation_norms_begin_at_weighted_moments():
    """Glow sets them on the first batch it sees, which knows no weights."""
    schema = Schema((4, 4), (Variable("x"),))
    up = torch.rand(4000, generator=generator(1)) < 0.5
    x = torch.where(up, 1.0, -1.0)[:, None, None] + 0.01 * torch.randn(
        4000, 4, 4, generator=generator(2)
    )
    torch.manual_seed(0)
    flow = Flow(schema, bijection=NormflowsOptions(family="glow", n_layers=1, hidden=(4,)))
    flow.initialise(Batch(x, weight=torch.where(up, 1.8, 0.2)))
    rows = torch.multinomial(torch.where(up, 1.8, 0.2), 4000, True, generator=generator(5))
    with torch.no_grad():
        z, _ = flow.bijection(x[rows].flatten(1))
    assert abs(float(z.mean())) < 0.1
    assert float(z.std()) == pytest.approx(1, abs=0.1)
