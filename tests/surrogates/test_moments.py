"""Weighted moments of sets of points: drawn first, and had by the points."""

import math

import numpy as np
import pytest
import torch
from randomised import generator, randomised

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import RecipeError
from physgen.io.source import ArraySource
from physgen.io.stream import Stream
from physgen.networks.epic import EPiCOptions
from physgen.surrogates import moments as moments_module
from physgen.surrogates.diffusion.matching import FlowMatching
from physgen.surrogates.diffusion.points import PointDiffusion
from physgen.surrogates.gan.points import PointGenerator
from physgen.surrogates.moments import STRETCH, Moments
from physgen.surrogates.point_sets import FirstOptions
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.transforms.base import Chain
from physgen.transforms.quantile import Gaussianise

MOST = 6
SMALL = EPiCOptions(hidden=16, n_global=8, depth=2)
FIRST = FirstOptions(weighted_by="w")
LAYER, Y = Variable("layer", domain="integer", low=0), Variable("y")
WEIGHT = Variable("w", domain="non-negative")


def schema(*others):
    variables = (Variable("x"), *others, WEIGHT)
    return Schema((MOST, len(variables)), variables, masked=True)


def sets(n=600, described=None):
    """Sets of 0 to 6 points with a common shift and scale, whose weights sum to 10 nearly."""
    described = schema() if described is None else described
    mask = torch.rand(n, MOST, generator=generator(1)) < 0.7
    w = -(1 - torch.rand(n, MOST, generator=generator(2)).double()).log() * mask
    w = w * (10 + 0.01 * torch.randn(n, 1, generator=generator(3))) / w.sum(1, True).clamp_min(1e-9)
    shift, scale = torch.randn(2, n, 1, generator=generator(4)).double()
    x = shift + scale.exp() * torch.randn(n, MOST, generator=generator(5))
    columns = [x, w]
    if LAYER in described.variables:
        columns.insert(1, torch.randint(0, 4, (n, MOST), generator=generator(6)).double())
    if Y in described.variables:
        columns.insert(1, 0.7 * x + torch.randn(n, MOST, generator=generator(6)).double())
    return Batch(torch.where(mask[..., None], torch.stack(columns, 2), -1e6), mask=mask)


def chain(described):
    return Chain([Gaussianise(described.items, atoms=0)], described)


def fitted(cls=PointDiffusion, described=None, **options):
    described = schema() if described is None else described
    torch.manual_seed(0)
    model = cls(described, chain(described), network=SMALL, first=FIRST, **options)
    model.initialise(sets(described=described))
    return randomised(model, 0.2)


