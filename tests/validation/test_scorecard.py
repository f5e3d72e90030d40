"""Verdicts, numbers with errors, Holm's correction, and JSON that comes back as it went."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physgen.errors import FormatError
from physgen.validation.judging import holm, judge_family
from physgen.validation.permutation import MOST
from physgen.validation.scorecard import Row, Scorecard, verdict_within
from physgen.validation.table import row_cells, with_error


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.14344, 0.0012, "0.1434(12)"),
        (0.14344, 0.000996, "0.1434(10)"),
        (5120.3, 34.0, "5120(34)"),
        (5120.3, 3.44, "5120.3(3.4)"),
        (5120.3, 344.0, "5120(340)"),
        (-1.453, 0.00074, "-1.45300(74)"),
        (1.23e-6, 1.2e-8, "1.230(12)e-06"),
        (0.0, 0.3, "0.00(30)"),
        (0.5, 9.96, "0(10)"),
        (3.0, None, "3"),
        (3.0, 0.0, "3"),
        (1.0, 1e-17, "1"),
        (None, 1.0, "none"),
    ],
)
def test_numbers_show_two_digits_of_their_error(value, error, text):
    assert with_error(value, error) == text


def test_a_p_value_that_no_relabelling_reached_is_a_bound():
    shown = [
        row_cells(Row(name="a", metric="m", value=1.0, p_value=p))["pull"]
        for p in (1 / (MOST + 1), 2 / (MOST + 1), 3e-7)
    ]
    assert shown == ["p<=1e-04", "p=0.0002", "p=3e-07"]


def test_holm_by_hand():
    # Sorted: 0.01 <= 0.05/4, 0.013 <= 0.05/3, 0.03 > 0.05/2: stop, though 0.04 <= 0.05.
    assert holm([0.03, 0.01, 0.04, 0.013], 0.05) == [False, True, False, True]
    assert holm([], 0.05) == []
    assert holm([0.05], 0.05) == [True]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_bonferroni_rejects(p_values):
    rejected = holm(p_values, 0.05)
    for p, reject in zip(p_values, rejected, strict=True):
        assert reject or p > 0.05 / len(p_values)
        assert not reject or p <= 0.05


def test_within():
    assert verdict_within(0.9, 0.04, 1.0) == "pass"
    assert verdict_within(-0.9, 0.06, 1.0) == "fail"
    assert verdict_within(float("nan"), 0.0, 1.0) == "fail"
    assert verdict_within(0.0, float("nan"), 1.0) == "fail"
    assert verdict_within(9.0, 9.0, None) == "info"


def test_a_family_is_judged_together_and_stated_tolerances_alone():
    rows = [
        Row(name="a", metric="m", value=1.0, p_value=1e-9),
        Row(name="b", metric="m", value=1.0, p_value=0.01),
        Row(name="c", metric="m", value=1.0, p_value=1e-9, tolerance=2.0, verdict="pass"),
        Row(name="d", metric="m", value=1.0),
    ]
    assert [row.verdict for row in judge_family(rows)] == ["fail", "pass", "pass", "info"]


def test_the_card_fails_with_any_row():
    def card(*verdicts):
        return Scorecard(rows=[Row(name="a", metric="m", value=1, verdict=v) for v in verdicts])

    assert card("pass", "info", "fail").verdict == "fail"
    assert card("pass", "info").verdict == "pass"
    assert card("info").verdict == "info"
    assert card().verdict == "info"


def test_json_comes_back():
    row = Row(
        name="E/N",
        metric="means",
        value=float("nan"),
        error=0.1,
        pull=float("inf"),
        curves={"ROC": ((0.0, 1.0), (0.0, 1.0))},
        note="<b>",
    )
    card = Scorecard(rows=[row], provenance={"seed": 1})
    assert row.value is None
    assert row.pull is None
    assert Scorecard.from_json(card.to_json()) == card
    assert json.loads(card.to_json())["verdict"] == "info"
    assert card["E/N"] == row


@pytest.mark.parametrize(
    "text", ["", "[]", '{"rows": [{"name": "a"}]}', '{"rows": [], "verdict": "info", "x": 1}']
)
def test_anything_else_is_refused(text):
    with pytest.raises(FormatError, match="not a scorecard"):
        Scorecard.from_json(text)


def test_an_edited_verdict_is_noticed():
    card = Scorecard(rows=[Row(name="a", metric="m", value=1.0, verdict="fail")])
    with pytest.raises(FormatError, match="edited"):
        Scorecard.from_json(
            card.to_json().replace(
                '"verdict": "fail",\n "warnings"', '"verdict": "pass",\n "warnings"'
            )
        )


def test_the_table_shows_what_there_is_and_escapes_markup():
    rows = [
        Row(name="x[bold]", metric="m", value=1.0, error=0.1, tolerance=2.0, verdict="pass"),
        Row(name="quiet", metric="histograms", value=2.0),
    ]
    text = str(Scorecard(rows=rows))
    assert "x[bold]" in text
    assert "1.00(10)" in text
    assert "quiet" not in text
    assert "and 1 more in the report" in text


def test_a_card_without_limits_shows_its_largest_pulls():
    known = {"metric": "means", "value": 1.0, "exact": 1.0, "exact_source": "truth"}
    rows = [Row(name=f"row {i}", pull=(-1) ** i * 0.5 * i, **known) for i in range(9)]
    shown = str(Scorecard(rows=rows))
    assert [i for i in range(9) if f"row {i}" in shown] == [4, 5, 6, 7, 8]
    judged = [Row(name=f"limit {i}", metric="m", value=1.0, tolerance=1.0) for i in range(4)]
    shown = str(Scorecard(rows=rows + judged))
    assert [i for i in range(9) if f"row {i}" in shown] == [8]


def test_of_what_a_sample_is_worth_the_terminal_shows_what_sums_it_up():
    names = ("N_equiv", "N_equiv, mean of observables", "N_equiv E_1", "N_equiv E_2")
    rows = [Row(name=name, metric="equivalent-events", value=9.0) for name in names]
    text = str(Scorecard(rows=rows))
    assert "N_equiv, mean of observables" in text
    assert "E_1" not in text
    assert "and 2 more in the report" in text
