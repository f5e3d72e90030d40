"""The site of docs: complete, and without anything from elsewhere."""

import html
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import physgen
from physgen.cli import app
from physgen.io.shipped import shipped_recipes
from physgen.plugins import registered
from physgen.version import __version__

ROOT = Path(__file__).parents[1]
FROM_ELSEWHERE = re.compile(
    r'<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//|<link [^>]*stylesheet[^>]*//'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_what_it_is_for(site):
    pages = {str(file.parent.relative_to(site)) for file in site.rglob("index.html")}
    assert {f"tutorials/{name}" for name in ("fast-simulation", "lattice", "spins")} <= pages
    assert {f"howto/{name}" for name in ("hdf5", "root", "action", "detector", "resume")} <= pages
    assert {"which-surrogate", "scorecard", "glossary", "peers", "export"} <= pages
    for file in site.rglob("*.html"):
        found = FROM_ELSEWHERE.search(file.read_text())
        assert found is None, f"{file}: {found and found[0]}"


@pytest.mark.slow
def test_the_reference_shows_signatures_and_what_they_mean(site):
    page = html.unescape((site / "reference/python/index.html").read_text())
    text = re.sub(r"<[^>]+>", "", page)
    for name in physgen.__all__:
        first = getattr(physgen, name).__doc__.splitlines()[0]
        assert first.split(",")[0].split("`")[0] in text, name
    for parameter in ("overwrite", "sections", "trust", "seed"):
        assert f"{parameter}" in text
    assert (
        '<span class="gp">&gt;&gt;&gt; </span>'
        in (site / "reference/components/index.html").read_text()
    )


@pytest.fixture(scope="module")
def generated():
    return runpy.run_path(str(ROOT / "docs/hooks.py"))


def test_all_verbs_recipes_and_components_are_on_pages(generated):
    commands = generated["commands"]()
    names = [one.name or one.callback.__name__ for one in app.registered_commands]
    assert len(names) > 10
    for name in names:
        assert f"\n## physgen {name}\n" in commands, name
    assert "\n## physgen track sync\n" in commands
    assert "| `--preset` | A preset of the recipe. |" in commands
    recipes, components = generated["recipes"](), generated["components"]()
    for recipe in shipped_recipes():
        assert f"| `{recipe}` |" in recipes
    for group in ("systems", "surrogates", "bijections", "metrics"):
        for name, point in registered(group).items():
            shown = f"### {name}\n\n::: {point.value.replace(':', '.')}"
            assert shown in components


def test_a_page_that_the_navigation_does_not_name_is_found_among_the_how_tos(generated, tmp_path):
    for name in ("index.md", "batch-system.md"):
        (tmp_path / name).write_text("# Title\n")
    nav = [{"Home": "index.md"}, {"How to": [{"Resume": "howto/resume.md"}]}]
    generated["on_config"](SimpleNamespace(docs_dir=tmp_path, nav=nav))
    assert nav[1]["How to"] == [{"Resume": "howto/resume.md"}, "batch-system.md"]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] in (ROOT / "pyproject.toml").read_text()
