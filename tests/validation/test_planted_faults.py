"""Faults planted in showers are found, and their cause is named: `benchmarks/planted_faults.py`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from physgen.systems.calorimeter import Calorimeter
from physgen.validation.combined import CombinedTest
from physgen.validation.comparison import Comparison
from physgen.validation.judging import judge
from physgen.validation.memorisation import Memorisation
from physgen.validation.training_rows import TrainingRows

_FILE = Path(__file__).parents[2] / "benchmarks" / "planted_faults.py"
_SPEC = importlib.util.spec_from_file_location("planted_faults", _FILE)
planted = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(planted)

pytestmark = pytest.mark.slow
SYSTEM = Calorimeter()
CUT = SYSTEM.cut_mev
N = 3000


@pytest.fixture(scope="module")
def showers():
    return [SYSTEM.simulate(N, seed) for seed in (1, 2)]


def of(values, like):
    return like.replace(x=torch.from_numpy(np.where(values < CUT, 0.0, values)))


FAULTS = {
    "none": (lambda x, e, g: x, ""),
    "energy scale +.5%": (lambda x, e, g: 1.005 * x, "E_tot/E_inc"),
    "response smeared by 2%": (lambda x, e, g: planted.smeared(x, 0.02, g), "width of"),
    "5% of the showers, the latest, missing": (
        lambda x, e, g: planted.without_latest(SYSTEM, x, e, 0.05, g),
        "fraction_1 at or below",
    ),
    "layer 2 rotated by a sector": (
        lambda x, e, g: planted.rotated(SYSTEM, x, 2),
        "correlation of centre_eta_1 and centre_phi_2",
    ),
    "voxels up to twice the threshold removed": (
        lambda x, e, g: np.where(x < 2 * CUT, 0.0, x),
        "occupied_",
    ),
    "layer 3 shuffled at like energies": (
        lambda x, e, g: planted.shuffled(SYSTEM, x, e, 3, g),
        "correlation of E_tot/E_inc and fraction_2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_named(showers, fault):
    truth, other = showers
    plant, cause = FAULTS[fault]
    x, energy = other.x.double().numpy(), other.condition.double().numpy()[:, 0]
    made = of(plant(x, energy, np.random.default_rng(1)), other)
    row = CombinedTest().rows(Comparison(SYSTEM, made, truth))[0]
    if fault == "none":
        assert row.p_value > 0.01
    else:
        assert (row.p_value < 1e-3, cause in row.note) == (True, True), row.note


@pytest.mark.parametrize("near", [1.0, 1.0001])
def test_duplicates_of_training_rows_are_found_and_named(showers, near):
    truth, other = showers
    trained = SYSTEM.simulate(N, 3)
    x, condition = other.x.clone(), other.condition.clone()
    x[: N // 50], condition[: N // 50] = near * trained.x[: N // 50], trained.condition[: N // 50]
    ours = other.replace(x=x, condition=condition)
    training = TrainingRows(lambda: iter([trained]), N)
    card = judge(Comparison(SYSTEM, ours, truth, training=training), [Memorisation()])
    copied, nearly = (card[f"{name} training rows"] for name in ("rows that are", "near copies of"))
    found = copied if near == 1 else nearly
    assert found.warning
    assert abs((found.value * N if found.value < 1 else found.value) - N // 50) <= N // 200
