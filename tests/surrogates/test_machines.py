"""Laws of Boltzmann machines of every kind of units, against enumeration of the hidden layer."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from randomised import Repeated, generator
from scipy.stats import chi2

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import DomainError, InputError, RecipeError
from physgen.sampling import tempering
from physgen.sampling.annealing import InvertedBracket
from physgen.surrogates.base import HasEstimatedLikelihood, Surrogate
from physgen.surrogates.boltzmann.divergence import (
    ContrastiveDivergence,
    PersistentContrastiveDivergence,
)
from physgen.surrogates.boltzmann.gaussian import GaussianRBM
from physgen.surrogates.boltzmann.machine import Independent, Path
from physgen.surrogates.boltzmann.rbm import RBM
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain


def schema(*shape, domain="real"):
    return Schema(shape, (Variable("x", domain=domain),))


MACHINES = {
    "spins": lambda: RBM(schema(5, domain="spin"), hidden=3),
    "binary": lambda: RBM(schema(2, 3, domain="binary"), hidden=3),
    "symmetric": lambda: RBM(schema(5, domain="spin"), hidden=3, spin_flip_symmetric=True),
    "filters": lambda: RBM(schema(2, 3, domain="spin"), hidden=1, filter_size=2),
    "gaussian": lambda: GaussianRBM(schema(3), hidden=4),
    "gaussian of fixed width": lambda: GaussianRBM(
        schema(3), hidden=3, sigma=0.7, learn_sigma=False
    ),
    "gaussian filters": lambda: GaussianRBM(schema(2, 2), hidden=1, filter_size=2),
}
GAUSSIAN = [name for name in MACHINES if "gaussian" in name]
DISCRETE = [name for name in MACHINES if "gaussian" not in name]


def made(name, scale=0.5):
    """A machine with random parameters whose chains stand where it puts them."""
    machine, noise = MACHINES[name](), generator(1)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=noise))
        machine.double()
        machine.chains.copy_(machine.pack(exact_samples(machine, len(machine.chains))))
    return machine


def bits(n):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


def states(machine):
    """All visible states of a discrete machine, as samples."""
    x = bits(math.prod(machine.schema.shape)).reshape(-1, *machine.schema.shape)
    return x if machine.visible.binary else 2 * x - 1


def log_z(machine):
    """ln Z, differentiable, by a sum over the visible or over the hidden states."""
    if isinstance(machine, RBM):
        return torch.logsumexp(-machine.free_energy(machine.units(states(machine))), 0)
    log_weight, _ = mixture(machine)
    return torch.logsumexp(log_weight, 0)


def mixture(machine):
    """Log-weights and means of the Gaussians that the hidden states of a machine stand for."""
    alpha = machine.visible_bias
    h = bits(math.prod(machine.coupling.hidden_shape))
    hidden = h.reshape(-1, *machine.coupling.hidden_shape)
    mean = machine.coupling.to_visible(hidden, alpha).flatten(1)
    b = machine.hidden_bias.expand(machine.coupling.hidden_shape).flatten()
    shape = machine.chains.shape[1:]
    flat = alpha.expand(shape).flatten()
    volume = (machine.sigma.expand(shape) * math.sqrt(2 * math.pi)).log().sum()
    return h @ b + 0.5 * (mean**2 - flat**2).sum(1) + volume, mean


@torch.no_grad()
def exact_samples(machine, n, seed=3):
    """Independent visible units."""
    if isinstance(machine, RBM):
        units = machine.units(states(machine))
        p = torch.softmax(-machine.free_energy(units), 0)
        return units[torch.multinomial(p, n, replacement=True, generator=generator(seed))]
    log_weight, mean = mixture(machine)
    p = torch.softmax(log_weight, 0)
    rows = torch.multinomial(p, n, replacement=True, generator=generator(seed))
    noise = torch.randn(n, mean.shape[1], generator=generator(seed + 1), dtype=torch.float64)
    return (mean[rows] + noise).reshape(n, *machine.chains.shape[1:]) * machine.sigma


@pytest.mark.parametrize("name", MACHINES)
def test_coefficients_give_the_energy_of_the_lecture(name):
    """F is that of E = -a.x - b.h - x.W.h with 0/1 units, or its Gaussian kind; up to a constant.

    The constant is none for Gaussian units.
    """
    machine = made(name)
    known = machine.coefficients()
    h = bits(len(known.b))
    if isinstance(machine, RBM):
        units = machine.units(states(machine))
        x = (units.flatten(1) + 1) / 2
        energy = -(x @ known.a)[:, None] - (h @ known.b)[None] - x @ known.weight @ h.T
    else:
        units = exact_samples(machine, 20)
        x, variance = units.flatten(1), known.sigma**2
        energy = ((x - known.a) ** 2 / (2 * variance)).sum(1)[:, None] - (h @ known.b)[None]
        energy = energy - (x / variance) @ known.weight @ h.T
    difference = (machine.free_energy(units) + torch.logsumexp(-energy, 1)).detach()
    expected = difference[0] if isinstance(machine, RBM) else torch.zeros(()).double()
    torch.testing.assert_close(difference, expected.expand_as(difference))


@pytest.mark.parametrize("name", DISCRETE)
def test_the_gradient_of_log_z_is_the_mean_gradient_of_log_f(name):
    """Not of f: d ln Z / dw = sum_x p(x) d ln f(x) / dw, f = exp(-F)."""
    machine = made(name)
    parameters = list(machine.parameters())
    free_energy = machine.free_energy(machine.units(states(machine)))
    p = torch.softmax(-free_energy, 0).detach()
    mean = torch.autograd.grad(-(p * free_energy).sum(), parameters)
    for one, other in zip(torch.autograd.grad(log_z(machine), parameters), mean, strict=True):
        torch.testing.assert_close(one, other)


def test_the_free_energy_of_gaussian_units_is_normalised_by_the_sum_over_hidden_states():
    machine = GaussianRBM(schema(1), hidden=3, sigma=0.4)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(1)))
    machine.double()
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    integral = torch.logsumexp(-machine.free_energy(x), 0) + math.log(24 / 20_000)
    torch.testing.assert_close(integral, log_z(machine))


@pytest.mark.parametrize("name", GAUSSIAN)
def test_gibbs_sampling_of_gaussian_units_leaves_their_distribution_invariant(name):
    machine, n = made(name), 40_000
    before = exact_samples(machine, n)
    after = machine.gibbs(before, 3, generator(7)).flatten(1)
    fresh = exact_samples(machine, n, seed=11).flatten(1)
    for power in (1, 2, 3):
        error = (fresh**power).std(0) * math.sqrt(2 / n)
        assert (((after**power).mean(0) - (fresh**power).mean(0)).abs() < 4.5 * error).all()
    covariance = after.T.cov() - fresh.T.cov()
    assert covariance.abs().max() < 6 * fresh.var(0).max() / math.sqrt(n)
    assert not torch.equal(after, before.flatten(1))


@pytest.mark.parametrize("name", MACHINES)
def test_the_gradient_is_that_of_the_likelihood_when_the_chains_are_exact(name):
    machine, n = made(name), 200_000
    data = exact_samples(machine, 300, seed=21) * 0.7 + 0.1
    if isinstance(machine, RBM):
        data = exact_samples(machine, 300, seed=21).roll(1, -1)
    method = PersistentContrastiveDivergence(machine, centred=False)
    method.gradient(Batch(data), Batch(exact_samples(machine, n)))
    parameters = list(machine.parameters())
    exact = torch.autograd.grad(machine.free_energy(data).mean() + log_z(machine), parameters)
    scale = max(3.0, float(max(g.abs().max() for g in exact)))
    for parameter, gradient in zip(parameters, exact, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=10 * scale / math.sqrt(n), rtol=0)


@pytest.mark.parametrize("name", MACHINES)
def test_annealing_finds_log_z_from_both_ends(name):
    machine = made(name)
    found = machine.log_partition_function(generator=generator(5), n_chains=400, n_steps=60)
    exact = float(log_z(machine).detach())
    for estimate in (found.forward, found.reverse, found.middle):
        assert abs(estimate.value - exact) < 4.5 * estimate.error
        assert estimate.error < 0.1
    assert 100 < found.effective_samples <= 400


@pytest.mark.parametrize("name", ["binary", "gaussian"])
def test_the_likelihood_is_the_exact_one_within_its_error(name):
    machine = made(name)
    assert isinstance(machine, HasEstimatedLikelihood)
    units = exact_samples(machine, 10)
    x = machine.physical(units)
    log_prob, error = machine.log_likelihood(Batch(x), generator=generator(6))
    exact = (-machine.free_energy(units) - log_z(machine)).detach()
    assert log_prob.shape == (10,)
    assert 0 < error < 0.1
    torch.testing.assert_close(log_prob - log_prob.mean(), exact - exact.mean())
    assert (log_prob - exact).abs().max() < 4 * error


def test_the_likelihood_counts_the_volume_of_the_transform():
    """Without couplings the machine is a Gaussian: of the widths of the data."""
    x = torch.randn(500, 3, generator=generator(1), dtype=torch.float64) * 5 + 2
    machine = GaussianRBM(schema(3), Chain([Standardise(schema(3))]), hidden=2).double()
    machine.initialise(Batch(x))
    with torch.no_grad():
        machine.coupling.weight.zero_()
    log_prob, error = machine.log_likelihood(Batch(x[:5]), generator=generator(2))
    normal = torch.distributions.Normal(x.mean(0), x.std(0, correction=0))
    expected = normal.log_prob(x[:5]).sum(1)
    assert error < 0.02
    torch.testing.assert_close(log_prob, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", DISCRETE)
def test_exchanges_and_moves_leave_every_machine_of_the_path_invariant(name):
    """What would be wrong is to exchange by beta F: chi^2 of every replica's counts sees it."""
    machine, betas, n = made(name, 1.0), [0.1, 0.5, 1.0], 100_000
    units = machine.units(states(machine))
    # Zero energy at beta = 0: tempering, F_beta = -beta a.s - sum ln 2 cosh beta (b + W s).
    zero = torch.zeros(machine.schema.shape, dtype=torch.float64)
    path = Path(machine, Independent(zero, machine.precision, 0.0))
    field = machine.hidden_field(units)
    tempered = -0.5 * (units.flatten(1) @ machine.visible_bias.expand(zero.shape).flatten())
    tempered = tempered - (2 * torch.cosh(0.5 * field)).log().flatten(1).sum(1)
    torch.testing.assert_close(path.free_energy(units, 0.5), tempered)
    ps = [torch.softmax(-path.free_energy(units, beta), 0).detach() for beta in betas]
    replicas = [
        units[torch.multinomial(p, n, replacement=True, generator=generator(i))]
        for i, p in enumerate(ps)
    ]
    with torch.no_grad():
        for turn in range(4):
            replicas, exchanged = tempering.step(
                replicas,
                path.log_ratio,
                path.move,
                betas,
                odd=bool(turn % 2),
                generator=generator(10 + turn),
            )
            assert exchanged.any()
    for x, p in zip(replicas, ps, strict=True):
        code = (x.flatten(1) > 0).long() @ (1 << torch.arange(x[0].numel()).flip(0))
        counts, expected = torch.bincount(code, minlength=len(p)).double(), n * p
        rare = expected < 5
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]]).clamp_min(1e-12)
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert chi2.sf(float(statistic), len(counts) - 1) > 1e-3
        assert (counts / n - expected / n).abs().sum() / 2 < 0.01  # total variation


