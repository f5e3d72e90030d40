"""Rows of two files that belong together, by their order or by the columns that name an event."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from physgen.batch import Batch, Schema, Variable
from physgen.errors import FormatError
from physgen.io.paired import Paired
from physgen.io.source import ArraySource

FAST = (Variable("fast_a"), Variable("fast_b"))


def source(values, keys=None, name="full.npz", **batch):
    values = torch.as_tensor(np.asarray(values, dtype="f4").reshape(len(values), -1))
    columns = tuple(Variable(letter) for letter in "ab"[: values.shape[1]])
    keys = None if keys is None else np.asarray(keys, dtype=np.int64)
    schema = Schema((len(columns),), columns, tuple(batch.pop("given", ())))
    return ArraySource(Batch(values, **batch), schema, name=name, keys=keys, block=4)


def columns(n, offset=0):
    return np.stack([np.arange(n) + offset, -np.arange(n)], 1)


def test_rows_without_keys_are_paired_one_by_one():
    pairs = Paired(source(np.arange(9)), source(columns(9), name="fast.npz"), FAST)
    assert len(pairs) == 9
    assert [v.name for v in pairs.schema.condition] == ["fast_a", "fast_b"]
    batch = pairs.read(3, 6)
    assert batch.x[:, 0].tolist() == [3, 4, 5]
    assert batch.condition.tolist() == [[3, -3], [4, -4], [5, -5]]
    assert pairs.notes() == []


def test_own_conditions_come_first_and_weights_stay():
    run = torch.arange(5.0)[:, None] + 0.5
    full = source(np.arange(5), given=[Variable("run")], condition=run, weight=torch.arange(5.0))
    batch = Paired(full, source(columns(5)), FAST).read(1, 3)
    assert batch.condition.tolist() == [[1.5, 1, -1], [2.5, 2, -2]]
    assert batch.weight.tolist() == [1, 2]


@given(st.permutations(range(12)), st.permutations(range(12)), st.integers(1, 12), st.data())
def test_keys_find_the_partner_wherever_it_is(order, other_order, kept, data):
    """Value and key are the same number, so that every pair can be checked."""
    mine, theirs = list(order[:kept]), [*other_order[: max(kept, 3)]]
    common = [key for key in mine if key in theirs]
    full = source(mine, keys=mine)
    fast = source(np.stack([theirs, theirs], 1), keys=theirs, name="fast.npz")
    if not common:
        with pytest.raises(FormatError, match="no row in common"):
            Paired(full, fast, FAST)
        return
    pairs = Paired(full, fast, FAST)
    assert len(pairs) == len(common)
    start = data.draw(st.integers(0, len(common)))
    batch = pairs.read(start, start + 4)
    assert batch.x[:, 0].tolist() == common[start : start + 4]
    assert batch.condition[:, 1].tolist() == common[start : start + 4]
    assert pairs.keys().tolist() == common
    said = " ".join(pairs.notes())
    assert ("full.npz" in said) == (len(common) < len(mine))
    assert ("fast.npz" in said) == (len(common) < len(theirs))


@pytest.mark.parametrize(
    ("full", "fast", "message"),
    [
        (source(np.arange(5)), source(columns(4)), "has 5 rows and .* 4: .*`group` of both"),
        (source(np.arange(5), keys=range(5)), source(columns(5), name="f"), "and f has none"),
        (
            source(np.arange(3), keys=[7, 8, 7]),
            source(columns(3), keys=range(3)),
            "rows 0 and 2 have the same `group`",
        ),
        (
            source(np.arange(3), keys=range(3)),
            source(columns(3), keys=[0, 1, 1], name="f"),
            "f: rows 1 and 2 have the same",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused(full, fast, message):
    with pytest.raises(FormatError, match=message):
        Paired(full, fast, FAST)


def test_the_digest_knows_both_files():
    full, fast = source(np.arange(5)), source(columns(5))
    one = Paired(full, fast, FAST).digest()
    assert one == Paired(full, source(columns(5)), FAST).digest()
    assert one != Paired(full, source(columns(5, offset=1)), FAST).digest()
    assert one != Paired(source(np.arange(5) + 1), fast, FAST).digest()
