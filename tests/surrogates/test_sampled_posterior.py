"""Posteriors by likelihoods and ratios: in closed form, of two modes, and what is refused."""

import numpy as np
import pytest
import torch
from randomised import generator
from stub import StubContext

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.networks.mlp import MLPOptions
from physgen.posterior_draws import posterior_draws
from physgen.surrogates.flows.autoregressive import AutoregressiveOptions
from physgen.surrogates.inference.likelihood import LikelihoodFlow
from physgen.surrogates.inference.ratio import JointRatio, LikelihoodRatio
from physgen.surrogates.inference.sampled import SampledPosterior
from physgen.systems.posterior import Posterior
from physgen.systems.scalar import Phi4
from physgen.transforms.affine import Standardise
from physgen.validation.calibration import Calibration
from physgen.validation.comparison import Comparison

LINEAR = Posterior(simulator="gaussian-linear")
N = 4000


class TwoModes(SampledPosterior):
    """Of two moons' parameters, uniform in [-1, 1]^2: normal modes at +-(0.5, 0.5), 3 to 1."""

    def __init__(self, system, width):
        super().__init__(system.schema, system=system)
        self.width = torch.nn.Parameter(torch.tensor(width))

    def latent_log_likelihood(self, batch):
        logs = [
            np.log(share) - (batch.x - centre).square().sum(1) / (2 * self.width**2)
            for share, centre in ((0.75, 0.5), (0.25, -0.5))
        ]
        return torch.stack(logs).logsumexp(0)


@pytest.fixture(scope="module")
def linear():
    """A layer that starts at the linear regression is N(theta, 0.1), before any training."""
    torch.manual_seed(0)
    options = AutoregressiveOptions(n_layers=1, hidden=8)
    model = LikelihoodFlow(
        LINEAR.schema, Standardise(LINEAR.schema), system=LINEAR, bijection=options
    )
    model.initialise(LINEAR.simulate(20_000, seed=1))
    return model.eval()


def test_the_posterior_of_a_linear_gaussian_model_is_that_in_closed_form(linear):
    """N(x / 2, 0.05): prior and noise have the same variance 0.1."""
    x = torch.linspace(-0.6, 0.6, 10)
    data = torch.stack([x, -x]).repeat_interleave(N, 0)
    draws = linear.sample(2 * N, data, seed=3).x.double()
    for sign, theta in zip((1, -1), draws.split(N), strict=True):
        # Six errors of N draws, and the error of a regression of 20,000 rows.
        assert (theta.mean(0) - sign * x / 2).abs().max() < 6 * (0.05 / N) ** 0.5 + 0.01
        covariance = theta.T.cov()
        assert (covariance - 0.05 * torch.eye(10)).abs().max() < 6 * 0.05 * (2 / N) ** 0.5 + 0.002


def test_the_linear_gaussian_posterior_is_calibrated(linear):
    truth, metric = LINEAR.simulate(250, seed=2), Calibration(draws=50, maximum=0.15)
    found = posterior_draws(linear, truth, [metric], seed=3)
    rows = metric.rows(Comparison(LINEAR, truth, truth, posterior=found))
    assert {row.name for row in rows} >= {"TARP coverage", "expected coverage"}
    assert len(rows) == 12
    assert {row.verdict for row in rows} == {"pass"}
    assert min(row.p_value for row in rows) > 1e-4


@pytest.mark.parametrize("width", [0.1, 0.02])
def test_two_modes_come_with_their_weights(width):
    model = TwoModes(Posterior(simulator="two-moons"), width)
    shares = []
    for seed in range(8):
        theta = model.sample(N, torch.zeros(N, 2), seed=seed).x
        upper = theta[:, 0] > 0
        shares.append(float(upper.double().mean()))
        assert theta[upper].std(0).numpy() == pytest.approx(width, rel=0.1)
        assert theta[upper].mean(0).numpy() == pytest.approx(0.5, abs=0.1 * width)
    assert np.mean(shares) == pytest.approx(0.75, abs=0.02)
    assert np.std(shares) < 0.04


def test_few_draws_of_many_data_are_those_of_many():
    """One draw of each of many data has the mean and the share of many draws of one."""
    model = TwoModes(Posterior(simulator="two-moons"), 0.1)
    data = torch.rand(400, 2, generator=generator(1))
    theta = model.sample(400, data, seed=1).x
    assert float((theta[:, 0] > 0).double().mean()) == pytest.approx(0.75, abs=0.07)


