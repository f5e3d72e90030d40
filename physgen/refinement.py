"""The verb `refine`: a file of fast events in, the same file with full ones out.

Columns that refinement changes stand in the new file beside the old ones, which are called
`X_unrefined` there; a reweighting changes the weights alone. All else in the file is passed
through (`physgen.io.replacing`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physgen import card as cards
from physgen.arguments import Whole, user_path, whole
from physgen.batch import Batch, Variable
from physgen.errors import InputError
from physgen.generation import Sampler, conditions_of_file, generate_blocks
from physgen.io.formats import format_of
from physgen.io.replacing import RATIO, WEIGHT, check_output, copy_with
from physgen.io.shipped import resolve_path
from physgen.io.trees import open_root, tree_names
from physgen.io.writer import refuse_existing
from physgen.isolation import isolated
from physgen.pipeline import load
from physgen.run import Run
from physgen.systems.event_files import located
from physgen.systems.events import EventTable
from physgen.training import Progress
from physgen.version import __version__

LOG = logging.getLogger("physgen")


@isolated()
def refine(
    run: str | PathLike[str],
    file: str | PathLike[str],
    output: str | PathLike[str],
    *,
    seed: Whole = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a file of fast events with full ones in their place, the old columns beside them.

    Args:
        run: trained on pairs (`data.fast`), or on two samples (`data.source`).
        file: ROOT, Parquet, HDF5 or npz, as that section describes it; all its rows are refined.
        output: file of the same format.
        seed: of what the full simulation adds at random.
        overwrite: replace an existing file.
        progress: called while it goes.

    Returns:
        file, events, verdict: of the run. refined, added: columns that have an old one beside them,
        and columns that the file did not have. lost: what could not be passed through.
        outside_domain: how many events are outside the trained domain, if any.
        sum_of_weights, effective_share: (sum w)^2 / (n sum w^2), where events have weights.

    Raises:
        CheckpointError: there is no finished surrogate, or a file of it was changed.
        DomainError: an event is outside the trained domain: its row is named; not with
            `sampling.extrapolate`.
        FormatError: the file is absent, unfit, empty, was refined before, or has a column of
            weights that the recipe does not name.
        InputError: the run does not make events from others, or the output exists.

    >>> import tempfile
    >>> from physgen.pipeline import train
    >>> small = {"engine.steps": 2, "data.source.path": "simulated:showers-fast/1/500"}
    >>> small |= {"data.target.path": "simulated:showers-full/2/500"}
    >>> with tempfile.TemporaryDirectory() as runs:
    ...     run = train("refine-dctr", small, runs=runs, score=False, track=False)
    ...     report = refine(run, "simulated:showers-fast/1/500", f"{runs}/refined.root")
    >>> report["events"], report["refined"], report["added"]
    (500, [], ['weight'])
    """
    opened, target, seed = Run(user_path(run)), user_path(output), whole("seed", seed)
    sampler = load(opened)
    section, table = _origin(opened)
    path = located(resolve_path(str(file), Path.cwd()))
    refuse_existing(target, overwrite)
    check_output(path, target)
    rows = sampler.conditions_in(path)

    def report_progress(done: int) -> None:
        if progress is not None:
            progress(f"{sampler.facts['recipe']}: refine", done, len(rows), {})

    with conditions_of_file(path):
        made = _made(sampler, rows, seed, report_progress)
    assert rows.condition is not None  # Rows of conditions have them.
    columns = _changed(section, made, rows.condition.to(sampler.surrogate.dtype))
    weight = rows.weight
    if made.weight is not None:
        weight = _weights(made.weight, rows.weight, path)
        name = table.card["weight"]
        columns[name or WEIGHT] = Variable(WEIGHT if name else RATIO, dtype="float64"), weight
    verdict = str(cards.read_card(opened.path / "surrogate").get("verdict", "not validated"))
    if verdict != "pass":
        LOG.warning("%s: the verdict of this run is: %s", opened.path, verdict)
    facts = {"physgen": __version__, **sampler.facts, "verdict": verdict, "seed": seed}
    facts["refined_from"] = path.name
    outside = sampler.outside_domain(len(rows), rows)
    facts |= {"outside_domain": outside} if outside else {}
    done = copy_with(
        path,
        target,
        columns,
        tree=_tree(path, table.card["tree"]),
        facts={"physgen_provenance": json.dumps(facts)},
        overwrite=overwrite,
    )
    for one in done.lost:
        LOG.warning("%s: cannot be written, and is left out", one)
    report = {
        "file": str(target),
        "events": len(rows),
        "verdict": verdict,
        **{"refined": list(done.new), "added": list(done.added), "lost": list(done.lost)},
    }
    report |= {"outside_domain": outside} if outside else {}
    if weight is not None:
        w = weight.double()
        report["sum_of_weights"] = float(w.sum())
        report["effective_share"] = float(w.sum() ** 2 / w.square().sum() / len(w))
    return report


def _origin(run: Run) -> tuple[str, EventTable]:
    """Return the data section whose files can be refined, and the table that reads them."""
    data, name = run.origin, run.recipe.inputs[0] if run.recipe.inputs else ""
    if data is None and run.data is not None and run.data.partner is not None:
        data, name = run.data.partner, str(run.data.section.paired_with)
    if data is None or not isinstance(data.system, EventTable):
        raise InputError(
            f"{run.path}: this surrogate makes no events from others; train a recipe such as "
            "refine-bridge, whose `data` names two tables of events, or use `physgen generate`"
        )
    return name, data.system


def _made(
    sampler: Sampler,
    rows: Batch,
    seed: int,
    report_progress: Callable[[int], None],
) -> Batch:
    """Return what the surrogate makes of the rows of a file, with the ratios of their weights."""
    parts, done = [], 0
    made = generate_blocks(sampler.surrogate, len(rows), seed=seed, condition=rows.condition)
    for part in made:
        parts.append(part)
        done += len(part)
        report_progress(done)
    return Batch.concatenate(parts).replace(schema=sampler.schema)


def _changed(section: str, made: Batch, given: Tensor) -> dict[str, tuple[Variable, Tensor]]:
    """Return the columns that are not what they were, in the precision that they were `given`."""
    assert made.schema is not None  # `_made` sets it.
    places = {variable.name: i for i, variable in enumerate(made.schema.condition)}
    changed = {}
    for variable, column in zip(made.schema.variables, made.x.unbind(1), strict=True):
        place = places.get(f"{section}_{variable.name}")
        if place is None or not torch.equal(column, given[:, place].to(column)):
            changed[variable.name] = variable, column
    return changed


def _weights(ratio: Tensor, weight: Tensor | None, path: Path) -> Tensor:
    """Return event weights times density ratios, with the sum that they had, negative ones too."""
    old = torch.ones_like(ratio) if weight is None else weight
    old, new = old.double(), old.double() * ratio.double()
    before, after = float(old.sum()), float(new.sum())
    if not before * after > 0:
        raise InputError(
            f"{path}: the weights of its {len(old)} events sum to {before:g}, and to {after:g} "
            "times the density ratios, so that reweighting cannot keep their sum; refine more "
            "events together, or by a bridge or translator, which leave weights as they are"
        )
    return new * (before / after)


def _tree(path: Path, name: str | None) -> str | None:
    """Return the tree of the recipe if a file has it; else the only one is taken."""
    return name if format_of(path) == "ROOT" and name in tree_names(open_root(path)) else None
