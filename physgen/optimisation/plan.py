"""What is to be optimised, and how: one typed YAML file, as recipes are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from numpy import float64
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator
from torch import Tensor

from physgen.arguments import user_path
from physgen.engine.options import Engine
from physgen.errors import DomainError, InputError, RecipeError, suggest
from physgen.io.documents import explain
from physgen.io.shipped import shipped, shipped_folder
from physgen.ranges import Positive, PositiveFloat, Share
from physgen.recipe import Recipe, layered
from physgen.registry import Component, Section, lookup, options_model
from physgen.systems.design_problems import PROBLEMS, DesignProblem, Objective
from physgen.systems.external import external, is_command
from physgen.systems.simulators import OwnSimulator
from physgen.version import __version__

FOLDER = "pipelines/optimisation"
Array = NDArray[float64]
Algorithm = Literal["l-gso", "differences", "score-function", "bayesian"]


class Optimisation(Section):
    """Parameters of a simulator that make the mean of an objective small.

    Attributes:
        name: of the folder of its runs.
        summary: what it is, in a sentence.
        simulator: built in (three-hump, rosenbrock, submanifold, absorber), or one's own as
            `physgen.systems.external` names it, of (N, P) parameters and a seed to (N, D) data.
        parameters: of one's own: mappings with the attributes of
            `physgen.systems.simulators.Parameter`; the ends of a uniform prior are bounds.
        start: value of each parameter to begin with, by name.
        objective: name of a column of the data, or FILE.py:FUNCTION, of (N, D) torch data to (N,).
            Built-in simulators have theirs.
        inputs: columns of the data that the simulator draws and then uses, so that they do not
            depend on the parameters: the surrogate is told them, and noise that they explain is
            none to it.
        algorithm: "l-gso" (local surrogates), or what it is compared with: central "differences",
            the "score-function" of a normal distribution of the parameters, "bayesian" (optuna).
        steps: how many gradients, or trials.
        points: parameters of a step: of a Latin hypercube in the region, or drawn from the normal
            distribution. Differences take two a parameter, Bayesian trials one.
        draws: calls of the simulator at each point.
        region: half the width of the trust region, in units of the parameters, for all or by name;
            the step of differences, and the deviation of the normal distribution.
        reach: how far, in units of `region`, the earlier calls lie that surrogates learn from too.
        smoothing: over which share of the region gradients of surrogates are averaged; 0 takes them
            at its middle. Differences average likewise, along a line.
        learning_rate: of Adam, in units of `region`.
        schedule: of the learning rate; "cosine" lets it fall to 0 at the last step.
        final: fresh calls of the simulator at the parameters that are found.
        at_once: calls that are made together; those that have returned are never lost.
        seed: of all random numbers.
        transform, surrogate, method, engine: of the surrogate, as in recipes; trained anew in each
            step.
    """

    name: str
    summary: str = ""
    simulator: str
    parameters: tuple[dict[str, Any], ...] = ()
    start: dict[str, float] = Field(default_factory=dict)
    objective: str = ""
    inputs: tuple[str, ...] | None = None
    algorithm: Algorithm = "l-gso"
    steps: Positive = 50
    points: Positive = 10
    draws: Positive = 100
    region: PositiveFloat | dict[str, PositiveFloat] = 0.5
    reach: float = Field(default=1.0, ge=1)
    smoothing: Share = 1.0
    learning_rate: PositiveFloat = 0.2
    schedule: Literal["constant", "cosine"] = "constant"
    final: int = Field(default=10_000, ge=2)
    at_once: Positive = 10_000
    seed: int = Field(default=1, ge=0)
    transform: tuple[Component, ...] = (Component(kind="standardise"),)
    surrogate: Component = Component(kind="flow")
    method: Component = Component(kind="maximum-likelihood")
    engine: Engine = Engine(steps=300)

    _names_a_folder = field_validator("name")(Recipe._names_a_folder.__func__)  # type: ignore[attr-defined]

    def to_yaml(self) -> str:
        """Return all settings."""
        data = json.loads(self.model_dump_json(exclude_none=True))
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def read_optimisation(
    problem: str | PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> Optimisation:
    """Read a file of settings, and check all of it, without running anything.

    Args:
        problem: name of a shipped one, or path of a YAML file.
        overrides: dotted keys to values.
        preset: a named set of overrides of the file, applied first.

    Raises:
        RecipeError: with the file, the key, and what was meant.

    >>> read_optimisation("three-hump", {"steps": 3}).steps
    3
    """
    path = user_path(problem)
    if path.suffix not in (".yaml", ".yml"):
        files = shipped_folder(FOLDER).glob("*.yaml")
        known = [file.stem for file in files if not file.stem.startswith("base")]
        if str(problem) not in known:
            raise RecipeError(
                f"no problem of optimisation is called {str(problem)!r}"
                f"{suggest(str(problem), known)}; or give a YAML file"
            )
        path = shipped(FOLDER, f"{problem}.yaml")
    tree = layered(path, overrides, preset)[1][-1].tree
    try:
        plan = Optimisation.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error, Optimisation)}") from error
    parts: list[tuple[str, Any, Component]] = [
        (f"transform.{i}", "transforms", part) for i, part in enumerate(plan.transform)
    ]
    parts += [("surrogate", "surrogates", plan.surrogate), ("method", "methods", plan.method)]
    for place, group, part in parts:
        model = None
        try:
            model = options_model(lookup(group, part.kind))
            model(**part.options)
        except ValidationError as error:
            raise RecipeError(f"{path}: {explain(error, model, place)}") from error
        except RecipeError as error:
            raise RecipeError(f"{path}: {place}.kind: {error}") from error
    return plan


@dataclass(frozen=True)
class Problem:
    """A plan with the functions that it names.

    Attributes:
        plan: what was read.
        design: simulator and objective.
        start, region: (P,) in the order of the parameters.
        low, high: (P,) bounds.
        code: SHA-256 of all code of the user.
    """

    plan: Optimisation
    design: DesignProblem
    start: Array
    region: Array
    low: Array
    high: Array
    code: str

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return tuple(parameter.name for parameter in self.design.simulator.parameters)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the data."""
        return tuple(variable.name for variable in self.design.simulator.data)

    def values(self, data: Tensor) -> Tensor:
        """Return the (N,) objective of (N, D) data.

        Raises:
            DomainError: it has another shape, or is not finite.
        """
        values = self.design.objective(data)
        if not isinstance(values, Tensor) or values.shape != (len(data),):
            found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise DomainError(
                f"objective {self.plan.objective}: returns {found} for data of shape "
                f"{tuple(data.shape)}; expected a torch tensor ({len(data)},)"
            )
        if not values.isfinite().all():
            row = int((~values.isfinite()).nonzero()[0])
            raise DomainError(
                f"objective {self.plan.objective}: is {values[row].item()} at the data "
                f"{[round(v, 6) for v in data[row].tolist()]}"
            )
        return values