@pytest.mark.parametrize("name", MACHINES)
def test_the_ratios_of_the_path_are_differences_of_its_free_energies(name):
    machine = made(name)
    path, x = Path(machine, machine.independent()), exact_samples(machine, 7)
    expected = path.free_energy(x, 0.25) - path.free_energy(x, 0.75)
    torch.testing.assert_close(path.log_ratio(x, 0.25, 0.75), expected)
    torch.testing.assert_close(path.free_energy(x, 1.0), machine.free_energy(x))


def test_replicas_exchange_modes_where_plain_chains_stay():
    """Of two modes of equal weight four fifths of the chains start in one."""

    def ordered(**options):
        rbm = RBM(schema(12, domain="spin"), hidden=1, n_chains=200, thin=1, **options)
        rbm.coupling.weight.data.fill_(1.2)
        rbm.chains.fill_(1)
        rbm.chains[:40] = -1
        return rbm.sample(200, generator=generator(2)).x.float().mean(1).mean()

    assert ordered(burn_in=100) > 0.4
    assert abs(ordered(burn_in=100, replicas=6)) < 0.2


def context(seed=0):
    """A one-process stand-in for the engine."""
    return SimpleNamespace(generator=generator(seed), apply=lambda optimiser: optimiser.step())


@pytest.mark.parametrize("kind", [ContrastiveDivergence, PersistentContrastiveDivergence])
@pytest.mark.parametrize("name", ["binary", "gaussian"])
def test_training_reaches_the_distribution_of_the_data(kind, name):
    teacher = made(name)
    data = teacher.physical(exact_samples(teacher, 8_000)).double()
    student = MACHINES[name]().double()
    student.initialise(Batch(data))
    method = kind(student, k=3, learning_rate=0.03)
    held_out = exact_samples(teacher, 4_000, seed=31)
    best = (-teacher.free_energy(held_out) - log_z(teacher)).mean().detach()

    def gap():
        return float(best + (student.free_energy(held_out).mean() + log_z(student)).detach())

    before = gap()
    for step in range(300):
        method.optimisers["adam"].param_groups[0]["lr"] = 0.03 * (1 - step / 300)
        rows = slice(step % 16 * 500, step % 16 * 500 + 500)
        batch = method.prepare(Batch(data[rows]), generator())
        loss = method.step({"data": batch}, context(step))["loss"]
    assert torch.isfinite(loss)
    assert all(parameter.grad.abs().max() > 0 for parameter in student.parameters())
    assert gap() < 0.5 * before
    assert gap() < 0.03


