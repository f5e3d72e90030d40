"""What weighted events are worth."""

import pytest
import torch

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.systems.scalar import Phi4
from physgen.validation.comparison import Comparison
from physgen.validation.event_weights import EventWeights


def row(weight, minimum=None):
    batch = Batch(torch.zeros(len(weight), 4), weight=torch.tensor(weight))
    return EventWeights(minimum_ess=minimum).rows(Comparison(Phi4(shape=(4,)), batch))[0]


def test_the_share_is_that_of_kish():
    assert row([1.0] * 50).value == pytest.approx(1)
    assert row([3.0, 1.0] * 50).value == pytest.approx(16 / 2 / 10)
    half = row([1.0, 0.0] * 200, minimum=0.3)
    assert (half.value, half.verdict) == (pytest.approx(0.5), "pass")
    # <w>^2 / <w^2> = p of a share p of ones: its error is that of p.
    assert half.error == pytest.approx((0.25 / 400) ** 0.5, rel=0.02)
    assert row([1.0, 0.0] * 200, minimum=0.45).verdict == "fail"


def test_negative_weights_are_said():
    assert row([3.0, -1.0] * 50).value == pytest.approx(4 / 2 / 10)
    assert "25.0% of their weight is negative" in row([3.0, -1.0] * 50).note


def test_events_without_weights_are_refused():
    with pytest.raises(InputError, match="these have none: leave it out"):
        EventWeights().rows(Comparison(Phi4(shape=(4,)), Batch(torch.zeros(5, 4))))
