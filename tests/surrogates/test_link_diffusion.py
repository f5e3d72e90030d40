"""Diffusion on links of U(1): its score is one of plaquettes, and learns what they are."""

import math

import pytest
import torch

import physgen
from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import RecipeError
from physgen.io.source import ArraySource
from physgen.io.stream import Stream
from physgen.networks.unet import UNetOptions
from physgen.sampling.manifold import wrapped
from physgen.surrogates.diffusion.links import (
    LARGEST,
    SMALLEST,
    LinkDenoising,
    LinkDiffusion,
    wrapped_score,
)
from physgen.surrogates.flows.lattice.links import plaquettes
from physgen.systems.gauge import Gauge

THEORY = Gauge(group="U(1)", shape=(4, 8), beta=1.0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = LinkDiffusion(THEORY.schema, network=UNetOptions(channels=(8, 16))).double()
    for parameter in model.parameters():  # The network begins at zero.
        torch.nn.init.normal_(parameter, std=0.2)
    model.deviation.fill_(0.8)
    return model


@pytest.fixture
def links():
    return THEORY.arbitrary(3, torch.Generator().manual_seed(1))


SIGMA = torch.tensor([0.05, 0.5, 2.0], dtype=torch.float64)


def test_the_score_is_invariant_under_gauge_transformations(model, links):
    (moved,) = THEORY.moves()["gauge transformation"](links)
    assert (moved - links).abs().max() > 0.1
    before, after = (model.score(x, SIGMA) for x in (links, moved))
    assert before.abs().max() > 1e-3
    torch.testing.assert_close(before, after, atol=1e-10, rtol=0)


def test_the_score_points_along_no_gauge_transformation(model, links):
    score = model.score(links, SIGMA)
    divergence = sum(score[:, mu] - score[:, mu].roll(1, 1 + mu) for mu in range(2))
    assert divergence.abs().max() < 1e-12


def test_the_score_moves_with_the_lattice(model, links):
    for axis in (2, 3):
        moved = model.score(links.roll(2, axis), SIGMA)
        torch.testing.assert_close(
            moved, model.score(links, SIGMA).roll(2, axis), atol=1e-10, rtol=0
        )


def test_it_is_what_plaquettes_change_by(links):
    """Of the function sum_P cos P, g_P = -sin P, the same sums over plaquettes are its gradient."""
    x = links.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plaquettes(x).cos().sum(), x)
    model = LinkDiffusion(THEORY.schema, network=UNetOptions(channels=(8, 16))).double()
    model.deviation.zero_()
    model.body.forward = lambda x, clock: -x[:, 0]
    torch.testing.assert_close(model.score(links, torch.ones(3).double()), gradient)


@pytest.mark.parametrize("sigma", [SMALLEST, 0.3, 1.0, LARGEST])
def test_the_wrapped_score_is_that_of_all_windings(sigma):
    delta = torch.linspace(-3.1, 9.0, 50, dtype=torch.float64, requires_grad=True)
    windings = 2 * math.pi * torch.arange(-30, 31).double()
    density = torch.logsumexp(-(delta[:, None] + windings).square() / (2 * sigma**2), 1)
    (gradient,) = torch.autograd.grad(density.sum(), delta)
    level = torch.tensor(sigma, dtype=torch.float64)
    torch.testing.assert_close(wrapped_score(delta.detach(), level), gradient, atol=1e-6, rtol=1e-6)


def test_scores_are_learned_where_they_are_known(model):
    """Of links that are uniform, noise says nothing: the score that is learned is zero."""
    model = model.float()
    method = LinkDenoising(model, learning_rate=0.005)
    generator = torch.Generator().manual_seed(2)
    optimiser = method.optimisers["score"]
    sizes = []
    for _ in range(60):
        batch = Batch(THEORY.arbitrary(32, generator).float())
        sigma = SMALLEST * (LARGEST / SMALLEST) ** torch.rand(32, generator=generator)
        noise = torch.randn(32, *THEORY.schema.shape, generator=generator)
        optimiser.zero_grad()
        method.loss(batch, noise, sigma).mean().backward()
        optimiser.step()
        each = sigma[:, None, None, None]
        sizes.append(float((each * model.score(batch.x, sigma)).square().mean().detach()))
    assert sizes[-1] < 0.1 * sizes[0]


@pytest.mark.slow
def test_weights_of_events_count(tmp_path):
    """Nine tenths of the weight on links without curvature, the rest on uniform ones."""
    theory, generator = Gauge(group="U(1)", shape=(4, 4)), torch.Generator().manual_seed(1)
    curved = theory.arbitrary(512, generator)
    (flat,) = theory.moves()["gauge transformation"](torch.zeros_like(curved))
    weight = torch.tensor([1.8, 0.2]).repeat_interleave(512)
    batch = Batch(torch.cat([wrapped(flat), curved]).float(), weight=weight)
    torch.manual_seed(0)
    model = LinkDiffusion(theory.schema, network=UNetOptions(channels=(8, 16)))
    method = LinkDenoising(model, learning_rate=0.003)
    model.initialise(batch)
    stream = Stream(ArraySource(batch, theory.schema), batch_size=64, seed=0)
    options = Engine(
        steps=600, batch_size=64, device="cpu", schedule="cosine", checkpoint_every=10**6
    )
    fit(model, method, {"data": stream}, tmp_path, options)
    cosines = plaquettes(model.sample(1024, seed=1).x).cos().flatten(1).mean(1)
    # After so short a training, nearer to nine tenths than to the half of the rows.
    assert (cosines > 0.5).float().mean() > 0.7


@pytest.mark.slow
def test_samples_are_those_of_the_theory_once_they_are_moved(tmp_path):
    changes = {
        "system.shape": [4, 4],
        "system.beta": 1.5,
        "data.n": 6000,
        "engine.steps": 250,
        "sampling.n": 4096,
    }
    run = physgen.train("u1-diffusion", changes, runs=tmp_path, track=False)
    exact = THEORY.__class__(group="U(1)", shape=(4, 4), beta=1.5).exact()
    own = physgen.load(run, uncorrected=True).sample(4096, seed=1)
    assert own.log_weight is None
    plaquette = plaquettes(own.x.double()).cos().mean()
    assert abs(plaquette - exact["plaquette"]) < 0.05  # Of uniform links it is 0.
    row = run.scorecard["plaquette"]
    assert abs(row.value - exact["plaquette"]) < 4 * row.error
    assert row.error < 0.005
    assert run.scorecard.verdict == "pass"


def test_what_is_not_links_is_refused():
    with pytest.raises(RecipeError, match=r"models the links of U\(1\) in two dimensions"):
        LinkDiffusion(Schema((8, 8), (Variable("phi"),)))
    with pytest.raises(RecipeError, match="link-denoising trains a link-diffusion"):
        LinkDenoising(torch.nn.Linear(1, 1))
    assert wrapped(torch.tensor(4.0)) < 0