def test_gaussian_widths_are_learned_or_stay():
    """Data of width 0.2: the width follows it, unless it is told to stay."""
    data = 0.2 * torch.randn(4_000, 3, generator=generator(1))
    for learned in (True, False):
        machine = GaussianRBM(schema(3), hidden=2, sigma=0.5, learn_sigma=learned)
        machine.initialise(Batch(data))
        method = PersistentContrastiveDivergence(machine, k=1, learning_rate=0.02)
        for step in range(100):
            method.step({"data": Batch(data[:1000])}, context(step))
        expected = torch.full((3,), 0.2 if learned else 0.5)
        torch.testing.assert_close(machine.sigma.detach(), expected, rtol=0.15, atol=0)


def test_a_pixel_that_never_changes_does_not_draw_its_width_to_zero():
    data = torch.randn(500, 3, generator=generator(1))
    data[:, 1] = 1.0
    machine = GaussianRBM(schema(3), hidden=2)
    machine.initialise(Batch(data))
    method = PersistentContrastiveDivergence(machine, k=1, learning_rate=0.1)
    for step in range(200):
        loss = method.step({"data": Batch(data)}, context(step))["loss"]
    assert torch.isfinite(loss)
    assert 0.05 < float(machine.sigma.detach()[1]) < 0.2
    x = machine.sample(100, generator=generator(2)).x
    assert abs(x[:, 1].mean() - 1) < 0.1