def test_moments_are_those_of_the_points_alone_in_any_order():
    moments, data = Moments(schema(), "w", 0), sets()
    found = moments.of(data.x, data.mask)
    for row in range(20):
        points = data.x[row][data.mask[row]].numpy()
        if not len(points):
            assert (found[row] == 0).all()
            continue
        x, w = points.T
        mean = np.average(x, weights=w)
        width = np.sqrt(np.average((x - mean) ** 2, weights=w))
        np.testing.assert_allclose(found[row], [w.sum(), mean, width], rtol=1e-9, atol=1e-12)
    turn = torch.tensor([4, 0, 3, 5, 1, 2])
    turned = moments.of(data.x[:, turn], data.mask[:, turn])
    torch.testing.assert_close(turned, found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("described", [schema(), schema(LAYER), schema(Y)])
def test_points_are_given_the_moments_but_for_integers(described, monkeypatch):
    monkeypatch.setattr(moments_module, "STRETCH", math.inf)
    moments, data = Moments(described, "w", 0), sets(described=described)
    moments.fit(data.x, data.mask, None)
    wanted = moments.mapped(moments.of(data.x, data.mask)).flip(0)
    enough = data.mask.sum(1) > len(moments.moved)
    several = enough & enough.flip(0)
    x = moments.impose(data.x, data.mask, wanted)
    found = moments.of(x, data.mask)[several]
    expected = moments.transform.inverse(Batch(wanted)).x[several]
    n_moved = moments.size if LAYER not in described.variables else 3
    torch.testing.assert_close(found[:, :n_moved], expected[:, :n_moved], rtol=1e-5, atol=1e-5)
    assert (x[~data.mask] == -1e6).all(), "padding stays as it is"
    if LAYER in described.variables:
        assert (x[..., 1] == data.x[..., 1]).all()
    again = moments.impose(x, data.mask, wanted)
    torch.testing.assert_close(again[several], x[several], rtol=1e-5, atol=1e-5)
    assert x.isfinite().all(), "of no or few points, too"
    if Y in described.variables:
        points, there = x[several][0], data.mask[several][0]
        share = points[there, 2] / points[there, 2].sum()
        covariance = np.cov(points[there, :2].T.numpy(), aweights=share.numpy(), bias=True)
        lower = np.linalg.cholesky(covariance)
        np.testing.assert_allclose(found[0, 3:], lower[[0, 1, 1], [0, 0, 1]], rtol=1e-5)


@pytest.mark.parametrize("cls", [PointDiffusion, PointGenerator])
def test_generated_sets_have_the_moments_that_were_drawn(cls, monkeypatch):
    monkeypatch.setattr(moments_module, "STRETCH", math.inf)
    model = fitted(cls).double()
    n = 300
    noise = torch.randn(n, *model.noise_shape, generator=generator(7), dtype=torch.float64)
    x = model.from_noise(noise)
    first = model.numbered(noise[:, -model.n_first :], None)
    number = first[:, -1].long()
    assert number.unique().tolist() == list(range(MOST + 1))
    there = torch.arange(MOST) < number[:, None]
    assert (x[~there] == 0).all()
    wanted = model.moments.transform.inverse(Batch(first[:, :-1])).x
    found = model.moments.of(x, there)
    some = number > 1
    torch.testing.assert_close(found[some], wanted[some], rtol=1e-6, atol=1e-9)
    assert found[some, 0].std() > 1e-3
    drawn = model.sample(n, generator=generator(8))
    assert (drawn.mask.sum(1) > 1).any()
    assert drawn.x.isfinite().all()


def test_hardly_weighted_points_are_not_thrown_away():
    """Half of the points have no weight, so that few decide the shape of a set."""
    moments, data = Moments(schema(Y), "w", 0), sets(described=schema(Y))
    x = data.x.clone()
    x[:, ::2, 2] = 0.0
    moments.fit(x, data.mask, None)
    wanted = moments.mapped(moments.of(x, data.mask)).flip(0)
    made, there = moments.impose(x, data.mask, wanted), data.mask
    assert made.isfinite().all()
    size = [torch.where(there[..., None], part[..., :2], 0.0).flatten(1) for part in (made, x)]
    centres = moments.transform.inverse(Batch(wanted)).x[:, 1:3].abs().amax(1)
    furthest = [part.abs().amax(1) for part in size]
    assert (furthest[0] <= centres + 3 * STRETCH * furthest[1] + 1e-9).all()
    assert (made[..., 2][x[..., 2] == 0] == 0).all()


def test_columns_with_bounds_or_on_a_grid_stay_what_they_are():
    share = Variable("share", low=0, high=1)
    described, data = schema(share), sets()
    inside = torch.rand(*data.mask.shape, 1, generator=generator(9)).double()
    x = torch.cat([data.x[..., :1], inside, data.x[..., 1:]], 2)
    moments = Moments(described, "w", 0)
    moments.fit(x, data.mask, None)
    wanted = moments.mapped(moments.of(x, data.mask)).flip(0)
    made = moments.impose(x, data.mask, wanted)
    assert (made[..., 1] == x[..., 1]).all()
    assert (made[..., 0] != x[..., 0])[data.mask].any()
    x[..., 0] = (10 * x[..., 0]).round() / 10
    moments.fit(x, data.mask, None)
    made = moments.impose(x, data.mask, wanted)
    assert (made[..., 0] == x[..., 0]).all(), "tenths stay tenths"
    assert (made[..., 2] != x[..., 2])[data.mask].any(), "weights are scaled"


@pytest.mark.parametrize("scale", [1e-13, 1e7])
def test_units_do_not_matter(scale):
    described, data = schema(Y), sets(described=schema(Y))
    moments = Moments(described, "w", 0)
    found = []
    for unit in (1.0, scale):
        units = torch.tensor([1.0, unit, unit]).double()
        x = data.x * units
        moments.fit(x, data.mask, None)
        wanted = moments.mapped(moments.of(x, data.mask)).flip(0)
        found.append(moments.impose(x, data.mask, wanted)[data.mask] / units)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_sets_without_points_have_no_sums_that_others_come_near():
    data, moments = sets(), Moments(schema(), "w", 0)
    mask = data.mask.clone()
    mask[:20] = False
    moments.fit(data.x, mask, None)
    low = moments.inverse(torch.full((1, moments.size), -2.5))
    assert low[0, 0] > 9.9


def test_what_is_drawn_first_is_a_density():
    """The surprise is -log p(n) - log q(M | n): of new networks the uniform and the normal one.

    What has no points has no moments.
    """
    described = schema()
    model = PointDiffusion(described, chain(described), network=SMALL, first=FIRST).double()
    z = torch.randn(4, 3, generator=generator(1), dtype=torch.float64)
    packed = torch.cat([z, torch.tensor([[0.0], [1], [2], [3]]).double()], 1)
    log_p = model.number.log_p(None, 4).gather(1, packed[:, -1:].long())[:, 0]
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    normal[0] = 0
    torch.testing.assert_close(model.surprise(packed), -log_p - normal)


def test_sums_are_learned_that_points_alone_do_not_have(tmp_path):
    """Weights of a set sum to 10.00(1), which a mean over points hardly sees."""
    data = sets(2000)
    some = data.mask.sum(1) > 1
    data = data[some]
    spreads = {}
    for weighted_by in ("w", None):
        torch.manual_seed(0)
        described = schema()
        first = FirstOptions(weighted_by=weighted_by)
        model = PointDiffusion(described, chain(described), network=SMALL, first=first)
        model.initialise(data)
        method = FlowMatching(model, learning_rate=5e-3)
        stream = Stream(ArraySource(data, described, block=256), batch_size=128, seed=0)
        options = Engine(
            steps=120, batch_size=128, device="cpu", schedule="cosine", checkpoint_every=10**6
        )
        fit(model, method, {"data": stream}, tmp_path / str(weighted_by), options)
        model.use_sampler(SamplerOptions(kind="heun", steps=4))
        made = model.sample(2000, generator=generator(9))
        spreads[weighted_by] = made.x[..., 1].sum(1)[made.mask.sum(1) > 0].std().item()
    true = data.x[..., 1].where(data.mask, torch.tensor(0.0)).sum(1).std().item()
    assert spreads["w"] == pytest.approx(true, rel=0.3)
    assert spreads[None] > 20 * true


@pytest.mark.parametrize(
    ("weight", "said"),
    [("W", r"weighted_by: no column is called 'W'.*'w'"), ("x", r"weighted_by: x must be non-neg")],
)
def test_a_column_that_weighs_nothing_is_refused(weight, said):
    with pytest.raises(RecipeError, match=said):
        PointDiffusion(schema(), network=SMALL, first=FirstOptions(weighted_by=weight))


def test_moments_are_imposed_on_points_of_one_rounded_column():
    """As those of jets whose phirel has few digits: too many places, and so none is taken."""
    data = sets(described=schema(Y))
    x = data.x.double().clone()
    x[..., 1] = torch.where(data.mask, (10 * x[..., 1]).round() / 10, x[..., 1])
    moments = Moments(schema(Y), "w", 0)
    moments.fit(x, data.mask, None)
    many = data.mask.sum(1) == MOST
    x, there = x[many], data.mask[many]
    wanted = moments.mapped(moments.of(x, there).roll(1, 0))
    found = moments.of(moments.impose(x, there, wanted), there)
    # Where points would have to be stretched too much, they keep their shape, not their mean.
    torch.testing.assert_close(found[:, :3], moments.inverse(wanted)[:, :3])
