"""A surrogate of jets as measured at those of the generator, and NanoAOD to use it on."""

import awkward as ak
import numpy as np
import pytest
import uproot

import physgen
from physgen.exporting import export

RECIPE = """
name: jets
summary: Reconstructed jets at those of the generator.
system: {kind: events}
data:
  path: jets.root
  fields: [Jet_pt, Jet_eta, Jet_mass]
  condition: [GenJet_pt, GenJet_eta]
  split: [0.8, 0.1, 0.1]
transform: [{kind: standardise}]
surrogate: {kind: vae, latent: 2, network: {kind: mlp, hidden: [16]}}
method: {kind: evidence-lower-bound, learning_rate: 0.01}
engine: {steps: 300, batch_size: 256}
sampling: {n: 500}
validation: {metrics: [{kind: means}]}
"""


def pairs(n, seed):
    """Jets as they are, and as they are measured: (n,) columns."""
    rng = np.random.default_rng(seed)
    pt, eta = rng.uniform(20, 200, n), rng.uniform(-2.5, 2.5, n)
    columns = {
        "GenJet_pt": pt,
        "GenJet_eta": eta,
        "Jet_pt": pt * (1 + 0.1 * rng.normal(size=n)),
        "Jet_eta": eta + 0.02 * rng.normal(size=n),
        "Jet_mass": 0.1 * pt + rng.normal(size=n),
    }
    return {name: column.astype("f4") for name, column in columns.items()}


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """The file of a recipe, beside its data."""
    folder = tmp_path_factory.mktemp("jets")
    columns = pairs(4000, 1)
    with uproot.recreate(folder / "jets.root") as file:
        file.mktree("jets", {name: column.dtype for name, column in columns.items()})
        file["jets"].extend(columns)
    (folder / "jets.yaml").write_text(RECIPE)
    return folder / "jets.yaml"


@pytest.fixture(scope="session")
def run(recipe):
    """A run of 300 steps."""
    return physgen.train(recipe, runs=recipe.parent / "runs", track=False, score=False)


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """That run as an ONNX model with its card."""
    return export(run, "onnx", tmp_path_factory.mktemp("exported") / "jets-onnx")


@pytest.fixture(scope="session")
def nanoaod(tmp_path_factory):
    """A file of 500 events with up to five jets of the generator, as NanoAOD names them."""
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 6, 500)
    flat = {name[7:]: v for name, v in pairs(counts.sum(), 3).items() if name.startswith("Gen")}
    flat["phi"] = rng.uniform(-3, 3, counts.sum()).astype("f4")
    flat["mass"] = 0.1 * flat["pt"]
    path = tmp_path_factory.mktemp("nano") / "nano.root"
    branches = {
        "run": np.full(500, 1, "u4"),
        "luminosityBlock": (1 + np.arange(500) // 100).astype("u4"),
        "event": (10_000_000_000 + np.arange(500)).astype("u8"),
        "GenJet": ak.zip({name: ak.unflatten(v, counts) for name, v in flat.items()}),
    }
    with uproot.recreate(path) as file:
        kinds = {name: column.dtype for name, column in branches.items() if name != "GenJet"}
        file.mktree("Events", kinds | {"GenJet": branches["GenJet"].type.content})
        file["Events"].extend(branches)
    return path
