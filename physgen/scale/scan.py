"""A recipe trained and scored at many settings: all of a grid, or those that optuna chooses.

Each point is a run like any other, in its own directory, so that a point that is done is not
trained again: the same scan goes on where it was stopped. A point that fails does not stop the
others.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from physgen import pipeline
from physgen.arguments import user_path
from physgen.errors import InputError, PhysgenError, RecipeError, Stopped
from physgen.io.documents import parse_yaml
from physgen.recipe import read
from physgen.run import Run
from physgen.scale.workers import outcomes
from physgen.validation.scorecard import Row, Scorecard

if TYPE_CHECKING:
    from distributed import Client

AT_ONCE = 4
"""Points that optuna chooses before it sees how they ended. Part of what it chooses, so not an
option: the same scan chooses the same points, whoever trains them."""


@dataclass(frozen=True)
class Point:
    """A point of a scan, and what has become of it.

    Attributes:
        settings: what the scan has set.
        run: its directory; empty where the recipe could not be read.
        verdict: of its scorecard, or "failed".
        score: name of the main score.
        value, error, floor: of it.
        failure: why there is none.

    >>> Point({"method.k": 5}, failure="no such key").verdict
    'failed'
    """

    settings: Mapping[str, Any]
    run: str = ""
    verdict: str = "failed"
    score: str = ""
    value: float | None = None
    error: float | None = None
    floor: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Scan:
    """What is to be scanned.

    Attributes:
        recipe: name of a shipped recipe, or a YAML file.
        values: by dotted keys, those to try.
        overrides: changes that all points share.
        preset: of the recipe.
        runs: folder of the run directories.
        score: row of the scorecard that is the main score; by default the first that has a limit.

    >>> [settings["method.k"] for settings in Scan("ising-rbm", {"method.k": [1, 5]}).grid()]
    [1, 5]
    """

    recipe: str | PathLike[str]
    values: Mapping[str, Sequence[Any]]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    runs: str | PathLike[str] = "runs"
    score: str | None = None

    def grid(self) -> list[dict[str, Any]]:
        """Return the settings of all points."""
        return [
            dict(zip(self.values, choice, strict=True))
            for choice in itertools.product(*self.values.values())
        ]

    def train(
        self,
        *,
        client: Client | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Point]:
        """Train and score all points of the grid; return them in its order.

        Args:
            client: of Dask, whose workers train the points; this process does without.
            progress: called with how many are done, and how many there are.

        Raises:
            RecipeError: the recipe cannot be read without the settings.
            PhysgenError: workers died again and again, or the scheduler is gone.
        """
        self._check()
        return self._trained(self.grid(), client, progress or (lambda done, n: None))

    def search(
        self,
        n: int,
        *,
        maximise: bool = False,
        client: Client | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Point]:
        """Train and score `n` points that optuna's TPE chooses by the main score; return them.

        A choice that comes twice is not trained twice.

        Args:
            n: how many choices.
            maximise: whether a larger score is better.
            client, progress: see `train`.

        Raises:
            InputError: optuna is not installed, or no score is named.
        """
        self._check()
        if self.score is None:
            raise InputError("optuna needs a score: name a row of the scorecard (--score AUC)")
        try:
            import optuna
        except ImportError as error:
            raise InputError("optuna is not installed: pip install 'physgen[scale]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        direction: Literal["maximize", "minimize"] = "maximize" if maximise else "minimize"
        # It chooses positions, since values may be lists.
        sampler = optuna.samplers.TPESampler(seed=1, constant_liar=True)
        study = optuna.create_study(direction=direction, sampler=sampler)
        found: list[Point] = []
        while len(found) < n:
            trials = [study.ask() for _ in range(min(AT_ONCE, n - len(found)))]
            chosen = [
                {
                    key: values[trial.suggest_categorical(key, range(len(values)))]
                    for key, values in self.values.items()
                }
                for trial in trials
            ]
            before = len(found)

            def count(done: int, _: int, before: int = before) -> None:
                if progress is not None:
                    progress(before + done, n)

            found += self._trained(chosen, client, count)
            for trial, point in zip(trials, found[before:], strict=True):
                state = None if point.value is not None else optuna.trial.TrialState.FAIL
                study.tell(trial, point.value, state=state)
        return list({json.dumps(point.settings): point for point in found}.values())

    def _check(self) -> None:
        if not self.values or not all(self.values.values()):
            raise InputError("nothing to scan: give a key several values, engine.steps=100,200")
        read(self.recipe, dict(self.overrides), self.preset)

    def _trained(
        self,
        chosen: Sequence[dict[str, Any]],
        client: Client | None,
        progress: Callable[[int, int], None],
    ) -> list[Point]:
        prepared = {json.dumps(settings): self._prepared(settings) for settings in chosen}
        points = {key: one for key, one in prepared.items() if isinstance(one, Point)}
        runs = {key: str(one) for key, one in prepared.items() if not isinstance(one, Point)}
        tasks = [(run, self.score) for run in runs.values()]
        keys = list(runs)
        for number, result in outcomes(client, train_point, tasks):
            key = keys[number]
            points[key] = Point(settings=json.loads(key), **result)
            progress(len(points), len(prepared))
        return [points[json.dumps(settings)] for settings in chosen]

    def _prepared(self, settings: Mapping[str, Any]) -> Path | Point:
        """Return the run directory of a point, or what is wrong with its settings."""
        try:
            recipe = read(self.recipe, {**self.overrides, **settings}, self.preset)
            return Run.create(recipe, user_path(self.runs))[0].path
        except RecipeError as error:
            return Point(settings, failure=str(error))


def train_point(path: str, score: str | None) -> dict[str, Any]:
    """Train and score the run of one point; what a worker does. Errors are part of the result."""
    run = Run(Path(path), trust=True)
    try:
        run = pipeline.train(path, trust=True, track=False)
        row = main_row(run.scorecard, score)
        return {
            "run": path,
            "verdict": run.scorecard.verdict,
            "score": row.name,
            "value": row.value,
            "error": row.error,
            "floor": row.floor,
        }
    except Stopped:
        raise
    except PhysgenError as error:
        failure = str(error)
    # One point, whatever is wrong with it, is not to end the others.
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    if not run.started:
        shutil.rmtree(path, ignore_errors=True)
    return {"run": path if run.started else "", "failure": failure}


def main_row(card: Scorecard, name: str | None = None) -> Row:
    """Return the row of a name, or else the first that has a limit, or a value.

    Raises:
        InputError: there is no such row.
    """
    if name is None:
        limited = [row for row in card.rows if row.tolerance is not None and row.value is not None]
        valued = [row for row in card.rows if row.value is not None]
        if not (limited or valued):
            raise InputError("the scorecard has no row with a value")
        return (limited or valued)[0]
    for row in card.rows:
        if row.name == name:
            return row
    names = ", ".join(row.name for row in card.rows[:20])
    raise InputError(f"the scorecard has no row {name!r}; there are {names}")


def parse_scan(words: Sequence[str]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Turn words into values to scan, and settings of one value, which all points share.

    >>> parse_scan(["method.k=1,5", "system.shape=[8, 8]", "surrogate.network=[2,2],[4,4]"])
    ({'method.k': [1, 5], 'surrogate.network': [[2, 2], [4, 4]]}, {'system.shape': [8, 8]})
    """
    values: dict[str, list[Any]] = {}
    shared: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise RecipeError(f"{word!r} is not of the form key=a,b,c")
        found = parse_yaml(f"[{text}]", f"{word!r}: the values", RecipeError)
        if len(found) == 1:
            shared[key] = found[0]
        else:
            values[key] = found
    return values, shared


def described(points: Sequence[Point]) -> Iterator[dict[str, Any]]:
    """Yield the points as plain JSON types."""
    yield from (asdict(point) for point in points)
