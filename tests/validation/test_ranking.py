"""Ranks respect errors, and each score is measured from its own best value."""

import json

import pytest

from physgen.validation.ranking import Ranking, texts
from physgen.validation.scorecard import Row, Scorecard


def ranks(*rows):
    ranking = Ranking(
        {name: Scorecard(rows=(row,)) for name, row in zip("abcd", rows, strict=False)}
    )
    return [one.rank for one in ranking.lines[0].samples.values()]


def of(metric, name, numbers, **content):
    return [Row(name=name, metric=metric, value=v, error=e, **content) for v, e in numbers]


def test_samples_that_differ_by_less_than_their_errors_share_a_rank():
    # Two errors of the difference of b and a are 0.28, those of c and b 0.57.
    rows = of("histograms", "W1 x", [(1.0, 0.1), (1.27, 0.1), (1.8, 0.3), (1.29, 0.1)])
    assert ranks(*rows) == [1, 1, 2, 2]
    # c is behind a only, as far as one can tell.
    assert ranks(*of("histograms", "W1 x", [(1.0, 0.01), (1.2, 0.01), (1.25, 0.1)])) == [1, 2, 2]


@pytest.mark.parametrize(
    ("metric", "name", "numbers", "content", "expected"),
    [
        ("means", "m", [(5.4, 0.1), (4.5, 0.1), (6.0, 0.1)], {"exact": 5.0}, [1, 1, 3]),
        ("classifier", "AUC, boosted", [(0.42, 0.01), (0.55, 0.01)], {}, [2, 1]),
        ("condition-bins", "AUC, t below 2", [(0.40, 0.01), (0.51, 0.01)], {}, [2, 1]),
        ("classifier", "balanced accuracy, boosted", [(0.4, 0.01), (0.51, 0.01)], {}, [2, 1]),
        (
            "condition-bins",
            "AUC, left out of training less elsewhere",
            [(-0.2, 0.01), (0.01, 0.01)],
            {},
            [2, 1],
        ),
        (
            "energy-mover",
            "COV, energy mover",
            [(0.28, 0.01), (0.55, 0.01)],
            {"floor": 0.56},
            [2, 1],
        ),
        ("equivalent-events", "N_equiv", [(100, 10), (5000, 500), (4800, 500)], {}, [3, 1, 1]),
        ("coverage", "density", [(1.6, 0.05), (0.9, 0.05)], {"floor": 1.0}, [2, 1]),
        ("mmd", "MMD^2", [(-3e-4, 3e-4), (3e-4, 3e-4), (4e-3, 3e-4)], {}, [1, 1, 3]),
        ("response", "response", [(2.5, None), (18.0, None)], {}, [1, 2]),
        ("copies", "rows that repeat", [(100, None), (0, None)], {}, [2, 1]),
        ("likelihood", "unknown", [(1.0, 0.1), (5.0, 0.1)], {}, [None, None]),
        ("units", "scale of x", [(1.0, 0.1), (5.0, 0.1)], {}, [None, None]),
        ("other", "without an error", [(1.0, None), (5.0, None)], {}, [None, None]),
    ],
)
def test_what_is_better_depends_on_the_score(metric, name, numbers, content, expected):
    assert ranks(*of(metric, name, numbers, **content)) == expected


def test_the_error_of_the_truth_counts_between_samples_on_different_sides_of_it():
    same = {"exact": 0.0, "exact_error": 0.3}
    assert ranks(*of("means", "m", [(0.1, 0.05), (0.5, 0.05)], **same)) == [1, 2]
    assert ranks(*of("means", "m", [(-0.1, 0.05), (0.5, 0.05)], **same)) == [1, 1]


def test_profiles_are_compared_by_their_worst_bins():
    rows = [
        Row(name=f"spectrum, bin {i} of 40", metric="means", value=i, error=0.1, exact=0, pull=p)
        for i, p in ((3, -2.0), (20, 9.0))
    ]
    ranking = Ranking({"a": Scorecard(rows=rows[:1]), "b": Scorecard(rows=rows[1:])})
    assert [line.name for line in ranking.lines] == ["spectrum, worst bin"]
    assert ranking.lines[0].exact is None
    assert ranks(*rows) == [1, 2]


def cards():
    def card(x, auc, verdict):
        numbers = [*enumerate([x, x, x, x])]
        rows = [
            Row(
                name=f"W1 x{i}", metric="histograms", value=v, error=0.1, floor=0.2, floor_error=0.1
            )
            for i, v in numbers
        ]
        name = "AUC, boosted classifier"
        rows += [Row(name=name, metric="classifier", value=auc, error=0.01, verdict=verdict)]
        note = "3x too many (2 to 4), 1% of the sample; found on one half"
        rows += [Row(name="region: x above 2", metric="regions", value=x, note=note)]
        return Scorecard(rows=tuple(rows))

    return {
        "far": card(3.0, 0.9, "fail"),
        "near": card(1.0, 0.6, "pass"),
        "mid": card(2.0, 0.5, "info"),
    }


def test_each_metric_has_the_same_share_of_the_order():
    ranking = Ranking(cards())
    assert [place.name for place in ranking.order] == ["near", "mid", "far"]
    # Of the four histograms and of the classifier.
    assert [place.mean_rank for place in ranking.order] == [1.5, 1.5, 3.0]
    assert [place.rank for place in ranking.order] == [1, 1, 3]
    assert [place.first for place in ranking.order] == [4, 1, 0]
    assert ranking.verdict == "fail"
    assert all("region" not in line.name for line in ranking.lines)


def test_json_and_text_say_the_same():
    ranking = Ranking(cards())
    content = json.loads(ranking.to_json())
    assert content["verdict"] == "fail"
    assert content["order"][2] == {
        "name": "far",
        "rank": 3,
        "mean_rank": 3.0,
        "first": 0,
        "ranked": 5,
        "failed": 1,
        "verdict": "fail",
        "headline": "fail",
    }
    score = content["scores"][0]
    assert (score["name"], score["metric"], score["unit"]) == ("W1 x0", "histograms", "1")
    assert score["samples"]["mid"] == {
        "value": 2.0,
        "error": 0.1,
        "floor": 0.2,
        "floor_error": 0.1,
        "off": 2.0,
        "rank": 2,
        "verdict": "info",
    }
    assert set(content["scorecards"]) == {"far", "near", "mid"}
    assert texts(ranking.lines[-1], ["far", "nobody"]) == ["0.900(10) #3 fail", ""]
    lines = str(ranking).splitlines()
    assert lines[1].split() == ["1", "near", "1.50", "4", "of", "5", "0", "pass"]
    assert lines[-3:] == [
        f"{name}: region: x above 2: 3x too many (2 to 4), 1% of the sample"
        for name in ("near", "mid", "far")
    ]
    auc = next(line for line in lines if line.startswith("AUC"))
    assert auc.split()[3:] == ["0.600(10)", "#2", "0.500(10)", "#1", "0.900(10)", "#3", "fail"]
