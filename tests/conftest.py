"""The package of docs/plugin-template, for tests that use it."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from physgen import plugins

TEMPLATE = Path(__file__).parents[1] / "docs/plugin-template"


def forget():
    plugins.claimed.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """The template, installed as a user does, into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", folder, TEMPLATE]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def beside(monkeypatch):
    """A function that puts a folder of packages beside physgen for this test."""

    def put(folder):
        monkeypatch.syspath_prepend(str(folder))
        forget()

    yield put
    monkeypatch.undo()
    forget()
