"""Sets of points: no order, nothing seen of padding, numbers first."""

from itertools import permutations

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from randomised import generator, randomised
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.networks.epic import EPiC, EPiCDenoiser, EPiCOptions
from physgen.surrogates.diffusion.matching import FlowMatching
from physgen.surrogates.diffusion.points import PointDiffusion
from physgen.surrogates.gan.adversarial import Adversarial
from physgen.surrogates.gan.networks import Critic, Generator
from physgen.surrogates.gan.points import PointGenerator
from physgen.surrogates.number import NumberOfItems
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.systems.item_sets import ItemSets
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.quantile import Gaussianise

MOST = 5
SMALL = EPiCOptions(hidden=16, n_global=8, depth=2)
WITH_HEADS = EPiCOptions(hidden=16, n_global=8, depth=2, heads=4)
ENERGY = Variable("energy", "GeV", "non-negative")
LABEL = Variable("kind", domain="integer", dtype="int32", low=0, high=2)


def schema(condition=()):
    return Schema((MOST, 2), (Variable("a"), Variable("b")), condition, masked=True)


def samples(n=200, condition=False):
    """Sets of 0 to 5 points of which the mask has no order, nonsense where there is none."""
    x = 3 + 2 * torch.randn(n, MOST, 2, generator=generator(1))
    mask = torch.rand(n, MOST, generator=generator(2)) < torch.rand(n, 1, generator=generator(3))
    x[~mask] = -1e6
    label = torch.randint(0, 2, (n, 1), generator=generator(4)).float()
    given = torch.cat([label, 100 + 50 * torch.rand(n, 1, generator=generator(5))], 1)
    return Batch(x, given if condition else None, mask=mask)


def fitted(network=SMALL, condition=False, dtype=torch.float64):
    torch.manual_seed(0)
    described = schema((LABEL, ENERGY) if condition else ())
    model = PointDiffusion(
        described, Chain([Standardise(described.items)], described), network=network
    )
    data = samples(condition=condition)
    model.initialise(data)
    return randomised(model, 0.3).to(dtype), data


@pytest.mark.parametrize("options", [SMALL, WITH_HEADS])
def test_points_have_no_order(options):
    network = randomised(EPiCDenoiser(2, 1, options), 0.3).double()
    x = torch.randn(6, MOST, 2, generator=generator(1), dtype=torch.float64)
    time, number = torch.linspace(0, 1, 6).double(), torch.full((6, 1), float(MOST)).double()
    turn = torch.tensor([3, 0, 4, 1, 2])
    turned, straight = network(x[:, turn], time, number), network(x, time, number)[:, turn]
    torch.testing.assert_close(turned, straight, rtol=0, atol=1e-12)
    assert (straight[:, 0] - straight[:, 1]).abs().min() > 1e-3  # No constant.


@pytest.mark.parametrize("options", [SMALL, WITH_HEADS])
def test_what_stands_in_places_without_a_point_is_not_looked_at(options):
    network = randomised(EPiCDenoiser(2, 1, options), 0.3).double()
    x = torch.randn(MOST + 1, MOST, 2, generator=generator(1), dtype=torch.float64)
    number, time = torch.arange(MOST + 1).double()[:, None], torch.full((MOST + 1,), 0.3).double()
    there = (torch.arange(MOST) < number)[..., None]
    ours = network(x, time, number)
    theirs = network(torch.where(there, x, 1e3), time, number)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert (ours[~there[..., 0]] == 0).all()
    assert ours.isfinite().all()


def test_points_speak_to_one_another():
    network = randomised(EPiCDenoiser(2, 1, SMALL), 0.3).double()
    x = torch.zeros(2, MOST, 2, dtype=torch.float64)
    x[1, 1] = 1.0
    first, second = network(x, torch.zeros(2).double(), torch.full((2, 1), 3.0).double())
    assert (first[0] - second[0]).abs().max() > 1e-3


