"""What a batch, a scorecard and a run are in NumPy, awkward, pandas and notebooks."""

import sys

import awkward as ak
import numpy as np
import pytest
import torch

import physgen
from physgen.batch import Batch, Schema, Variable
from physgen.errors import InputError
from physgen.validation.scorecard import Row, Scorecard

EVENTS = Schema(
    (2,),
    (Variable("e", "MeV", low=0), Variable("n", domain="integer", dtype="int16")),
    (Variable("e_inc", "MeV"),),
)


@pytest.fixture
def events():
    x = torch.tensor([[1.5, 2.0], [3.5, 4.0]], requires_grad=True)
    return Batch(x, torch.tensor([[7.0], [8.0]]), weight=torch.tensor([1.0, -1.0]), schema=EVENTS)


def test_a_batch_is_an_array(events):
    array = np.asarray(events)
    assert array.tolist() == [[1.5, 2], [3.5, 4]]
    assert array.dtype == np.float32
    assert np.asarray(events, dtype="f8").dtype == np.float64
    assert np.histogram(events, bins=2)[0].sum() == 4


def test_columns_have_names_and_types(events):
    frame, records = events.to_pandas(), events.to_awkward()
    assert list(frame.columns) == records.fields == ["e", "n", "e_inc", "weight"]
    assert frame["n"].tolist() == records["n"].tolist() == [2, 4]
    assert frame["n"].dtype == np.int16
    assert frame["e_inc"].tolist() == [7, 8]
    assert records[1].tolist() == {"e": 3.5, "n": 4, "e_inc": 8, "weight": -1}


def test_names_stay_with_what_is_made_of_a_batch(events):
    joined = Batch.concatenate(
        [events[:1], events[1:].to(dtype=torch.float64).to(dtype=torch.float32)]
    )
    assert joined.to_pandas().equals(events.to_pandas())


def test_lattices_keep_their_shape_and_points_their_number():
    field = Batch(torch.arange(8.0).reshape(2, 2, 2), schema=Schema((2, 2), (Variable("phi"),)))
    assert field.to_awkward()["phi"].tolist() == field.x.tolist()
    assert list(field.to_pandas().columns) == ["phi_0_0", "phi_0_1", "phi_1_0", "phi_1_1"]
    assert field.to_pandas()["phi_1_0"].tolist() == [2, 6]
    schema = Schema((2, 1), (Variable("pt"),))
    points = Batch(
        torch.tensor([[[1.0], [2.0]], [[3.0], [0.0]]]),
        mask=torch.tensor([[True, True], [True, False]]),
        schema=schema,
    )
    assert points.to_awkward()["pt"].tolist() == [[1, 2], [3]]
    with pytest.raises(InputError, match="to_awkward"):
        points.to_pandas()


def test_without_a_schema_variables_are_x():
    batch = Batch(torch.ones(3, 2), condition=torch.zeros(3, 1))
    assert list(batch.to_pandas().columns) == ["x_0", "x_1", "condition_0"]
    assert ak.num(batch.to_awkward()["x"]).tolist() == [2, 2, 2]


def test_pandas_may_be_absent(events, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        events.to_pandas()


def test_notebooks_show_tables_in_which_names_are_text(events):
    named = Schema((1,), (Variable("<script>", "a&b"),))
    told = Batch(torch.ones(2, 1), schema=named)._repr_html_()
    assert "&lt;script&gt; [a&amp;b]" in told
    assert "<script>" not in told
    assert "Batch of 2 samples" in events._repr_html_()
    row = Row(name="<b>", metric="means", value=1.0, error=0.1, warning="<i> is off")
    told = Scorecard(rows=(row,))._repr_html_()
    assert "<b>" not in told
    assert "<i>" not in told
    assert "1.00(10)" in told
    assert "&lt;i&gt; is off" in told


def test_a_run_says_what_has_become_of_it(tmp_path):
    changes = {"system.shape": [2, 2], "engine.steps": 2, "engine.batch_size": 8}
    run = physgen.train("phi4-coupling", changes, runs=tmp_path, track=False, score=False)
    told = run._repr_html_()
    assert "phi4-coupling" in told
    assert str(run.path) in told
    assert "verdict" not in told
    sampler = physgen.load(run)
    assert "<td>(2, 2): phi [1]</td>" in sampler._repr_html_()
    assert "<td>conditions</td><td>none</td>" in sampler._repr_html_()
    batch = sampler.sample(3)
    assert batch.schema == run.system.schema
    assert len(batch.to_pandas()) == 3
