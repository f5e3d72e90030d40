"""Every family learns the weighted distribution of events, or refuses their weights.

Half of the events lie in one half plane, which has nine tenths of the weight. The law holds for
every surrogate that is registered, and every method that trains it; a new one has nothing to add
here but, where its samples are not two real numbers, what they are.
"""

import inspect
from functools import cache

import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import InputError, RecipeError
from physgen.io.source import ArraySource
from physgen.io.stream import Stream
from physgen.registry import lookup, registered
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.scalar import Phi4
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain

SHARE, ROWS, DRAWN = 0.9, 2000, 2048
TOLERANCE = 0.04
"""Six binomial errors of the drawn samples; unweighted rows are ten times as far away."""

SAMPLES = {
    "rbm": "spins",
    "independent-items": "sets",
    "checkerboard-flow": "lattice",
    "continuous-lattice-flow": "lattice",
    "shower-copula": "showers",
    "shower-flow": "showers",
}
SURROGATES = {
    "pca": {"components": 1},
    "autoencoder": {"latent": 1, "hidden": (16,)},
    "vae": {"latent": 2, "hidden": (32,)},
    "generator": {"latent": 4, "hidden": (32, 32)},
    "rbm": {"hidden": 4, "n_chains": 512, "burn_in": 20, "thin": 5},
    "gaussian-rbm": {"hidden": 8, "n_chains": 512, "burn_in": 20, "thin": 5},
    "energy": {"hidden": (32,), "n_chains": 512, "burn_in": 20, "thin": 10},
    "shower-flow": {"hidden": 16},
    "continuous-flow": {"hidden": 32},
    "coupling-flow": {"n_layers": 3, "hidden": (32,)},
    "normflows": {"n_layers": 3},
    **{kind: {"hidden": 32, "depth": 2} for kind in ("diffusion", "variational-diffusion")},
    "diffusion-flow": {"hidden": 32, "depth": 2, "integration_steps": 4},
}
METHODS = {
    "flow-matching": [{"coupling": "independent"}, {"coupling": "optimal-transport"}],
    "adversarial": [{"r1": 1.0, "hidden": (32, 32), "learning_rate": 2e-3}],
}
STEPS = {
    "pca": 0,
    "shower-flow": 20,
    "continuous-flow": 60,
    "normflows": 60,
    "energy": 100,
    "generator": 300,
}
UNTRAINED = ("shower-copula",)
"""Fitted at once: no method trains them."""
BATCH = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@cache
def data(kind):
    """A schema, the system if there is one, and weighted rows."""
    up, noise = torch.rand(ROWS, generator=generator(1)) < 0.5, generator(2)
    side, system = torch.where(up, 1.0, -1.0), None
    if kind == "showers":
        system = Calorimeter(energies_mev=(1000.0, 16000.0))
        schema = system.schema
        parts = torch.rand(ROWS, *schema.shape, generator=noise).square()
        energy = 1000 * (1 + 15 * torch.rand(ROWS, 1, generator=noise))
        total = energy * (0.8 + 0.1 * side + 0.05 * torch.rand(ROWS, generator=noise))[:, None]
        batch = Batch(total * parts / parts.sum(1, keepdim=True), energy)
    elif kind == "spins":
        schema = Schema((3,), (Variable("s", domain="spin"),))
        x = 2.0 * (torch.rand(ROWS, 3, generator=noise) < 0.5) - 1
        batch = Batch(torch.cat([side[:, None], x[:, 1:]], 1))
    elif kind == "sets":
        schema = Schema((2, 1), (Variable("x"),), masked=True)
        x = side * (0.5 + 0.5 * torch.randn(ROWS, generator=noise).abs())
        items = torch.stack([x, torch.full_like(x, -1e6)], 1)[..., None]
        batch = Batch(items, mask=torch.tensor([True, False]).expand(ROWS, 2))
    elif kind == "lattice":
        system = Phi4(shape=(4, 4))
        schema, batch = system.schema, Batch(side[:, None, None].expand(-1, 4, 4))
    else:
        schema, x = (
            Schema((2,), (Variable("x"), Variable("y"))),
            torch.randn(ROWS, 2, generator=noise),
        )
        x[:, 0] = side * (0.5 + 0.5 * x[:, 0].abs())
        batch = Batch(x)
    weight = torch.where(up, SHARE / up.double().mean(), (1 - SHARE) / (~up).double().mean())
    return schema, system, batch.replace(weight=7 * weight)


