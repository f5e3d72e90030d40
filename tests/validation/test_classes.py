"""Inception scores in closed form; class shares that are lost, and those that are not."""

import numpy as np
import pytest

from physgen.errors import InputError
from physgen.validation import curves
from physgen.validation.classes import inception_score, share_rows
from physgen.validation.features import Embedded
from physgen.validation.half_sampling import apart
from physgen.validation.scorecard import Scorecard


def embedded(generated, n=500, seed=0):
    """Truth with equal shares of five classes, and `generated` shares."""
    generator = np.random.default_rng(seed)
    shares = {"truth": np.full(5, 0.2), "floor": np.full(5, 0.2), "generated": generated}
    probabilities = {r: np.eye(5)[generator.choice(5, n, p=share)] for r, share in shares.items()}
    values = {role: generator.normal(size=(n, 2)) for role in shares}
    unit = dict(zip(shares, apart(n, n, n), strict=True))
    return Embedded(values, unit, probabilities, frozenset(), True, "")


def test_inception_score_in_closed_form():
    sure = np.eye(4)[np.arange(400) % 4]
    assert inception_score(sure) == pytest.approx(4.0)
    assert inception_score(np.full((50, 4), 0.25)) == pytest.approx(1.0)
    assert inception_score(sure[::4]) == pytest.approx(1.0)
    # Sure of one of two with probability p: log score = log 2 - H(p).
    p = 0.9
    pairs = np.array([[p, 1 - p], [1 - p, p]] * 50)
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert np.log(inception_score(pairs)) == pytest.approx(np.log(2) - entropy)
    # Half of the rows sure, half of them not at all: each row has its own divergence.
    mixed = np.concatenate([sure[:200], np.full((200, 4), 0.25)])
    assert np.log(inception_score(mixed)) == pytest.approx(np.log(4) / 2)


def test_a_lost_class_is_named():
    smallest, distance = share_rows(embedded([0.25, 0.25, 0.25, 0.25, 0.0]), 0.03)
    assert (smallest.value, smallest.verdict) == (0.0, "fail")
    assert "mode collapse: too few of classes 4 (0.0%" in smallest.warning
    assert "gradient penalty" in smallest.warning
    assert smallest.floor > 0.1
    assert distance.value == pytest.approx(0.2, abs=4 * distance.error)
    assert distance.p_value < 1e-4
    assert set(smallest.curves) == {f"class shares {r}" for r in ("truth", "floor", "generated")}


def test_equal_shares_are_no_collapse():
    smallest, distance = share_rows(embedded([0.2] * 5, seed=1), 0.03)
    assert smallest.verdict == "pass"
    assert not smallest.warning
    assert distance.p_value > 1e-3


def test_p_values_of_shares_have_their_level():
    p_values = [share_rows(embedded([0.2] * 5, 100, s), None)[1].p_value for s in range(60)]
    assert np.mean(np.array(p_values) < 0.2) == pytest.approx(0.2, abs=0.16)


def test_shares_are_drawn():
    card = Scorecard(rows=tuple(share_rows(embedded([0.2] * 5), None)))
    ((figure, title, _),) = curves.scores(card)
    assert title == "Classes"
    assert len(figure.axes[0].patches) == 3 * 5
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert sum(heights) == pytest.approx(3.0)


def test_without_classes():
    with pytest.raises(InputError, match="no labelled samples"):
        share_rows(Embedded({}, {}, None, frozenset(), True, ""), None)
