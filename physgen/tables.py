"""Small tables: HTML for notebooks, and text in aligned columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(title: str, rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Return a table of text, all of it escaped, as `_repr_html_` gives it."""
    lines = [_line("th", head)] if head else []
    lines += [_line("td", row) for row in rows]
    return f"<table><caption>{escape(title)}</caption>{''.join(lines)}</table>"


def _line(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def text_table(rows: Iterable[Sequence[str]], head: Sequence[str]) -> list[str]:
    r"""Return lines with aligned columns, the head first; lines are not folded.

    >>> print("\n".join(text_table([("energy", "1.20(3)"), ("m", "0")], ("name", "value"))))
    name    value
    energy  1.20(3)
    m       0
    """
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