@pytest.mark.parametrize("name", MACHINES)
def test_seeds_decide_samples_which_survive_saving(name):
    machine = made(name)
    machine.burn_in, machine.thin = 3, 2
    again = MACHINES[name]().double()
    again.load_state_dict(machine.state_dict())
    again.burn_in, again.thin = 3, 2
    one, two = (m.sample(40, generator=generator(4)) for m in (machine, again))
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, machine.sample(40, generator=generator(5)).x)
    assert one.x.shape == (40, *machine.schema.shape)
    assert one.chain.shape == (40,)


def test_the_engine_does_not_average_chains():
    """It averages floating buffers."""
    for make in MACHINES.values():
        assert not make().chains.is_floating_point()


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="take rbm"):
        GaussianRBM(schema(3, domain="spin"))
    with pytest.raises(RecipeError, match="a width is positive"):
        GaussianRBM(schema(3), sigma=0.0)
    with pytest.raises(RecipeError, match="replicas=0"):
        RBM(schema(3, domain="spin"), replicas=0)
    with pytest.raises(RecipeError, match="knows no conditions"):
        GaussianRBM(Schema((3,), (Variable("x"),), (Variable("label"),)))
    with pytest.raises(RecipeError, match="trains Boltzmann machines"):
        ContrastiveDivergence(Surrogate(schema(4)))


