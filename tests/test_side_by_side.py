"""`physgen validate A B C --against TRUTH`: every sample gets its own scorecard, and a rank."""

import json
import re
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
from test_cli import call

from physgen import pipeline, reports
from physgen.against import Criteria
from physgen.errors import DomainError, InputError
from physgen.systems.calorimeter import Calorimeter

METRICS = "validation.metrics=[{kind: means}, {kind: histograms}]"


class Sources(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [v for k, v in attributes if k in ("src", "href")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Showers of the simulation: the truth, and two samples."""
    folder = tmp_path_factory.mktemp("showers")
    system = Calorimeter(binning="calo-368.xml")
    for name, seed, scale in (("truth", 1, 1.0), ("good", 2, 1.0), ("off", 3, 1.1)):
        batch = system.simulate(800 if name == "truth" else 400, seed)
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            file["showers"] = scale * batch.x.numpy()
            file["incident_energies"] = batch.condition.numpy()
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Two columns: the truth, as good a sample, and one that is shifted."""
    folder = tmp_path_factory.mktemp("tables")
    for name, seed, shift in (("truth", 1, 0.0), ("good", 2, 0.0), ("off", 3, 0.4)):
        n = 1600 if name == "truth" else 800
        a, b = np.random.default_rng(seed).standard_normal((2, n))
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["a"], file["b"] = a + shift, a + b
    return folder


COLUMNS = ["--system", "events-flow", "--set", "data.fields=[a,b]", "--set", METRICS]


def test_each_sample_has_its_own_scorecard_and_the_page_shows_all(
    monkeypatch, capsys, tables, tmp_path
):
    good, off, truth = (tables / f"{name}.h5" for name in ("good", "off", "truth"))
    options = ["--against", truth, *COLUMNS]
    page = tmp_path / "page.html"
    arguments = ["validate", off, good, *options]
    code, out, err = call(monkeypatch, capsys, *arguments, "--json", "-o", page)
    assert code == 0, err
    content = json.loads(out)
    assert [place["name"] for place in content["order"]] == ["good.h5", "off.h5"]
    assert [place["rank"] for place in content["order"]] == [1, 2]
    assert (content["verdict"], content["scorecards"]["good.h5"]["verdict"]) == ("fail", "pass")
    scores = {score["name"]: score["samples"] for score in content["scores"]}
    width = scores["W1 a"]
    assert (width["good.h5"]["rank"], width["off.h5"]["rank"]) == (1, 2)
    assert width["off.h5"]["value"] == pytest.approx(0.4, abs=4 * width["off.h5"]["error"])
    assert width["good.h5"]["floor"] == width["off.h5"]["floor"]
    # The code path of one sample.
    for path in (good, off):
        code, out, _ = call(monkeypatch, capsys, "validate", path, *options, "--json")
        assert json.loads(out) == content["scorecards"][path.name]
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
    text = page.read_text()
    assert not re.search(r"url\(|@import|https?://|<script", text)
    found = Sources(text).found
    assert all(one.startswith(("data:image/png;base64,", "#sample")) for one in found)
    for what in ("Histograms", "Correlations", "W1 a", "off.h5"):
        assert what in text
    # The exit code is that of the worst verdict.
    assert call(monkeypatch, capsys, *arguments, "--strict")[0] == 1
    code, _, err = call(monkeypatch, capsys, "validate", good, good, *options)
    assert code == 2
    assert "given twice" in err


def test_a_folder_holds_all_pages(tables, tmp_path):
    changes = {"data.fields": ["a", "b"], "validation.metrics": [{"kind": "means"}]}
    ranking = reports.side_by_side(
        [tables / "off.h5", tables / "good.h5"],
        tables / "truth.h5",
        Criteria(recipe="events-flow", overrides=changes),
        output=tmp_path / "all",
    )
    assert [place.name for place in ranking.order] == ["good.h5", "off.h5"]
    saved = json.loads((tmp_path / "all/ranking.json").read_text())
    assert saved == json.loads(ranking.to_json())
    for name, card in ranking.cards.items():
        assert (tmp_path / "all" / name / "scorecard.json").read_text() == card.to_json() + "\n"
        assert f'href="{name}/report.html"' in (tmp_path / "all/report.html").read_text()


def test_a_run_stands_beside_a_file_at_the_conditions_of_the_truth(files, tmp_path):
    few = {"engine.steps": 2, "engine.batch_size": 16, "data.n": 600}
    where = {"preset": "smoke", "runs": tmp_path, "track": False, "score": False}
    run = pipeline.train("calo-flow", few, **where)
    criteria = Criteria(overrides={"validation.metrics": [{"kind": "means"}]})
    ranking = reports.side_by_side([run.path, files / "good.hdf5"], files / "truth.hdf5", criteria)
    name = f"calo-flow/{run.path.name}"
    assert list(ranking.cards) == [name, "good.hdf5"]
    assert "generated" in ranking.cards[name].provenance["paired"]
    assert ranking.cards[name].provenance["generated"]["file"] == str(run.path)
    assert not (run.path / "scorecard.json").exists()
    alone = pipeline.validate_files(run.path, files / "truth.hdf5", criteria)
    assert alone.rows == ranking.cards[name].rows
    assert "domain" not in {row.name for row in alone.rows}
    # Some energies lie beyond what the run has seen.
    with h5py.File(files / "truth.hdf5") as truth, h5py.File(tmp_path / "far.hdf5", "w") as far:
        far["showers"] = truth["showers"][:]
        energies = truth["incident_energies"][:]
        energies[:10] *= 1000.0
        far["incident_energies"] = energies
    with pytest.raises(DomainError, match=r"sampling\.extrapolate=true"):
        pipeline.validate_files(run.path, tmp_path / "far.hdf5", criteria)
    changes = {**criteria.overrides, "sampling.extrapolate": True, "sampling.n": 400}
    card = pipeline.validate_files(
        run.path, tmp_path / "far.hdf5", Criteria(overrides=changes, recipe="calo-flow")
    )
    assert card.provenance["sampling"] == {"extrapolate": True}
    assert re.match(r"\d+ of \d+ samples are outside", card["domain"].warning)
    assert card["domain"].warning in " ".join(card.warnings)


def test_names_tell_samples_apart():
    paths = [reports.user_path(p) for p in ("/a/x/g.h5", "/a/y/g.h5", "/a/h.h5")]
    assert reports._names(paths) == ["x/g.h5", "y/g.h5", "a/h.h5"]
    assert reports._names(paths[1:]) == ["g.h5", "h.h5"]
    with pytest.raises(InputError, match=r"g\.h5 is given twice"):
        reports._names([*paths, paths[0]])


def test_several_samples_need_a_truth(monkeypatch, capsys, files):
    code, _, err = call(monkeypatch, capsys, "validate", files / "good.hdf5", files / "off.hdf5")
    assert code == 2
    assert "add --against FILE" in err
    arguments = [
        "validate",
        files / "good.hdf5",
        files / "no.hdf5",
        "--against",
        files / "truth.hdf5",
    ]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "no.hdf5" in err
