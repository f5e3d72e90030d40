"""Boltzmann machines of Potts spins against enumeration: energies, sampling, gauge, couplings."""

import itertools
import math

import pytest
import torch
from randomised import generator
from scipy.stats import chi2
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.boltzmann import effective
from physgen.surrogates.boltzmann.divergence import PersistentContrastiveDivergence
from physgen.surrogates.boltzmann.effective import effective_couplings
from physgen.surrogates.boltzmann.rbm import RBM
from physgen.surrogates.completion import completed
from physgen.systems.potts import Potts


def schema(*shape, q=3):
    return Schema(shape, (Variable("spin", domain="integer", dtype="int8", low=0.0, high=q - 1.0),))


MACHINES = {
    "dense": lambda: RBM(schema(4), hidden=3),
    "dense on a lattice": lambda: RBM(schema(2, 2, q=4), hidden=2),
    "filters on a ring": lambda: RBM(schema(5), hidden=1, filter_size=2),
    "filters on a torus": lambda: RBM(schema(2, 3), hidden=1, filter_size=2),
    "symmetric": lambda: RBM(schema(4), hidden=2, permutation_symmetric=True),
    "symmetric filters": lambda: RBM(
        schema(2, 2, q=4), hidden=1, filter_size=2, permutation_symmetric=True
    ),
}


def randomise(machine, scale=0.5, seed=0):
    """Parameters in no particular gauge."""
    noise = generator(seed)
    for parameter in machine.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=noise)
    return machine.double()


@pytest.fixture(params=MACHINES)
def machine(request):
    return randomise(MACHINES[request.param]())


def states(machine):
    """All samples."""
    n, q = math.prod(machine.schema.shape), machine.visible.q
    values = torch.tensor(list(itertools.product(range(q), repeat=n)), dtype=torch.float64)
    return values.reshape(-1, *machine.schema.shape)


def log_f(machine):
    return -machine.action(states(machine))


def exact_samples(machine, n, seed=3):
    p = log_f(machine).softmax(0).detach()
    return states(machine)[torch.multinomial(p, n, replacement=True, generator=generator(seed))]


def same_distribution(x, machine):
    """Return the p value of chi^2 of samples against the machine."""
    q = machine.visible.q
    digits = q ** torch.arange(x[0].numel()).flip(0)
    counts = torch.bincount((x.flatten(1).long() * digits).sum(1), minlength=q ** len(digits))
    expected = len(x) * log_f(machine).softmax(0).detach()
    rare = expected < 5
    counts, expected = (torch.cat([v[~rare], v[rare].sum()[None]]) for v in (counts, expected))
    statistic = ((counts - expected) ** 2 / expected.clamp_min(1e-12)).sum()
    return chi2.sf(float(statistic), len(counts) - 1)


def test_the_free_energy_sums_the_joint_over_the_hidden_spins():
    """Of the dense machine, its weights written out value by value."""
    machine = randomise(MACHINES["dense"]())
    weight = machine.coupling.weight.detach().reshape(3, 3, 4)  # hidden, value, site
    for row in states(machine)[::7]:
        c = row.long()
        a = sum(machine.visible_bias[c[i], i] for i in range(4))
        terms = []
        for hidden in itertools.product((-1.0, 1.0), repeat=3):
            h = torch.tensor(hidden, dtype=torch.float64)
            field = machine.hidden_bias + sum(weight[:, c[i], i] for i in range(4))
            terms.append(a + h @ field)
        expected = -torch.stack(terms).logsumexp(0)
        torch.testing.assert_close(machine.action(row[None])[0], expected)


def test_filters_see_values_at_their_places():
    """A hidden spin couples by w(c, 0) to its own site and by w(c, 1) to the next one."""
    machine = randomise(MACHINES["filters on a ring"]())
    w, b = machine.coupling.weight.detach()[0], machine.hidden_bias.detach().squeeze()
    for row in states(machine)[::11]:
        c = row.long()
        expected = -machine.visible_bias[c, 0].sum()
        for i in range(5):
            expected = expected - (2 * torch.cosh(b + w[c[i], 0] + w[c[(i + 1) % 5], 1])).log()
        torch.testing.assert_close(machine.action(row[None])[0], expected)


def test_gibbs_sampling_leaves_the_distribution_invariant(machine):
    units = machine.units(exact_samples(machine, 40_000))
    moved = machine.gibbs(units, 2, generator(1))
    assert torch.equal(moved.sum(1), torch.ones_like(moved[:, 0]))
    assert not torch.equal(moved, units)
    assert same_distribution(machine.physical(moved), machine) > 1e-3


