"""What the recipes of diffusion add to their equations: guidance, EDM's levels, pairing, volume."""

import math

import pytest
import torch
from mixtures import Mixture
from randomised import generator, randomised
from scipy.optimize import linear_sum_assignment
from stub import StubContext

from physgen.batch import Batch, Schema, Variable
from physgen.networks.residual import ResidualOptions
from physgen.surrogates.diffusion.guidance import guided
from physgen.surrogates.diffusion.matching import FlowMatching
from physgen.surrogates.diffusion.model import Denoising, Diffusion
from physgen.surrogates.diffusion.variational import VariationalDiffusion
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.transforms.affine import Standardise

PLAIN = Schema((2,), (Variable("x"), Variable("y")))
TABLE = Schema((2,), (Variable("x"), Variable("y")), (Variable("energy"),))


class Known(StubContext):
    """Evenly spaced numbers for uniform ones."""

    def rand(self):
        return (torch.arange(self.batch_size) + 0.5) / self.batch_size


def model_of(schema, **options):
    torch.manual_seed(0)
    model = Diffusion(schema, network=ResidualOptions(hidden=8, depth=1), **options)
    randomised(model, 0.3)
    return model


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_a_model_is_guided_by_its_weight(weight):
    model = model_of(TABLE, condition_dropout=0.1)
    model.use_sampler(SamplerOptions(guidance=weight))
    condition = torch.rand(20, 1, generator=generator())
    z, log_snr = torch.randn(20, 2, generator=generator(1)), torch.zeros(())
    with torch.no_grad():
        found = model.denoise(condition)(z, log_snr)
        hidden, shown = (guided(model.denoiser, condition, w)(z, log_snr) for w in (0, 1))
    torch.testing.assert_close(found, hidden + weight * (shown - hidden))
    assert (hidden - shown).abs().max() > 1e-3


def test_the_share_of_hidden_conditions_is_the_dropout():
    method, context = Denoising(model_of(TABLE, condition_dropout=0.1)), Known(1000)
    batch = Batch(torch.randn(1000, 2, generator=generator()), torch.rand(1000, 1))
    method.learn(batch, torch.randn(1000, 2, generator=generator(2)), context)
    *_, shows = context.arguments
    assert shows.mean().item() == pytest.approx(0.9)


def test_the_scale_of_preconditioning_is_that_of_the_data():
    model = model_of(PLAIN)
    x = 3 * torch.randn(500, 2, generator=generator())
    model.initialise(Batch(x))
    torch.testing.assert_close(model.denoiser.scale, x.square().mean().sqrt())


def test_levels_of_edm_are_log_normal_about_the_scale():
    model = model_of(PLAIN, schedule="edm", prediction="edm")
    model.denoiser.scale.fill_(5.0)
    method, context = Denoising(model, levels="normal"), Known(20_000)
    method.learn(Batch(context.randn(2)), context.randn(2), context)
    _, _, log_snr, _ = context.arguments
    level = -0.5 * log_snr - math.log(5.0)  # ln sigma / (alpha s)
    # Karras et al., table 1: ln sigma has mean -1.2 and deviation 1.2 at s = 0.5.
    assert level.mean().item() == pytest.approx(-1.2 - math.log(0.5), abs=0.03)
    assert level.std().item() == pytest.approx(1.2, abs=0.03)


@pytest.mark.parametrize("coupling", ["independent", "optimal-transport"])
def test_flow_matching_pairs_a_batch_as_it_is_told(coupling):
    model = model_of(PLAIN, schedule="straight", prediction="velocity")
    batch = Batch(torch.randn(64, 2, generator=generator()))
    x, noise = FlowMatching(model, coupling=coupling).prepare(batch, generator(1)).x.unbind(1)
    torch.testing.assert_close(x, batch.x)
    cost = torch.cdist(x, noise).square()
    least = cost[linear_sum_assignment(cost.numpy())].sum()
    if coupling == "optimal-transport":
        torch.testing.assert_close(cost.trace(), least)
    else:
        assert cost.trace() > 2 * least


def test_the_bound_of_a_variational_model_is_one_in_physical_units():
    torch.manual_seed(0)
    x = torch.tensor([4.0, -1.0]) + torch.tensor([3.0, 0.2]) * torch.randn(12_000, 2)
    model = VariationalDiffusion(
        PLAIN, Standardise(PLAIN), schedule="learned", network=ResidualOptions(hidden=8, depth=1)
    )
    model.initialise(Batch(x))
    exact = Mixture(((0.0, 0.0),), 1.0).denoiser(model.schedule)

    class Exact(torch.nn.Module):
        schedule, scale = model.schedule, torch.ones(())

        def forward(self, z, log_snr, condition=None):
            return exact(z.double(), log_snr.double()).float()

    model.denoiser = Exact()
    with torch.no_grad():
        found = model.elbo(Batch(x), generator=generator()).mean().item()
    normal = torch.distributions.Normal(x.mean(0), x.std(0))
    # Draws scatter by 4 nat.
    assert found == pytest.approx(normal.log_prob(x).sum(1).mean().item(), abs=0.15)
