"""Recipes of detectors and events have a preset for a GPU: larger, in bf16, and compiled."""

import pytest

import physgen
from physgen.components import surrogate_of, system_of
from physgen.io.shipped import shipped_recipes
from physgen.recipe import read
from tests.systems.test_jets import write_jetnet

FOLDERS = {"calo", "jets", "refinement", "events"}
FILES = {name: file for name, file in shipped_recipes().items() if file.parent.name in FOLDERS}
NAMES = list(FILES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_preset_trains_on_more(name):
    small, large = (read(name, {}, preset).engine for preset in (None, "gpu"))
    assert large.steps * large.batch_size > small.steps * small.batch_size


@pytest.mark.parametrize("name", ["calo-6480", "calo-conv-flow-matching"])
def test_networks_for_a_gpu_are_not_too_large_to_be_used(name):
    large = read(name, {}, "gpu")
    system = system_of(large)
    surrogate = surrogate_of(large.transform, large.surrogate, system.schema, system)
    assert sum(parameter.numel() for parameter in surrogate.parameters()) <= 30_000_000


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_preset_computes_in_bf16_and_is_compiled_or_says_why(name):
    engine = read(name, {}, "gpu").engine
    assert engine.precision == "bf16"
    assert engine.compile != ("gpu:   # eager: " in FILES[name].read_text())


TINY = {
    "jets": {"surrogate.hidden": [8, 8]},
    "refine-cycle": {
        "data.source.path": "simulated:showers-fast/1/500",
        "data.target.path": "simulated:showers-full/2/500",
        "surrogate.network": {"kind": "mlp", "hidden": [8, 8, 8]},
        "method.critic": {"kind": "mlp", "hidden": [8, 8, 8], "activation": "leaky-relu"},
    },
    "events-flow": {},
}


@pytest.mark.parametrize("name", sorted(TINY))
def test_the_preset_trains_in_bf16(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PHYSGEN_DATA", str(tmp_path))
    changes = {**TINY[name], "engine.steps": 3, "engine.batch_size": 32, "engine.compile": False}
    if name == "jets":
        changes["data.path"] = str(write_jetnet(tmp_path / "jets.h5", n=300))
    run = physgen.train(name, changes, preset="gpu", runs=tmp_path, track=False, score=False)
    if name == "refine-cycle":
        return  # It makes events of other events.
    made = physgen.load(run.path).sample(20, seed=1)
    assert made.x.isfinite().all()


FOLLOWERS = [
    ("calo-reweighted", "calo-flow"),
    ("calo-flow-distilled", "calo-flow-matching"),
    ("jets-gluon-distilled", "jets-gluon-flow"),
]


@pytest.mark.parametrize("preset", [None, "gpu"])
@pytest.mark.parametrize(("name", "source"), FOLLOWERS)
def test_what_goes_on_from_a_run_has_its_network(name, source, preset):
    own, other = (read(one, {}, preset).surrogate.model_dump() for one in (name, source))
    other = {key: value for key, value in other.items() if value is not None}
    own = own.get("generator", {key: value for key, value in own.items() if value is not None})
    assert own == other
