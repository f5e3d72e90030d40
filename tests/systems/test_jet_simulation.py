"""Jets by Pythia 8: what they must be, whatever their fluctuations."""

import sys

import h5py
import numpy as np
import pytest
import torch
import uproot
from typer.testing import CliRunner

from physgen.cli.app import app
from physgen.errors import DomainError, InputError
from physgen.io.jetnet import JetNetSource
from physgen.systems import jet_simulation
from physgen.systems.jets import Jets
from physgen.systems.simulated_tables import simulated_file


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(InputError, match=r"pip install 'physgen\[hep\]'"):
        Jets().simulate(10, seed=1)


def test_only_classes_can_be_chosen():
    with pytest.raises(DomainError, match="not simulated at given pT, eta or mass"):
        Jets(condition=("pt",)).simulate(1, seed=1, condition=torch.zeros(1, 1))


@pytest.fixture
def small_blocks(monkeypatch):
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    monkeypatch.setattr(jet_simulation, "BLOCK", 40)
    monkeypatch.setattr(jet_simulation, "_EVENTS", 25)


def test_a_simulated_file_has_the_layout_of_jetnet(small_blocks, tmp_path):
    path = tmp_path / "top.h5"
    words = ["simulate", "jets", "-n", "40", "-o", str(path), "system.process=top"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    batch = JetNetSource(path, ["pt", "eta", "mass", "num_particles"]).read(0, 40)
    pt, eta, mass, number = batch.condition.T
    assert ((pt > 800) & (pt < 1600)).all()
    assert (eta.abs() < 5).all()
    assert (number == batch.mask.sum(1)).all()
    # The decay products of most tops lie within R = 0.8 at a pT of 1 TeV.
    assert 150 < mass.median() < 230
    z = batch.x[..., 2]
    assert (z[:, :-1] >= z[:, 1:]).all()
    assert ((z.sum(1) > 0.5) & (z.sum(1) < 1.1)).all()
    with h5py.File(path) as file:
        assert file["particle_features"].shape == (40, 30, 4)


def test_blocks_depend_on_the_seed_alone(small_blocks):
    first, more, other = (
        jet_simulation.simulate("w", n, seed, 30, 1) for n, seed in ((20, 1), (60, 1), (20, 2))
    )
    assert (first["x"] == more["x"][:20]).all()
    assert (first["x"] != other["x"]).any()
    assert len(np.unique(more["jet"][:, 0])) == 60
    # Of the W and what else falls into the jet.
    assert 80 < np.median(more["jet"][:, 2]) < 115


@pytest.mark.slow
def test_processes_differ_as_they_must(small_blocks):
    """Gluons radiate more than quarks: by up to the ratio of their colour factors, 9/4."""
    made = {
        kind: jet_simulation.simulate(kind, 400, 3, 150, 1) for kind in ("gluon", "light-quark")
    }
    number = {kind: jets["jet"][:, 3].mean() for kind, jets in made.items()}
    assert number["gluon"] > 1.3 * number["light-quark"]


@pytest.mark.slow
def test_multiparton_interactions_add_particles(tmp_path, monkeypatch):
    """An underlying event is added to the jet: seven particles in 96, of a spread of 30."""
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    monkeypatch.setenv("PHYSGEN_DATA", str(tmp_path))
    tables = []
    for name in ("fast/5", "full/4"):
        with uproot.open(simulated_file(f"simulated:jets-{name}/1000")) as file:
            tables.append(file["events"].arrays(library="np"))
    fast, full = (table["n"] for table in tables)
    error = np.hypot(fast.std(), full.std()) / np.sqrt(1000)
    assert full.mean() - fast.mean() > 3 * error
    assert ((tables[1]["pt"] > 800) & (tables[1]["pt"] < 1600)).all()


@pytest.mark.slow
def test_several_processes_make_the_same_jets():
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    n = jet_simulation.BLOCK + 10
    one, two = (jet_simulation.simulate("gluon", n, 5, 30, workers) for workers in (1, 2))
    assert all((one[name] == two[name]).all() for name in one)
