"""What training a diffusion model reaches, where the answer is known."""

import pytest
import torch
from mixtures import Mixture
from randomised import generator

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.networks.residual import ResidualOptions
from physgen.surrogates.diffusion.likelihood import DiffusionFlow
from physgen.surrogates.diffusion.matching import FlowMatching
from physgen.surrogates.diffusion.model import Denoising, Diffusion
from physgen.surrogates.diffusion.variational import DiffusionBound, VariationalDiffusion
from physgen.surrogates.sampler_options import SamplerOptions

PLAIN = Schema((2,), (Variable("x"), Variable("y")))


class Mixed:
    """Endless samples of a mixture of three normals."""

    def __init__(self, n=256):
        self.source, self.n = generator(9), n

    def __next__(self):
        return Batch(Mixture().sample(self.n, self.source).float())

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


TRAINED = {
    "ddpm": (
        Diffusion,
        Denoising,
        {"schedule": "linear", "prediction": "epsilon"},
    ),
    "v": (Diffusion, Denoising, {}),
    "edm": (Diffusion, Denoising, {"schedule": "edm", "prediction": "edm"}),
    "flow matching": (DiffusionFlow, FlowMatching, {}),
    "paired": (DiffusionFlow, FlowMatching, {}),
    "vdm": (VariationalDiffusion, DiffusionBound, {"schedule": "learned"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_training_learns_a_mixture(name, tmp_path):
    cls, method, options = TRAINED[name]
    torch.manual_seed(0)
    model = cls(PLAIN, network=ResidualOptions(hidden=64, depth=2), **options)
    if name == "ddpm":
        model.use_sampler(SamplerOptions(kind="ancestral", steps=300))
    model.initialise(Batch(Mixture().sample(4000, generator(1)).float()))
    engine = Engine(steps=2000, device="cpu", ema=0.99, schedule="cosine")
    extra = {"edm": {"levels": "normal"}, "paired": {"coupling": "optimal-transport"}}.get(name, {})
    fit(model, method(model, learning_rate=3e-3, **extra), {"data": Mixed()}, tmp_path, engine)
    truth = Mixture().sample(2000, generator(2))
    drawn = model.sample(2000, generator=generator(3)).x
    exact = Mixture().log_prob(truth).mean()
    assert (Mixture().log_prob(drawn.double()).mean() - exact).abs() < 0.3
    torch.testing.assert_close(drawn.T.cov(), truth.float().T.cov(), atol=0.12, rtol=0)
    with torch.no_grad():
        if cls is DiffusionFlow:
            found = model.log_prob(Batch(truth.float())).mean()
            assert found == pytest.approx(exact.item(), abs=0.15)
        if name == "vdm":
            found = model.elbo(Batch(truth.float()), generator=generator()).mean()
            assert found == pytest.approx(exact.item(), abs=0.2)


def test_a_learned_shape_lowers_the_variance_of_the_bound(tmp_path):
    torch.manual_seed(0)
    model = VariationalDiffusion(
        PLAIN, schedule="learned", network=ResidualOptions(hidden=8, depth=1)
    )
    batch = next(Mixed(4000))
    model.initialise(batch)
    method = DiffusionBound(model)

    def spread():
        source = generator(3)
        time = torch.rand(4000, generator=source)
        return method.spread(batch, time, torch.randn(4000, 2, generator=source)).mean()

    before, ends = spread().detach(), model.schedule.ends.clone()
    for _ in range(60):
        method.optimisers["shape"].zero_grad()
        spread().backward()
        method.optimisers["shape"].step()
    assert spread() < 0.9 * before
    assert torch.equal(model.schedule.ends, ends)
