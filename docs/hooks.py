"""Pages of the site that follow from the code: commands, recipes, and components by group."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from physgen.catalogue import entries
from physgen.cli import app
from physgen.plugins import Group, is_own, registered


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not name at the end of its how-tos."""
    folder = Path(config.docs_dir)
    named = set(_pages(config.nav))
    others = [file.name for file in sorted(folder.glob("*.md")) if file.name not in named]
    for section in config.nav or []:
        section.get("How to", []).extend(others)
    return config


def _pages(entries: Any) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    for entry in entries if isinstance(entries, list) else ():
        for inside in entry.values():
            yield from _pages(inside)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = {"commands": commands(), "recipes": recipes(), "components": components()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def commands() -> str:
    """Return every verb with its arguments and options."""
    root = typer.main.get_command(app)
    return "# Commands\n\n" + "\n".join(_command(root, "physgen", 1))


def _command(command: Any, name: str, level: int) -> list[str]:
    if hasattr(command, "commands"):
        lines = []
        for verb, inner in command.commands.items():
            lines += _command(inner, f"{name} {verb}", 2)
        return lines
    context = command.context_class(command, info_name=name)
    lines = [f"{'#' * level} {name}", "", (command.help or "").replace("\b", ""), ""]
    lines += ["```", " ".join([name, *command.collect_usage_pieces(context)]), "```", ""]
    rows = [_option(one) for one in command.params if one.name != "help"]
    if rows:
        lines += ["| argument or option | what | default |", "|---|---|---|", *rows, ""]
    return lines


def _option(one: Any) -> str:
    is_argument = one.param_type_name == "argument"
    names = ", ".join(f"`{n}`" for n in ([one.name.upper()] if is_argument else one.opts))
    about = (getattr(one, "help", None) or "").replace("|", "\\|")
    default = "" if one.default in (None, False) or callable(one.default) else f"`{one.default}`"
    return f"| {names} | {about} | {default} |"


def recipes() -> str:
    """Return the table of the recipes that physgen ships."""
    rows = [f"| `{one.name}` | {one.origin} | {one.about} |" for one in entries("recipes")]
    head = ["# Recipes", "", "`physgen train NAME`, `physgen show NAME`.", ""]
    return "\n".join([*head, "| recipe | folder | what |", "|---|---|---|", *rows, ""])


def components() -> str:
    """Return the classes of every group, as recipes name them, with their options."""
    lines = ["# Components", "", "What the sections of a recipe name by `kind`.", ""]
    for group in get_args(Group):
        lines += [f"## {group}", ""]
        for name, point in sorted(registered(group).items()):
            if is_own(point):
                path = point.value.replace(":", ".")
                lines += [f"### {name}", "", f"::: {path}", "    options:"]
                lines += ["      show_root_heading: false", "      show_root_toc_entry: false"]
                lines += ["      members: false", ""]
    return "\n".join(lines)
