"""Files of samples, and runs, against one file of true samples; no surrogate is needed for files.

The truth is cut in two halves, the second of which gives the floor; as many generated samples are
used. Rows that follow one another are Markov chains; files at the same conditions, row by row, are
paired (`physgen.validation.sources`). The metrics are those of a recipe, without the limits that it
sets to its own surrogate, and the hypothesis of one distribution is tested; unless the user states
metrics with limits, which decide then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from os import PathLike
from pathlib import Path
from typing import Any

from physgen.arguments import user_path
from physgen.batch import Batch
from physgen.components import system_of
from physgen.errors import FormatError, InputError
from physgen.io.lattice.configuration import AS_STATED, Reading
from physgen.io.shards import may_be_run
from physgen.io.shipped import shipped_recipes
from physgen.io.source import blocks
from physgen.run import Run
from physgen.samples_in_files import open_samples, recipe_for, refuse_damaged
from physgen.scoring import (
    LIMITS,
    Count,
    metrics_for_files,
    metrics_of,
    training_rows_of,
)
from physgen.validation.comparison import Comparison, Role
from physgen.validation.geometries import assumed_geometry, geometry_facts
from physgen.validation.judging import judge
from physgen.validation.rows_read import look_at
from physgen.validation.scorecard import Row, Scorecard
from physgen.validation.sources import TrueFile
from physgen.validation.training_rows import TrainingRows

HELD = 50_000_000
"""Numbers of each of three samples that are held, 190 MiB, unless `sampling.n` is stated."""

FEWEST_HELD = 5000
"""Rows that are held nevertheless."""


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """How files of samples are judged.

    Attributes:
        recipe: name of a recipe whose system they belong to; found from the format if absent.
        overrides: changes to that recipe; `data.fields` names columns of the true samples (of the
            others where there are none) unless `data.path` names another file, `data.binning` the
            geometry of CaloChallenge files.
        preset: of that recipe; "reference" of calo-flow is the evaluation of CaloChallenge.
        training: file of the rows that generators were trained on, to look for copies of them; a
            run knows its own.
        reading: how gauge configurations are read, that are analysed alone.

    >>> Criteria(preset="reference").recipe is None
    True
    """

    recipe: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    training: str | PathLike[str] | None = None
    reading: Reading = AS_STATED

    def of(self, sample: Path) -> Criteria:
        """Return these criteria for a sample: those of a run are those of its recipe."""
        if self.recipe is not None or not may_be_run(sample):
            return self
        return replace(self, recipe=str(Run(sample).path / "recipe.yaml"))


def outside_domain(run: Run, samples: Batch) -> Row | None:
    """Return a warning if samples of a run have conditions that it was not trained on."""
    outside = "" if samples.condition is None else run.load().conditions.outside(samples.condition)
    if not outside:
        return None
    warning = f"{outside}: nothing that was learnt holds there"
    return Row(name="domain", metric="domain", value=None, warning=warning)


class Against:
    """A file of true samples, read and measured once, that samples are judged by.

    Args:
        truth: the file.
        criteria: how they are judged; changes to the section `sampling` are those of runs, too.
        samples: what will be judged; where nothing tells whose samples these are, a damaged file,
            be it of training rows, is named first.
    """

    def __init__(self, truth: Path, criteria: Criteria, samples: Sequence[Path] = ()) -> None:
        self.path = truth
        if criteria.reading != AS_STATED:
            raise InputError(
                "--shape, --dataset, --order and --force are of gauge configurations that are "
                "analysed alone; to judge them --against others, convert them first, with the same "
                "options: physgen convert FILES ensemble.h5"
            )
        overrides, training = criteria.overrides, criteria.training
        self.sampling = {
            key.removeprefix("sampling."): value
            for key, value in overrides.items()
            if key.startswith("sampling.") and key not in ("sampling.n", "sampling.seed")
        }
        try:
            self.recipe = recipe_for(truth, criteria.recipe, overrides, criteria.preset)
        except InputError:
            trained = () if training is None else (user_path(training),)
            for sample in (truth, *samples, *trained):
                refuse_damaged(sample)
            raise
        self.system = system_of(self.recipe)
        self.file = TrueFile(self.system, open_samples(self.system, truth))
        self._wrong = look_at(self.file.source, self.system.schema)
        self._sha256 = self.file.source.digest()
        self._training = None if training is None else self._rows_of(user_path(training))
        stated = "validation.metrics" in overrides
        self._assumes = "data.binning" not in overrides and criteria.recipe in (
            None,
            *shipped_recipes(),
        )
        self.metrics = metrics_of(self.recipe) if stated else metrics_for_files(self.recipe)
        self._most = self.recipe.sampling.n
        if criteria.preset is None and "sampling.n" not in overrides:
            width = math.prod(self.system.schema.shape)
            self._most = min(self._most, max(FEWEST_HELD, HELD // max(1, width)))
        options = [part.options for part in self.recipe.validation.metrics] if stated else []
        self._tested = not any(key.startswith(LIMITS) for option in options for key in option)

    def _rows_of(self, training: Path) -> TrainingRows:
        source = open_samples(self.system, training)
        return TrainingRows(lambda: blocks(source), len(source))

    def _training_of(self, run: Run | None) -> TrainingRows | None:
        if self._training is not None or run is None:
            return self._training
        try:
            return training_rows_of(run)
        except FormatError:  # It may be judged where its data are not.
            return None

    def __len__(self) -> int:
        return len(self.file.source)

    def count(self, generated: Path) -> int:
        """Return how many samples of a file are used, beside half of the true ones at most."""
        n = len(open_samples(self.system, generated))
        return min(n, self._most)

    def score(
        self,
        generated: Path,
        progress: Count | None = None,
        *,
        limit: int | None = None,
        run: Run | None = None,
    ) -> tuple[Comparison, Scorecard]:
        """Judge the samples of a file.

        Args:
            generated: the file.
            progress: called after each metric, see `judge`.
            limit: rows that are used at most; `sampling.n` of the recipe if absent, of wide samples
                fewer (`HELD`).
            run: whose samples they are, if they are those of one.
        """
        n = self._most if limit is None else min(limit, self._most)
        source = open_samples(self.system, generated)
        wrong = look_at(source, self.system.schema)
        sample, samples = self.file.compared(source, n)
        comparison = Comparison(
            system=self.system,
            generated=sample,
            truth=samples.truth,
            floor=samples.floor,
            groups=samples.groups,
            paired=samples.paired,
            training=self._training_of(run),
            given=samples.measured,
            seed=self.recipe.sampling.seed,
        )
        used = len(sample)
        if samples.truth.chain is None and sample.chain is None:
            paired = "generated" in samples.paired
            most = 2 * self._most
            # Measured once for all metrics that ask for it.
            whole = cache(partial(self.file.whole, source, most, paired=paired))
            comparison = replace(comparison, whole=whole)
        provenance: dict[str, Any] = {
            "truth": {
                "file": str(self.path),
                "sha256": self._sha256,
                "rows": len(self.file.source),
                "used": 2 * used,
            },
            "generated": {
                "file": str(generated if run is None else run.path),
                "sha256": source.digest(),
                "rows": len(source),
                "used": used,
            },
            "paired": sorted(samples.paired),
            **geometry_facts(self.system, assumed=self._assumes),
        }
        if run is not None and run.sampling:
            provenance["sampling"] = dict(run.sampling)
        sides: dict[Role, Any] = {"truth": samples.truth, "generated": sample}
        for role, batch in sides.items():
            if batch.chain is not None:
                provenance[role]["chains"] = len(set(batch.chain.tolist()))
        card = judge(
            comparison,
            self.metrics,
            tested=self._tested,
            provenance=provenance,
            progress=progress,
        )
        extrapolated = None if run is None else outside_domain(run, sample)
        # What is said of all rows of a file takes the place of what is said of those drawn.
        found = (
            *([] if extrapolated is None else [extrapolated]),
            *assumed_geometry(self.system, (self.path, generated) if self._assumes else ()),
            *self._wrong.rows("true"),
            *wrong.rows("generated"),
        )
        names = {row.name for row in found}
        others = (row for row in card.rows if row.name not in names)
        return comparison, card.model_copy(update={"rows": (*others, *found)})