def test_the_number_of_points_and_what_is_known_reach_them():
    network = randomised(EPiC(2, 1, SMALL), 0.3).double()
    x, number = torch.zeros(3, MOST, 2).double(), torch.tensor([2.0, 3.0, 2.0]).double()
    h, g = network(x, number, torch.tensor([[0.0], [0.0], [1.0]]).double())
    for values in (h[:, 0], g):
        assert (values[0] - values[1]).abs().max() > 1e-3
        assert (values[0] - values[2]).abs().max() > 1e-3


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(RecipeError, match=r"surrogate\.network.*hidden=16 is no multiple of heads"):
        PointDiffusion(schema(), network=EPiCOptions(hidden=16, heads=3))


@pytest.mark.parametrize("condition", [False, True])
def test_masks_alone_decide_what_is_learned(condition):
    model, data = fitted(condition=condition)
    method = FlowMatching(model)
    other = data.replace(x=torch.where(data.mask[..., None], data.x, 12345.0))
    turn = torch.tensor([2, 4, 0, 3, 1])
    shuffled = data.replace(x=data.x[:, turn], mask=data.mask[:, turn])

    def losses(batch):
        flat = model.flat(model.transform(batch)[0])
        # The noise of a point goes where the point goes: its own columns decide it here.
        x = flat.x.reshape(-1, MOST, 2)
        noise = torch.stack([(7 * x[..., 1]).sin(), (5 * x[..., 0]).cos()], 2)
        level = model.schedule.log_snr(torch.linspace(0.1, 0.9, len(x)).double())
        return method.loss(flat.replace(x=flat.x), noise.flatten(1), level, torch.ones(len(x)))

    for batch in (other, shuffled):
        torch.testing.assert_close(losses(batch), losses(data), rtol=0, atol=1e-12)
    again, _ = fitted(condition=condition)
    again.initialise(other)
    torch.testing.assert_close(again.denoiser.scale, model.denoiser.scale, rtol=0, atol=0)


def test_the_size_of_data_is_that_of_their_points():
    model, data = fitted()
    mapped, _ = model.transform(data)
    size = mapped.x[data.mask].square().mean().sqrt()
    torch.testing.assert_close(model.denoiser.scale.double(), size.double(), rtol=1e-6, atol=0)


def test_the_loss_is_a_mean_over_points_and_the_surprise_at_their_number():
    torch.manual_seed(0)
    model = PointDiffusion(schema(), network=SMALL).double()  # Its network says 0 everywhere.
    x, noise = torch.randn(2, 1, 2 * MOST, generator=generator(1), dtype=torch.float64)
    log_p = model.number.log_p(None, 1)[0, 3].item()
    loss = model.loss(x, noise, torch.zeros(1).double(), torch.tensor([[3.0]]).double())
    # Where no point is the sample is 0 (`flat`), which the loss may rely on.
    expected = (noise - x)[0, :6].square().mean().item() - log_p
    x[:, 6:] = 0
    loss = model.loss(x, noise, torch.zeros(1).double(), torch.tensor([[3.0]]).double())
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_numbers_of_points_are_drawn_from_their_distribution():
    number = NumberOfItems(3, 1, hidden=()).double()
    with torch.no_grad():
        for parameter in number.parameters():
            parameter.zero_()
        number.layers[-1].bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    u = torch.tensor([0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 0.999, 1.0]).double()
    drawn = number.quantile(u, torch.zeros(9, 1).double())
    assert drawn.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    torch.testing.assert_close(
        number.log_p(torch.ones(2, 1).double(), 2).exp(),
        torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2).double(),
    )


