"""Sorted columns: bijective where they are there, sorted whatever is drawn."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, RecipeError
from physgen.transforms.ordered import Ordered

SCHEMA = Schema(
    (4,),
    (
        Variable("n", domain="integer"),
        Variable("first", "GeV", low=25.0),
        Variable("eta"),
        Variable("second", "GeV", low=25.0, present="n >= 2"),
    ),
)
PAIRS = (("first", "second"),)


def rows(n=200):
    rng = torch.Generator().manual_seed(0)
    count = torch.randint(1, 4, (n,), generator=rng).double()
    first = 25 + 50 * torch.rand(n, generator=rng).double()
    second = 25 + (first - 25) * torch.rand(n, generator=rng).double() * 0.999
    second = torch.where(count >= 2, second, 0.0)
    return torch.stack([count, first, torch.randn(n, generator=rng).double(), second], 1)


def test_rows_come_back_and_absent_ones_stay():
    transform, x = Ordered(SCHEMA, pairs=PAIRS), rows()
    transform.fit(Batch(x))
    mapped, _ = transform(Batch(x))
    absent = x[:, 0] < 2
    assert torch.equal(mapped.x[absent], x[absent])
    assert (mapped.x[~absent, 3] != x[~absent, 3]).all()
    torch.testing.assert_close(transform.inverse(mapped).x, x)


def test_log_det_is_that_of_the_jacobian():
    transform, x = Ordered(SCHEMA, pairs=PAIRS), rows(20)
    _, log_det = transform(Batch(x))
    for row, expected in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda r: transform(Batch(r[None]))[0].x[0], row
        )
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], expected)


@given(st.lists(st.floats(-100, 1e6), min_size=4, max_size=4))
def test_whatever_is_drawn_is_in_order(drawn):
    x = torch.tensor([drawn], dtype=torch.float32)
    x[:, 0], x[:, 1] = 2, x[:, 1].clamp_min(25)
    back = Ordered(SCHEMA, pairs=PAIRS).inverse(Batch(x)).x[0]
    assert 25 <= back[3] <= back[1]


def test_equal_values_stay_finite():
    x = torch.tensor([[2.0, 40.0, 0.0, 40.0]])
    transform = Ordered(SCHEMA, pairs=PAIRS)
    mapped, log_det = transform(Batch(x))
    assert mapped.x.isfinite().all()
    assert log_det.isfinite().all()
    torch.testing.assert_close(transform.inverse(mapped).x, x)


def jets(n=500):
    """Four jets in order of momentum, a column that is not in order, and ties."""
    rng = torch.Generator().manual_seed(1)
    pt = torch.empty(n, 4).exponential_(0.02, generator=rng).sort(dim=1, descending=True).values
    eta = torch.randn(n, 2, generator=rng)
    return torch.cat([pt, eta, torch.full((n, 2), 3.0)], 1)


JETS = ("jet_pt[0]", "jet_pt[1]", "jet_pt[2]", "jet_pt[3]", "eta1", "eta2", "t1", "t2")


def test_order_is_found_in_the_data_and_kept_in_chains():
    transform = Ordered(Schema((8,), tuple(Variable(name) for name in JETS)))
    x = jets()
    transform.fit(Batch(x))
    mapped, _ = transform(Batch(x))
    torch.testing.assert_close(transform.inverse(mapped).x, x, rtol=1e-4, atol=1e-4)
    assert torch.equal(mapped.x[:, 4:], x[:, 4:])
    drawn = torch.empty(1000, 8).exponential_(generator=torch.Generator().manual_seed(2))
    pt = transform.inverse(Batch(drawn)).x[:, :4]
    assert (pt.diff(dim=1) <= 0).all()
    double = x[:1].double()
    jacobian = torch.autograd.functional.jacobian(lambda r: transform(Batch(r))[0].x[0], double)
    log_det = transform(Batch(double))[1]
    torch.testing.assert_close(torch.linalg.slogdet(jacobian[:, 0])[1], log_det[0])


def test_columns_of_other_units_and_integers_are_no_pairs():
    names = [("e1", "GeV", "real"), ("e2", "mm", "real"), ("n1", "1", "integer")]
    variables = [Variable(name, unit, domain) for name, unit, domain in names]
    x = torch.tensor([[3.0, 2.0, 5.0, 4.0]]).repeat(50, 1)
    transform = Ordered(Schema((4,), (*variables, Variable("n2", domain="integer"))))
    transform.fit(Batch(x))
    assert torch.equal(transform(Batch(x))[0].x, x)


def test_faults_are_named():
    with pytest.raises(RecipeError, match="did you mean 'second'"):
        Ordered(SCHEMA, pairs=(("first", "secnd"),))
    with pytest.raises(RecipeError, match="no column 'theirs'"):
        Ordered(SCHEMA, pairs=(("theirs", "too"), *PAIRS))
    with pytest.raises(RecipeError, match="smaller one of another pair"):
        Ordered(SCHEMA, pairs=(("first", "second"), ("eta", "second")))
    x = rows(5)
    x[:, 0] = 2
    x[3, 3] = x[3, 1] + 1
    with pytest.raises(DomainError, match=r"row . has second = .* leave the pair out"):
        Ordered(SCHEMA, pairs=PAIRS).fit(Batch(x))


def test_what_was_rounded_is_rounded_again():
    names = ("pt1", "pt2")
    schema = Schema((2,), tuple(Variable(name, "GeV", dtype="float64") for name in names))
    rng = torch.Generator().manual_seed(0)
    x = torch.empty(5000, 2, dtype=torch.double).exponential_(0.05, generator=rng)
    x = (x.sort(dim=1, descending=True).values * 100).round() / 100
    x = x[x[:, 0] > x[:, 1]]
    transform = Ordered(schema)
    transform.fit(Batch(x))
    assert transform.active.all()
    mapped, _ = transform(Batch(x))
    assert torch.equal(transform.inverse(mapped).x, x)
    # Another larger momentum, and another place below it.
    other = mapped.x.clone()
    other[:, 0] = other[torch.randperm(len(x), generator=rng), 0]
    other[:, 1] *= 1.01
    back = transform.inverse(Batch(other)).x
    assert torch.equal(back[:, 1], (back[:, 1] * 100).round() / 100)
    assert (back[:, 1] <= back[:, 0]).all()