def test_chains_that_diverged_are_named():
    machine = made("gaussian")
    with torch.no_grad():
        machine.visible_bias.fill_(math.nan)
    with pytest.raises(DomainError, match="diverged"):
        machine.sample(5, generator=generator())
    with pytest.raises(InputError, match="not finite"):
        machine.log_partition_function(generator=generator(), n_chains=4, n_steps=2)


@pytest.mark.parametrize("name", MACHINES)
def test_the_free_energy_is_exported_with_a_dynamic_batch(name):
    machine = made(name)

    class Energy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.machine = machine

        def forward(self, x):
            return self.machine.free_energy(self.machine.units(x))

    x = exact_samples(machine, 9).reshape(9, *machine.schema.shape)
    batch = ({0: torch.export.Dim("batch", min=1)},)
    exported = torch.export.export(Energy(), (x[:4],), dynamic_shapes=batch).module()
    torch.testing.assert_close(exported(x), machine.free_energy(machine.units(x)))


@pytest.mark.parametrize("method", [ContrastiveDivergence, PersistentContrastiveDivergence])
@pytest.mark.parametrize("name", MACHINES)
def test_training_goes_on_exactly_where_it_stopped(name, method, tmp_path):
    start = made(name)
    x = exact_samples(start, 48, seed=3).float()
    data = Batch(x.reshape(48, *start.schema.shape))

    def trained(folder, *totals):
        for steps in totals:
            machine = made(name).float()
            options = Engine(steps=steps, batch_size=48, device="cpu", ema=0.9)
            fit(machine, method(machine, k=2), {"data": Repeated(data)}, folder, options)
        return machine.state_dict()

    whole, cut = trained(tmp_path / "whole", 7), trained(tmp_path / "cut", 3, 7)
    assert [key for key in whole if not torch.equal(whole[key], cut[key])] == []
    before = start.float().state_dict()
    assert any(not torch.equal(whole[key], before[key]) for key in whole)


def test_a_bracket_that_is_inverted_has_no_middle():
    """Chains that were not warmed up are no samples of the machine: the upper end is too low."""
    torch.manual_seed(1)
    machine = RBM(schema(4, 4, domain="spin"), hidden=10, weight_scale=1.0, n_chains=256, burn_in=0)
    hidden = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=10)))
    weight = machine.coupling.weight.detach()
    exact = float((2 * torch.cosh(hidden @ weight)).log().sum(1).logsumexp(0))
    generator = torch.Generator().manual_seed(1)
    found = machine.log_partition_function(generator=generator, n_steps=200)
    assert abs(found.forward.value - exact) < 5 * found.forward.error
    assert found.inverted
    with pytest.raises(InvertedBracket, match=r"inverted.*surrogate\.burn_in"):
        _ = found.middle
    machine.burn_in = 300
    warm = machine.log_partition_function(generator=generator, n_steps=200)
    assert abs(warm.middle.value - exact) < 3 * warm.middle.error
