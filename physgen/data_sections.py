"""The data sections of a recipe: one, or several by name, and what they are to each other.

Of several, each is an input of the method, unless another one is `paired_with` it: then its rows
are the conditions of the other's, and the two are one input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from physgen.errors import RecipeError, suggest
from physgen.io.arrays import Axes
from physgen.io.cards import Columns, Names, Paths
from physgen.registry import Section, lookup

_NAME = re.compile(r"[A-Za-z]\w*")


class Files(Section):
    """A file of samples, and what a system has to know to read it.

    Attributes:
        path: of the file, a pattern (part_*.root) or a list of files of one layout.
    """

    path: Paths | None = None
    binning: str | None = None
    tree: str | None = None
    fields: Columns | None = None
    condition: Columns | None = None
    weight: str | None = None
    group: Names | None = None
    axes: Axes | None = None


class Data(Files):
    """Where the samples come from: `n` simulated ones, or the user's file.

    Attributes:
        n, seed: how many samples to simulate, from which seed.
        split: fractions of training, validation and test rows of a file.
        fit_rows: how many training rows the transforms are fitted on.
        left_out: range [low, high] of the first condition whose rows are not learned from, so that
            the metric `condition-bins` may tell how well a surrogate interpolates.
        paired_with: the section whose rows are the conditions of these: the rows of the same
            `group` columns if both sections name some, else row by row.
    """

    n: int | None = Field(default=None, gt=0)
    seed: int = 1
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    fit_rows: int = Field(default=200_000, gt=0)
    left_out: tuple[float, float] | None = None
    paired_with: str | None = None

    def files(self) -> dict[str, Any]:
        """Return what is said of the file, by key."""
        return self.model_dump(include=set(Files.model_fields), exclude_none=True)


def _has_names(section: Any) -> Literal["one", "several"]:
    """Return whether a data section holds named ones."""
    if not isinstance(section, dict) or not section or set(section) & set(Data.model_fields):
        return "one"
    return "several" if all(isinstance(v, dict | Data | None) for v in section.values()) else "one"


Inputs = Annotated[
    Annotated[Data, Tag("one")] | Annotated[dict[str, Data], Tag("several")],
    Discriminator(_has_names),
]
"""A data section, or several by name: what a method learns from, as its `inputs` say."""


def by_name(data: Data | dict[str, Data] | None) -> dict[str, Data]:
    """Return the sections by name; one alone is called "data"."""
    return {"data": data} if isinstance(data, Data) else dict(data or {})


def inputs_of(sections: Mapping[str, Data], method: str) -> tuple[str, ...]:
    """Return the names of the sections that a method sees, in its order: what is modelled last.

    >>> fast, full = Data(path="fast.h5"), Data(path="full.h5", paired_with="fast")
    >>> inputs_of({"fast": fast, "full": full}, "maximum-likelihood")
    ('full',)
    """
    partners = {section.paired_with for section in sections.values()}
    names = [name for name in sections if name not in partners]
    if len(names) > 1:
        names.sort(key=lookup("methods", method).inputs.index)
    return tuple(names)


def check_inputs(data: Data | dict[str, Data] | None, method: str) -> None:
    """Raise `RecipeError` if sections do not fit each other, or are not what a method takes."""
    taken = lookup("methods", method).inputs
    if isinstance(data, Data):
        _check_alone(data, method, taken)
    elif data is not None:
        _check_pairs(data)
        _check_taken(data, method, taken)


def _check_alone(section: Data, method: str, taken: Sequence[str]) -> None:
    if section.paired_with is not None:
        raise RecipeError(
            "data.paired_with pairs a section with another; name them, as in "
            "`data: {fast: {path: ...}, full: {path: ..., paired_with: fast}}`"
        )
    if len(taken) > 1:
        raise RecipeError(
            f"method {method} learns from {_listed(taken)}: give each a section, as in "
            f"`data: {{{': {path: ...}, '.join(taken)}: {{path: ...}}}}`"
        )


def _check_pairs(sections: Mapping[str, Data]) -> None:
    for name, section in sections.items():
        other = section.paired_with
        if not _NAME.fullmatch(name):
            raise RecipeError(f"data.{name}: names of sections are letters and digits")
        if other is None:
            continue
        if other == name or other not in sections:
            others = [one for one in sections if one != name]
            raise RecipeError(
                f"data.{name}.paired_with = {other!r} is no other section{suggest(other, others)}"
            )
        for key in ("seed", "split", "fit_rows", "weight"):
            if getattr(sections[other], key) != Data.model_fields[key].default:
                raise RecipeError(
                    f"data.{other}.{key} has no effect, since data.{name} is paired with it: rows, "
                    f"split and weights are those of data.{name}; leave it out, or set it there"
                )
        if sections[other].paired_with is not None:
            raise RecipeError(f"data.{other}.paired_with: data.{name} is paired with it")


def _check_taken(sections: Mapping[str, Data], method: str, taken: Sequence[str]) -> None:
    partners = {section.paired_with for section in sections.values()}
    left = [name for name in sections if name not in partners]
    if len(left) > 1 and set(left) != set(taken):
        remedy = "name the sections so" if len(taken) == len(left) else "leave one out"
        raise RecipeError(
            f"method {method} learns from {_listed(taken)}, and the recipe has "
            f"{_listed([f'data.{name}' for name in left])}; pair one with the other by "
            f"`paired_with`, or {remedy}"
        )
    if len(left) == 1 and len(taken) > 1:
        missing = [f"data.{name}" for name in taken if name not in sections]
        remedy = f"name {_listed(missing)}" if missing else "leave out `paired_with`"
        raise RecipeError(
            f"method {method} learns from {_listed(taken)}, which are not paired: {remedy}"
        )
    first, target = inputs_of(sections, method)[0], inputs_of(sections, method)[-1]
    if (sections[first].split, sections[first].seed) != (
        sections[target].split,
        sections[target].seed,
    ) and sections[first].path == sections[target].path:
        raise RecipeError(
            f"data.{first} and data.{target} are the same file with another split or seed: rows "
            "that one trains on would test the other; take the same for both"
        )
    for name, section in sections.items():
        if section.path is None and (name != target or section.paired_with):
            raise RecipeError(
                f"data.{name}.path is missing: only samples that are modelled, and not paired with "
                "others, can be simulated"
            )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) or "no data"
