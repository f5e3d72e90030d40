"""What the command line shows: progress in bars or lines, trees, the table of scores."""

from __future__ import annotations

import codecs
import io
import json
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from physgen.errors import printable
from physgen.tables import text_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

    from physgen.training import Progress
    from physgen.validation.ranking import Ranking
    from physgen.validation.scorecard import Scorecard, Verdict

REMINDER_S = 55.0
"""Seconds between two lines of a stage where there is no terminal."""


_ASCII = {"└": "`", "├": "|", "│": "|", "─": "-", "…": "...", "±": "+-", "≤": "<=", "≥": ">="}
_ASCII |= {"→": "->", "⟨": "<", "⟩": ">", "\u00d7": "x", "\u2212": "-", "\u2013": "-", "·": "."}


def configure_messages() -> None:
    """Say warnings as errors are said; let terminals without Unicode get ASCII instead."""
    warnings.formatwarning = format_warning

    def plainly(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return "".join(map(_plain, error.object[error.start : error.end])), error.end

    codecs.register_error("physgen.plainly", plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="physgen.plainly")


def format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return the line of a warning: of physgen without the code that gave it.

    >>> format_warning("no threshold", UserWarning, __file__, 1).strip()
    'warning: no threshold'
    """
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _plain(character: str) -> str:
    name = unicodedata.name(character, "").split()
    if name[:1] == ["GREEK"]:
        return name[-1].lower()
    text = _ASCII.get(character) or unicodedata.normalize("NFKD", character)
    return "".join(c if c.isascii() else "?" for c in text)


@contextmanager
def bars(quiet: bool) -> Iterator[Progress | None]:
    """Draw one progress bar a stage on standard error; into a file or pipe, write plain lines."""
    if quiet:
        yield None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with _drawn(console) if console.is_terminal else _written() as progress:
        yield progress


@contextmanager
def _drawn(console: Console) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    columns = (
        TextColumn("{task.description:<34}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Display(*columns, console=console) as display:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = display.add_task(printable(stage), total=total, figures="")
            display.update(tasks[stage], completed=done, total=total, figures=_listed(figures))

        yield progress


@contextmanager
def _written() -> Iterator[Progress]:
    """Write a line when a stage begins, one a minute while it lasts, and one when it ends."""
    begun: dict[str, float] = {}
    last: dict[str, str] = {}
    lock, over = threading.Lock(), threading.Event()

    def say(stage: str) -> None:
        seconds = time.monotonic() - begun[stage]
        typer.echo(f"{printable(stage)}: {last[stage]}  {seconds:.1f} s", err=True)

    def progress(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        with lock:
            if stage not in last:
                if done >= total and stage in begun:
                    return  # It has ended already.
                begun[stage] = time.monotonic()
                typer.echo(f"{printable(stage)}: begins", err=True)
            last[stage] = f"{done}/{total}  {_listed(figures)}".rstrip()
            if done >= total:
                say(stage)
                del last[stage]

    def remind() -> None:
        while not over.wait(REMINDER_S):
            with lock:
                for stage in last:
                    say(stage)

    # A thread of its own: what takes long (a classifier's training, a simulation) cannot report
    # itself.
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield progress
    finally:
        over.set()
        reminder.join()
        for stage in last:
            say(stage)


def _listed(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def print_mapping(mapping: dict[str, Any], as_json: bool) -> None:
    """Print nested facts as a tree, without what is empty and in lines of any length, or as JSON.

    Lines are not folded, so that paths and commands in them can be copied.
    """
    if as_json:
        typer.echo(json.dumps(mapping, default=str))
        return
    for line in _tree(mapping):
        # Not by `echo`, which sends UTF-8 to terminals that say they know ASCII only.
        print(printable(line))


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same keys as aligned columns; lines are not folded."""
    if not rows:
        print("none")
        return
    for line in text_table(([_cell(value) for value in row.values()] for row in rows), [*rows[0]]):
        print(printable(line))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _tree(value: Any, stem: str | None = None) -> Iterator[str]:
    """Yield the lines of a tree; what stands outermost has no branch before it."""
    facts = list(_facts(value))
    for number, (text, inner) in enumerate(facts, 1):
        connector, below = ("└── ", "    ") if number == len(facts) else ("├── ", "│   ")
        yield text if stem is None else f"{stem}{connector}{text}"
        yield from _tree(inner, "" if stem is None else f"{stem}{below}")


def _facts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the text of each fact that is not empty, and what is to be said below it."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        yield from ((part, {}) for part in value)
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if item is None or (isinstance(item, str | dict | list) and not item):
            continue
        if isinstance(item, list) and all(isinstance(part, int | float) for part in item):
            yield f"{key}: {', '.join(map(str, item))}", {}
        elif isinstance(item, dict | list):
            yield str(key), item
        else:
            yield f"{key}: {item}", {}


def print_scorecards(cards: Mapping[str, Scorecard], as_json: bool) -> None:
    """Print scorecards by name as one table, or as JSON (a lone one without its name)."""
    if as_json:
        contents = {name: json.loads(card.to_json()) for name, card in cards.items()}
        typer.echo(json.dumps(contents if len(cards) > 1 else next(iter(contents.values()))))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        # A pipe has no width of its own; neither names nor numbers are to be folded for it.
        console.width = 1000
    console.print(_summary(cards))
    for name, card in cards.items():
        for warning in card.warnings:
            typer.secho(printable(f"{name}: {warning}"), err=True, fg=typer.colors.YELLOW)


def print_ranking(ranking: Ranking, as_json: bool) -> None:
    """Print the order of several samples and their scores as tables, or as JSON."""
    if as_json:
        typer.echo(json.dumps(json.loads(ranking.to_json())))
        return
    # Not by `echo`, which sends UTF-8 to terminals that say they know ASCII only.
    print(ranking)
    for name, card in ranking.cards.items():
        for warning in card.warnings:
            typer.secho(printable(f"{name}: {warning}"), err=True, fg=typer.colors.YELLOW)


def _summary(cards: Mapping[str, Scorecard]) -> Table:
    """Return one table of several scorecards, for a terminal of 100 columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from physgen.validation.table import COLUMNS, row_cells, rows_in_short

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "observable" else "right")
    for title, card in cards.items():
        verdict = _coloured(card.headline, card.verdict, card.headline != card.verdict)
        table.add_section()
        table.add_row(f"[bold]{escape(printable(title))}[/]", "", "", "", "", verdict)
        shown = rows_in_short(card)
        for row in shown:
            cells = row_cells(row)
            texts = [escape(printable(cells[column])) for column in COLUMNS]
            texts[-1] = _coloured(texts[-1], row.verdict, row.has_warning)
            table.add_row(*texts)
        if len(shown) < len(card.rows):
            table.add_row(f"[dim]and {len(card.rows) - len(shown)} more in the report[/]")
    return table


def _coloured(text: str, verdict: Verdict, warned: bool) -> str:
    colour = {"pass": "green", "fail": "bold red", "info": "dim"}[verdict]
    return f"[{'yellow' if warned and verdict != 'fail' else colour}]{text}[/]"
