"""Rows of files that are empty are named, and values that cannot be are refused."""

import h5py
import numpy as np
import torch

from physgen.against import Against, Criteria
from physgen.batch import Batch, Schema, Variable
from physgen.io.calochallenge import calochallenge_writer
from physgen.io.source import ArraySource
from physgen.validation.rows_read import look_at

PT = Schema((2, 2), (Variable("eta"), Variable("pt", domain="non-negative")), masked=True)


def sets(n=6):
    x = torch.ones(n, 2, 2)
    x[..., 0] = -1
    return x, torch.ones(n, 2, dtype=torch.bool)


def seen(x, mask=None, schema=PT):
    return look_at(ArraySource(Batch(x, mask=mask), schema, name="jets.h5", block=4), schema)


def test_empty_rows_are_counted_and_the_first_is_named():
    x, mask = sets()
    mask[4], x[5] = False, 0
    found = seen(x, mask)
    assert (found.n, found.found) == (6, {"empty": (2, 4)})
    (row,) = found.rows("generated")
    assert row.warning.startswith(
        "jets.h5: 2 of 6 rows hold nothing but zeros, the first being row 4"
    )
    assert seen(*sets()).rows("true") == []


def test_rows_of_a_table_may_be_zeros():
    table = Schema((2,), (Variable("a", domain="non-negative"), Variable("b")))
    assert seen(torch.zeros(6, 2), schema=table).found == {}
    voxels = Schema((2,), (Variable("e", domain="non-negative"),))
    assert seen(torch.zeros(6, 2), schema=voxels).found == {"empty": (6, 0)}


def test_negative_values_are_named_unless_they_are_padding():
    x, mask = sets()
    x[2, 0, 1] = x[5, 1, 1] = -0.1
    (row,) = seen(x, mask).rows("generated")
    assert row.warning.startswith(
        "jets.h5: 2 of 6 rows have a negative 'pt', which cannot be, the fi"
    )
    assert "first being row 2" in row.warning
    mask[2, 0] = mask[5, 1] = False
    assert seen(x, mask).rows("generated") == []


def test_empty_showers_of_either_file_are_named_whether_they_are_drawn_or_not(tmp_path):
    generator = torch.Generator().manual_seed(1)
    for name, empty in (("ours.h5", [7, 300]), ("truth.h5", [250])):
        energy = 1000 + 1000 * torch.rand((400, 1), generator=generator)
        voxels = torch.rand((400, 368), generator=generator) * energy / 200
        voxels[empty] = 0
        with calochallenge_writer(tmp_path / name) as append:
            append(Batch(voxels, condition=energy))
    changes = {"validation.metrics": [{"kind": "response"}], "sampling.n": 50}
    _, card = Against(tmp_path / "truth.h5", Criteria(overrides=changes)).score(
        tmp_path / "ours.h5"
    )
    for what, count, first in (("generated", "2", "7"), ("true", "1", "250")):
        warning = card[f"empty rows of the {what} file"].warning
        assert f"{count} of 400 rows" in warning
        assert f"first being row {first}:" in warning


def test_negative_values_of_drawn_rows_are_named_once_for_the_whole_file(tmp_path):
    generator = np.random.default_rng(1)
    for name in ("ours.h5", "truth.h5"):
        particles = np.abs(generator.normal(0.1, 0.02, (400, 5, 4)))
        particles[..., 3] = 1
        if name == "ours.h5":
            particles[::2, 0, 2] *= -1
        with h5py.File(tmp_path / name, "w") as file:
            file["particle_features"] = particles.astype("f4")
            file["jet_features"] = generator.normal(1000, 10, (400, 4)).astype("f4")
    changes = {"validation.metrics": [{"kind": "means"}], "sampling.n": 100}
    _, card = Against(tmp_path / "truth.h5", Criteria(overrides=changes)).score(
        tmp_path / "ours.h5"
    )
    (row,) = [row for row in card.rows if row.name.startswith("negative")]
    assert "200 of 400 rows have a negative 'ptrel'" in row.warning
