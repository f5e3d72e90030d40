"""Energies that are left out of training: which rows learn, and what the test sees."""

import numpy as np
import pytest

from physgen.data_sections import Data
from physgen.errors import RecipeError
from physgen.recipe import read
from physgen.run import Run
from physgen.run_data import RunData
from physgen.scoring import truth_of
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.ising import Ising

SYSTEM = Calorimeter(energies_mev=(500.0, 8000.0))
RANGE = (2000.0, 4000.0)


def write(path, n, seed=1):
    with SYSTEM.writer(path, n) as append:
        append(SYSTEM.simulate(n, seed))
    return path


def energies(source, rows):
    return np.array([source.read(int(row), int(row) + 1).condition.item() for row in rows])


def test_rows_of_the_range_are_not_learned_from_and_are_tested(tmp_path):
    path = write(tmp_path / "showers.hdf5", 400)
    data, whole = (
        RunData(Data(path=str(path), left_out=left), SYSTEM, "calorimeter", tmp_path)
        for left in (RANGE, None)
    )
    learned = np.concatenate([data.parts.train, data.parts.validation])
    at = energies(data.source, learned)
    assert not ((at >= 2000) & (at < 4000)).any()
    assert len(learned) + len(data.left_out) == 400 - len(data.parts.test)
    np.testing.assert_array_equal(data.parts.test, whole.parts.test)
    assert ((lost := energies(data.source, data.left_out)) >= 2000).all()
    assert (lost < 4000).all()


def test_the_floor_has_the_energies_of_the_truth(tmp_path):
    path = write(tmp_path / "showers.hdf5", 2000)
    changes = {"data": {"path": str(path), "binning": "calo-368.xml", "left_out": list(RANGE)}}
    run, _ = Run.create(read("calo-flow", changes, "smoke"), tmp_path / "runs")
    truths = truth_of(run)
    truth, floor = (b.condition[:, 0].numpy() for b in (truths.truth, truths.floor))
    assert ((truth >= 2000) & (truth < 4000)).mean() == pytest.approx(0.25, abs=0.08)
    assert np.median(np.abs(truth / floor - 1)) < 0.01
    assert ((floor >= 2000) & (floor < 4000)).mean() == pytest.approx(0.25, abs=0.08)


def test_what_cannot_be_left_out_is_refused(tmp_path):
    path = write(tmp_path / "showers.hdf5", 100)
    everything = RunData(Data(path=str(path), left_out=(0.0, 1e6)), SYSTEM, "calorimeter", tmp_path)
    with pytest.raises(RecipeError, match="no training row is outside of 0 to 1e"):
        _ = everything.parts
    spins = RunData(Data(n=100, left_out=(0.0, 1.0)), Ising(shape=(4, 4)), "ising", tmp_path)
    with pytest.raises(RecipeError, match="have no condition to leave out by"):
        _ = spins.parts


def test_rows_beyond_the_stated_energies_are_named(tmp_path):
    path = write(tmp_path / "showers.hdf5", 400)
    recipe = Calorimeter(energies_mev=(500.0, 4000.0))
    data = RunData(Data(path=str(path)), recipe, "calorimeter", tmp_path)
    at = energies(data.source, np.sort(data.parts.train))
    (note,) = data.notes
    assert f": {(at > 4000).sum()} of {len(at)} training rows have " in note
    first = np.sort(data.parts.train)[np.flatnonzero(at > 4000)[0]]
    assert f"[500, 4000] MeV, the range that the recipe states (row {first}: " in note
    assert RunData(Data(path=str(path)), SYSTEM, "calorimeter", tmp_path).notes == []
