"""Offline HTML pages: everything embedded, no scripts, all text escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from physgen.io.writer import atomic


def write_page(template: str, output: Path, **content: Any) -> Path:
    """Fill a template of this folder; the page replaces an older one at once and whole.

    Names in files cannot become markup.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("physgen.validation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(**content)
    with atomic(output, overwrite=True) as part:
        part.write_text(page, encoding="utf-8")
    return output
