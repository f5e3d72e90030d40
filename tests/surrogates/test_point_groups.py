"""Groups of points: counts and weights drawn first, places on a grid, tilted weights."""

import numpy as np
import pytest
import torch
from randomised import generator, randomised

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.networks.epic import EPiCOptions
from physgen.surrogates.diffusion.points import PointDiffusion
from physgen.surrogates.gan.points import PointGenerator
from physgen.surrogates.number import GroupCounts
from physgen.surrogates.places import Places
from physgen.surrogates.point_sets import FirstOptions
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.surrogates.tilting import tilted
from physgen.transforms.base import Chain
from physgen.transforms.quantile import Gaussianise

MOST = 7
VALUES = (3, 0, 8)
"""From the rarest to the commonest."""
SMALL = EPiCOptions(hidden=16, n_global=8, depth=2)
FIRST = FirstOptions(weighted_by="w", grouped_by="layer", n_groups=3)
SCHEMA = Schema(
    (MOST, 4),
    (
        Variable("x"),
        Variable("y"),
        Variable("layer", domain="integer", low=0),
        Variable("w", domain="non-negative"),
    ),
    masked=True,
)


def sets(n=400, grid=False):
    """Sets of 0 to 7 points; where grid, of different cells of each layer, which are integers."""
    g = generator(1)
    mask = torch.rand(n, MOST, generator=g) < torch.rand(n, 1, generator=g)
    which = torch.multinomial(torch.tensor([0.1, 0.3, 0.6]), n * MOST, True, generator=g)
    layer = torch.tensor(VALUES)[which].reshape(n, MOST)
    place = torch.randn(n, MOST, 2, generator=g).double()
    if grid:
        cell = torch.rand(n, 16, generator=g).argsort(1)[:, :MOST]
        place = torch.stack([cell // 4, cell % 4], 2).double()
    w = torch.rand(n, MOST, generator=g).double() + 0.1
    x = torch.cat([place, layer[..., None], w[..., None]], 2)
    return Batch(torch.where(mask[..., None], x, -1e6), mask=mask)


def fitted(data, first=FIRST):
    torch.manual_seed(0)
    chain = Chain([Gaussianise(SCHEMA.items)], SCHEMA)
    model = PointDiffusion(SCHEMA, chain, network=SMALL, first=first)
    model.initialise(data)
    model.use_sampler(SamplerOptions(kind="heun", steps=2))
    return randomised(model, 0.2).double()


def test_counts_are_a_distribution_and_drawn_from_it():
    torch.manual_seed(0)
    counts = randomised(GroupCounts(3, 4, 1, hidden=(8,)), 1.0).double()
    counts.fit(torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, 3.0]]))
    every = [[a, b, n] for n in range(5) for b in range(n + 1) for a in range(b + 1)]
    bounds, given = torch.tensor(every).double(), torch.full((len(every), 1), 0.3).double()
    p = counts.log_p(bounds, given).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-9)
    n = 40_000
    drawn = counts.draw(
        torch.randn(n, 3, generator=generator(1)).double(), torch.full((n, 1), 0.3).double()
    )
    found = torch.stack([(drawn == row).all(1).double().mean() for row in bounds])
    assert found.sum() == 1
    assert ((found - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-4).all()


@pytest.mark.parametrize("grid", [False, True])
def test_generated_sets_have_the_counts_and_weights_that_were_drawn(grid):
    data = sets(grid=grid)
    model = fitted(data)
    assert model.values.tolist() == list(VALUES)
    n = 200
    noise = torch.randn(n, *model.noise_shape, generator=generator(2), dtype=torch.float64)
    x = model.from_noise(noise)
    first = model.numbered(noise[:, -model.n_first :], None)
    bounds = first[:, -3:]
    there = torch.arange(MOST) < bounds[:, -1:]
    counts = torch.cat([bounds[:, :1], bounds.diff(dim=1)], 1)
    wanted = model.moments.inverse(first[:, :-3])
    left = wanted[:, 0]
    for group, value in enumerate(VALUES):
        inside = there & (x[..., 2] == value)
        torch.testing.assert_close(inside.sum(1).double(), counts[:, group])
        later = (counts[:, group + 1 :] > 0).any(1)
        share = wanted[:, 1 + group].clamp(0, 1) if group < 2 else torch.ones(n)
        share = torch.where(later, share, 1.0) * (counts[:, group] > 0)
        torch.testing.assert_close((x[..., 3] * inside).sum(1), left * share, rtol=1e-5, atol=1e-5)
        left = left * (1 - share)
        if grid:
            points = x[inside][:, :2]
            assert (points == points.round()).all()
            for row in range(n):
                cells = x[row][inside[row]][:, :2]
                assert len(torch.unique(cells, dim=0)) == len(cells), "one point a cell"


def test_what_is_drawn_of_true_sets_is_imposed_on_them_again():
    data = sets()
    model = fitted(data)
    g = generator(3)
    packed = model.packed(model.transform(data, g)[0], g)
    there = torch.arange(MOST) < packed.condition[:, -1:]
    x = model.placed(packed.x.double(), packed.condition.double())
    for row in range(50):
        found, true = x[row][there[row]], data.x[row][data.mask[row]]
        order = [np.lexsort(points.T[:1].numpy()) for points in (found, true)]
        np.testing.assert_allclose(found[order[0]], true[order[1]], rtol=1e-3, atol=1e-3)


def test_points_take_the_nearest_free_places_of_their_group():
    places = Places(2, 1)
    x = torch.tensor([[[0.0], [1.0], [5.0]]]).repeat(9, 1, 1)
    group = torch.tensor([[0, 0, 1]]).repeat(9, 1)
    there = torch.ones(9, 3, dtype=torch.bool)
    places.fit(x, there, group)
    assert places.on_grid
    assert not places.shared
    moved = places.nearest(torch.tensor([[[0.1], [0.2], [0.1]]]), there[:1], group[:1])
    assert moved.flatten().tolist() == [0, 1, 5]
    places.fit(x[:, [0, 0, 2]], there, group)
    moved = places.nearest(torch.tensor([[[0.1], [0.2], [0.1]]]), there[:1], group[:1])
    assert moved.flatten().tolist() == [0, 0, 5], "data share their places"
    places.fit(torch.randn(9, 3, 1, generator=generator(1)), there, group)
    assert not places.on_grid
    assert (places.nearest(x, there, group) == x).all()


def test_more_places_than_are_remembered_and_constant_columns_are_no_grid():
    g = generator(1)
    there = torch.ones(900, 5, dtype=torch.bool)
    group = torch.zeros(900, 5, dtype=torch.long)
    free = torch.randn(900, 5, 1, generator=g)
    rounded, constant = (10 * torch.randn(900, 5, 1, generator=g)).round(), torch.ones(900, 5, 1)
    places = Places(1, 2)
    for other in (rounded, constant):
        places.fit(torch.cat([other, free], 2), there, group)
        assert not places.on_grid
        assert not places.known_any
    places.fit(torch.cat([rounded, constant], 2), there, group)
    assert places.on_grid


def test_loaded_places_are_taken():
    places, x = Places(1, 1), torch.tensor([[[0.0], [1.0]]]).repeat(9, 1, 1)
    there, group = torch.ones(9, 2, dtype=torch.bool), torch.zeros(9, 2, dtype=torch.long)
    places.fit(x, there, group)
    loaded = Places(1, 1)
    loaded.load_state_dict(places.state_dict())
    assert (loaded.nearest(x + 0.3, there, group) == x).all()


def test_tilted_weights_have_the_sums_and_no_more_is_changed_than_that():
    g = generator(4)
    w = torch.rand(5, 40, generator=g).double() * (torch.rand(5, 40, generator=g) < 0.8)
    member = torch.nn.functional.one_hot(torch.randint(0, 3, (5, 40), generator=g), 3).double()
    f = torch.randn(5, 40, 2, generator=g).double()
    mean = ((w / w.sum(1, keepdim=True))[..., None] * f).sum(1)
    target = mean + 0.1
    v = tilted(w, member, f, target, 5.0)
    torch.testing.assert_close((member * v[..., None]).sum(1), (member * w[..., None]).sum(1))
    torch.testing.assert_close(((v / v.sum(1, keepdim=True))[..., None] * f).sum(1), target)
    assert ((v > 0) == (w > 0)).all()
    torch.testing.assert_close(tilted(w, member, f, mean, 5.0), w)
    far = tilted(w, member, f, mean + 100, 1.0)
    assert far.isfinite().all()


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (FirstOptions(grouped_by="laver", n_groups=3), "grouped_by: no integer .*'layer'"),
        (FirstOptions(grouped_by="layer"), "n_groups: say how many values layer has"),
        (FirstOptions(n_groups=3), "say in surrogate.first.grouped_by which column"),
    ],
)
def test_groups_that_are_none_are_refused(first, said):
    with pytest.raises(RecipeError, match=said):
        PointDiffusion(SCHEMA, network=SMALL, first=first)


def test_a_wrong_number_of_groups_is_refused():
    with pytest.raises(DomainError, match=r"layer has 3 values.*set surrogate.first.n_groups=3"):
        fitted(sets(), FirstOptions(grouped_by="layer", n_groups=2))
    with pytest.raises(RecipeError, match="point-generator knows no groups"):
        PointGenerator(SCHEMA, network=SMALL, first=FIRST)
