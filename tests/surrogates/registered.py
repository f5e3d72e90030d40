"""All registered surrogates, small, with what each may be tried on, and the methods they have.

A new one has nothing to add here but, where its samples are not two real numbers, what they are.
"""

import inspect
from dataclasses import replace
from functools import cache

import torch
from randomised import generator, randomised

from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.networks.cylinder import CylindricalOptions
from physgen.networks.epic import EPiCOptions
from physgen.networks.growing import GrowingOptions
from physgen.networks.masked_conv import MaskedConvOptions
from physgen.networks.mlp import MLPOptions
from physgen.networks.residual import ResidualOptions
from physgen.networks.resnet import ResNetOptions
from physgen.networks.stacked import StackedOptions
from physgen.networks.style import StyleOptions
from physgen.networks.unet import UNetOptions
from physgen.registry import lookup, registered
from physgen.surrogates.autoencoders.bottleneck import LossWeights
from physgen.surrogates.autoregressive.network import MaskedDenseOptions
from physgen.surrogates.flows.autoregressive import AutoregressiveOptions
from physgen.surrogates.flows.continuous import ContinuousOptions
from physgen.surrogates.flows.normflows import NormflowsOptions
from physgen.surrogates.flows.stack import CouplingOptions
from physgen.surrogates.point_sets import FirstOptions
from physgen.surrogates.reweighted import ClassifierOptions
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.gauge import Gauge
from physgen.systems.posterior import Posterior
from physgen.systems.scalar import Phi4
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.images import OneHot

SHARE, ROWS = 0.9, 2000
SAMPLES = {
    "rbm": "spins",
    **dict.fromkeys(("rbm, potts", "autoregressive-potts"), "values"),
    **dict.fromkeys(("autoregressive-spins", "autoregressive-spins, conv"), "spins"),
    "independent-items": "sets",
    "point-diffusion": "sets",
    "point-generator": "sets",
    "point-diffusion, moments": "weighted sets",
    "point-diffusion, groups": "grouped sets",
    "labelled-generator": "labelled rows",
    "checkerboard-flow": "lattice",
    **dict.fromkeys(("generator, resnet", "generator, style"), "lattice"),
    **dict.fromkeys(("generator, growing", "generator, stacked"), "lattice"),
    "continuous-lattice-flow": "lattice",
    "closure-defect": "links",
    "gauge-flow": "links",
    "link-diffusion": "links",
    "stochastic-gauge-flow": "links",
    "u1-coupling-flow": "links",
    "shower-copula": "showers",
    "shower-diffusion": "showers",
    "shower-flow": "showers",
    "reweighted": "showers",
    **dict.fromkeys(("reweighting", "bridge", "translator", "unrefined"), "events of two samples"),
    **dict.fromkeys(("likelihood-flow", "likelihood-ratio"), "parameters"),
}
LEAKY = MLPOptions(hidden=(32, 32), activation="leaky-relu")
EPIC = EPiCOptions(hidden=16, n_global=8, depth=2, heads=2)
RESNET = ResNetOptions(channels=(8, 8))
RESIDUAL = ResidualOptions(hidden=32, depth=2)
SURROGATES = {
    "pca": {"components": 1},
    "autoencoder": {"latent": 1, "network": MLPOptions(hidden=(16,))},
    "vae": {"latent": 2, "network": MLPOptions(hidden=(32,))},
    "bottleneck-autoencoder": {"latent": 1, "network": MLPOptions(hidden=(32,))},
    "generator": {"latent": 4, "network": LEAKY},
    "labelled-generator": {"latent": 4, "network": LEAKY},
    "generator, style": {"latent": 4, "network": StyleOptions(channels=(8, 8), width=8, depth=2)},
    "generator, growing": {"latent": 4, "network": GrowingOptions(channels=(8, 8))},
    "generator, resnet": {"latent": 4, "network": RESNET},
    "generator, stacked": {
        "latent": 4,
        "network": StackedOptions(channels=(16,), refining=16, embedding=2),
    },
    **{
        kind: {"hidden": 4, "n_chains": 512, "burn_in": 20, "thin": 5}
        for kind in ("rbm", "rbm, potts")
    },
    "autoregressive-potts": {"network": MaskedDenseOptions(hidden=16)},
    "autoregressive-spins": {"network": MaskedDenseOptions(hidden=16)},
    "autoregressive-spins, conv": {"network": MaskedConvOptions(channels=4, reach=2)},
    "gaussian-rbm": {"hidden": 8, "n_chains": 512, "burn_in": 20, "thin": 5},
    "energy": {"network": MLPOptions(hidden=(32,)), "n_chains": 512, "burn_in": 20, "thin": 10},
    "shower-diffusion": {"network": CylindricalOptions(channels=8, depth=1, patch=(5, 16))},
    "shower-flow": {"hidden": 16},
    "u1-coupling-flow": {"n_layers": 2, "channels": 4, "hidden": 8, "candidates": 2},
    "reweighting": {"network": MLPOptions(hidden=(64, 64))},
    "reweighted": {"classifier": ClassifierOptions(levels=("high",), hidden=(32,))},
    "likelihood-ratio": {"network": MLPOptions(hidden=(32, 32))},
    "likelihood-flow": {"bijection": CouplingOptions(n_layers=3, hidden=(32,))},
    "flow, coupling": {"bijection": CouplingOptions(n_layers=3, hidden=(32,))},
    "flow, autoregressive": {"bijection": AutoregressiveOptions()},
    "flow, continuous": {"bijection": ContinuousOptions(hidden=32)},
    "flow, normflows": {"bijection": NormflowsOptions(n_layers=3)},
    **{kind: {"network": RESIDUAL} for kind in ("diffusion", "variational-diffusion")},
    "diffusion-flow": {"network": RESIDUAL, "integration_steps": 4},
    "point-diffusion": {"network": EPIC},
    "point-generator": {"network": EPIC},
    "point-diffusion, moments": {"network": EPIC, "first": FirstOptions(weighted_by="w")},
    "point-diffusion, groups": {
        "network": EPIC,
        "first": FirstOptions(weighted_by="w", grouped_by="kind", n_groups=2),
    },
    "bridge": {"network": RESIDUAL},
    "translator": {"network": MLPOptions(hidden=(32, 32))},
    "link-diffusion": {"network": UNetOptions(channels=(8, 16)), "steps": 4},
}
KINDS = sorted({*registered("surrogates"), *SURROGATES} - {"flow"})
"""What is registered; of flows, one of each bijection."""
PREPARED = {"table": Standardise, "parameters": Standardise, "labelled rows": OneHot}
"""Transforms of samples that have one."""
ONE_OF_A_KIND = {kind for kind in SURROGATES if kind.startswith("generator, ")}
"""Networks of a surrogate that is tried with another one, where the method alone matters."""
METHODS = {
    "flow-matching": [{"coupling": "independent"}, {"coupling": "optimal-transport"}],
    "adversarial": [
        # Networks that grow do so within three steps.
        *(
            {"r1": 1.0, "critic": critic, "learning_rate": 2e-3, "growth": 0.01}
            for critic in (LEAKY, EPIC, GrowingOptions(channels=(8, 8)), RESNET)
        ),
        {"r1": 1.0, "critic": LEAKY, "learning_rate": 2e-3, "mixing": 0.5, "path_length": 0.1},
    ],
    "information-bottleneck": [
        {
            "critic": LEAKY,
            "learning_rate": 3e-3,
            "weights": LossWeights(distance=3.0, divergence=0.1),
        }
    ],
    "distillation": [{"sampler": SamplerOptions(kind="ddim", steps=2)}],
    # Few steps, and far to go: without the terms that hold events where they are.
    "cycle-consistency": [
        {"cycle": 0.0, "identity": 0.0, "r1": 1.0, "critic": LEAKY, "learning_rate": 2e-3}
    ],
}
INNER = "shower-copula"
"""What is weighted by a surrogate that weighs another."""
UNTRAINED = ("shower-copula", "unrefined")
"""Fitted at once, or not at all: no method trains them."""


