"""The commands of docs/export.md, with short trainings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_geant4_example import EXAMPLE, HEADERS, no_headers

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[1] / "docs" / "export.md"
SHORT = {
    "physgen train digits-vae": "engine.steps=5 sampling.n=200 --no-score --no-track",
    "physgen train calo-vae": "engine.steps=2 data.n=3000 data.fit_rows=2000 --no-score --no-track",
    "examples/geant4/get-headers.sh": "|| true",
}
"""What is added to commands that would take long, or fetch what is there already."""
WRITTEN = (
    *("digits-onnx/model.onnx", "digits-onnx/card.json", "calo-onnx/model.onnx", "deposits.csv"),
    *("models/digits/config.pbtxt", "models/digits/1/model.onnx"),
    *("library/showers-5000MeV.h5", "library/showers-20000MeV.h5"),
)


def script():
    """All blocks of commands, one after the other; packages are installed already."""
    lines = []
    for line in "".join(re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.S)).splitlines():
        added = [words for command, words in SHORT.items() if line.startswith(command)]
        if not line.startswith("pip install"):
            lines.append(" ".join([line, *added]))
    return "\n".join(lines)


@pytest.mark.timeout(1800)  # Transforms of showers take a minute of a core to export.
def test_commands_of_the_docs_do_what_they_say(tmp_path):
    if no_headers():
        pytest.skip(no_headers())
    (tmp_path / "examples").symlink_to(EXAMPLE.parent)
    (tmp_path / "headers").symlink_to(HEADERS.parent)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script()],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in WRITTEN:
        assert (tmp_path / name).exists(), name
    assert len((tmp_path / "deposits.csv").read_text().splitlines()) > 30
