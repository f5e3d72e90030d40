"""Markov chains in files, analysed alone: means with their errors, without a second sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from physgen.components import system_of
from physgen.errors import FormatError, InputError, suggest
from physgen.io.arrays import AXES_REMEDY
from physgen.io.documents import explain
from physgen.io.joined import expand
from physgen.io.lattice.arrays import links_hint
from physgen.io.lattice.configuration import AS_STATED, Reading
from physgen.io.lattice.folders import holds_configurations
from physgen.io.lattice.source import ConfigurationSource
from physgen.io.pyerrors import Replica, write_pyerrors
from physgen.io.source import HasNotes, Source, blocks
from physgen.registry import Component, build, lookup, options_model
from physgen.samples_in_files import open_samples, recipe_for
from physgen.systems.base import System
from physgen.systems.ensemble import Ensemble
from physgen.systems.gauge import Gauge
from physgen.systems.gauge_ensemble import GaugeEnsemble, theory_of_angles
from physgen.validation.comparison import Comparison
from physgen.validation.ensemble import analyse
from physgen.validation.scorecard import Row, Scorecard

_MOST_BINS = 4096
"""Of an observable with several values, as a correlation function has, that are written singly."""


@dataclass(frozen=True)
class Analysis:
    """What was measured of Markov chains, what follows, and which replica every value is of."""

    comparison: Comparison
    card: Scorecard
    replicas: Sequence[Replica]

    def write_pyerrors(self, path: Path, *, overwrite: bool = False) -> list[str]:
        """Write the observables, and the bins of those with several, as pyerrors reads them.

        Returns the names of those that were written; raises as
        `physgen.io.pyerrors.write_pyerrors` does.
        """
        measured = self.comparison.measured["generated"]
        if measured.weight is not None:
            raise InputError(
                f"{path}: these samples have weights, of which files for pyerrors know nothing"
            )
        columns = measured.columns(max_bins=_MOST_BINS)
        about = ", ".join(f"{name}: {value}" for name, value in self.card.provenance.items())
        return write_pyerrors(path, columns, self.replicas, description=about, overwrite=overwrite)


def score_ensemble(
    file: Path,
    name: str | None,
    overrides: Mapping[str, Any],
    reading: Reading = AS_STATED,
) -> Analysis:
    """Analyse a Markov chain: means with Gamma-method errors, and tau_int.

    With the recipe of a system, its exact and published values stand beside, and of angles of U(1)
    whose file states beta; without, only what needs no action is measured.

    Args:
        file: of one chain or several; a pattern, or a folder.
        name: of the recipe of a system, if there is one.
        overrides: changes to that recipe; without, options of what reads the files.
        reading: how gauge configurations are read.

    Raises:
        FormatError: the files cannot be read.
        InputError: a key is not known, or `reading` is of no use to these files.
    """
    if name is None and holds_configurations(expand(file)[0], reading.given):
        return _score_configurations(file, overrides, reading)
    if name is None and reading != AS_STATED:
        raise InputError(
            f"{file}: --shape, --dataset, --order and --force are of gauge configurations, and "
            "these are none; of another field say --set system.shape=[...] and --set "
            "system.dataset=NAME"
        )
    hint = links_hint(expand(file)[0]) if name is None and not overrides else None
    if hint is not None:
        raise FormatError(f"{file}: {hint}; of another field say --set system.shape=[...]")
    angles = theory_of_angles(expand(file)[0]) if name is None and not overrides else None
    if angles is not None:
        source = open_samples(angles, file)
        about: dict[str, Any] = {"file": str(file), "beta": angles.beta}
        return _in_turn(*analyse(angles, blocks(source), len(source), provenance=about))
    if name is None:
        ensemble: Ensemble = _built(
            "ensemble",
            {key: value for key, value in overrides.items() if key != "data.axes"},
            {"path": file, "axes": _axes(overrides.get("data.axes"))},
        )
        about = {"file": str(file)}
        return _in_turn(
            *analyse(ensemble, ensemble.parts(), len(ensemble.source), provenance=about)
        )
    system = system_of(recipe_for(file, name, overrides))
    if reading == AS_STATED:
        source = open_samples(system, file)
    elif isinstance(system, Gauge):
        source = system.open_ensemble(expand(file), reading)
    else:
        raise InputError(
            f"--shape, --dataset, --order and --force are of gauge configurations, and the system "
            f"of {name} is another"
        )
    about = {"file": str(file)}
    if isinstance(source, ConfigurationSource):
        return _analyse_configurations(system, source, about)
    comparison, card = analyse(system, blocks(source), len(source), provenance=about)
    return _in_turn(comparison, _noted(card, source))


def _in_turn(comparison: Comparison, card: Scorecard) -> Analysis:
    """Return an analysis of chains whose rows follow one another, numbered from 1."""
    chain = np.asarray(comparison.measured["generated"].chain)
    members = {label: np.flatnonzero(chain == label) for label in np.unique(chain).tolist()}
    return Analysis(
        comparison,
        card,
        [Replica(f"r{n}", rows, np.arange(1, 1 + len(rows))) for n, rows in members.items()],
    )


def _built(kind: str, overrides: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Return the system that reads files without a recipe; `InputError` for what is no option."""
    model = options_model(lookup("systems", kind))
    known = [f"system.{name}" for name in model.model_fields]
    known += ["data.axes"] if "axes" in given else []
    for key in overrides:
        if key not in known:
            raise InputError(
                f"--set {key}: of a Markov chain that is analysed alone there is no such key"
                f"{suggest(key, known)}"
            )
    options = {key.removeprefix("system."): value for key, value in overrides.items()}
    try:
        return build("systems", Component(kind=kind, **options), given)
    except ValidationError as error:
        raise InputError(f"--set {explain(error, model, 'system')}") from error


