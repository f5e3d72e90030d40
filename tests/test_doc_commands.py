"""Every command in README and docs is one that physgen takes; those of tutorials are run, small."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from physgen import catalogue
from physgen.cli import app
from physgen.comparing import read_plan
from physgen.overrides import parse_overrides
from physgen.recipe import read
from physgen.registry import registered
from physgen.scale.scan import Scan, parse_scan

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`(physgen [a-z][^`]*)`")
VERBS = typer.main.get_command(app)
OF_PLUGINS = {"strips-flow"}
"""Recipes of the package to copy, which `test_plugins.py` installs and trains."""


def commands(text):
    """Return the words of each command of physgen in a block of shell commands."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["physgen"]]


def all_commands():
    """Return (words, whether it is a whole command and no mention of one) of all pages."""
    every = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [block for kind, block in BLOCK.findall(text) if kind == "sh"]
        found = [(words, True) for block in blocks for words in commands(block)]
        inline = " ".join(BLOCK.sub("", text).split())
        found += [(shlex.split(line)[1:], False) for line in INLINE.findall(inline)]
        name = page.relative_to(ROOT).as_posix()
        every += [pytest.param(*one, id=f"{name}: {' '.join(one[0])}") for one in found]
    return every


def is_placeholder(word):
    """Whether a word stands for one that the reader knows: FILE, RUN, a path of a run."""
    return bool(re.search(r"\.\.\.|\.ya?ml$|^runs/|^[A-Z]", word))


@pytest.mark.parametrize(("words", "is_whole"), all_commands())
def test_a_command_is_one_that_physgen_takes(words, is_whole):
    verb, rest = VERBS, [word for word in words if word != "..."]
    while hasattr(verb, "commands") and rest and not rest[0].startswith("--"):
        assert rest[0] in verb.commands, f"{rest[0]} is no verb"
        verb, rest = verb.commands[rest[0]], rest[1:]
    if rest and rest[-1].startswith("--") and not is_whole:
        assert rest.pop() in {option for one in verb.params for option in one.opts}
    if hasattr(verb, "commands"):
        assert not rest
        return
    given = verb.make_context(words[0], list(rest), resilient_parsing=not is_whole).params
    recipe = given.get("recipe")
    if recipe is not None and not is_placeholder(recipe) and recipe not in OF_PLUGINS:
        changes = [word for word in given["overrides"] or () if word != "key=value"]
        if words[0] == "scan":
            values, shared = parse_scan(changes)
            for settings in Scan(recipe, values, shared).grid():
                read(recipe, {**shared, **settings}, given["preset"])
            return
        read(recipe, parse_overrides(changes), given.get("preset"))
    name, kind, target = given.get("name"), given.get("kind"), given.get("to")
    if words[0] == "list" and kind is not None and not is_placeholder(kind):
        assert kind in catalogue.KINDS
    if words[0] == "compare" and name is not None and not is_placeholder(name):
        assert read_plan(name).recipes
    if words[0] == "export" and target is not None:
        assert target in registered("exporters")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("trian ising-rbm", "trian is no verb"),
        ("train ising-rbm engine.step=3", "engine.step"),
        ("train ising-rbm --preset smok", "smok"),
        ("export RUN -o x --to onyx", "onyx"),
        ("runs --al", "--al"),
        ("track synch RUN", "synch"),
        ("generate RUN", "output"),
    ],
)
def test_a_command_that_is_wrong_is_found(line, reason):
    with pytest.raises(Exception, match=reason):
        test_a_command_is_one_that_physgen_takes(line.split(), True)
