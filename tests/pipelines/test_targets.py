"""The four pipelines at their small budgets reach what they promise."""

import pytest

from physgen import pipeline
from physgen.recipe import MAIN


@pytest.mark.slow
@pytest.mark.timeout(1800)  # calo-flow takes minutes of a core.
@pytest.mark.parametrize("name", MAIN)
def test_the_small_budget_meets_its_limits(name, tmp_path):
    run = pipeline.train(name, preset="quickstart", runs=tmp_path, track=False)
    failed = [row for row in run.scorecard.rows if row.verdict == "fail"]
    assert run.scorecard.verdict == "pass", failed
