"""The recipes of autoencoders: their parts fit together, and take a step."""

import pytest
import torch

from physgen.batch import Batch
from physgen.components import surrogate_of, system_of
from physgen.engine.loop import fit
from physgen.io.source import ArraySource
from physgen.io.stream import Stream
from physgen.recipe import read
from physgen.registry import build

FAMILIES = ("vae", "conv-vae", "conditional-vae", "hierarchical-vae")
PLAIN = ("pca", "autoencoder", "denoising-autoencoder")
NAMES = [f"{data}-{family}" for data in ("digits", "mnist") for family in (*PLAIN, *FAMILIES)]


def images(schema, n=80):
    generator = torch.Generator().manual_seed(0)
    levels = 256 if schema.shape == (28, 28) else 17
    x = torch.randint(levels, (n, *schema.shape), generator=generator) / (levels - 1)
    if schema.variables[0].domain == "binary":
        x = x.round()
    label = torch.randint(10, (n, 1), generator=generator).float()
    return Batch(x, label if schema.condition else None)


@pytest.mark.parametrize("name", [*NAMES, "digits-beta-vae", "digits-iwae"])
def test_the_parts_of_a_recipe_fit(name, tmp_path):
    recipe = read(name, {"engine.batch_size": 8, "engine.steps": 0 if "pca" in name else 1})
    assert read(name).engine.steps == 0 or "pca" not in name, "there is nothing to train"
    system = system_of(recipe)
    surrogate = surrogate_of(recipe.transform, recipe.surrogate, system.schema, system)
    batch = images(system.schema)
    surrogate.initialise(batch)
    method = build("methods", recipe.method, {"surrogate": surrogate, "steps": 1})
    stream = Stream(ArraySource(batch, system.schema), batch_size=8)
    fit(surrogate, method, {"data": stream}, tmp_path, recipe.engine)
    samples = surrogate.sample(5, generator=torch.Generator().manual_seed(1))
    assert samples.x.shape == (5, *system.schema.shape)
    assert samples.x.min() >= 0
    assert samples.x.max() <= 1
