"""A recipe: one typed YAML file a pipeline, checked as a whole before anything runs.

A recipe that says `extends: OTHER.yaml` (relative to its own folder, or the name of a shipped one)
is that one with its own sections laid over it, key by key: a section of another `kind` replaces the
one below, lists are replaced, and `null` removes. What recipes of one task share lies in files
`base*`, which are no recipes themselves.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from physgen.arguments import plain, user_path
from physgen.data_sections import Data, Inputs, by_name, check_inputs, inputs_of
from physgen.engine.options import Engine
from physgen.errors import RecipeError, errors_of, suggest
from physgen.io.documents import explain, read_yaml, shown
from physgen.io.shipped import shipped_recipes
from physgen.overrides import located, put
from physgen.plugins import claimed, packages_of, require
from physgen.registry import Component, Group, Section, lookup, options_model
from physgen.surrogates.correction import Correction
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.version import FORMAT, __version__

MAIN = ("ising-rbm", "phi4-flow", "calo-flow", "events-flow")
"""The shipped recipes to begin with, one a field."""

_NAME = re.compile(r"\w[\w .+=-]{0,99}")
_DEEPEST = 20
"""Recipes that extend one another, in a chain."""


class Sampling(Section):
    """How the samples that are validated are drawn.

    Attributes:
        n: how many.
        correction: what makes them exact, for a system with an action; see
            `physgen.surrogates.correction`.
        sampler: how a diffusion model draws them.
        truncation: how far from the middle of its latent space a generator of an adversarial
            network draws, see `Generator.truncate`; less is better samples of fewer kinds.
        extrapolate: accept conditions outside the trained domain, where nothing is known of the
            samples; files and scorecards say how many there are.
    """

    n: int = Field(default=16_384, gt=0)
    seed: int = 1
    correction: Correction = "none"
    sampler: SamplerOptions | None = None
    truncation: float | None = Field(default=None, gt=0)
    extrapolate: bool = False


class Validation(Section):
    """Which metrics stand on the scorecard."""

    metrics: tuple[Component, ...] = ()


class Recipe(Section):
    """One pipeline: system + data + transform + surrogate + method + engine + validation.

    `plugins` are the packages beside physgen whose components it names; those installed are found.
    """

    name: str
    summary: str = ""
    plugins: tuple[str, ...] | None = None
    system: Component
    data: Inputs | None = None
    transform: tuple[Component, ...] = ()
    surrogate: Component
    method: Component
    engine: Engine = Engine()
    sampling: Sampling = Field(default_factory=Sampling)
    baseline: Component | None = None
    validation: Validation = Validation()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        # Runs lie in a folder of this name, which must not lead anywhere else.
        if not _NAME.fullmatch(name):
            raise ValueError(
                "it names the folder of the runs: begin with a letter or digit, and go on with at "
                "most 99 of these, spaces, and . _ + = -"
            )
        return name

    @property
    def sections(self) -> dict[str, Data]:
        """The data sections by name; one alone is called "data"."""
        return by_name(self.data)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the sections that the method sees, the one to be modelled last."""
        return inputs_of(self.sections, self.method.kind)

    @property
    def target(self) -> Data | None:
        """The data section whose samples are modelled."""
        return self.sections[self.inputs[-1]] if self.data else None

    @field_validator("data", mode="before")
    @classmethod
    def _removed(cls, data: Any) -> Any:
        # `data.source=null` takes a section away, as null does everywhere in recipes.
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}

    def components(self) -> list[tuple[str, Group, Component]]:
        """Return (place in the recipe, group, component) of all classes it names."""
        named: list[tuple[str, Group, Component]] = [("system", "systems", self.system)]
        named += [(f"transform.{i}", "transforms", c) for i, c in enumerate(self.transform)]
        named += [("surrogate", "surrogates", self.surrogate), ("method", "methods", self.method)]
        if self.baseline is not None:
            named.append(("baseline", "surrogates", self.baseline))
        metrics = enumerate(self.validation.metrics)
        named += [(f"validation.metrics.{i}", "metrics", c) for i, c in metrics]
        return named

    def kinds(self) -> Iterator[tuple[Group, str]]:
        """Yield (group, name) of all classes it names, the bijection of a flow among them."""
        yield from ((group, component.kind) for _, group, component in self.components())
        bijection = self.surrogate.options.get("bijection")
        if isinstance(bijection, Mapping):
            yield "bijections", str(bijection.get("kind"))

    def code(self) -> list[Path]:
        """Return the Python files it names, which are run when its system is built."""
        named = [self.system.options.get(key) for key in ("action", "simulator")]
        return [Path(n.rpartition(":")[0]) for n in named if isinstance(n, str) and ":" in n]

    def to_yaml(self) -> str:
        """Return the resolved recipe, readable by `read`."""
        data = json.loads(self.model_dump_json(exclude_none=True))
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """Return 10 hexadecimal digits that change with anything in the recipe."""
        text = f"{__version__}, format {FORMAT}\n{self.to_yaml()}"
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def read(
    recipe: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> Recipe:
    """Read a recipe and check all of it, without running anything.

    Args:
        recipe: name of a shipped recipe, or path of a YAML file.
        overrides: dotted keys to values, such as {"engine.steps": 2000}.
        preset: name of a set of overrides in the recipe's `presets`, applied first.

    Raises:
        RecipeError: with the file, the key, and what was meant.

    >>> recipe = read("ising-rbm", {"engine.steps": 10}, preset="smoke")
    >>> recipe.engine.steps, recipe.engine.batch_size, recipe.surrogate.kind
    (10, 256, 'rbm')
    """
    path, layers = layered(recipe, overrides, preset)
    return check(layers[-1].tree, str(path))


@dataclass(frozen=True)
class Layer:
    """A recipe as far as it is known after one of its parts.

    Attributes:
        origin: what was added: a file, a preset, or the overrides.
        tree: sections by name.
    """

    origin: str
    tree: dict[str, Any]


def layered(
    recipe: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> tuple[Path, list[Layer]]:
    """Return the file of a recipe, and the recipe after each of its parts, the last one whole.

    Raises:
        RecipeError: see `read`; what the sections say is not checked.
    """
    path = _find(recipe)
    layers, presets = _layers(path)
    tree = copy.deepcopy(layers[-1].tree)
    if preset is not None:
        if preset not in presets:
            raise RecipeError(f"recipe {path}: no preset {preset!r}{suggest(preset, presets)}")
        for key, value in presets[preset].items():
            put(tree, key, value)
        layers.append(Layer(f"preset {preset}", copy.deepcopy(tree)))
    if overrides:
        for key, value in overrides.items():
            put(tree, key, located(key, plain(value), Path.cwd()))
        layers.append(Layer("override", tree))
    return path, layers


def _find(recipe: str | os.PathLike[str], folder: Path | None = None) -> Path:
    """Return the file of a recipe: one relative to `folder`, or a shipped one by name."""
    path = user_path(recipe, folder)
    if path.suffix in (".yaml", ".yml"):
        return path
    known = shipped_recipes()
    if str(recipe) not in known and str(recipe) in claimed("recipes"):
        raise RecipeError(f"the recipe {str(recipe)!r} of a plugin is broken; see physgen doctor")
    if str(recipe) not in known:
        raise RecipeError(
            f"no recipe is called {str(recipe)!r}{suggest(str(recipe), known, first=MAIN)}"
        )
    return known[str(recipe)]


def _layers(
    path: Path, extended_by: tuple[Path, ...] = ()
) -> tuple[list[Layer], dict[str, dict[str, Any]]]:
    """Return the layers of a recipe's files, the bases first, and the presets of the last one.

    Paths are relative to the folder of the file that says them.
    """
    tree = read_yaml(path, RecipeError)
    if not isinstance(tree, dict):
        raise RecipeError(f"recipe {path} must be a mapping of sections, such as `system: ...`")
    if "like" in tree:
        raise RecipeError(
            f"recipe {path}: `like: {shown(tree['like'])}` is now `extends: {shown(tree['like'])}`"
        )
    other, presets = tree.pop("extends", None), _presets(path, tree.pop("presets", None))
    tree = dict(located("", tree, path.parent))
    if other is None:
        return [Layer(str(path), tree)], presets
    if path in extended_by or len(extended_by) > _DEEPEST:
        raise RecipeError(f"recipe {path} extends itself: {' -> '.join(map(str, extended_by))}")
    layers, _ = _layers(_find(str(other), path.parent), (*extended_by, path))
    return [*layers, Layer(str(path), _overlay(layers[-1].tree, tree))], presets


def _presets(path: Path, presets: Any) -> dict[str, dict[str, Any]]:
    """Return what presets set, dotted keys to values by name; paths are relative to the recipe.

    Raises:
        RecipeError: it is not a mapping of names to mappings of keys.
    """
    if presets is None:
        return {}
    if not isinstance(presets, dict):
        raise RecipeError(f"recipe {path}: presets = {shown(presets)} is not a mapping of names")
    settings: dict[str, dict[str, Any]] = {}
    for name, preset in presets.items():
        changes = {} if preset is None else preset
        if not isinstance(changes, dict) or not all(isinstance(k, str) for k in (name, *changes)):
            raise RecipeError(
                f"recipe {path}: preset {shown(name)}: {shown(preset)} is not a mapping of dotted "
                "keys, such as {engine.steps: 100}"
            )
        settings[name] = {k: located(k, value, path.parent) for k, value in changes.items()}
    return settings


def _overlay(base: dict[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Lay sections over those of `base`, key by key; another `kind` replaces a whole section."""
    result = dict(base)
    for key, value in tree.items():
        below = base.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            kind = below.get("kind")
            value = _overlay(below, value) if value.get("kind", kind) == kind else value
        result[key] = value
    return {key: value for key, value in result.items() if value is not None}


def presets_of(recipe: str | os.PathLike[str]) -> list[str]:
    """Return the names of a recipe's presets."""
    return list(_layers(_find(recipe))[1])


def check(tree: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Turn a parsed recipe into a `Recipe`, naming the first key that is wrong."""
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{where}: {explain(error, Recipe)}") from error
    with errors_of(f"{where}: plugins"):
        require(recipe.plugins or ())
    for place, group, component in recipe.components():
        model = None
        try:
            model = options_model(lookup(group, component.kind))
            model(**component.options)
        except ValidationError as error:
            raise RecipeError(f"{where}: {explain(error, model, place)}") from error
        except RecipeError as error:
            raise RecipeError(f"{where}: {place}.kind: {error}") from error
    try:
        check_inputs(recipe.data, recipe.method.kind)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    found = packages_of(recipe.kinds())
    return recipe.model_copy(update={"plugins": found}) if found else recipe