def test_tempered_replicas_leave_the_distribution_invariant(machine):
    units = machine.units(exact_samples(machine, 40_000))
    machine.chains.copy_(machine.pack(units[: len(machine.chains)]))
    start = machine.independent()
    field = start.field.expand(units.shape).clone()
    free = machine.draw_visible(field, start.precision, generator(2))
    replicas = machine.tempered([free, units], 3, first=0, generator=generator(1))
    assert same_distribution(machine.physical(replicas[-1]), machine) > 1e-3


@pytest.mark.parametrize("kind", ["dense", "filters on a ring"])
def test_annealing_finds_log_z(kind):
    machine = randomise(MACHINES[kind]())
    machine.chains.copy_(machine.pack(machine.units(exact_samples(machine, len(machine.chains)))))
    found = machine.log_partition_function(generator=generator(5), n_chains=300, n_steps=60)
    exact = float(log_f(machine).logsumexp(0).detach())
    for estimate in (found.forward, found.reverse, found.middle):
        assert abs(estimate.value - exact) < 4.5 * estimate.error
        assert estimate.error < 0.1
    log_prob, error = machine.log_likelihood(Batch(states(machine)[:9]), generator=generator(6))
    assert (log_prob - log_f(machine)[:9].detach() + exact).abs().max() < 4.5 * error


def test_the_gauge_leaves_the_distribution_as_it_is(machine):
    before = log_f(machine).softmax(0).detach()
    joint = machine.hidden_field(machine.units(states(machine))).detach()
    machine.fix_gauge()
    torch.testing.assert_close(log_f(machine).softmax(0).detach(), before, rtol=1e-12, atol=0)
    after = machine.hidden_field(machine.units(states(machine))).detach()
    torch.testing.assert_close(after, joint)  # So is that of the hidden spins.
    one_each = torch.eye(machine.chains[0].numel(), dtype=torch.float64)
    one_each = one_each.reshape(-1, *machine.chains.shape[1:])
    weight = machine.coupling.to_hidden(one_each, torch.zeros_like(machine.hidden_bias))
    by_value = weight.detach().reshape(machine.visible.q, -1)
    assert by_value.sum(0).abs().max() < 1e-12
    assert machine.visible_bias.sum(0).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["symmetric", "symmetric filters"])
def test_permuted_values_are_as_likely(kind):
    """Fields are those of one value, whatever the others are."""
    machine = randomise(MACHINES[kind]())
    x, q = states(machine), machine.visible.q
    for names in itertools.permutations(range(q)):
        permuted = torch.tensor(names, dtype=torch.float64)[x.long()]
        torch.testing.assert_close(machine.action(permuted), machine.action(x))
    assert machine.action(x).std() > 0.1
    units = machine.units(x)
    up = machine.coupling.to_hidden(units, torch.zeros_like(machine.hidden_bias))
    hidden = torch.randn(up.shape, generator=generator(1), dtype=torch.float64)
    down = machine.coupling.to_visible(hidden, torch.zeros_like(machine.visible_bias))
    torch.testing.assert_close((up * hidden).sum(), (down * units).sum())


def test_two_values_are_the_machine_of_spins():
    spins = randomise(RBM(Schema((2, 3), (Variable("s", domain="spin"),)), hidden=2))
    potts = RBM(schema(2, 3, q=2), hidden=2).double()
    with torch.no_grad():
        potts.hidden_bias.copy_(spins.hidden_bias)
        potts.visible_bias.copy_(torch.stack([-spins.visible_bias, spins.visible_bias]))
        w = spins.coupling.weight
        potts.coupling.weight.copy_(torch.cat([-w, w], 1))
    x = states(potts)
    torch.testing.assert_close(potts.action(x), spins.action(2 * x - 1))
    torch.testing.assert_close(
        effective_couplings(potts).couplings, effective_couplings(spins).couplings
    )
    units = potts.units(x)
    known = potts.coefficients()
    y = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)), dtype=torch.float64)
    energy = -(units.flatten(1) @ known.a)[:, None] - y @ known.b
    energy = energy - units.flatten(1) @ known.weight @ y.T
    difference = (potts.free_energy(units) + torch.logsumexp(-energy, 1)).detach()
    torch.testing.assert_close(difference, difference[:1].expand_as(difference))


