"""Verbs over several runs: a page of them, the quickstart, families side by side."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from physgen.against import Against, Criteria
from physgen.arguments import user_path
from physgen.comparing import (
    check_comparable,
    families,
    preset_for,
    read_plan,
    with_left_out,
)
from physgen.costing import check_simulated, theories
from physgen.engine.device import choose_device
from physgen.errors import InputError, TrainingError
from physgen.io.shards import may_be_run
from physgen.io.writer import atomic
from physgen.isolation import isolated
from physgen.memory import release
from physgen.pipeline import samples_of, train
from physgen.recipe import MAIN, read
from physgen.run import Run
from physgen.training import Progress, silent
from physgen.validation import costs
from physgen.validation.families import markdown, page
from physgen.validation.ranking import Ranking
from physgen.validation.report import report as write_report
from physgen.validation.scorecard import Scorecard
from physgen.validation.several import Sketches
from physgen.validation.several import page as several_page
from physgen.written_scores import scoring, write_scores_to


@isolated()
def report(runs: Sequence[str | PathLike[str]], output: str | PathLike[str]) -> Path:
    """Write one offline HTML page for scored runs; return its path."""
    return write_report([user_path(run) for run in runs], user_path(output))


@isolated()
def side_by_side(
    samples: Sequence[str | PathLike[str]],
    against: str | PathLike[str],
    criteria: Criteria | None = None,
    *,
    output: str | PathLike[str] | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Ranking:
    """Judge several samples by one truth, each as `validate_files` does, and rank them.

    As many rows of each are used as of the smallest one; the truth is measured once.

    Args:
        samples: files, or runs, of which samples are drawn at the conditions of the true ones.
        against: file of true samples.
        criteria: how they are judged.
        output: an HTML page; or a folder for it (`report.html`), for `ranking.json`, and for the
            scorecard and the page of each sample in a folder of its own.
        trust: run the code that the recipes of runs name; see `validate`.
        progress: called while it goes.

    Raises:
        InputError: a sample is given twice.
    """
    paths, truth_path = [user_path(one) for one in samples], user_path(against)
    names = _names(paths)
    runs = [path for path in paths if may_be_run(path)]
    truth = Against(truth_path, (criteria or Criteria()).of((runs or paths)[0]), paths)
    limit = min((truth.count(path) for path in paths if path not in runs), default=None)
    to = None if output is None else user_path(output)
    is_page = to is not None and to.suffix == ".html"
    cards: dict[str, Scorecard] = {}
    sketches: Sketches | None = None
    for name, path in zip(names, paths, strict=True):
        with (
            scoring(progress, f"{name}: validate") as count,
            samples_of(path, truth, trust=trust) as (file, run),
        ):
            comparison, cards[name] = truth.score(file, count, limit=limit, run=run)
            if to is None:
                continue
            if not is_page:
                write_scores_to(to / _folder(name), comparison, cards[name])
            sketches = sketches or Sketches.of(comparison)
            sketches.add(name, comparison)
        release()
    ranking = Ranking(cards)
    if to is not None and sketches is not None:
        links = {} if is_page else {n: f"{quote(_folder(n))}/report.html" for n in names}
        title = f"{len(names)} samples against {truth_path.name}"
        target = to if is_page else to / "report.html"
        several_page(ranking, sketches, target, title=title, reports=links)
        if not is_page:
            with atomic(to / "ranking.json", overwrite=True) as part:
                part.write_text(ranking.to_json() + "\n", encoding="utf-8")
    return ranking


def _names(paths: Sequence[Path]) -> list[str]:
    """Return what samples are called: the last parts of their paths, as many as tell them apart."""
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise InputError(f"{twice} is given twice: give each sample once")
    lengths = [
        2 if may_be_run(path) else 1 for path in paths
    ]  # Runs are called by recipe and hash.
    extra = 0

    def names() -> list[str]:
        pairs = zip(paths, lengths, strict=True)
        return ["/".join(path.parts[-(n + extra) :]) for path, n in pairs]

    while len(set(names())) < len(paths):
        extra += 1
    return names()


def _folder(name: str) -> str:
    return name.replace("/", "-")


@isolated()
def quickstart(
    runs: str | PathLike[str] = "runs", *, full: bool = False, progress: Progress | None = None
) -> tuple[list[Run], Path]:
    """Run the four pipelines, with small budgets unless `full`; return them and one report."""
    preset = None if full else "quickstart"
    done = [train(name, preset=preset, runs=runs, progress=progress) for name in MAIN]
    page = user_path(runs) / ("demo.html" if full else "quickstart.html")
    return done, write_report([run.path for run in done], page, title="physgen " + page.stem)


@isolated()
def compare(
    name: str,
    output: str | PathLike[str],
    *,
    runs: str | PathLike[str] = "runs",
    progress: Progress | None = None,
) -> list[Path]:
    """Train or load all recipes of a comparison and set them side by side: scores, or costs.

    Args:
        name: of a shipped comparison ("digits", ...), or a YAML file.
        output: the HTML page; the table is written beside it as Markdown.
        runs: folder of the run directories; what is finished there is not trained again.
        progress: called while it goes.

    Returns:
        The page and the table.

    Raises:
        RecipeError: the comparison, or a recipe in it, cannot be understood.
    """
    output = user_path(output)
    plan = read_plan(name)
    presets = {recipe: preset_for(plan, recipe) for recipe in plan.recipes}
    recipes = [read(recipe, plan.overrides, preset) for recipe, preset in presets.items()]
    if plan.page == "scores":
        check_comparable(recipes)
    else:
        check_simulated(recipes)
    report_progress = progress or silent
    stage = f"{name}: families"
    report_progress(stage, 0, len(presets), {})
    # Small networks gain little from several threads: one family a core.
    workers = 1 if choose_device("auto").type == "cuda" else torch.get_num_threads()
    done: dict[str, Run] = {}
    failed: dict[str, str] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(_train_alone, recipe, plan.overrides, preset, user_path(runs)): recipe
            for recipe, preset in presets.items()
        }
        try:
            for future in as_completed(futures):
                recipe = futures[future]
                try:
                    done[recipe] = Run(future.result())
                except TrainingError as error:
                    warnings.warn(f"{recipe} is left out of the page: {error}", stacklevel=2)
                    failed[recipe] = str(error)
                report_progress(stage, len(done) + len(failed), len(presets), {})
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not done:
        raise TrainingError(f"no family of {name} could be trained; see the warnings")
    scored = [done[name] for name in plan.recipes if name in done]
    table = output.with_suffix(".md")
    if plan.page == "costs":
        summary = with_left_out(plan, failed)
        measured = theories(scored, recipes[0].sampling.seed)
        written = costs.page(plan.title, summary, measured, output)
        text = costs.markdown(measured)
    else:
        content = families(plan, scored, failed)
        written, text = page(content, output), markdown(content)
    with atomic(table, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")
    return [written, table]


def _train_alone(recipe: str, overrides: Mapping[str, Any], preset: str | None, runs: Path) -> Path:
    """Train and score on one thread, in a process of its own; return the run directory."""
    torch.set_num_threads(1)
    return train(recipe, overrides, preset=preset, runs=runs, track=False).path