@pytest.mark.parametrize("sampler", [SamplerOptions(kind="heun", steps=3)])
@pytest.mark.parametrize("condition", [False, True])
def test_samples_are_their_noise_and_nothing_else(sampler, condition):
    model, data = fitted(WITH_HEADS, condition)
    model.use_sampler(sampler)
    noise = torch.randn(7, *model.noise_shape, generator=generator(5), dtype=torch.float64)
    given = None if data.condition is None else data.condition[:7].double()
    with torch.no_grad():
        drawn = model.from_noise(noise, given)
        # Noise of places without a point changes no point.
        there = (drawn != 0).any(2)
        assert len(there.sum(1).unique()) > 2
        other = noise[:, :-1].reshape(-1, MOST, 2).where(there[..., None], 9.0).flatten(1)
        again = model.from_noise(torch.cat([other, noise[:, -1:]], 1), given)
    torch.testing.assert_close(again, drawn, rtol=0, atol=1e-12)
    batch = model.sample(50, seed=3, condition=None)
    assert torch.equal(batch.mask, (batch.x != 0).any(2))
    assert (batch.mask.long().diff(dim=1) <= 0).all()  # Points stand first.


def test_noise_of_every_step_where_a_sampler_adds_some():
    torch.manual_seed(0)
    model = PointDiffusion(schema(), schedule="cosine", prediction="v", network=SMALL)
    model.use_sampler(SamplerOptions(kind="ancestral", steps=4))
    assert model.noise_shape == (4, 2 * MOST + 1)
    noise = torch.randn(3, 4, 2 * MOST + 1, generator=generator(1))
    assert model.from_noise(noise).shape == (3, MOST, 2)
    assert len(model.sample(6, seed=1)) == 6


def test_what_points_have_in_common_is_learned():
    """Two clusters: the points of a sample are all at +2 or all at -2; 3 or 5 of them."""
    torch.manual_seed(0)
    described = Schema((MOST, 1), (Variable("a"),), masked=True)
    model = PointDiffusion(described, network=EPiCOptions(hidden=32, n_global=8, depth=2))
    side = torch.randint(0, 2, (2000, 1, 1), generator=generator(1)) * 4.0 - 2
    x = side + 0.3 * torch.randn(2000, MOST, 1, generator=generator(2))
    n = 3 + 2 * (side[:, 0, 0] > 0).long()  # As many as belong to their side.
    data = Batch(x, mask=torch.arange(MOST) < n[:, None])
    model.initialise(data)
    method = FlowMatching(model, learning_rate=5e-3)
    for step in range(250):
        rows = torch.randint(0, 2000, (128,), generator=generator(step))
        batch = method.prepare(data[rows], generator(1000 + step))
        method.step({"data": batch}, StubContext(128, seed=step))
    model.use_sampler(SamplerOptions(kind="heun", steps=6))
    drawn = model.sample(2000, seed=1)
    n = drawn.mask.sum(1)
    # 3 points are at -2, 5 at +2, and there are no other numbers.
    assert ((n == 3) | (n == 5)).float().mean() > 0.98
    assert (n == 5).float().mean().item() == pytest.approx(0.5, abs=0.05)
    for number, place in ((3, -2.0), (5, 2.0)):
        points = drawn.x[n == number][:, :number, 0]
        assert points.mean().item() == pytest.approx(place, abs=0.1)
        assert ((points - place).abs() < 1.5).all(1).float().mean() > 0.97


def test_samples_without_a_mask_are_refused():
    with pytest.raises(RecipeError, match="no mask; take diffusion"):
        PointDiffusion(Schema((2,), (Variable("a"), Variable("b"))))
    model, data = fitted()
    with pytest.raises(RecipeError, match="have no mask"):
        FlowMatching(model).prepare(data.replace(mask=None), generator())


def test_events_that_are_all_empty_are_refused():
    described = schema()
    model = PointDiffusion(described, Chain([Standardise(described.items)], described))
    empty = Batch(torch.zeros(7, MOST, 2), mask=torch.zeros(7, MOST, dtype=torch.bool))
    with pytest.raises(DomainError, match="all 7 samples are empty"):
        model.initialise(empty)


def test_a_class_that_was_not_trained_on_is_refused():
    model, _ = fitted(condition=True)
    assert (
        model.sample(
            3, torch.tensor([[0.0, 120.0], [1.0, 120.0], [0.0, 120.0]]).double(), seed=1
        ).x.shape[0]
        == 3
    )
    with pytest.raises(DomainError, match=r"kind = 2.*outside the trained domain|not a label"):
        model.sample(1, torch.tensor([[2.0, 120.0]]).double(), seed=1)