def class_of(kind):
    """The registered class of a kind."""
    return lookup("surrogates", kind.partition(",")[0])


def asks_for_a_system(kind):
    """Whether the class of a kind has to be told of the system."""
    return "system" in inspect.signature(class_of(kind)).parameters


@cache
def data(kind):
    """A schema, the system if there is one, and weighted rows."""
    up, noise = torch.rand(ROWS, generator=generator(1)) < 0.5, generator(2)
    side, system = torch.where(up, 1.0, -1.0), None
    if kind == "showers":
        system = Calorimeter(energies_mev=(1000.0, 16000.0))
        schema = system.schema
        parts = torch.rand(ROWS, *schema.shape, generator=noise).square() + 0.05
        parts[:, -24:] *= torch.rand(ROWS, 24, generator=noise) < 0.5  # Of the last two layers.
        energy = 1000 * (1 + 15 * torch.rand(ROWS, 1, generator=noise))
        total = energy * (0.8 + 0.1 * side + 0.05 * torch.rand(ROWS, generator=noise))[:, None]
        batch = Batch(total * parts / parts.sum(1, keepdim=True), energy)
    elif kind == "spins":
        schema = Schema((3,), (Variable("s", domain="spin"),))
        x = 2.0 * (torch.rand(ROWS, 3, generator=noise) < 0.5) - 1
        batch = Batch(torch.cat([side[:, None], x[:, 1:]], 1))
    elif kind == "values":
        schema = Schema((3,), (Variable("s", domain="integer", low=0.0, high=2.0),))
        x = torch.randint(0, 3, (ROWS, 3), generator=noise).float()
        batch = Batch(torch.cat([(1 + side)[:, None], x[:, 1:]], 1))
    elif kind == "sets":
        schema = Schema((2, 1), (Variable("x"),), masked=True)
        x = side * (0.5 + 0.5 * torch.randn(ROWS, generator=noise).abs())
        items = torch.stack([x, torch.full_like(x, -1e6)], 1)[..., None]
        batch = Batch(items, mask=torch.tensor([True, False]).expand(ROWS, 2))
    elif kind == "weighted sets":
        schema = Schema((2, 2), (Variable("x"), Variable("w", domain="non-negative")), masked=True)
        x = torch.randn(ROWS, 2, generator=noise)
        x = side[:, None] * (0.5 + 0.5 * x.abs())
        batch = Batch(torch.stack([x, x.abs()], 2), mask=torch.ones(ROWS, 2, dtype=torch.bool))
    elif kind == "grouped sets":
        w = Variable("w", domain="non-negative")
        schema = Schema((2, 3), (Variable("x"), Variable("kind", domain="integer"), w), masked=True)
        x = side[:, None] * (0.5 + 0.5 * torch.randn(ROWS, 2, generator=noise).abs())
        group = torch.randint(0, 2, (ROWS, 2), generator=noise)
        mask = torch.ones(ROWS, 2, dtype=torch.bool)
        batch = Batch(torch.stack([x, group.to(x), x.abs()], 2), mask=mask)
    elif kind == "parameters":
        system = Posterior(simulator="two-moons")
        theta = 2 * torch.rand(ROWS, 2, generator=noise) - 1
        theta[:, 0] = side * (0.5 + theta[:, 0].abs() / 2)
        datum = theta + 0.1 * torch.randn(ROWS, 2, generator=noise)
        schema, batch = system.schema, Batch(theta, datum)
    elif kind == "lattice":
        system = Phi4(shape=(4, 4))
        schema, batch = system.schema, Batch(side[:, None, None].expand(-1, 4, 4))
    elif kind == "links":
        system = Gauge(shape=(4, 4), beta=1.0)
        schema, batch = system.schema, Batch(0.3 * side[:, None, None, None].expand(-1, 2, 4, 4))
    else:
        schema, x = (
            Schema((2,), (Variable("x"), Variable("y"))),
            torch.randn(ROWS, 2, generator=noise),
        )
        x[:, 0] = side * (0.5 + 0.5 * x[:, 0].abs())
        batch = Batch(x)
        if kind == "events of two samples":
            schema = replace(schema, condition=(Variable("source_x"), Variable("source_y")))
            batch = Batch(x, torch.randn(ROWS, 2, generator=noise))
        if kind == "labelled rows":
            label = Variable("label", domain="integer", low=0, high=1)
            schema = replace(schema, condition=(label,))
            batch = Batch(x, (x[:, 1:] > 0).float())
    weight = torch.where(up, SHARE / up.double().mean(), (1 - SHARE) / (~up).double().mean())
    return schema, system, batch.replace(weight=7 * weight)


