import copy
import itertools
import math

import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.base import FromNoise, HasDensity, density_of
from physgen.surrogates.copula import ShowerCopula
from physgen.surrogates.flows.likelihood import HasLatentDensity, MaximumLikelihood
from physgen.surrogates.flows.shower import ShowerFlow
from physgen.surrogates.flows.shower_order import order_of, touching
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.geometry import Geometry, Layer, write_geometry
from physgen.transforms.base import Chain
from physgen.transforms.showers import ALL_LEFT, ALL_RIGHT
from physgen.transforms.splits import SplitTree


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    path = tmp_path_factory.mktemp("geometry") / "small.xml"
    layers = (
        Layer(0, (0.0, 10.0, 40.0), 1),
        Layer(1, (0.0, 10.0, 30.0, 90.0), 4),
        Layer(2, (0.0, 20.0, 80.0), 4),
        Layer(7, (0.0, 50.0, 200.0), 1),
    )
    write_geometry(path, Geometry(layers))
    return Calorimeter(
        binning=path,
        depths=(0.0, 2.0, 7.0, 20.0, 40.0),
        energies_mev=(1000.0, 4000.0),
        cell_mm=20.0,
        max_spots=300,
    )


@pytest.fixture(scope="module")
def data(system):
    return system.simulate(4000, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def train(flow, data, steps=150):
    flow.initialise(data)
    method = MaximumLikelihood(flow, learning_rate=5e-3)
    noise, losses = generator(), []
    for step in range(steps):
        rows = torch.randint(len(data), (256,), generator=noise)
        loss = method.loss(method.prepare(data[rows], noise)).mean()
        optimiser = method.optimisers["flow"]
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * (1 - step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def trained(system, data):
    torch.manual_seed(0)
    flow = ShowerFlow(system.schema, system=system, hidden=32, n_running=16)
    losses = train(flow, data)
    return flow.eval(), losses


@pytest.fixture(scope="module")
def copula(system, data):
    copula = ShowerCopula(system.schema, system=system)
    copula.initialise(data)
    return copula


def test_it_keeps_the_contracts(trained):
    flow, _ = trained
    assert isinstance(flow, HasLatentDensity)
    assert isinstance(flow, FromNoise)
    assert isinstance(flow, HasDensity)
    assert density_of(flow) is flow


def test_training_lowers_the_loss(trained):
    _, losses = trained
    assert sum(losses[-20:]) / 20 < losses[0] - 1


def columns(flow, mapped):
    """Numbers, ln W, contrasts, N and k of the splits, views of a mapped batch."""
    return mapped.x[:, 1:].unflatten(1, (5, flow.showers.n_splits)).unbind(1)


def interval(ends, number, most):
    """Log-probabilities of standard logistic numbers between ends, open at 1 and at the most."""
    low, high = (end.sigmoid().double() for end in ends)
    low, high = torch.where(number <= 1, 0.0, low), torch.where(number >= most, 1.0, high)
    return (high - low).log().float()


def test_a_new_flow_divides_as_the_tables_say(system, data):
    flow = ShowerFlow(system.schema, system=system, hidden=32)
    flow.initialise(data)
    net, t = flow.network, flow.showers
    with torch.no_grad():
        for layer in (net.count_out, net.energy_out):
            layer.bias.zero_()  # All components in the middle,
            layer.bias[net.n_components : 2 * net.n_components] = 30.0  # and standard.
        flow.numbers.voxels_out.bias.zero_()
    mapped, _ = t.numbers(data[:50])
    x, log_whole, _, number, k = columns(flow, mapped)
    row, split = (number > 0).nonzero(as_tuple=True)
    n, left, whole = number[row, split], k[row, split], log_whole[row, split].exp()
    least, size = t.choices(n, split)
    place = left - least
    low, high = (t.count_level(n, whole, left + d, split) for d in (0, 1))
    low, high = torch.where(place == 0, 0.0, low), torch.where(place + 1 == size, 1.0, high)
    both = (left > 0) & (left < n)
    logistic = torch.nn.functional.logsigmoid
    density = torch.where(both, logistic(x[row, split]) + logistic(-x[row, split]), 0.0)
    expected = torch.zeros(50).index_add(0, row, (high - low).log().float() + density)
    # And the numbers of voxels of layers, about their means at the energies.
    energies, occupancy = mapped.condition[:, :6], t.occupancy
    voxels, means = (data.x[:50] > 0).float(), occupancy.means(energies)
    voxels = torch.stack([voxels[:, t.tree.leaf_layer == i].sum(1) for i in range(4)], 1)
    most = t.most(t.in_mev(energies)[:, 2:])
    each = interval([occupancy.distances(means, voxels + d) for d in (-0.5, 0.5)], voxels, most)
    log_numbers = torch.where(voxels > 0, each, 0.0).sum(1)
    response = mapped.x[:, 0]
    log_total = log_numbers + logistic(response) + logistic(-response)
    with torch.no_grad():
        found = flow.latent_log_prob(mapped)
    torch.testing.assert_close(found, expected + log_total, rtol=1e-4, atol=1e-2)


def test_what_a_split_adds_to_the_density_sums_and_integrates_to_one(trained, data):
    flow, _ = trained
    t, n = flow.showers, 400
    mapped, _ = t.numbers(data[:1])
    _, _, _, number, _ = columns(flow, mapped)
    order = flow.places[(number[0] > 1)[flow.places]]
    grid = torch.linspace(-15, 15, n)
    for last in (int(order[-1]), int(order[2])):
        single = mapped.x.clone()
        # The last to be drawn: nothing depends on it.
        after = flow.places[(flow.places == last).nonzero()[0, 0] + 1 :]
        single[:, 1 + 3 * t.n_splits + after] = 0.0
        without = single.clone()
        without[:, 1 + 3 * t.n_splits + last] = 0.0
        many = int(number[0, last])
        least, size = (int(v) for v in t.choices(number[:, last], torch.tensor([last])))
        total = 0.0
        with torch.no_grad():
            nothing = flow.latent_log_prob(mapped.replace(x=without)).double()
            for k in range(least, least + size):
                varied = single.expand(n, -1).clone()
                varied[:, 1 + last] = ALL_RIGHT if k == 0 else ALL_LEFT if k == many else grid
                varied[:, 1 + 4 * t.n_splits + last] = k
                rows = mapped.replace(x=varied, condition=mapped.condition.expand(n, -1))
                p = (flow.latent_log_prob(rows).double() - nothing).exp()
                total += (p[0] if k in (0, many) else p.sum() * float(grid[1] - grid[0])).item()
        assert total == pytest.approx(1, abs=2e-3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Layers of one and two voxels, and a flow that has learnt a little of them."""
    path = tmp_path_factory.mktemp("geometry") / "tiny.xml"
    write_geometry(path, Geometry((Layer(0, (0.0, 99.0), 1), Layer(1, (0.0, 9.0, 99.0), 1))))
    system = Calorimeter(
        binning=path,
        depths=(0.0, 9.0, 30.0),
        energies_mev=(1000.0, 4000.0),
        resolution=0.11,
        max_spots=50,
    )
    data = system.simulate(4000, 1)
    torch.manual_seed(0)
    flow = ShowerFlow(system.schema, system=system, hidden=16, n_running=8, n_bins=32)
    train(flow, data, steps=10)
    return flow.eval()


def integrals(flow, incident, n=50_000):
    """Integrals of the density, and of it times the share of the first voxel, by the pattern."""
    noise, v0, top = generator(1), float(flow.showers.threshold), float(flow.showers.top)

    def cut(whole, two):
        # In two, with ln(L/R) uniform, and the logarithm of 1 / density; or all to the right.
        span = (whole / v0 - 1).clamp(min=1 + 1e-6).log()
        left = whole * torch.sigmoid((2 * torch.rand(n, generator=noise) - 1) * span)
        right = whole - left
        log_weight = (2 * span * left * right / whole).log()
        possible = (left >= v0) & (right >= v0)
        if not two:
            return torch.zeros(n), whole, torch.zeros(n)
        return left, right, torch.where(possible, log_weight, -torch.inf)

    empty = Batch(x=torch.zeros(1, 3), condition=torch.full((1, 1), incident))
    with torch.no_grad():
        found = {(False, False, False): (flow.log_prob(empty).exp().item(), 0.0)}
    for first, second, third in itertools.product((False, True), repeat=3):
        both, none = second and third, not (second or third)
        if none and not first:
            continue
        total = incident * top * torch.rand(n, generator=noise)
        log_weight = torch.full((n,), math.log(top * incident))
        one, rest, more = cut(total, two=first and not none)
        if none:
            one, rest = rest, one
        a, b, last = cut(rest, two=both)
        if second and not third:
            a, b = b, a
        log_weight = log_weight + more + last
        kept = log_weight > -torch.inf
        batch = Batch(x=torch.stack([one, a, b], 1), condition=torch.full((n, 1), incident))[kept]
        with torch.no_grad():
            p = (flow.log_prob(batch) + log_weight[kept]).double().exp() / n
        found[first, second, third] = p.sum().item(), (p * (one / total)[kept]).sum().item()
    return found


def test_the_density_of_showers_is_that_of_samples_and_integrates_to_one(tiny):
    found, n = integrals(tiny, 2000.0), 20_000
    assert sum(p for p, _ in found.values()) == pytest.approx(1, abs=0.02)
    batch, log_p = tiny.sample_with_log_prob(n, torch.full((n, 1), 2000.0), generator=generator())
    torch.testing.assert_close(log_p, tiny.log_prob(batch))
    assert torch.isfinite(log_p).all()
    share = (batch.x[:, 0] / batch.x.sum(1)).nan_to_num()
    for pattern, (p, moment) in found.items():
        rows = ((batch.x > 0) == torch.tensor(pattern)).all(1)
        error = 4 * (p / n) ** 0.5 + 0.015 * p + 1e-4
        assert rows.double().mean().item() == pytest.approx(p, abs=error), pattern
        assert (share * rows).double().mean().item() == pytest.approx(moment, abs=error), pattern


@pytest.mark.parametrize("few", [0, 1024])
def test_a_number_far_from_its_mean_is_drawn_as_often_as_the_density_says(tiny, few, monkeypatch):
    """Of the second layer's two voxels nearly always both: one lies at more than 50 spreads."""
    flow, n = copy.deepcopy(tiny).double(), 1000
    t, numbers = flow.showers, flow.numbers
    t.occupancy.of_layers.zero_()
    t.occupancy.spread.fill_(0.02)
    with torch.no_grad():
        numbers.voxels_out.weight.zero_()
        numbers.voxels_out.bias.zero_()
        numbers.voxels_out.bias.view(2, 3, -1)[:, 0] = torch.tensor([-57.0, 57.0, 57.0])
    monkeypatch.setattr("physgen.surrogates.flows.shower.FEW", few)
    noise = torch.randn(n, *flow.noise_shape, generator=generator(2)).double()
    incident = torch.full((n, 1), 2000.0).double()
    with torch.no_grad():
        x = flow.from_noise(noise, incident)
        nodes, one = t.tree.gather(x), torch.ones(n, 2).double()
        p = numbers.log_prob(t, t.counted_condition(incident, nodes, one)).exp()
        both = torch.tensor([[1.0, 2.0]]).double().expand(n, -1)
        p = p / (p + numbers.log_prob(t, t.counted_condition(incident, nodes, both)).exp())
    rows = t.most(nodes[:, t.tree.layers])[:, 1] > 1
    found = (x[rows, 1:] > 0).sum(1) == 1
    assert p[rows].mean().item() == pytest.approx(1 / 3, abs=1e-3)
    assert found.double().mean().item() == pytest.approx(1 / 3, abs=5 * n**-0.5 / 2)


def test_many_showers_are_looked_at_piece_by_piece(trained, data, monkeypatch):
    flow, _ = trained
    whole, sizes, of_mapped = flow.log_prob(data[:100]), [], flow.latent_log_prob

    def watched(batch):
        sizes.append(len(batch))
        return of_mapped(batch)

    monkeypatch.setattr(flow, "latent_log_prob", watched)
    nodes = 1 + 2 * flow.showers.n_splits
    monkeypatch.setattr("physgen.surrogates.flows.shower.AT_ONCE", 30 * nodes)
    torch.testing.assert_close(flow.log_prob(data[:100]), whole, rtol=1e-4, atol=1e-3)
    assert sizes == [30, 30, 30, 10]


@pytest.mark.parametrize("kind", [ShowerFlow, ShowerCopula])
def test_many_voxels_are_drawn_for_few_showers_at_once(kind, tmp_path):
    path = tmp_path / "many.xml"
    edges = tuple(4.65 * i for i in range(19))
    write_geometry(path, Geometry(tuple(Layer(i, edges, 16) for i in range(20)), 11, "electron"))
    large = Calorimeter(binning=path, depths=())
    assert kind(large.schema, system=large).at_once * 2 * large.geometry.n_voxels < 5_000_000


def test_the_same_noise_makes_the_same_showers_in_double_precision_too(trained):
    flow, _ = trained
    noise = torch.randn(64, *flow.noise_shape, generator=generator(), dtype=torch.float64)
    flow = flow.double()
    try:
        incident = torch.full((64, 1), 3000.0, dtype=torch.float64)
        with torch.no_grad():
            x = flow.from_noise(noise, incident)
            again = flow.from_noise(noise, incident)
        assert torch.equal(x, again)
        assert x.dtype == torch.float64
    finally:
        flow.float()


def test_showers_made_singly_are_those_made_together(trained, data, monkeypatch):
    flow, _ = trained
    noise = 1.3 * torch.randn(40, *flow.noise_shape, generator=generator(3), dtype=torch.float64)
    incident = data.condition[:40].double()
    incident[:5] = flow.showers.threshold * torch.tensor([0.5, 1.5, 2.5, 4.0, 8.0])[:, None]
    flow = flow.double()
    try:
        with torch.no_grad():
            singly = flow.from_noise(noise, incident)
            alone = flow.from_noise(noise[7:8], incident[7:8])
            monkeypatch.setattr("physgen.surrogates.flows.shower.FEW", 0)
            together = flow.from_noise(noise, incident)
    finally:
        flow.float()
    torch.testing.assert_close(singly, together, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(singly[7:8], alone, rtol=1e-9, atol=1e-9)


def test_samples_are_drawn_with_what_the_density_says(trained, data, monkeypatch):
    """A shower's splits have the same mixtures when it is drawn and when it is looked at."""
    flow, _ = trained
    monkeypatch.setattr("physgen.surrogates.flows.shower.FEW", 0)
    forward, energies, found = flow.network.forward, flow.network.energies, {}

    def record(split, *inputs):
        out, h = forward(split, *inputs)
        found.update(zip(split.tolist(), out, strict=True))
        return out, h

    def record_energies(split, *inputs):
        out = energies(split, *inputs)
        found.update(zip((-1 - split).tolist(), out, strict=True))
        return out

    monkeypatch.setattr(flow.network, "forward", record)
    monkeypatch.setattr(flow.network, "energies", record_energies)
    flow.double()
    try:
        for seed in range(5):
            noise = torch.randn(1, *flow.noise_shape, generator=generator(seed)).double()
            incident = data.condition[seed : seed + 1].double()
            with torch.no_grad():
                x = flow.from_noise(noise, incident)
                drawn = dict(found)
                found.clear()
                flow.log_prob(Batch(x=x, condition=incident))
            assert drawn.keys() == found.keys()
            for key, out in found.items():
                torch.testing.assert_close(drawn[key], out, rtol=1e-4, atol=1e-4)
            found.clear()
    finally:
        flow.float()


def test_showers_have_the_voxels_that_are_drawn_for_their_layers(trained, data, monkeypatch):
    flow, _ = trained
    noise = torch.randn(300, *flow.noise_shape, generator=generator(1))
    incident, draw, wanted = data.condition[:300], flow.numbers.draw_voxels, []

    def record(*inputs):
        wanted.append(draw(*inputs))
        return wanted[-1]

    monkeypatch.setattr(flow.numbers, "draw_voxels", record)
    t = flow.showers
    with torch.no_grad():
        singly = flow.from_noise(noise, incident)
        monkeypatch.setattr("physgen.surrogates.flows.shower.FEW", 0)
        together = flow.from_noise(noise, incident)
    (voxels,) = wanted
    for made in (singly, together):
        number, _, _ = t.numbers_of(t.tree.gather(made))
        assert torch.equal(number, voxels)
    assert voxels.sum(1).unique().numel() > 10


def test_numbers_of_voxels_are_drawn_with_the_probabilities_of_the_density(trained, data):
    flow, _ = trained
    t, n = flow.showers, 20_000
    nodes, incident = t.tree.gather(data.x[:1]), data.condition[:1]
    most = t.most(nodes[:, t.tree.layers])[0].long().tolist()
    assert min(most) >= 1
    every = torch.cartesian_prod(*(torch.arange(1.0, 1 + m) for m in most))
    noise = torch.randn(n, 4, 2, generator=generator(5))

    def repeated(number):
        return nodes.expand(number, -1), incident.expand(number, -1)

    with torch.no_grad():
        voxels = flow.numbers.draw_voxels(t, *repeated(n), noise)
        nodes, incident = repeated(len(every))
        p = flow.numbers.log_prob(t, t.counted_condition(incident, nodes, every)).exp().double()
    assert p.sum().item() == pytest.approx(1, abs=1e-4)
    different, found = voxels.unique(dim=0, return_counts=True)
    place = (every[None] == different[:, None]).all(2).long().argmax(1)
    assert torch.equal(every[place], different)
    share = torch.zeros_like(p).index_put((place,), found.double() / n)
    assert (share - p).abs().sum() < 1.5 * (p * (1 - p) / n).sqrt().sum()
    assert len(different) > 20


def test_energies_and_the_threshold_hold_in_samples(trained, data):
    flow, _ = trained
    batch = flow.sample(2000, data.condition[:2000], generator=generator())
    threshold = flow.showers.threshold
    assert ((batch.x == 0) | (batch.x >= threshold * (1 - 1e-5))).all()
    noise = torch.randn(500, *flow.noise_shape, generator=generator(1))
    incident = data.condition[:500]
    with torch.no_grad():
        wanted = flow.showers.draw(noise[:, :1], incident)
        made = flow.from_noise(noise, incident).sum(1)
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-3)


def test_samples_look_like_the_truth_more_than_the_copula_does(trained, copula, system):
    flow, _ = trained
    truth = system.simulate(4000, 2)
    made = flow.sample(4000, truth.condition, generator=generator())
    independent = copula.sample(4000, truth.condition, generator=generator())
    occupied = [(batch.x > 0).float().mean(0) for batch in (made, independent, truth)]
    torch.testing.assert_close(occupied[0], occupied[2], rtol=0, atol=0.05)
    torch.testing.assert_close(occupied[1], occupied[2], rtol=0, atol=0.05)

    def correlation(x):
        # Opposite sectors of the inner rings: the impact point moves energy between them.
        return torch.corrcoef(x[:, [2, 8, 14, 18]].log1p().T)

    expected = correlation(truth.x)
    errors = [(correlation(batch.x) - expected).abs().mean() for batch in (made, independent)]
    assert errors[0] < 0.6 * errors[1]


def test_symmetric_copies_are_of_training_only(system, data):
    flow = ShowerFlow(system.schema, system=system, hidden=8, symmetric=True)
    flow.initialise(data)
    rows = data[:50]
    first, second = (flow.train().transform(rows, generator(i))[0].x for i in range(2))
    assert not torch.equal(first, second)
    copies = flow.showers.copies
    turned = rows.x.gather(1, copies[torch.randint(8, (50,), generator=generator())])
    again, _ = flow.showers.numbers(rows.replace(x=turned))
    assert torch.equal(first, again.x)
    exact = flow.log_prob(rows)
    assert torch.equal(exact, flow.eval().log_prob(rows))
    assert torch.equal(flow.transform(rows, generator())[0].x, flow.showers.numbers(rows)[0].x)


def test_no_block_holds_splits_that_touch():
    tree = SplitTree(Calorimeter().geometry)
    order = order_of(tree)
    assert sorted(order.splits) == list(range(tree.n_splits))
    stage_of = np.concatenate([np.full(s.stop - s.start, i) for i, s in enumerate(tree.stages)])
    touched = [members for stage in tree.stages for members in touching(tree, stage)]
    block_of = np.repeat(np.arange(len(order.sizes)), order.sizes)
    for number in range(len(order.sizes)):
        block = order.splits[block_of == number]
        assert len(set(stage_of[block])) == 1
        for split in block:
            assert set(touched[split]) & set(block) == {split}
    # Each touches what is beside it: of two halves of one ring, the other one.
    split = int(((tree.extents.turns == [0, 0.5]).all(1)).nonzero()[0][0])
    assert split + 1 in touched[split]
    known = order.neighbours < tree.n_splits
    earlier = block_of[np.minimum(order.neighbours, tree.n_splits - 1)] < block_of[:, None]
    assert (earlier | ~known).all()
    # The first of neighbours is the parent, of all but the first split.
    parents = (tree.parent.numpy()[order.splits] - 1) // 2
    assert (order.splits[order.neighbours[1:, 0]] == parents[1:]).all()
    assert known[:, 2:].any(0).all()


def saved(flow, batch):
    """How many numbers a step holds for the backward pass."""
    storages = {}

    def count(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // 4
        return x

    kept = {p.untyped_storage().data_ptr() for p in flow.parameters()}
    mapped, _ = flow.showers.numbers(batch)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        loss = flow.latent_log_prob(mapped).sum()
    total = sum(n for place, n in storages.items() if place not in kept)
    loss.backward()
    return total


@pytest.mark.slow
def test_the_memory_of_a_step_follows_the_occupied_voxels(tmp_path):
    # As many voxels as the largest set of the CaloChallenge.
    edges = tuple(4.65 * i for i in range(19))
    path = tmp_path / "large.xml"
    write_geometry(path, Geometry(tuple(Layer(i, edges, 50) for i in range(45)), 11, "electron"))
    large = Calorimeter(binning=path, depths=(), cut_mev=0.01515)
    flow = ShowerFlow(large.schema, system=large)
    assert sum(p.numel() for p in flow.parameters()) < 30_000_000
    numbers = []
    for occupied in (1000, 4000):
        x = torch.zeros(2, 40_500)
        for row in x:
            row[torch.randperm(40_500, generator=generator())[:occupied]] = 2.0
        numbers.append(saved(flow, Batch(x=x, condition=torch.full((2, 1), 9e3))))
    few, many = (n / 2 for n in numbers)
    assert many < 12_000_000  # 48 MB a shower; dense layers would hold a thousand million numbers.
    assert many < 3.5 * few


def test_the_copula_has_the_right_marginals(copula, system):
    truth = system.simulate(4000, 3)
    batch = copula.sample(4000, truth.condition, generator=generator())
    assert torch.allclose((batch.x > 0).float().mean(0), (truth.x > 0).float().mean(0), atol=0.04)
    error = (batch.x.var(0) / len(batch) + truth.x.var(0) / len(truth)).sqrt()
    pulls = (batch.x.mean(0) - truth.x.mean(0)) / error
    assert pulls.square().mean() < 2
    again = copula.sample(4000, truth.condition, generator=generator())
    assert torch.equal(batch.x, again.x)


def test_a_rebuilt_surrogate_with_the_same_state_samples_the_same(trained, system):
    flow, _ = trained
    other = ShowerFlow(system.schema, system=system, hidden=32, n_running=16)
    other.load_state_dict(flow.state_dict())
    a, b = (f.sample(50, generator=generator(7)) for f in (flow, other))
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.condition, b.condition)


@pytest.mark.parametrize("kind", [ShowerFlow, ShowerCopula])
def test_conditions_outside_the_trained_domain_are_refused(kind, system, data):
    surrogate = kind(system.schema, system=system)
    with pytest.raises(DomainError, match="no conditions to draw from"):
        surrogate.sample(3, generator=generator())
    surrogate.initialise(data)
    with pytest.raises(DomainError, match="outside the trained domain"):
        surrogate.sample(1, torch.full((1, 1), 1e6), generator=generator())
    assert len(surrogate.sample(3, generator=generator())) == 3
    with pytest.raises(RecipeError, match="bring their own"):
        kind(system.schema, Chain([surrogate.transform]), system=system)


def test_showers_need_incident_energies(trained):
    flow, _ = trained
    with pytest.raises(DomainError, match="incident energies"):
        flow.latent_log_prob(Batch(x=torch.zeros(1, 1 + 5 * flow.showers.n_splits)))


def test_a_calorimeter_of_one_voxel_is_refused(tmp_path):
    path = tmp_path / "one.xml"
    layer = '<Layer id="0" r_edges="0,5" n_bin_alpha="1" />'
    path.write_text(f'<Bins><Bin pid="22" name="photon">{layer}</Bin></Bins>')
    system = Calorimeter(binning=str(path))
    with pytest.raises(RecipeError, match="this binning has one; take shower-copula"):
        ShowerFlow(system.schema, system=system)
