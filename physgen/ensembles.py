"""Markov chains in files, analysed alone: means with their errors, without a second sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgen.components import system_of
from physgen.io.joined import expand
from physgen.io.lattice.folders import holds_configurations
from physgen.io.lattice.source import ConfigurationSource
from physgen.io.source import blocks
from physgen.registry import Component, build
from physgen.scoring import open_samples, recipe_for
from physgen.systems.base import System
from physgen.systems.ensemble import Ensemble
from physgen.systems.gauge_ensemble import GaugeEnsemble
from physgen.validation.comparison import Comparison
from physgen.validation.ensemble import analyse
from physgen.validation.scorecard import Row, Scorecard


def score_ensemble(
    file: Path, name: str | None, overrides: Mapping[str, Any]
) -> tuple[Comparison, Scorecard]:
    """Analyse a Markov chain: means with Gamma-method errors, and tau_int.

    With the recipe of a system, its exact and published values stand beside; without, only what
    needs no action is measured.
    """
    if name is None and holds_configurations(expand(file)[0]):
        return _score_configurations(file, overrides)
    if name is None:
        options = {k.removeprefix("system."): v for k, v in overrides.items() if k != "data.axes"}
        given = {"path": file, "axes": overrides.get("data.axes")}
        ensemble: Ensemble = build("systems", Component(kind="ensemble", **options), given)
        return analyse(
            ensemble, ensemble.parts(), len(ensemble.source), provenance={"file": str(file)}
        )
    system = system_of(recipe_for(file, name, overrides))
    source = open_samples(system, file)
    about = {"file": str(file)}
    if isinstance(source, ConfigurationSource):
        return _analyse_configurations(system, source, about)
    return analyse(system, blocks(source), len(source), provenance=about)


def _score_configurations(file: Path, overrides: Mapping[str, Any]) -> tuple[Comparison, Scorecard]:
    """Analyse gauge configurations in files, one alone without errors."""
    options = {key.removeprefix("system."): value for key, value in overrides.items()}
    ensemble: GaugeEnsemble = build(
        "systems", Component(kind="gauge-ensemble", **options), {"path": file}
    )
    return _analyse_configurations(ensemble, ensemble.source, {"file": str(file)})


def _analyse_configurations(
    system: System, source: ConfigurationSource, about: dict[str, Any]
) -> tuple[Comparison, Scorecard]:
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
    said = [
        Row(name="configurations", metric="files", value=len(source), warning=note)
        for note in source.notes()
    ]
    return comparison, card.model_copy(update={"rows": (*card.rows, *said)})
