"""What an independent configuration costs: the arithmetic, and timings of clocks that are known."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from physgen import costing, reports
from physgen.batch import Batch, Schema, Variable
from physgen.errors import RecipeError
from physgen.validation.costs import Cost, Theory, markdown, page, table
from physgen.validation.scorecard import Row, Scorecard

CHAIN = Cost(name="Monte Carlo", setup=2.0, seconds=0.01, efficiency=0.5)
FLOW = Cost(
    name="<flow>",
    setup=102.0,
    seconds=0.005,
    efficiency=0.5,
    efficiency_error=0.01,
    log_partition=(54.211, 0.002, 54.212),
)


def test_one_sampler_is_cheaper_from_where_the_lines_cross():
    n = FLOW.cheaper_from(CHAIN)
    assert n == pytest.approx(100 / (0.02 - 0.01))
    assert FLOW.setup + n * FLOW.each == pytest.approx(CHAIN.setup + n * CHAIN.each)
    assert CHAIN.cheaper_from(FLOW) == math.inf
    assert CHAIN.cheaper_from(CHAIN) == math.inf
    frozen = Cost(name="frozen", setup=0.0, seconds=1e-6)
    assert frozen.each == math.inf
    # Nobody knows what an independent one costs: neither "the first" nor "never".
    assert math.isnan(FLOW.cheaper_from(frozen))
    assert math.isnan(frozen.cheaper_from(CHAIN))
    lines = table(Theory(title="frozen", monte_carlo=frozen, surrogates=[FLOW]))
    assert lines[1]["cheaper than Monte Carlo from"] == "not known"


def test_the_table_says_never_where_monte_carlo_wins(tmp_path):
    slow = Cost(name="slow", setup=1.0, seconds=1.0, efficiency=0.9)
    theory = Theory(title="U(1) & co", monte_carlo=CHAIN, surrogates=[FLOW, slow])
    lines = table(theory)
    assert [line["cheaper than Monte Carlo from"] for line in lines] == ["", "1e+04", "never"]
    assert lines[1]["ln Z"] == "54.2110(20)"
    assert lines[1]["exact ln Z"] == "54.212"
    assert lines[0]["ln Z"] == ""
    assert markdown([theory]).count("\n| ") == 5
    text = page("Costs", "", [theory], tmp_path / "c.html").read_text(encoding="utf-8")
    assert "&lt;flow&gt;" in text
    assert "U(1) &amp; co" in text


class Clock:
    """Chains whose configurations take .01 s each after 3 s of tuning: 8 repeats of each number."""

    schema = Schema((1,), (Variable("x"),))
    derived = {}  # noqa: RUF012
    repeats = 8

    def __init__(self):
        self.now = 0.0

    def simulate(self, n, seed, condition=None):
        self.now += 3 + 0.01 * n
        length = 64
        generator = torch.Generator().manual_seed(seed)
        new = torch.randn(n // self.repeats + 1, generator=generator)
        x = new.repeat_interleave(self.repeats)[:n]
        return Batch(x=x[:, None], chain=torch.arange(n) // (length * self.repeats))

    def observables(self, batch):
        return {"fast": torch.randn(len(batch)), "x": batch.x[:, 0], "Q": batch.x[:, 0].sign()}


def test_monte_carlo_is_timed_without_its_tuning_and_by_its_slowest_observable(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(costing.time, "process_time", lambda: clock.now)
    monkeypatch.setattr(costing, "LONG_ENOUGH", 400.0)
    cost = costing.monte_carlo(clock, seed=1)
    assert cost.setup == pytest.approx(3.0)
    assert cost.seconds == pytest.approx(0.01)
    # rho(t) = 1 - t / r of r repeats, so that tau_int = r / 2 and 1 / (2 tau_int) = 1 / r.
    assert cost.efficiency == pytest.approx(1 / clock.repeats, rel=0.15)
    assert "x" in cost.known_by or "Q" in cost.known_by
    # The charge may change at one step in `repeats`, and then does in half of the cases.
    assert cost.tunnelling == pytest.approx(0.5 / clock.repeats / 0.01, rel=0.15)


def test_the_warm_up_of_more_chains_is_no_cost_of_configurations(monkeypatch):
    clock = Clock()
    simulate = clock.simulate

    def few_chains_for_few(n, seed):
        clock.now += 50 if n >= 64 else 0
        return simulate(n, seed)

    clock.simulate = few_chains_for_few
    monkeypatch.setattr(costing.time, "process_time", lambda: clock.now)
    cost = costing.monte_carlo(clock, seed=1)
    assert cost.seconds == pytest.approx(0.01)
    assert cost.setup == pytest.approx(53.0)


class Proposals:
    """A trained model whose proposals take .01 s each."""

    device = "cpu"

    def __init__(self, clock):
        self.clock = clock

    def sample(self, n, *, generator):
        self.clock.now += 0.01 * n
        return Batch(x=torch.randn(n, 1, generator=generator), log_weight=torch.zeros(n))


def scored(monkeypatch, *rows, correction="independence-metropolis"):
    clock = Clock()
    model = Proposals(clock)
    if correction == "langevin":
        model.sample = lambda n, generator: clock.simulate(n, generator.initial_seed())
    monkeypatch.setattr(costing.time, "process_time", lambda: clock.now)
    monkeypatch.setattr(costing.cards, "read_card", lambda path: {"training_seconds": 7.0})
    run = SimpleNamespace(
        path=Path(),
        load=lambda: model,
        corrected=lambda model, proposals: model,
        recipe=SimpleNamespace(name="flow", sampling=SimpleNamespace(correction=correction)),
        system=clock,
        scorecard=Scorecard(rows=rows),
    )
    return costing.surrogate(run, seed=1)


ESS = Row(name="ESS", metric="importance", value=0.9, error=0.01, verdict="pass", note="from 99")
TRUE = ESS.model_copy(update={"name": "ESS on truth", "value": 0.88})


def test_a_surrogate_is_as_efficient_as_its_scorecard_says(monkeypatch):
    cost = scored(monkeypatch, ESS, TRUE)
    assert (cost.setup, cost.efficiency, cost.warning) == (7.0, 0.9, "")
    assert cost.seconds == pytest.approx(0.01)
    assert math.isfinite(cost.cheaper_from(CHAIN))


def test_chains_of_langevin_steps_are_as_efficient_as_their_slowest_observable(monkeypatch):
    cost = scored(monkeypatch, correction="langevin")
    assert cost.efficiency == pytest.approx(1 / Clock.repeats, rel=0.15)
    assert (cost.setup, cost.warning) == (7.0, "")


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([ESS], "no samples of the truth"),
        ([ESS.model_copy(update={"warning": "a sector is missing"}), TRUE], "sector is missing"),
        ([ESS.model_copy(update={"verdict": "fail"}), TRUE], "ESS fails"),
        ([ESS, TRUE.model_copy(update={"verdict": "fail"})], "ESS on truth fails"),
        ([ESS.model_copy(update={"value": None, "warning": "no usable weights"})], "no usable"),
        ([], "add the metric importance"),
    ],
)
def test_an_effective_sample_size_in_doubt_gives_no_crossover(monkeypatch, rows, why):
    cost = scored(monkeypatch, *rows)
    assert why in cost.warning
    assert cost.efficiency is None
    assert cost.tunnelling is None
    assert math.isnan(cost.cheaper_from(CHAIN))


def test_chains_that_do_not_mix_have_no_independent_configurations(monkeypatch):
    clock = Clock()
    clock.simulate = lambda n, seed: Batch(
        x=(torch.arange(n) // 64 % 2 * 1.0)[:, None] + 1e-3 * torch.randn(n, 1),
        chain=torch.arange(n) // 64,
    )
    monkeypatch.setattr(costing, "MOST", 1024)
    cost = costing.monte_carlo(clock, seed=1)
    assert cost.efficiency is None
    assert "do not mix" in cost.warning


def test_what_has_no_monte_carlo_is_refused_before_anything_is_trained(tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("{title: Costs, page: costs, recipes: [phi4-flow, digits-vae]}")
    with pytest.raises(RecipeError, match="digits-vae samples no action"):
        reports.compare(str(plan), tmp_path / "c.html", runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_weighted_configurations_change_sector_as_often_as_the_weights_say():
    clock = Clock()
    weight = torch.tensor([0.5, 0.5, 1.0])
    batch = Batch(x=torch.tensor([[1.0], [1.0], [-1.0]]), log_weight=weight.log())
    rate = costing._changes_of_independent(clock, batch, each=0.1)
    assert rate == pytest.approx((1 - 0.25 - 0.25) / 0.1)


@pytest.mark.slow
def test_theories_of_a_plan_stand_on_one_page(tmp_path, monkeypatch):
    monkeypatch.setattr(costing, "LONG_ENOUGH", 0.0)
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "{title: Costs, page: costs, preset: smoke, recipes: [phi4-flow, phi4-coupling], "
        "overrides: {engine.steps: 2, system.shape: [4, 4], sampling.n: 256, validation.metrics: "
        "[{kind: importance}]}}"
    )
    page, written = reports.compare(str(plan), tmp_path / "c.html", runs=tmp_path / "runs")
    text = written.read_text()
    assert text.count("### phi4: shape = [4, 4], m2 = -4.0, lam = 8.0") == 1
    assert [line.split("|")[1].strip() for line in text.splitlines() if line[0:1] == "|"] == [
        "sampler",
        "---",
        "Monte Carlo",
        "phi4-flow",
        "phi4-coupling",
    ]
    assert "data:image/png" in page.read_text()