def digest_of(plan: Optimisation) -> str:
    """Return 10 hexadecimal digits that change with the settings, and with the user's code."""
    code = [f"{__version__}\n{plan.to_yaml()}"]
    for key in ("simulator", "objective"):
        name = getattr(plan, key)
        if ":" in name or is_command(name):
            code.append(external(name, key)[1])
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:10]


def problem_of(plan: Optimisation, calls: Path | None = None) -> Problem:
    """Return what a plan names; data of a simulator of one's own are kept in the folder `calls`.

    Raises:
        InputError: something of it is not there, or does not fit.
        DomainError: the start is outside the bounds.
    """
    design = _design(plan, calls)
    parameters, data = design.simulator.parameters, [v.name for v in design.simulator.data]
    names = [parameter.name for parameter in parameters]
    for name in design.inputs:
        if name not in data:
            raise InputError(
                f"inputs: no column of the data is called {name!r}{suggest(name, data)}"
            )
    if len(set(design.inputs)) == len(data):
        raise InputError("inputs: all columns of the data; one at least depends on the parameters")
    for key, given in (("start", design.start), ("region", plan.region)):
        if isinstance(given, Mapping):
            for name in given:
                if name not in names:
                    raise InputError(
                        f"{key}: no parameter is called {name!r}{suggest(name, names)}"
                    )
            for name in names:
                if name not in given:
                    raise InputError(f"{key}: says nothing of the parameter {name!r}")
    low, high = np.array([parameter.variable.range for parameter in parameters]).T
    start = np.array([design.start[name] for name in names], float64)
    for name, value, a, b in zip(names, start, low, high, strict=True):
        if not a <= value <= b:
            raise DomainError(f"start: {name} = {value:g} is outside its bounds [{a:g}, {b:g}]")
    size = plan.region
    region = [size[name] if isinstance(size, dict) else size for name in names]
    return Problem(plan, design, start, np.array(region, float64), low, high, digest_of(plan))


def _design(plan: Optimisation, calls: Path | None) -> DesignProblem:
    own = ":" in plan.simulator or is_command(plan.simulator)
    if not own:
        known = PROBLEMS.get(plan.simulator)
        if known is None:
            raise RecipeError(
                f"simulator: none is called {plan.simulator!r}{suggest(plan.simulator, PROBLEMS)}; "
                "name one of your own as FILE.py:FUNCTION, MODULE:FUNCTION, or a command with "
                "{parameters} and {data}"
            )
        if plan.parameters:
            raise RecipeError(f"parameters: those of {plan.simulator} are built in; leave them out")
        objective = known.objective
        if plan.objective:
            objective = _objective(plan.objective, [v.name for v in known.simulator.data])
        inputs = known.inputs if plan.inputs is None else plan.inputs
        return DesignProblem(known.simulator, objective, {**known.start, **plan.start}, inputs)
    if not plan.objective:
        raise RecipeError(
            "objective: say what is to be small, a column of the data (x0) or FILE.py:FUNCTION"
        )
    simulator = OwnSimulator(plan.simulator, plan.parameters, calls, "parameters")
    objective = _objective(plan.objective, [v.name for v in simulator.data])
    return DesignProblem(simulator, objective, plan.start, plan.inputs or ())


def _column(index: int, data: Tensor) -> Tensor:
    return data[:, index]


def _objective(name: str, columns: list[str]) -> Objective:
    if name in columns:
        return partial(_column, columns.index(name))
    if ":" not in name:
        raise RecipeError(
            f"objective: no column of the data is called {name!r}{suggest(name, columns)}; or name "
            "a function of your own, FILE.py:FUNCTION"
        )
    function = external(name, "objective")[0]

    def objective(data: Tensor) -> Tensor:
        try:
            result: Tensor = function(data)
        except Exception as error:
            raise InputError(
                f"objective {name}: fails on data of shape {tuple(data.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        return result

    return objective


def tensor(array: Array) -> Tensor:
    """Return an array as a tensor that nothing else changes."""
    return torch.from_numpy(np.array(array, float64))
