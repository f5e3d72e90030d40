"""Tutorials, how-tos and README from their first command to their last, each within seconds."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import uproot
from test_doc_commands import BLOCK, ROOT, commands, is_placeholder
from typer.testing import CliRunner

from physgen.cli import app
from physgen.overrides import parse_overrides
from physgen.recipe import read

PAGES = sorted([*(ROOT / "docs/tutorials").glob("*.md"), *(ROOT / "docs/howto").glob("*.md")])
SMALL = {
    "engine.steps": "3",
    "engine.batch_size": "50",
    "sampling.n": "512",
    "validation.metrics": "[{kind: means}]",
    "baseline": "null",
}
OF_SYSTEMS = {
    "ising": {"system.shape": "[4,4]"},
    "phi4": {"system.shape": "[4,4]"},
    "lattice-action": {"system.shape": "[4,4]"},
}
OF_SURROGATES = {"shower-flow": {"surrogate.n_bins": "16"}}  # 85 MB of tables else.
SIMULATED = "600"
SOME_RUN = re.compile(r"runs/([\w-]+)/0123456789")


def small(words):
    """Return the words of a command with less to do."""
    words = [SOME_RUN.sub(lambda found: str(latest(found[1])), word) for word in words]
    if "-n" in words:
        words[words.index("-n") + 1] = "50"
    if words[0] != "train" or words[1].startswith("runs/"):
        return words
    stated = [word for word in words[2:] if "=" in word]
    preset = words[words.index("--preset") + 1] if "--preset" in words else None
    recipe = read(words[1], parse_overrides(stated), preset)
    changes = SMALL | OF_SYSTEMS.get(recipe.system.kind, {})
    changes |= OF_SURROGATES.get(recipe.surrogate.kind, {})
    if recipe.target is not None and recipe.target.n is not None:
        changes["data.n"] = SIMULATED
    words = [word for word in words if word.split("=")[0] not in changes]
    return [*words, *(f"{key}={value}" for key, value in changes.items()), "--no-track"]


def latest(recipe):
    return max(Path("runs", recipe).iterdir(), key=lambda folder: folder.stat().st_mtime)


def expanded(word):
    """Return what a shell makes of a pattern: the paths there are."""
    found = sorted(str(path) for path in Path().glob(word)) if word.startswith("runs/") else []
    return found or [word]


def is_named_only(words):
    said = [word.rpartition("=")[2] for word in words]
    return any(is_placeholder(word) and not word.startswith(("runs/", "my-")) for word in said)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # So little training has reason to warn.
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, template, beside):
    if page.stem == "detector":
        beside(template)
    monkeypatch.chdir(tmp_path)
    done = 0
    for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        file = re.match(r"# ([\w.-]+\.(?:py|yaml))\n", block)
        if file:
            Path(file[1]).write_text(block)
        elif kind == "python":
            exec(SOME_RUN.sub(lambda found: str(latest(found[1])), block), {})
        for words in commands(block) if kind == "sh" else ():
            if is_named_only(words):
                continue
            line = [part for word in small(words) for part in expanded(word)]
            result = CliRunner().invoke(app, line)
            said = f"physgen {' '.join(line)}: {result.output} {result.exception!r}"
            assert result.exit_code == 0, said
            done += 1
    assert done >= 2


SHOWERS = ("FILE.hdf5", "TRUTH.hdf5", "GENERATED.hdf5", "A.hdf5", "B.hdf5")
FAST = ("--set", "validation.metrics=[{kind: means}]")
OF_NAMES = {"FILE": "FILE.hdf5", "NAME": "ising-rbm"}


def files_of_the_readme():
    """Put into the working folder what README calls FILE, A, TRUTH and so on."""
    run("simulate", "calo-flow", "-n", SIMULATED, "-o", SHOWERS[0])
    for copy in SHOWERS[1:]:
        shutil.copy(SHOWERS[0], copy)
    shutil.copy(ROOT / "datasets/calo-368.xml", "FILE.xml")
    run("simulate", "ising-rbm", "system.shape=[4,4]", "-n", SIMULATED, "-o", "spins.h5")
    run("simulate", "phi4-flow", "system.shape=[4,4]", "-n", SIMULATED, "-o", "ensemble.h5")
    rng = np.random.default_rng(1)
    columns = {name: rng.normal(50, 10, 600) for name in ("px", "py", "pz", "mass")}
    with uproot.recreate("FILE.root") as file:
        file.mktree("events", dict.fromkeys(columns, "f8"))
        file["events"].extend(columns)


def run(*words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{words}: {result.output} {result.exception!r}"
    return result.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_commands_of_the_readme_run(tmp_path, monkeypatch):
    """All but comparisons of whole families, which `tests/test_comparing.py` has small."""
    monkeypatch.chdir(tmp_path)
    files_of_the_readme()
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    (action,) = [block for kind, block in blocks if kind == "python" and "def action" in block]
    Path("my_action.py").write_text(action)
    listed = [words for kind, block in blocks if kind == "sh" for words in commands(block)]
    # Runs are listed, shown and used once there are some.
    for words in sorted(listed, key=lambda words: words[0] != "train"):
        if words[0] == "compare":
            continue
        named = [OF_NAMES.get(word, word) for word in words]
        recipe = "infer-two-moons" if words[0] == "infer" else "calo-flow"
        if words[0] == "infer":
            run(*small(["train", recipe]))
        line = [str(latest(recipe)) if word == "RUN" else word for word in small(named)]
        run(*line, *(FAST if "--against" in line else ()))
    assert {words[0] for words in listed} >= {"list", "runs", "inspect", "validate", "generate"}
    assert Path("showers.hdf5").is_file()
    assert Path("page.html").is_file()
    assert all(recipe in run("runs") for recipe in ("calo-flow", "events-flow", "lattice-flow"))
