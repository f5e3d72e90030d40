"""Completions: known entries stay, and the others follow from them."""

import itertools

import pytest
import torch
from randomised import generator, randomised

from physgen.batch import Batch, Schema, Variable
from physgen.errors import InputError
from physgen.networks.mlp import MLPOptions
from physgen.networks.residual import ResidualOptions
from physgen.surrogates.autoencoders.vae import VAE
from physgen.surrogates.boltzmann.energy import EnergyModel
from physgen.surrogates.boltzmann.rbm import RBM
from physgen.surrogates.completion import completed
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.gan.networks import Generator
from physgen.transforms.base import Chain
from physgen.transforms.ordered import Ordered

SPINS = Schema((4,), (Variable("s", domain="spin"),))
PLANE = Schema((2,), (Variable("x"), Variable("y")))


@pytest.mark.parametrize("symmetric", [False, True])
def test_clamped_gibbs_sweeps_draw_from_the_conditional_distribution(symmetric):
    """By enumeration of the four states of the two unknown spins."""
    torch.manual_seed(0)
    machine = RBM(SPINS, hidden=3, n_chains=4000, spin_flip_symmetric=symmetric)
    model = randomised(machine, 0.7)
    known = torch.tensor([True, False, True, False])
    given = torch.tensor([1.0, 1.0, -1.0, 1.0])
    states = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)))
    every = given.repeat(4, 1)
    every[:, [1, 3]] = states
    with torch.no_grad():
        expected = (-model.action(every)).softmax(0)
    x = completed(model, Batch(given.repeat(4000, 1)), known, seed=1)
    assert (x[:, known] == given[known]).all()
    found = torch.stack([(x == state).all(1).float().mean() for state in every])
    assert expected.max() - expected.min() > 0.1
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_an_energy_model_is_normal_where_it_has_learned_nothing():
    model = EnergyModel(PLANE, network=MLPOptions(hidden=(4,)), n_chains=2000)
    for parameter in model.network.parameters():
        torch.nn.init.zeros_(parameter)
    known = torch.tensor([True, False])
    x = completed(model, Batch(torch.tensor([[3.0, 0.0]]).repeat(2000, 1)), known, seed=1)
    assert (x[:, 0] == 3).all()
    y = model.units(x)[:, 1]
    assert y.mean().item() == pytest.approx(0, abs=0.1)
    assert y.std().item() == pytest.approx(1, abs=0.1)


class Correlated(torch.nn.Module):
    """The best denoiser of normal (x, y) of deviation 1 and correlation r."""

    def __init__(self, model, r):
        super().__init__()
        self.schedule, self.scale = model.schedule, model.denoiser.scale
        self.covariance = torch.nn.Parameter(torch.tensor([[1.0, r], [r, 1.0]]))

    def forward(self, z, log_snr, condition=None):
        alpha, sigma = self.schedule.amplitudes(log_snr[0])
        noisy = alpha**2 * self.covariance + sigma**2 * torch.eye(2)
        return z @ (alpha * torch.linalg.solve(noisy, self.covariance))


def test_diffusion_finds_the_conditional_mean_and_deviation():
    model = Diffusion(PLANE, network=ResidualOptions(hidden=4, depth=1))
    model.denoiser = Correlated(model, 0.9)
    known = torch.tensor([True, False])
    x = completed(model, Batch(torch.tensor([[1.5, 0.0]]).repeat(4000, 1)), known, seed=1)
    assert (x[:, 0] == 1.5).all()
    assert x[:, 1].mean().item() == pytest.approx(0.9 * 1.5, abs=0.08)
    assert x[:, 1].std().item() == pytest.approx((1 - 0.81) ** 0.5, abs=0.02)


@pytest.mark.parametrize("family", [Generator, VAE])
def test_a_search_finds_the_noise_of_what_is_known(family):
    torch.manual_seed(0)
    schema = Schema((8,), tuple(map(Variable, "abcdefgh")))
    model = family(schema, latent=2, network=MLPOptions(hidden=(16,), activation="leaky-relu"))
    model = randomised(model, 0.7).eval()
    noise = torch.randn(5, *model.noise_shape, generator=generator(2))
    if family is VAE:
        noise[:, 2:] = 0  # That of the likelihood.
    with torch.no_grad():
        x = model.decode_noise(noise, None).reshape(5, 8)
    known = torch.arange(8) < 6
    found = completed(model, Batch(torch.where(known, x, torch.zeros(()))), known, seed=1)
    assert torch.equal(found[:, known], x[:, known])
    apart = (found - x)[:, ~known].abs().mean()
    assert apart < 0.2 * x[:, ~known].std()


def test_what_cannot_be_completed_is_said():
    batch, known = Batch(torch.zeros(3, 2)), torch.tensor([True, False])
    with pytest.raises(InputError, match="Flow cannot complete samples"):
        completed(Flow(PLANE), batch, known, seed=1)
    ordered = Ordered(PLANE, pairs=(("x", "y"),))
    with pytest.raises(InputError, match="mixes the entries"):
        completed(Generator(PLANE, Chain([ordered], PLANE)), batch, known, seed=1)
    with pytest.raises(InputError, match=r"known of shape \(3,\)"):
        completed(Generator(PLANE), batch, torch.ones(3, dtype=torch.bool), seed=1)