def built(kind):
    """A registered surrogate, what its methods may ask for, and the rows it is to learn."""
    schema, system, batch = data(SAMPLES.get(kind, "table"))
    cls = class_of(kind)
    transform = Chain(
        [PREPARED[sample](schema)] if (sample := SAMPLES.get(kind, "table")) in PREPARED else [],
        schema,
    )
    known = {"system": system} if asks_for_a_system(kind) else {}
    if "inner" in inspect.signature(cls).parameters:
        known["inner"] = built(INNER)[0]
    torch.manual_seed(0)
    return cls(schema, transform, **known, **SURROGATES.get(kind, {})), system, batch


def trained(kind):
    """A teacher of a kind, which is not what a student of it is before it learns."""
    if "inner" in inspect.signature(class_of(kind)).parameters:
        surrogate, _, batch = built(INNER)
        surrogate.initialise(batch.replace(weight=None))  # Its weights are still to be learned.
        return surrogate
    surrogate, _, batch = built(kind)
    surrogate.initialise(batch)
    return randomised(surrogate, 0.1)


def methods_of(kind):
    """Every registered method that takes a surrogate of this kind, with what it is to learn."""
    for name in registered("methods"):
        cls = lookup("methods", name)
        parameters = inspect.signature(cls).parameters
        for options in METHODS.get(name, [{}]):
            surrogate, system, batch = built(kind)
            known = {"steps": 300, "system": system, "learning_rate": 5e-3}
            given = {key: value for key, value in known.items() if key in parameters}
            if "trained" in parameters:
                given["trained"] = trained(kind)
            try:
                method = cls(surrogate, **{**given, **options})
            except RecipeError:
                continue
            yield f"{name} {options or ''}".strip(), surrogate, method, batch