def test_noise_is_exchanged_within_each_set_alone():
    model, data = fitted()
    flat = model.flat(model.transform(data)[0])
    flat = flat.replace(x=flat.x.double())
    noise = torch.randn(flat.x.shape, generator=generator(1), dtype=torch.float64)
    paired = model.exchanged(flat.x, noise, flat.condition)
    for x, before, after, n in zip(
        *(part.reshape(-1, MOST, 2) for part in (flat.x, noise, paired)),
        flat.condition[:, -1].long().tolist(),
        strict=True,
    ):
        assert torch.equal(before[n:], after[n:])
        orders = list(permutations(range(n)))
        costs = [float((x[:n] - before[list(order)]).square().sum()) for order in orders]
        assert torch.equal(
            after[:n], before[list(orders[min(range(len(orders)), key=costs.__getitem__)])]
        )


@pytest.mark.parametrize("sign", [1, -1])
def test_points_come_in_the_order_of_the_data(sign):
    model, data = fitted()
    assert model.order == 0
    x = torch.where(data.mask[..., None], data.x, torch.inf * sign)
    x = x.gather(1, x[..., 1].argsort(dim=1, descending=sign < 0)[..., None].expand_as(x))
    there = x[..., 1].isfinite()
    in_order = data.replace(x=torch.where(there[..., None], x, 0.0), mask=there)
    model.initialise(in_order)
    assert model.order == -2 * sign  # The second column ascends, or descends.
    drawn = model.sample(200, seed=1)
    step = sign * drawn.x[..., 1].diff(dim=1)[drawn.mask[:, 1:]]
    assert len(step) > 100
    assert (step >= 0).all()
    model.order.zero_()
    before = model.sample(200, seed=1)
    assert torch.equal(before.mask, drawn.mask)
    for column in range(2):
        same = (batch.x[..., column].sort(dim=1).values for batch in (before, drawn))
        assert torch.equal(*same)


def generators(condition=False):
    torch.manual_seed(0)
    described = schema((LABEL, ENERGY) if condition else ())
    transform = Chain([Standardise(described.items)], described)
    model = PointGenerator(described, transform, shared_noise=3, point_noise=2, network=SMALL)
    data = samples(condition=condition)
    model.initialise(data)
    return randomised(model, 0.3).double(), data


@pytest.mark.parametrize("condition", [False, True])
def test_a_generator_moves_points_with_their_noise_and_sees_no_others(condition):
    model, data = generators(condition)
    noise = torch.randn(7, *model.noise_shape, generator=generator(5), dtype=torch.float64)
    given = None if data.condition is None else data.condition[:7].double()
    with torch.no_grad():
        drawn = model.from_noise(noise, given)
        number = (drawn != 0).any(2).sum(1)
        assert len(number.unique()) > 2
        own = noise[:, 3:-1].reshape(7, MOST, 2).clone()
        for row, n in enumerate(number.tolist()):
            own[row, :n] = own[row, :n].flip(0)
            own[row, n:] = 9.0
        other = torch.cat([noise[:, :3], own.flatten(1), noise[:, -1:]], 1)
        again = model.from_noise(other, given)
    for row, n in enumerate(number.tolist()):
        torch.testing.assert_close(again[row, :n].flip(0), drawn[row, :n], rtol=0, atol=1e-12)
        assert (drawn[row, n:] == 0).all()


@pytest.mark.parametrize("network", [SMALL, WITH_HEADS])
def test_the_score_of_a_set_knows_no_order_and_no_padding(network):
    torch.manual_seed(0)
    critic = randomised(Critic((MOST, 2), 1, network), 0.3).double()
    x = torch.randn(4, MOST, 2, generator=generator(1), dtype=torch.float64)
    number = torch.tensor([[5.0], [3.0], [0.0], [1.0]]).double()
    there = (torch.arange(MOST) < number)[..., None]
    turned = x.clone()
    turned[0], turned[1, :3] = x[0].flip(0), x[1, :3].flip(0)
    score = critic(x, number)
    torch.testing.assert_close(critic(turned, number), score, rtol=0, atol=1e-12)
    torch.testing.assert_close(critic(x.where(there, 1e3), number), score, rtol=0, atol=0)
    assert score.diff().abs().min() > 1e-3


