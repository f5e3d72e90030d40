"""Boltzmann machines against enumeration: free energy, gradients, stationary distribution."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.surrogates.base import Surrogate
from physgen.surrogates.boltzmann.divergence import PersistentContrastiveDivergence
from physgen.surrogates.boltzmann.rbm import RBM
from physgen.systems.base import HasAction


def schema(*shape, domain="spin"):
    return Schema(shape, (Variable("spin", domain=domain, dtype="int8"),))


def randomise(rbm, scale=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in rbm.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return rbm.double()


MACHINES = {
    "dense": lambda: RBM(schema(6), hidden=3),
    "dense on a lattice": lambda: RBM(schema(2, 3), hidden=4),
    "symmetric": lambda: RBM(schema(6), hidden=3, spin_flip_symmetric=True),
    "binary": lambda: RBM(schema(6, domain="binary"), hidden=3),
    "filters on a ring": lambda: RBM(schema(5), hidden=1, filter_size=2),
    "filters on a torus": lambda: RBM(schema(3, 3), hidden=1, filter_size=2),
    "odd filters, symmetric": lambda: RBM(
        schema(2, 4), hidden=1, filter_size=2, spin_flip_symmetric=True
    ),
}


@pytest.fixture(params=MACHINES)
def rbm(request):
    return randomise(MACHINES[request.param]())


def all_spins(shape):
    n = int(np.prod(shape))
    return torch.tensor(
        list(itertools.product((-1.0, 1.0), repeat=n)), dtype=torch.float64
    ).reshape(-1, *shape)


def slow_energy(rbm, spins, hidden):
    """E(s, h) of every pair, with the couplings of filters written out site by site."""
    shape = rbm.schema.shape
    weight, n = rbm.coupling.weight.detach(), int(np.prod(shape))
    if len(rbm.coupling.hidden_shape) == 1:
        matrix = weight
    else:
        size = weight.shape[2]
        sites = list(itertools.product(*(range(length) for length in shape)))
        matrix = torch.zeros(len(weight), n, n, dtype=weight.dtype)
        for row, site in enumerate(sites):
            for offset in itertools.product(range(size), repeat=len(shape)):
                near = tuple(
                    (x + d - (size - 1) // 2) % length
                    for x, d, length in zip(site, offset, shape, strict=True)
                )
                matrix[:, row, sites.index(near)] += weight[(slice(None), 0, *offset)]
        matrix = matrix.reshape(-1, n)
    a = rbm.visible_bias.detach().expand(shape).flatten()
    b = rbm.hidden_bias.detach().expand(rbm.coupling.hidden_shape).flatten()
    s, h = spins.flatten(1), hidden.flatten(1)
    return -(s @ a)[:, None] - (h @ b)[None] - s @ matrix.T @ h.T


def probabilities(rbm):
    return torch.softmax(-rbm.free_energy(all_spins(rbm.schema.shape)), 0).detach()


def test_free_energy_sums_the_joint_over_the_hidden_spins(rbm):
    spins, hidden = all_spins(rbm.schema.shape), all_spins(rbm.coupling.hidden_shape)
    expected = -torch.logsumexp(-slow_energy(rbm, spins, hidden), 1)
    torch.testing.assert_close(rbm.free_energy(spins).detach(), expected)
    x = (spins + 1) / 2 if rbm.visible.binary else spins
    torch.testing.assert_close(rbm.action(x.to(torch.int8)).detach(), expected)


def test_fields_are_those_of_the_joint(rbm):
    spins = all_spins(rbm.schema.shape)[-8:]
    hidden = all_spins(rbm.coupling.hidden_shape)[:8]
    no_visible = torch.zeros_like(rbm.visible_bias)
    no_hidden = torch.zeros_like(rbm.hidden_bias)
    up = (rbm.coupling.to_hidden(spins, no_hidden) * hidden).flatten(1).sum(1)
    down = (rbm.coupling.to_visible(hidden, no_visible) * spins).flatten(1).sum(1)
    torch.testing.assert_close(up, down)


def test_free_energy_does_not_overflow():
    rbm = RBM(schema(6), hidden=3)
    rbm.coupling.weight.data.fill_(1e4)
    spins = all_spins((6,)).float()
    free_energy = rbm.free_energy(spins).detach()
    assert torch.isfinite(free_energy).all()
    assert free_energy[0] == pytest.approx(-18e4, rel=1e-6)


def test_gibbs_sampling_leaves_the_exact_distribution_invariant(rbm):
    generator = torch.Generator().manual_seed(1)
    states, n = all_spins(rbm.schema.shape), 40_000
    p = probabilities(rbm)
    start = states[torch.multinomial(p, n, replacement=True, generator=generator)]
    spins = rbm.gibbs(start, 2, generator)
    bits = (spins.flatten(1) > 0).long()
    codes = bits @ (1 << torch.arange(bits.shape[1]).flip(0))
    counts = torch.bincount(codes, minlength=len(p)).double()
    expected = p * n
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    statistic = ((counts - expected) ** 2 / expected.clamp_min(1e-12)).sum()
    assert chi2.sf(float(statistic), len(expected) - 1) > 1e-3


def exact_gradient(rbm, data):
    """Gradient of the mean negative log-likelihood with ln Z by enumeration."""
    log_z = torch.logsumexp(-rbm.free_energy(all_spins(rbm.schema.shape)), 0)
    return torch.autograd.grad(rbm.free_energy(data).mean() + log_z, list(rbm.parameters()))


def test_the_gradient_is_that_of_the_likelihood_when_the_chains_are_exact(rbm):
    generator = torch.Generator().manual_seed(2)
    states, n = all_spins(rbm.schema.shape), 400_000
    data = states[torch.randint(len(states), (300,), generator=generator)]
    chains = states[torch.multinomial(probabilities(rbm), n, replacement=True, generator=generator)]
    method = PersistentContrastiveDivergence(rbm, centred=False)
    method.gradient(Batch(data), Batch(chains))
    scale = float(np.prod(rbm.schema.shape))
    for parameter, exact in zip(rbm.parameters(), exact_gradient(rbm, data), strict=True):
        torch.testing.assert_close(parameter.grad, exact, atol=8 * scale / n**0.5, rtol=0)


def test_the_centred_gradient_is_the_plain_one_in_centred_coordinates(rbm):
    """In E = -a'.(s - mu) - b'.(h - lam) - (h - lam).W (s - mu), a = a' - W^T lam, and so on.

    A step along the gradient by (W, a', b') moves (W, a, b) along what the method computes.
    """
    if rbm.symmetric:
        pytest.skip("without biases there is nothing to centre")
    generator = torch.Generator().manual_seed(3)
    states = all_spins(rbm.schema.shape)
    data, chains = (states[torch.randint(len(states), (50,), generator=generator)] for _ in "ab")
    method = PersistentContrastiveDivergence(rbm, centred=True)
    method.gradient(Batch(data), Batch(chains))

    names = [name for name, _ in rbm.named_parameters()]
    values = {name: p.detach().clone().requires_grad_() for name, p in rbm.named_parameters()}
    w = values["coupling.weight"]
    both = torch.cat([data, chains])
    h = rbm.coupling.to_hidden(both, rbm.hidden_bias).tanh().mean(0).detach()
    mu, lam = both.mean(0), h
    if len(rbm.coupling.hidden_shape) > 1:
        mu = mu.mean().reshape(rbm.visible_bias.shape)
        lam = lam.flatten(1).mean(1).reshape(rbm.hidden_bias.shape)
    rows = w.flatten(1)
    shift_a = (lam.reshape(-1, 1) * rows).sum(0)
    shift_b = (rows * mu.reshape(1, -1)).sum(1).reshape(rbm.hidden_bias.shape)
    shift_a = shift_a.sum_to_size(mu.numel()).reshape(rbm.visible_bias.shape)
    # The primed biases are what is held fixed while W moves.
    primed_a, primed_b = values["visible_bias"], values["hidden_bias"]
    moved = {
        "coupling.weight": w,
        "visible_bias": primed_a - (shift_a - shift_a.detach()),
        "hidden_bias": primed_b - (shift_b - shift_b.detach()),
    }

    class Gap(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rbm = rbm

        def forward(self):
            return self.rbm.free_energy(data).mean() - self.rbm.free_energy(chains).mean()

    gap = torch.func.functional_call(Gap(), {f"rbm.{k}": v for k, v in moved.items()}, ())
    primed = dict(zip(names, torch.autograd.grad(gap, [values[k] for k in names]), strict=True))
    grads = dict(rbm.named_parameters())
    torch.testing.assert_close(grads["coupling.weight"].grad, primed["coupling.weight"])
    step_w = primed["coupling.weight"].flatten(1)
    to_a = (lam.reshape(-1, 1) * step_w).sum(0).sum_to_size(mu.numel())
    to_b = (step_w * mu.reshape(1, -1)).sum(1)
    expected_a = primed["visible_bias"] - to_a.reshape(rbm.visible_bias.shape)
    expected_b = primed["hidden_bias"] - to_b.reshape(rbm.hidden_bias.shape)
    torch.testing.assert_close(grads["visible_bias"].grad, expected_a)
    torch.testing.assert_close(grads["hidden_bias"].grad, expected_b)


def test_filters_make_the_machine_translation_invariant():
    rbm = randomise(RBM(schema(4, 6), hidden=3, filter_size=3))
    spins = (torch.randint(2, (10, 4, 6)) * 2 - 1).double()
    moved = spins.roll((1, 2), (1, 2))
    torch.testing.assert_close(rbm.free_energy(spins), rbm.free_energy(moved))


def test_without_biases_turned_spins_are_as_likely():
    rbm = randomise(RBM(schema(6), hidden=3, spin_flip_symmetric=True))
    assert [name for name, _ in rbm.named_parameters()] == ["coupling.weight"]
    spins = all_spins((6,))
    torch.testing.assert_close(rbm.free_energy(spins), rbm.free_energy(-spins))


def context(seed=0):
    """A one-process stand-in for the engine."""
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(generator=generator, apply=lambda optimiser: optimiser.step())


@pytest.mark.parametrize("name", ["dense", "filters on a torus"])
def test_training_reaches_the_distribution_of_the_data(name):
    teacher = randomise(MACHINES[name](), 0.4, seed=5)
    states, p = all_spins(teacher.schema.shape), probabilities(teacher)
    generator = torch.Generator().manual_seed(1)
    student = MACHINES[name]()
    data = states[torch.multinomial(p, 20_000, replacement=True, generator=generator)].float()
    student.initialise(Batch(data))
    method = PersistentContrastiveDivergence(student, k=2, learning_rate=0.03)
    ctx = context()

    def divergence():
        q = torch.softmax(-student.free_energy(states.float()).detach(), 0).double()
        return float((p * (p / q).log()).sum())

    before = divergence()
    for step in range(300):
        method.optimisers["adam"].param_groups[0]["lr"] = 0.03 * (1 - step / 300)
        batch = method.prepare(Batch(data[step * 50 : step * 50 + 500]), generator)
        loss = method.step({"data": batch}, ctx)["loss"]
    assert torch.isfinite(loss)
    assert divergence() < 0.1 * before
    assert divergence() < 0.02


def test_weights_of_events_count_in_the_gradient(rbm):
    states = all_spins(rbm.schema.shape)
    data, chains = states[:4], states[4:8]
    method = PersistentContrastiveDivergence(rbm)
    method.gradient(Batch(data, weight=torch.tensor([2.0, 1.0, 0.0, 1.0]).double()), Batch(chains))
    weighted = [p.grad.clone() for p in rbm.parameters()]
    if rbm.symmetric:  # else the offsets would see the rows of weight zero
        method.gradient(Batch(data[[0, 0, 1, 3]]), Batch(chains))
        for parameter, expected in zip(rbm.parameters(), weighted, strict=True):
            torch.testing.assert_close(parameter.grad, expected)


def test_biases_are_set_from_the_data():
    data = Batch(torch.tensor([[1, -1, 1, 1, 1, 1]] * 3 + [[-1, 1, 1, 1, 1, 1]]))
    dense = RBM(schema(6), hidden=2)
    dense.initialise(data)
    p = torch.sigmoid(2 * dense.visible_bias)
    torch.testing.assert_close(p[:2], torch.tensor([0.75, 0.25]))
    assert torch.isfinite(dense.visible_bias).all()
    shared = RBM(schema(6), hidden=2, filter_size=2)
    shared.initialise(data)
    torch.testing.assert_close(shared.visible_bias.tanh(), torch.tensor([16 / 24]))


def test_samples_carry_their_chains_and_follow_the_seed():
    rbm = RBM(schema(2, 3), hidden=4, n_chains=8, burn_in=3, thin=2)
    one, two, other = (
        rbm.sample(20, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, other.x)
    assert one.x.dtype == torch.int8
    assert one.x.abs().eq(1).all()
    assert sorted(one.chain[:8].tolist()) == list(range(8))  # one of each before the next of any
    assert one.chain.tolist() == [*one.chain[:8].tolist() * 2, *one.chain[:4].tolist()]
    few = rbm.sample(5, generator=torch.Generator().manual_seed(1))
    assert few.chain.tolist() == one.chain[:5].tolist()
    binary = RBM(schema(6, domain="binary"), hidden=2, burn_in=1)
    assert set(binary.sample(50, generator=torch.Generator()).x.unique().tolist()) == {0, 1}


def test_chains_survive_in_the_state_of_method_and_surrogate():
    rbm = RBM(schema(6), hidden=3, n_chains=16)
    method = PersistentContrastiveDivergence(rbm, k=1)
    start = rbm.chains.clone()
    method.step({"data": method.prepare(Batch(torch.ones(4, 6)), torch.Generator())}, context())
    assert not torch.equal(rbm.chains, start)
    assert torch.equal(method.state_dict()["tensors"]["chains"], rbm.chains)
    again = RBM(schema(6), hidden=3, n_chains=16)
    again.load_state_dict(rbm.state_dict())
    draws = [r.sample(16, generator=torch.Generator().manual_seed(4)).x for r in (rbm, again)]
    assert torch.equal(*draws)


def test_the_protocols_are_met():
    rbm = RBM(schema(6))
    assert isinstance(rbm, Surrogate)
    assert isinstance(rbm, HasAction)


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="energy are real"):
        RBM(Schema((3,), (Variable("energy"),)))
    with pytest.raises(RecipeError, match="filter_size=5 does not fit"):
        RBM(schema(4, 4), filter_size=5)
    with pytest.raises(RecipeError, match="no conditions"):
        RBM(Schema((3,), (Variable("s", domain="spin"),), (Variable("T"),)))
    with pytest.raises(DomainError, match="without conditions"):
        RBM(schema(4)).sample(1, torch.zeros(1, 1), generator=torch.Generator())
    with pytest.raises(RecipeError, match="trains Boltzmann machines"):
        PersistentContrastiveDivergence(Surrogate(schema(4)))