def share(batch):
    if batch.condition is not None:
        up = batch.x.sum(1) > 0.825 * batch.condition[:, 0]
    else:
        up = batch.x.flatten(1)[:, 0] > 0
    weight = torch.ones(len(up)) if batch.weight is None else batch.weight
    return float((weight * up).sum() / weight.sum())


def built(kind):
    """A registered surrogate, what its methods may ask for, and the rows it is to learn."""
    schema, system, batch = data(SAMPLES.get(kind, "table"))
    cls = lookup("surrogates", kind)
    table = SAMPLES.get(kind, "table") == "table"
    transform = Chain([Standardise(schema)] if table else [], schema)
    known = {"system": system} if "system" in inspect.signature(cls).parameters else {}
    torch.manual_seed(0)
    return cls(schema, transform, **known, **SURROGATES.get(kind, {})), system, batch


def methods_of(kind):
    """Every registered method that takes a surrogate of this kind, with what it is to learn."""
    for name in registered("methods"):
        cls = lookup("methods", name)
        parameters = inspect.signature(cls).parameters
        for options in METHODS.get(name, [{}]):
            surrogate, system, batch = built(kind)
            known = {"steps": 300, "system": system, "learning_rate": 5e-3}
            given = {key: value for key, value in known.items() if key in parameters}
            try:
                method = cls(surrogate, **{**given, **options})
            except RecipeError:
                continue
            yield f"{name} {options or ''}".strip(), surrogate, method, batch


def learn(surrogate, method, batch, directory, steps):
    source = ArraySource(batch, surrogate.schema, block=256)
    surrogate.initialise(batch)
    stream = Stream(source, batch_size=BATCH)
    options = Engine(
        steps=steps, batch_size=BATCH, device="cpu", schedule="cosine", checkpoint_every=10**6
    )
    fit(surrogate, method, {"data": stream}, directory, options)
    return surrogate.sample(DRAWN, generator=generator(3))


@pytest.mark.parametrize("kind", sorted(registered("surrogates")))
def test_the_weighted_share_of_a_half_plane_is_learned_or_weights_are_refused(kind, tmp_path):
    tried = []
    if kind in UNTRAINED:
        tried.append(kind)
        surrogate, _, batch = built(kind)
        surrogate.initialise(batch)
        made = surrogate.sample(DRAWN, generator=generator(3))
        assert share(made) == pytest.approx(SHARE, abs=TOLERANCE)
    for name, surrogate, method, batch in methods_of(kind):
        tried.append(name)
        if not method.inputs:  # It sees no events.
            continue
        assert share(batch) == pytest.approx(SHARE, abs=1e-6)
        folder, steps = tmp_path / str(len(tried)), STEPS.get(kind, 200)
        try:
            made = learn(surrogate, method, batch, folder, steps)
        except InputError as error:
            if "data.weight" in str(error):
                continue
            raise
        assert share(made) == pytest.approx(SHARE, abs=TOLERANCE), f"{kind} by {name}"
    assert tried, f"no method trains {kind} on the samples it is tried with: say which it takes"


def test_surrogates_that_are_fitted_at_once_refuse_negative_weights():
    for kind in ("pca", "shower-copula"):
        surrogate, _, batch = built(kind)
        weight = batch.weight.clone()
        weight[3] = -1
        with pytest.raises(InputError, match=r"data.weight: 1 of 2000 training events"):
            surrogate.initialise(batch.replace(weight=weight))


def test_activation_norms_begin_at_weighted_moments():
    """Glow sets them on the first batch it sees, which knows no weights."""
    schema = Schema((4, 4), (Variable("x"),))
    up = torch.rand(4000, generator=generator(1)) < 0.5
    x = torch.where(up, 1.0, -1.0)[:, None, None] + 0.01 * torch.randn(
        4000, 4, 4, generator=generator(2)
    )
    torch.manual_seed(0)
    flow = lookup("surrogates", "normflows")(schema, family="glow", n_layers=1, hidden=(4,))
    flow.initialise(Batch(x, weight=torch.where(up, 1.8, 0.2)))
    rows = torch.multinomial(torch.where(up, 1.8, 0.2), 4000, True, generator=generator(5))
    with torch.no_grad():
        z, _ = flow.flow(x[rows].flatten(1))
    assert abs(float(z.mean())) < 0.1
    assert float(z.std()) == pytest.approx(1, abs=0.1)