def test_critics_and_generators_of_sets_belong_together():
    model, _ = generators()
    with pytest.raises(RecipeError, match="epic is for sets of points, and they need it"):
        Adversarial(model, steps=1)
    plain = Generator(Schema((2,), (Variable("a"), Variable("b"))), latent=2)
    with pytest.raises(RecipeError, match="epic is for sets of points"):
        Adversarial(plain, steps=1, critic=SMALL)


def test_generators_learn_the_number_of_points_beside_the_game():
    model, data = generators()
    method = Adversarial(model, steps=1, critic=SMALL, r1=1.0)
    batch = method.prepare(data, generator(1))
    assert batch.mask is None
    assert batch.condition[:, -1].tolist() == data.mask.sum(1).tolist()
    noise = torch.randn(len(data), model.latent, generator=generator(2), dtype=torch.float64)
    batch = batch.to(dtype=torch.float64)
    method.critic.double()
    score = method.critic(model.decode_noise(noise, batch.condition), batch.condition)
    log_p = model.number.log_p(None, len(data))
    log_p = log_p[torch.arange(len(data)), batch.condition[:, -1].long()]
    expected = torch.nn.functional.softplus(-score) - log_p
    torch.testing.assert_close(method.generator_loss(batch, noise), expected)


def test_generated_collections_are_nested_as_they_were(tmp_path):
    """ROOT in and out: one counter, the types of the branches, and the order by pT."""
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 5, 300)
    pt = ak.unflatten(rng.exponential(30, counts.sum()).astype(np.float32) + 20, counts)
    charge = ak.unflatten(rng.choice([-1, 1], counts.sum()).astype(np.int32), counts)
    muons = ak.zip({"pt": ak.sort(pt, ascending=False), "charge": charge})
    path, out = tmp_path / "in.root", tmp_path / "out.root"
    with uproot.recreate(path) as file:
        kinds = {"Muon": muons.type.content}
        file.mktree("Events", kinds, field_name=lambda outer, inner: f"{outer}_{inner}")
        file["Events"].extend({"Muon": muons})
    system = ItemSets(path=str(path), tree="Events", fields=("Muon_pt", "Muon_charge"))
    transform = Chain([Gaussianise(system.schema.items)], system.schema)
    model = PointDiffusion(system.schema, transform, network=SMALL)
    model.initialise(system.source.read(0, 300))
    drawn = randomised(model, 0.1).sample(100, seed=1)
    with system.writer(out, 100) as append:
        append(drawn)
    tree = uproot.open(out)["Events"]
    kinds = {name: str(tree[name].typename) for name in ("nMuon", "Muon_pt", "Muon_charge")}
    assert kinds == {"nMuon": "int32_t", "Muon_pt": "float[]", "Muon_charge": "int32_t[]"}
    read = tree.arrays()
    assert read["nMuon"].to_list() == drawn.mask.sum(1).tolist()
    assert ak.num(read["Muon_pt"]).to_list() == read["nMuon"].to_list()
    assert len(set(read["nMuon"].to_list())) > 2
    assert ak.all(read["Muon_pt"][:, 1:] <= read["Muon_pt"][:, :-1])
    assert set(ak.flatten(read["Muon_charge"]).to_list()) == {-1, 1}


def test_more_points_than_were_trained_on_are_refused():
    given = Variable("num_particles", domain="non-negative")
    described = schema((given,))
    model = PointDiffusion(described, network=SMALL)
    data = samples()
    number = data.mask.sum(1, keepdim=True).float()
    model.initialise(data.replace(condition=number))
    assert model.sample(2, number[:2], seed=1).x.shape == (2, MOST, 2)
    with pytest.raises(DomainError, match=r"num_particles = 9 .*outside the trained domain"):
        model.sample(1, torch.tensor([[9.0]]), seed=1)
