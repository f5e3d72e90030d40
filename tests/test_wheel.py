"""What people install: a wheel and an sdist, in an environment that knows nothing of the clone."""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = ("wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w")
TINY = {
    "ising-rbm": ("system.shape=[4,4]", "data.n=200"),
    "calo-flow": ("data.n=600",),
    "events-flow": (),
}

pytestmark = pytest.mark.slow


def pip(*words):
    options = ["--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *options, *map(str, words)], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip(*BUILD, folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of programs of a fresh environment: the wheel, and what it needs from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip("--python", folder / "bin/python", "install", "-q", "--no-deps", "--no-index", wheel)
    place = next((folder / "lib").glob("python*/site-packages"))
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (place / "needed.pth").write_text("\n".join(packages))
    return folder / "bin"


def run(program, *words, **options):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    command = [program, *map(str, words)]
    done = subprocess.run(
        command, env=clean, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_recipes_data_and_templates_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("pipelines", "datasets"):
        files = [file for file in (ROOT / folder).rglob("*") if file.is_file()]
        assert {f"physgen/_data/{file.relative_to(ROOT).as_posix()}" for file in files} <= names
    templates = {file.relative_to(ROOT).as_posix() for file in (ROOT / "physgen").rglob("*.j2")}
    assert len(templates) > 3
    assert templates | {"physgen/py.typed"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"physgen"}


def test_the_sdist_builds_the_same_wheel(wheel, tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    archive = next(tmp_path.glob("*.tar.gz"))
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    pip(*BUILD, tmp_path / "again", archive.with_name(archive.name.removesuffix(".tar.gz")))
    again = next((tmp_path / "again").glob("*.whl"))
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize("recipe", TINY)
def test_an_installed_wheel_trains_by_the_name_of_a_recipe(recipe, installed, tmp_path):
    small = ("engine.steps=3", "engine.batch_size=50", "sampling.n=512")
    words = (*TINY[recipe], *small, "validation.metrics=[{kind: means}]")
    out = run(installed / "physgen", "train", recipe, *words, "--no-track", cwd=tmp_path)
    assert "report: " in out
    assert len(list(tmp_path.glob(f"runs/{recipe}/*/report.html"))) == 1
    listed = json.loads(run(installed / "physgen", "runs", "--json", cwd=tmp_path))
    assert [one["recipe"] for one in listed] == [recipe]
    where = run(installed / "python", "-c", "import physgen; print(physgen.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_the_shell_gets_its_completion(installed, tmp_path):
    # The shell is the parent of the command: `true` keeps bash from replacing itself by it.
    command = f"{installed / 'physgen'} --show-completion; true"
    script = run("bash", "-c", command, cwd=tmp_path)
    assert "complete -o default -F" in script
    assert "_PHYSGEN_COMPLETE=complete_bash" in script
    assert "plugins: none" in run(installed / "physgen", "doctor", cwd=tmp_path)
