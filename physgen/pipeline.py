"""The verbs: train, validate, load, generate, quickstart, each a few calls of what is below."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from physgen.against import Against, Criteria
from physgen.arguments import Whole, user_path
from physgen.batch import Batch
from physgen.conditions import Condition
from physgen.engine.device import DeviceName, choose_device
from physgen.engine.distributed import connect
from physgen.ensembles import score_ensemble
from physgen.errors import InputError
from physgen.generation import Sampler, conditions_of_file
from physgen.identity import check_unchanged
from physgen.io.pyerrors import SUFFIX as PYERRORS
from physgen.io.shards import may_be_run
from physgen.io.shipped import shipped_recipes
from physgen.io.writer import refuse_existing
from physgen.isolation import isolated
from physgen.recipe import read
from physgen.run import Run
from physgen.scoring import score_run
from physgen.tracking import Registered, Tracker, is_registered, sync_apart
from physgen.training import Progress, silent, train_run
from physgen.validation.scorecard import Scorecard
from physgen.written_scores import scoring, write_scores, write_scores_to


@isolated()
def train(
    recipe: str | PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    runs: str | PathLike[str] = "runs",
    force: bool = False,
    score: bool = True,
    track: bool = True,
    trust: bool = False,
    progress: Progress | None = None,
    **sections: Mapping[str, Any],
) -> Run:
    """Train a surrogate, or go on where an earlier call with the same arguments stopped.

    Args:
        recipe: name of a shipped recipe, a YAML file, or a run directory to resume.
        overrides: dotted keys to values, {"engine.steps": 2000}.
        preset: a named set of overrides of the recipe.
        runs: folder of the run directories, `<runs>/<recipe name>/<hash of the resolved recipe>`.
        force: resume though data or number of processes changed.
        score: validate and write the report afterwards.
        track: mirror the run in MLflow; `physgen track sync` does it later.
        trust: run the code that the recipe of a run directory names; see `validate`.
        progress: called while it goes.
        sections: overrides by section, `engine={"steps": 2000}`.

    Raises:
        RecipeError, FormatError, CheckpointError: the input is wrong; the message says how.
        TrainingError: the loss is not finite, or memory ran out.
        Stopped: SIGTERM came; what was done is saved.
        KeyboardInterrupt: SIGINT came; what was done is saved.

    >>> import tempfile
    >>> small = {"system.shape": [4, 4], "engine.steps": 2, "engine.batch_size": 8}
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     run = train("phi4-coupling", small, runs=runs, score=False, track=False)
    >>> run.recipe.name
    'phi4-coupling'
    """
    no_runs = not user_path(runs).exists()
    run, is_new = _open_run(recipe, overrides, preset, user_path(runs), sections, trust)
    run.check_code()
    try:
        with ExitStack() as stack:
            world = stack.enter_context(
                connect(choose_device(run.recipe.engine.device).type == "cuda")
            )
            if track and world.first:
                stack.enter_context(Tracker(run.path))
            if run.finished:
                check_unchanged(run)
            else:
                train_run(run, world, progress if progress and world.first else silent, force=force)
            if score and world.first and not run.scored:
                validate(run.path, trust=run.trust, progress=progress)
    except InputError:
        # What cannot start leaves nothing behind; only what this call made is removed.
        if is_new and not run.started:
            shutil.rmtree(run.path, ignore_errors=True)
            with suppress(OSError):  # Folders in which there is something else.
                run.path.parent.rmdir()
                if no_runs:
                    run.path.parent.parent.rmdir()
        raise
    return run


@isolated()
def validate(
    run: str | PathLike[str],
    *,
    sampling: Mapping[str, Any] | None = None,
    output: str | PathLike[str] | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Scorecard:
    """Score a trained run; writes scorecard, samples, plots and `report.html` into it.

    Args:
        run: a run directory whose training has finished.
        sampling: changes to the recipe's section `sampling`, {"sampler.steps": 50}: what is scored
            then is not what the run is known for, and its own scores stay as they are.
        output: folder for the scores of such changed samples; they are not written without.
        trust: run the code that its recipe names, though this user never trained with it.
        progress: called while it goes.

    Raises:
        CheckpointError: training has not finished, or a file of it was changed.
        InputError: the recipe names code, and there is no `trust`.

    >>> import tempfile
    >>> small = {"system.shape": [4, 4], "engine.steps": 2, "engine.batch_size": 8}
    >>> small |= {"sampling.n": 200}
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     run = train("phi4-coupling", small, runs=runs, score=False, track=False)
    ...     card = validate(run.path)
    >>> card.verdict  # after two steps of training
    'fail'
    """
    opened = Run(user_path(run), trust, sampling or {})
    if output is not None and not opened.sampling:
        raise InputError("the scores of a run go into it: leave `output` out, or change `sampling`")
    with scoring(progress, f"{opened.recipe.name}: validate") as count:
        opened.check_trained()
        comparison, card = score_run(opened, opened.load(), count)
        if not opened.sampling:
            opened.unseal_scores()
            write_scores(opened.path, comparison, card)
            opened.seal_scores(card)
        elif output is not None:
            write_scores_to(user_path(output), comparison, card)
    return card


@isolated()
def validate_files(
    file: str | PathLike[str],
    against: str | PathLike[str] | None = None,
    criteria: Criteria | None = None,
    *,
    output: str | PathLike[str] | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Scorecard:
    """Score files of samples; no surrogate is needed.

    Args:
        file: generated samples, or a Markov chain to be analysed by itself; or a run, of which
            samples are drawn at the conditions of the true ones, if these have any.
        against: true samples to judge them by.
        criteria: how they are judged.
        output: folder for `scorecard.json` and `report.html`; or a file, NAME.json.gz, for the
            observables of a Markov chain as pyerrors reads them (`physgen.io.pyerrors`), which must
            not exist.
        trust: run the code that the recipe of a run names; see `validate`.
        progress: called while it goes.
    """
    file, criteria = user_path(file), criteria or Criteria()
    target = None if output is None else user_path(output)
    export = target is not None and target.name.endswith(PYERRORS)
    if export and target is not None:
        if against is not None:
            raise InputError(f"{target}: pyerrors takes one Markov chain that is analysed alone")
        refuse_existing(target, overwrite=False)
    with scoring(progress, f"{file.name}: validate") as count:
        if against is None:
            analysis = score_ensemble(file, criteria.recipe, criteria.overrides, criteria.reading)
            comparison, card = analysis.comparison, analysis.card
            if export and target is not None:
                analysis.write_pyerrors(target)
        else:
            truth = Against(user_path(against), criteria.of(file), [file])
            with samples_of(file, truth, trust=trust) as (samples, run):
                comparison, card = truth.score(samples, count, run=run)
        if target is not None and not export:
            write_scores_to(target, comparison, card)
    return card


@isolated()
def load(
    run: str | PathLike[str],
    device: DeviceName = "auto",
    *,
    sampling: Mapping[str, Any] | None = None,
    uncorrected: bool = False,
    trust: bool = False,
) -> Sampler:
    """Return what generates samples of a run, in memory or into files, loaded once.

    Where the recipe corrects its surrogate (`sampling.correction`), so are these samples: they are
    those that the scorecard judges, a Markov chain each block. The torch module itself is its
    `surrogate`, in evaluation mode.

    Args:
        run: a run directory whose training has finished; or a registered model of such a one,
            "models:/NAME@ALIAS", in MLFLOW_TRACKING_URI or runs/mlflow.db.
        device: where to compute; another device draws other random numbers.
        sampling: changes to the recipe's section `sampling`, {"sampler.steps": 50}; the verdict of
            the run is not about such samples, and files say what was changed.
        uncorrected: generate the surrogate's own samples, with `log_weight`, where the recipe
            corrects them.
        trust: run the code that the recipe of the run names; see `validate`.

    Raises:
        CheckpointError: there is no finished surrogate, or a file of it was changed.
        InputError: nothing corrects these samples, and they are asked for `uncorrected`; or there
            is no such model or alias.

    >>> import tempfile
    >>> small = {"system.shape": [4, 4], "engine.steps": 2, "engine.batch_size": 8}
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     run = train("phi4-coupling", small, runs=runs, score=False, track=False)
    ...     sampler = load(run.path)
    ...     written = sampler.write(f"{runs}/fields.h5", 5, seed=1)
    ...     first, again = sampler.sample(3, seed=1), sampler.sample(3, seed=1)
    >>> written.name, bool((first.x == again.x).all())
    ('fields.h5', True)
    """
    for key in sampling or {}:
        if key.partition(".")[0] in ("n", "seed"):
            raise InputError(
                f"sampling.{key} is of what is validated; how many samples to generate, from which "
                "seed, are arguments of their own (-n, --seed)"
            )
    registered = Registered(os.fspath(run)) if is_registered(run) else None
    opened = Run(user_path(run) if registered is None else registered.run, trust, sampling or {})
    opened.check()
    surrogate = opened.load().to(choose_device(device))
    corrected = opened.corrected(surrogate, proposals=uncorrected)
    if uncorrected and opened.recipe.sampling.correction == "none":
        raise InputError(
            f"{opened.path}: nothing corrects these samples (sampling.correction is none); leave "
            "`uncorrected` out"
        )
    facts = {
        "recipe": opened.recipe.name,
        "run": opened.path.name if registered is None else registered.model,
        "correction": "none" if corrected is None else corrected.method,
    }
    if uncorrected and corrected is not None and corrected.reference is not None:
        facts["log_weight"] = f"of mean Z/{corrected.reference.name}"
    if opened.sampling:
        facts["sampling"] = json.dumps(dict(opened.sampling))
    return Sampler(surrogate, corrected, lambda: opened.system, opened.conditions_in, facts)


@isolated()
def generate(
    run: str | PathLike[str],
    n: Whole,
    seed: Whole = 1,
    condition: Condition | None = None,
    device: DeviceName = "auto",
) -> Batch:
    """Return samples of a run: `load(run, device).sample(n, seed, condition)`.

    Raises:
        CheckpointError: there is no finished surrogate, or a file of it was changed.
        DomainError: a condition is unknown, missing, or outside the trained domain.
        InputError: an argument cannot be understood.

    >>> import tempfile
    >>> small = {"system.shape": [4, 4], "engine.steps": 2, "engine.batch_size": 8}
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     run = train("phi4-coupling", small, runs=runs, score=False, track=False)
    ...     generate(run.path, 3, seed=1).x.shape
    torch.Size([3, 4, 4])
    """
    return load(run, device).sample(n, seed, condition)


@isolated()
def track(
    run: str | PathLike[str], uri: str | None = None, *, alias: str | None = None
) -> dict[str, Any]:
    """Bring MLflow up to date with a run; safe to repeat. Its model may be given an alias."""
    return vars(sync_apart(user_path(run), uri, alias))


@contextmanager
def samples_of(
    target: Path, truth: Against, *, trust: bool = False
) -> Iterator[tuple[Path, Run | None]]:
    """Yield a file of samples, and the run that they are of.

    Those of a run are drawn into a file that is removed afterwards, at the conditions of the true
    samples, row by row, if these have any.
    """
    if not may_be_run(target):
        yield target, None
        return
    sampler = load(target, sampling=truth.sampling, trust=trust)
    given = sampler.conditions_in(truth.path) if sampler.schema.condition else None
    n = min(len(truth), truth.recipe.sampling.n) if given is None else len(given)
    with TemporaryDirectory(prefix="physgen-") as folder:
        file = Path(folder) / "samples.hdf5"
        with conditions_of_file(truth.path):
            sampler.write(file, n, condition=given)
        yield file, Run(target, trust, truth.sampling)


def _open_run(
    recipe: str | PathLike[str],
    overrides: Mapping[str, Any] | None,
    preset: str | None,
    runs: Path,
    sections: Mapping[str, Mapping[str, Any]],
    trust: bool,
) -> tuple[Run, bool]:
    """Return the run, and whether this call made its directory."""
    changes = dict(overrides or {})
    changes |= {f"{name}.{key}": v for name, part in sections.items() for key, v in part.items()}
    # A name is that of a recipe, even beside a folder of the same name.
    if user_path(recipe).is_dir() and str(recipe) not in shipped_recipes():
        if changes or preset:
            raise InputError(
                f"{recipe} is a run: its recipe cannot be changed. Resume it without overrides, "
                "or train its recipe by name to start another run"
            )
        return Run(user_path(recipe), trust), False
    return Run.create(read(recipe, changes, preset), runs)