def test_draws_belong_to_their_data(linear):
    """Rows of two data in turns."""
    data = torch.stack([torch.full((10,), 0.6), torch.full((10,), -0.6)]).repeat(300, 1)
    drawn = linear.sample(600, data, seed=1)
    assert torch.equal(drawn.condition, data)
    assert (drawn.x[0::2].mean(0) - 0.3).abs().max() < 0.1
    assert (drawn.x[1::2].mean(0) + 0.3).abs().max() < 0.1
    assert drawn.x.unique(dim=0).shape[0] > 590


def test_nothing_lies_outside_the_prior():
    model = TwoModes(Posterior(simulator="two-moons"), 1.0)
    assert model.sample(N, torch.zeros(N, 2), seed=1).x.abs().max() <= 1
    wild = Batch(torch.tensor([[0.0, 0.0], [1.5, 0.0]]), torch.zeros(2, 2))
    with torch.no_grad():
        assert model.relative_log_prob(wild).isinf().tolist() == [False, True]


def test_samples_of_another_system_have_no_prior():
    system = Phi4(shape=(4,))
    with pytest.raises(RecipeError, match="take the system posterior"):
        LikelihoodFlow(system.schema, system=system)


@pytest.fixture(scope="module")
def ratio(tmp_path_factory):
    """A classifier of theta ~ N(0, 1) and x ~ N(theta, 1), trained."""
    file = tmp_path_factory.mktemp("simulator") / "sim.py"
    file.write_text(
        "import numpy as np\n"
        "def simulate(theta, seed):\n"
        "    return np.random.default_rng(seed).normal(theta, 1.0)\n"
    )
    prior = {"name": "mass", "first": 0.0, "second": 1.0, "prior": "normal"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHYSGEN_DATA", str(file.parent))
        system = Posterior(simulator=f"{file}:simulate", parameters=(prior,), at_once=20_000)
        data = system.simulate(20_000, seed=1)
    torch.manual_seed(0)
    options = MLPOptions(hidden=(32, 32))
    model = LikelihoodRatio(
        system.schema, Standardise(system.schema), system=system, network=options
    )
    model.initialise(data)
    method, context = JointRatio(model, learning_rate=5e-3), StubContext(500, seed=2)
    for _ in range(600):
        rows = torch.randint(len(data), (500,), generator=context.generator)
        method.step({"data": method.prepare(data[rows], context.generator)}, context)
    return model.eval()


def test_the_ratio_of_two_normal_densities_is_found(ratio):
    """Of N(theta, 1) to N(0, 2) at x, and the loss at it, on which nothing trained."""
    axis = torch.linspace(-1.5, 1.5, 31)
    theta, x = torch.cartesian_prod(axis, axis).split(1, 1)
    exact = (-((x - theta) ** 2) / 2 + x**2 / 4 + 0.5 * np.log(2))[:, 0]
    with torch.no_grad():
        found = ratio.log_ratio(Batch(theta, x))
    assert (found - exact).square().mean().sqrt() < 0.12
    assert exact.std() > 0.5


def test_the_posterior_by_the_ratio_is_that_in_closed_form(ratio):
    """N(x / 2, 1 / 2)."""
    data = torch.tensor([[-1.0], [1.0]]).repeat_interleave(N, 0)
    for mean, theta in zip((-0.5, 0.5), ratio.sample(2 * N, data, seed=4).x.split(N), strict=True):
        assert theta.mean().item() == pytest.approx(mean, abs=0.1)
        assert theta.var().item() == pytest.approx(0.5, rel=0.2)


def test_the_held_out_loss_is_least_for_pairs(ratio):
    """ln 2 is that of a classifier that knows nothing."""
    theta = torch.randn(5000, 1, generator=generator(3))
    x = theta + torch.randn(5000, 1, generator=generator(4))
    with torch.no_grad():
        together = ratio.held_out_loss(Batch(theta, x)).mean()
        apart = ratio.held_out_loss(Batch(theta, x.roll(7, 0))).mean()
    assert together < 0.67 < np.log(2) < apart


def test_only_the_classifier_is_trained_by_its_method(linear):
    with pytest.raises(RecipeError, match="trains the surrogate likelihood-ratio"):
        JointRatio(linear)