def _axes(value: Any) -> Any:
    """Return what `data.axes` says; `InputError` unless it is chain and time."""
    if value is not None and sorted(map(str, np.atleast_1d(value))) != ["chain", "time"]:
        raise InputError(f"--set data.axes={value}: name the first two axes, {AXES_REMEDY}")
    return value


def _score_configurations(file: Path, overrides: Mapping[str, Any], reading: Reading) -> Analysis:
    """Analyse gauge configurations in files, one alone without errors."""
    given = {key: value for key, value in vars(reading.given).items() if value is not None}
    given |= {"path": file, "force": True} if reading.force else {"path": file}
    ensemble: GaugeEnsemble = _built("gauge-ensemble", overrides, given)
    return _analyse_configurations(ensemble, ensemble.source, {"file": str(file)})


def _analyse_configurations(
    system: System, source: ConfigurationSource, about: dict[str, Any]
) -> Analysis:
    """Analyse gauge configurations at their places in Monte Carlo time, and say what is missing."""
    past = source.history
    about |= {"format": source.headers[0].format, "replicas": ", ".join(past.replicas)}
    about |= {"step": f"{past.step} trajectories"} if len(past.paths) > 1 else {}
    comparison, card = analyse(
        system,
        blocks(source),
        len(source),
        provenance=about,
        times=source.times,
        fewest=1,
    )
    return Analysis(comparison, _noted(card, source), _replicas(source, comparison))


def _noted(card: Scorecard, source: Source) -> Scorecard:
    """Return a scorecard with what the reader of the files has to say."""
    said = [
        Row(name="configurations", metric="files", value=len(source), warning=note)
        for note in (source.notes() if isinstance(source, HasNotes) else ())
    ]
    return card.model_copy(update={"rows": (*card.rows, *said)})


def _replicas(source: ConfigurationSource, comparison: Comparison) -> list[Replica]:
    """Return the replicas by the names of files, or by the numbers of chains in one.

    Values stand where `physgen.validation.gaps` has put them: replica after replica, a place for
    every step of Monte Carlo time.
    """
    chain = np.asarray(comparison.measured["generated"].chain)
    names, result = source.history.replicas, []
    for label in np.unique(source.replica).tolist():
        rows = source.replica == label
        places = np.flatnonzero(chain == label)[source.times[rows]]
        called = names[label] if len(source.headers) > 1 else f"r{label}"
        result.append(Replica(called, places, source.trajectory[rows]))
    return result
