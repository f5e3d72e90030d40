"""Every recipe of detectors has a preset for a GPU, which can be read, and is larger."""

import pytest

from physgen.components import surrogate_of, system_of
from physgen.io.shipped import shipped_recipes
from physgen.recipe import read

DETECTORS = {"calo", "jets", "refinement"}
NAMES = [name for name, file in shipped_recipes().items() if file.parent.name in DETECTORS]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_preset_trains_on_more(name):
    small, large = (read(name, {}, preset).engine for preset in (None, "gpu"))
    assert large.steps * large.batch_size > small.steps * small.batch_size


@pytest.mark.parametrize("name", ["calo-6480", "calo-conv-flow-matching"])
def test_networks_for_a_gpu_are_not_too_large_to_be_used(name):
    large = read(name, {}, "gpu")
    system = system_of(large)
    surrogate = surrogate_of(large, large.surrogate, system.schema, system)
    assert sum(parameter.numel() for parameter in surrogate.parameters()) <= 30_000_000