def of_enumeration(machine):
    """Fields and couplings of -F in the zero-sum gauge, by means over all states."""
    x, f = states(machine).flatten(1).long(), log_f(machine).detach()
    n, q = x.shape[1], machine.visible.q
    alone = torch.stack([torch.stack([f[x[:, i] == c].mean() for c in range(q)]) for i in range(n)])
    fields = alone - f.mean()
    pairs = torch.zeros(n, q, n, q, dtype=torch.float64)
    for i, k in itertools.permutations(range(n), 2):
        for c, d in itertools.product(range(q), repeat=2):
            both = f[(x[:, i] == c) & (x[:, k] == d)].mean()
            pairs[i, c, k, d] = both - alone[i, c] - alone[k, d] + f.mean()
    return fields, pairs


def test_effective_couplings_are_those_of_enumeration(machine):
    found = effective_couplings(machine)
    for value, expected in zip(found, of_enumeration(machine), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_many_spins_have_the_couplings_of_the_central_limit(monkeypatch):
    machine = randomise(RBM(schema(7), hidden=4), 0.25)
    expected = of_enumeration(machine)
    monkeypatch.setattr(effective, "_MOST_STATES", 1)
    found = effective_couplings(machine)
    for value, exact in zip(found, expected, strict=True):
        assert (value - exact).abs().max() < 0.03 * exact.abs().max()
    # Nothing is left over of two spins, so that their coupling is exact.
    two = randomise(RBM(schema(2), hidden=3), 1.0)
    torch.testing.assert_close(
        effective_couplings(two).couplings, of_enumeration(two)[1], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("replicas", [1, 3])
def test_training_reaches_the_distribution_and_the_couplings_of_a_potts_model(replicas):
    system = Potts(shape=(4,), q=3, lattice="chain", temperature=0.8)
    machine = RBM(system.schema, hidden=8, n_chains=500, weight_scale=0.2)
    every = states(machine)
    p = (-system.action(every)).double().softmax(0)
    rows = torch.multinomial(p, 8000, replacement=True, generator=generator(1))
    data = every[rows].float()
    machine.initialise(Batch(data))
    method = PersistentContrastiveDivergence(
        machine, k=2, learning_rate=0.03, centred=True, replicas=replicas
    )
    for step in range(400):
        method.optimisers["adam"].param_groups[0]["lr"] = 0.03 * (1 - step / 400)
        batch = method.prepare(Batch(data[step % 8 * 1000 :][:1000]), generator())
        method.step({"data": batch}, StubContext(1000, seed=step, step=step))
    weight = machine.coupling.weight.reshape(8, 3, 4)
    assert weight.sum(1).abs().max() < 1e-5
    log_q = log_f(machine.double()).log_softmax(0).detach()
    assert float((p * (p.log() - log_q)).sum()) < 0.02
    couplings = effective_couplings(machine).couplings
    wanted = (torch.eye(3, dtype=torch.float64) - 1 / 3) / system.temperature
    for i in range(4):
        assert (couplings[i, :, (i + 1) % 4] - wanted).abs().max() < 0.25
        assert couplings[i, :, (i + 2) % 4].abs().max() < 0.25


def test_known_spins_are_completed():
    """Of two, which are nearly always equal, one is given."""
    machine = RBM(schema(1, 2), hidden=3, weight_scale=0)
    weight = 3 * (torch.eye(3) - 1 / 3)
    machine.coupling.weight.data = torch.stack([weight, weight], 2).flatten(1)
    given = Batch(torch.tensor([[[0, 0]], [[1, 0]], [[2, 0]]] * 100, dtype=torch.int8))
    x = completed(machine, given, torch.tensor([[True, False]]), seed=1)
    assert torch.equal(x[:, 0, 0], given.x[:, 0, 0])
    assert (x[:, 0, 1] == x[:, 0, 0]).float().mean() > 0.9


def test_other_spins_are_refused():
    with pytest.raises(DomainError, match=r"from 0 to 3, .* made for spins of q = 3, 0 to 2"):
        RBM(schema(3)).action(torch.tensor([[0, 3, 1]]))
    with pytest.raises(RecipeError, match="q = 3 values are not flipped"):
        RBM(schema(3), spin_flip_symmetric=True)
    with pytest.raises(RecipeError, match="set spin_flip_symmetric"):
        RBM(Schema((3,), (Variable("s", domain="spin"),)), permutation_symmetric=True)
    with pytest.raises(RecipeError, match="n are integer"):
        RBM(Schema((3,), (Variable("n", domain="integer"),)))
    with pytest.raises(RecipeError, match=r"filter_size=4 does not fit samples of shape \[3, 3\]"):
        RBM(schema(3, 3, q=5), filter_size=4)
