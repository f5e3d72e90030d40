"""A run directory: what a recipe became, and how to get its parts back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from physgen import card as cards
from physgen.arguments import user_path
from physgen.batch import Batch, Schema
from physgen.components import as_conditions, choose_sampling, surrogate_of, system_of
from physgen.conditions import rows_as_conditions
from physgen.engine.device import describe_machine, describe_revision
from physgen.errors import CheckpointError, RecipeError, printable
from physgen.io import consent, manifest
from physgen.io.documents import read_json
from physgen.io.writer import atomic
from physgen.isolation import global_generators
from physgen.recipe import Recipe, read
from physgen.registry import asks_for
from physgen.run_data import SIMULATED, RunData, inputs_of
from physgen.surrogates.base import Surrogate
from physgen.surrogates.correction import Corrected
from physgen.systems.base import HasAction, HasFiles, System, open_files
from physgen.tables import html_table
from physgen.validation.scorecard import Scorecard
from physgen.version import FORMAT, __version__

SCORECARD = "scorecard.json"
TRAINED = ("recipe.yaml", "provenance.json", "journal.jsonl", SIMULATED, "surrogate/")
"""What a training leaves in a run directory."""
SCORES = (SCORECARD, "samples.h5", "report.html", "plots/")
"""What a validation leaves there."""


@dataclass(frozen=True)
class Run:
    """A run directory and what is in it.

    What a finished run is made of stands in its `MANIFEST.sha256`, and is compared with it before
    it is used.

    Attributes:
        path: of the directory, absolute.
        trust: run the code that its recipe names, though the user never agreed to it.
        sampling: changes to the section `sampling` of its recipe, by dotted keys: how it is drawn
            from this time.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run, is_new = Run.create(read("ising-rbm"), Path(folder))
    ...     run.recipe.name, is_new, run.finished
    ('ising-rbm', True, False)
    """

    path: Path
    trust: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", user_path(self.path))

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        """Return where it is and what it has come to, for notebooks."""
        state = "trained" if self.finished else "not trained to its end"
        facts = {"recipe": self.recipe.name, "path": str(self.path), "training": state}
        if self.scored:
            facts["verdict"] = self.scorecard.verdict
            facts["report"] = str(self.path / "report.html")
            facts |= {f"warning {i}": text for i, text in enumerate(self.scorecard.warnings, 1)}
        return html_table("Run", [(key, printable(value)) for key, value in facts.items()])

    @classmethod
    def create(cls, recipe: Recipe, runs: Path) -> tuple[Run, bool]:
        """Return the run of a recipe that the user named, and whether its directory is new.

        The same recipe has the same run. To name a recipe is to agree to the code it names.
        """
        for code in recipe.code():
            if code.is_file():
                consent.agree(code)
        run = cls(runs / recipe.name / recipe.digest(), trust=True)
        is_new = not run.path.exists()
        run.path.mkdir(parents=True, exist_ok=True)
        if not (run.path / "recipe.yaml").exists():
            with atomic(run.path / "recipe.yaml", overwrite=True) as part:
                part.write_text(recipe.to_yaml(), encoding="utf-8")
        return run, is_new

    @property
    def started(self) -> bool:
        """Whether there is anything of a training."""
        return (self.path / "checkpoints").exists() or self.finished

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe; `RecipeError` if this is not a run directory."""
        path = self.path / "recipe.yaml"
        if not path.exists():
            inside = sorted(result.parent.name for result in self.path.glob("*/recipe.yaml"))
            remedy = (
                f"take one in it: {', '.join(inside)}" if inside else "`physgen train` makes one"
            )
            raise RecipeError(f"{self.path} is not a run directory (no recipe.yaml); {remedy}")
        self._check("recipe.yaml")
        self._check_format()
        return read(path, {f"sampling.{key}": value for key, value in self.sampling.items()})

    def _check_format(self) -> None:
        """Raise `CheckpointError` if another version of physgen wrote this run."""
        path = self.path / "provenance.json"
        result = read_json(path, CheckpointError) if path.exists() else {}
        if isinstance(result, dict) and result and result.get("format") != FORMAT:
            raise CheckpointError(
                f"{self.path} was written by physgen {result.get('physgen', 'of unknown version')} "
                f"(format {result.get('format', 1)} of runs), and this is {__version__} (format "
                f"{FORMAT}): train again, or use the version that wrote it"
            )

    def check_code(self) -> None:
        """Raise `InputError` if the recipe names code that the user has not agreed to run."""
        if not self.trust:
            for code in self.recipe.code():
                consent.check(code, self.path)

    @cached_property
    def system(self) -> System:
        """The physics; raises as `check_code` does."""
        self.check_code()
        return system_of(self.recipe)

    @property
    def finished(self) -> bool:
        """Whether training has ended and the surrogate is there."""
        return (self.path / manifest.NAME).exists()

    @property
    def scored(self) -> bool:
        """Whether a validation of the finished run has ended."""
        return self.finished and SCORECARD in manifest.read(self.path)

    @property
    def scorecard(self) -> Scorecard:
        """The scores of the last validation; `CheckpointError` if there was none."""
        if not self.scored:
            raise CheckpointError(f"{self.path} has no scorecard: run `physgen validate` on it")
        self._check(SCORECARD)
        return Scorecard.from_json((self.path / SCORECARD).read_text(encoding="utf-8"))

    def _check(self, *names: str) -> None:
        """Compare files, or all in a folder, with the manifest, if the run is finished."""
        manifest.within(self.path, names[0])
        if self.finished:
            manifest.check(self.path, lambda name: name.startswith(names))

    def check(self) -> None:
        """Raise `CheckpointError` unless surrogate, recipe and scores are as they were written."""
        self._check("surrogate/", "recipe.yaml", "provenance.json", SCORECARD)

    def check_trained(self) -> None:
        """Raise `CheckpointError` unless all that the training left is as it was written."""
        self._check(*TRAINED)

    def seal_training(self) -> None:
        """List what the training made in the manifest: the run is finished."""
        manifest.write(self.path, manifest.sums_of(self.path, TRAINED))

    def unseal_scores(self) -> None:
        """Take the scores off the manifest, before others take their place."""
        manifest.write(self.path, self._sums_of_training())

    def seal_scores(self, scores: Scorecard) -> None:
        """Write verdict and warnings on the card, and list card and scores in the manifest.

        A kill at any time leaves a whole run, scored or not.
        """
        folder = self.path / "surrogate"
        verdict = {
            "verdict": scores.verdict,
            "verdict_of": f"samples {scores.provenance.get('samples', '')}",
            "warnings": scores.warnings,
        }
        card = cards.read_card(folder) | verdict
        name = f"surrogate/{cards.CARD}"
        sums = self._sums_of_training()
        sums[name] |= {manifest.digest(cards.to_text(card).encode())}
        manifest.write(self.path, sums)
        cards.write_card(folder, card)
        manifest.write(self.path, sums | manifest.sums_of(self.path, (name, *SCORES)))

    def _sums_of_training(self) -> manifest.Sums:
        sums = manifest.read(self.path)
        return {name: some for name, some in sums.items() if name.startswith(TRAINED)}

    @cached_property
    def inputs(self) -> dict[str, RunData]:
        """What it is trained on, by the names of its method; raises as `check_code` does.

        The samples that are modelled come last; if there are others, they are made from those.
        """
        return inputs_of(self.recipe, self.system, self.path)

    @property
    def data(self) -> RunData | None:
        """The samples that are modelled, if the recipe has a data section."""
        return list(self.inputs.values())[-1] if self.inputs else None

    @property
    def origin(self) -> RunData | None:
        """The samples that those are made from, if there are any and the two are not paired."""
        return next(iter(self.inputs.values())) if len(self.inputs) > 1 else None

    @property
    def teacher(self) -> Run | None:
        """The run whose surrogate this one is distilled from or weighs, if its method names one."""
        method = self.recipe.method
        if not asks_for("methods", method, "trained"):
            return None
        path = method.options.get("teacher") or method.options.get("generator")
        return None if path is None else Run(Path(path), self.trust)

    @cached_property
    def schema(self) -> Schema:
        """What the surrogate generates, and at which conditions."""
        schema = self.system.schema
        if self.origin is None:
            return schema
        name, target = self.recipe.inputs
        if schema.condition:
            raise RecipeError(
                f"data.{target}: its samples have conditions, and are made from those of "
                f"data.{name}; leave the conditions out, or pair the two"
            )
        return replace(schema, condition=as_conditions(name, self.origin.system.schema))

    def conditions_in(self, path: Path, rows: tuple[int, int] | None = None) -> Batch:
        """Return rows of a file as conditions, (N, 0) samples, with their event weights.

        Of pairs, and of samples that are made from others, the file is one of those.

        Raises:
            FormatError: it is absent or unfit.
            RecipeError: the system reads no files, or some conditions are in none.
        """
        data = self.data
        other = self.origin or (None if data is None else data.partner)
        system = self.system if other is None else other.system
        if not isinstance(system, HasFiles):
            raise RecipeError(f"system {self.recipe.system.kind!r} has no files to read")
        source = open_files(system, path)
        wanted = self.schema.condition
        return rows_as_conditions(source, wanted, of_samples=other is not None, rows=rows)

    def training_sample(self) -> Batch | None:
        """Return training rows for all that is fitted once; `None` without data."""
        return None if self.data is None else self.data.training_sample()

    def build_surrogate(self) -> Surrogate:
        """Construct the surrogate of the recipe, untrained."""
        component, system = self.recipe.surrogate, self.system
        surrogate = surrogate_of(self.recipe.transform, component, self.schema, system)
        choose_sampling(self.recipe, surrogate)
        return surrogate

    def corrected(self, surrogate: Surrogate, *, proposals: bool = False) -> Corrected | None:
        """Return what the recipe's correction makes of its surrogate; `None` if there is none.

        Args:
            surrogate: trained, on the device to compute on.
            proposals: return what draws the proposals, with their log-weights.

        Raises:
            RecipeError: the system has no action, or the surrogate does not know its density.
        """
        method = self.recipe.sampling.correction
        if method == "none" or (proposals and method == "langevin"):
            return None  # Langevin steps begin at plain samples, without weights.
        if not isinstance(self.system, HasAction):
            raise RecipeError(
                f"sampling.correction: {method} needs an action, which system "
                f"{self.recipe.system.kind!r} has not; set sampling.correction=none"
            )
        return Corrected(surrogate, self.system.action, "none" if proposals else method)

    def load(self) -> Surrogate:
        """Return the trained surrogate, in evaluation mode on the CPU.

        The data it was trained on need not be there, nor the system where only its schema matters.
        """
        folder = self.path / "surrogate"
        component = self.recipe.surrogate
        if not self.finished:
            raise CheckpointError(
                f"{self.path} is not a finished run (no {manifest.NAME}); `physgen train` with the "
                "same recipe finishes it"
            )
        self._check("surrogate/", "recipe.yaml")
        description = cards.read_card(folder)
        physics = asks_for("surrogates", component, "system") or any(
            asks_for("transforms", part, "system") for part in self.recipe.transform
        )
        schema = Schema.from_dict(description["schema"])
        system = self.system if physics else None
        # Layers begin with random weights, which are not to be drawn from the host's generators.
        with global_generators(0):
            surrogate = surrogate_of(self.recipe.transform, component, schema, system)
        if self.teacher is not None and any(key.startswith("sampler") for key in self.sampling):
            raise RecipeError(
                "sampling.sampler: this surrogate was distilled, or its samples weighted, for the "
                "sampler of its recipe, and is of use with that alone; train again for another"
            )
        choose_sampling(self.recipe, surrogate)
        surrogate.to(getattr(torch, description["dtype"]))
        cards.load_weights(surrogate, folder, description)
        return surrogate.eval()

    def write_provenance(self, extra: Mapping[str, Any]) -> None:
        """Store what this run was made with, beside its recipe."""
        content = {
            "physgen": __version__,
            "format": FORMAT,
            "git": describe_revision(),
            "machine": describe_machine(),
            **extra,
        }
        with atomic(self.path / "provenance.json", overwrite=True) as part:
            part.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")

    @property
    def provenance(self) -> dict[str, Any]:
        """What this run was made with."""
        path = self.path / "provenance.json"
        if not path.exists():
            return {}
        self._check(path.name)
        content = read_json(path, CheckpointError)
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} is not what a training leaves; train again")
        return content
