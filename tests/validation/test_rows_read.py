"""Rows of files that are empty are named, and values that cannot be are refused."""

import numpy as np
import pytest
import torch

from physgen.against import Against, Criteria
from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io.calochallenge import calochallenge_writer
from physgen.validation.rows_read import RowsRead

PT = Schema((2, 2), (Variable("eta"), Variable("pt", domain="non-negative")), masked=True)


def sets(n=6):
    x = torch.ones(n, 2, 2)
    x[..., 0] = -1
    return x, torch.ones(n, 2, dtype=torch.bool)


def seen(x, mask, rows):
    found = RowsRead("jets.h5", PT)
    parts = [Batch(x[:4], mask=mask[:4]), Batch(x[4:], mask=mask[4:])]
    assert [len(part) for part in found.through(parts, np.array(rows))] == [4, 2]
    return found


def test_empty_rows_are_counted_and_the_first_is_named_by_its_number_in_the_file():
    x, mask = sets()
    mask[4], x[5] = False, 0
    found = seen(x, mask, [1, 3, 5, 7, 9, 11])
    assert (found.n, found.empty, found.first) == (6, 2, 9)
    (row,) = found.rows("generated")
    assert row.warning.startswith("jets.h5: 2 of the 6 rows looked at hold nothing but zeros, the ")
    assert "first being row 9" in row.warning
    assert seen(*sets(), range(6)).rows("true") == []


def test_a_negative_value_is_refused_unless_it_is_padding():
    x, mask = sets()
    x[5, 1, 1] = -0.1
    with pytest.raises(FormatError, match=r"jets\.h5: 'pt' is negative in row 11"):
        seen(x, mask, [1, 3, 5, 7, 9, 11])
    mask[5, 1] = False
    assert seen(x, mask, range(6)).empty == 0


def test_empty_showers_of_either_file_are_named_whether_they_are_drawn_or_not(tmp_path):
    generator = torch.Generator().manual_seed(1)
    for name, empty in (("ours.h5", [7, 300]), ("truth.h5", [250])):
        energy = 1000 + 1000 * torch.rand((400, 1), generator=generator)
        voxels = torch.rand((400, 368), generator=generator) * energy / 200
        voxels[empty] = 0
        with calochallenge_writer(tmp_path / name) as append:
            append(Batch(voxels, condition=energy))
    changes = {"validation.metrics": [{"kind": "response"}], "sampling.n": 200}
    _, card = Against(tmp_path / "truth.h5", Criteria(overrides=changes)).score(
        tmp_path / "ours.h5"
    )
    for what, count, first in (("generated", "2", "7"), ("true", "1", "250")):
        warning = card[f"empty rows of the {what} file"].warning
        assert f"{count} of the 400 rows" in warning
        assert f"first being row {first}:" in warning
