"""Offline HTML pages: everything embedded, no scripts, all text escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + ".part")
    part.write_text(page, encoding="utf-8")
    part.replace(output)
    return output
