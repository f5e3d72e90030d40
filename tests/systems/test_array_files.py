"""Files of systems without a format of their own, written here and by others."""

from dataclasses import dataclass

import h5py
import numpy as np
import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.systems.array_files import ArrayFiles
from physgen.systems.base import HasFiles


@dataclass(frozen=True, kw_only=True)
class Charges(ArrayFiles):
    strips: int = 3
    unit: str = "ke"

    @property
    def schema(self):
        angle = Variable("angle", "deg")
        return Schema((self.strips,), (Variable("charge", self.unit),), (angle,))


def test_what_is_written_is_read_with_the_facts(tmp_path):
    system, path = Charges(), tmp_path / "charges.h5"
    assert isinstance(system, HasFiles)
    batch = Batch(torch.arange(6.0).reshape(2, 3), torch.tensor([[10.0], [20.0]]))
    with system.writer(path, 4, {"seed": 7}) as append:
        append(batch)
        append(batch)
    source = system.open(path)
    assert source.schema == system.schema
    assert torch.equal(source.read(2, 4).x, batch.x)
    assert torch.equal(source.read(2, 4).condition, batch.condition)
    with h5py.File(path) as file:
        assert file.attrs["seed"] == 7


def test_a_file_of_another_program_needs_x_and_conditions(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"], file["condition"] = np.ones((5, 3)), np.ones((5, 1))
        file["weight"] = np.arange(5.0)
    batch = Charges().open(tmp_path / "other.h5").read(0, 5)
    assert batch.weight.tolist() == [0, 1, 2, 3, 4]
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file["x"] = np.ones((5, 3))
    with pytest.raises(FormatError, match=r"bare.h5: x has shape \(N, 3\) and 0 conditions"):
        Charges().open(tmp_path / "bare.h5")


def test_another_detector_is_refused(tmp_path):
    path = tmp_path / "charges.h5"
    with Charges().writer(path, 1) as append:
        append(Batch(torch.zeros(1, 3), torch.zeros(1, 1)))
    with pytest.raises(FormatError, match=r"\(N, 3\).*expected \(N, 4\) and 1"):
        Charges(strips=4).open(path)
    with pytest.raises(FormatError, match="'charge' is in ke, and the system has fC"):
        Charges(unit="fC").open(path)
