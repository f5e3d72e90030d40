"""Pictures are drawn, and the page is whole, offline, and safe from hostile names."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from toy import Normal, compare
from toy import draw as sample

from physgen.errors import FormatError
from physgen.validation import page
from physgen.validation.comparison import Comparison
from physgen.validation.curves import read_journal
from physgen.validation.judging import judge
from physgen.validation.metrics import ClassifierTest, Means
from physgen.validation.plots import INDEX, draw
from physgen.validation.report import Section, report
from physgen.validation.scorecard import Row, Scorecard

HOSTILE = '<script>alert("x")</script><img src=http://evil.example/x.png>'


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href", "action", "data")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "toy" / "0123"
    folder.mkdir(parents=True)
    comparison = compare(sample(400, 3), baseline=sample(400, 4, rho=0.0))
    card = judge(comparison, [Means(tolerance={"a^2": 0.5}), ClassifierTest(model="boosted")])
    journal = folder / "journal.jsonl"
    journal.write_text(
        "".join(json.dumps({"step": i, "metrics": {"loss": 1 / (i + 1)}}) + "\n" for i in range(9))
        + '{"event": "stop", "step": 9}\n{"step": 10, "met'
    )
    draw(comparison, card, folder / "plots", journal=journal)
    (folder / "scorecard.json").write_text(card.to_json())
    (folder / "recipe.yaml").write_text("name: toy\n")
    (folder / "provenance.json").write_text('{"versions": {"torch": "2"}}')
    return folder


def test_pictures_and_index(run):
    index = json.loads((run / "plots" / INDEX).read_text())
    titles = [entry["title"] for entry in index]
    assert titles == [
        "Histograms",
        "Profile of both",
        "Correlations",
        "Classifiers",
        "Weights of the classifiers",
        "Training",
    ]
    for entry in index:
        assert (run / "plots" / entry["file"]).read_bytes().startswith(b"\x89PNG")
        assert entry["caption"]


def test_scoring_says_how_far_it_is():
    counted = []
    comparison = compare(sample(60, 3))
    metrics = [Means(), Means(tolerance={"a^2": 0.5})]
    judge(comparison, metrics, progress=lambda *how_far: counted.append(how_far))
    assert counted == [(1, 2), (2, 2)]


def test_of_many_observables_those_are_drawn_that_tell_most(tmp_path, monkeypatch):
    monkeypatch.setattr("physgen.validation.plots.MOST_HISTOGRAMS", 2)
    names, drawn = [f"x{i}" for i in range(6)], []
    monkeypatch.setattr(
        "physgen.validation.plots._histogram", lambda c, s, name, cell: drawn.append(name)
    )

    class Many(Normal):
        def observables(self, batch):
            return dict.fromkeys(names, batch.x[:, 0])

    rows = (
        Row(name="x1", metric="means", value=1.0, pull=2.0, p_value=0.04),
        Row(name="W1 x2", metric="histograms", value=1.0, p_value=0.3),
        Row(name="KS x4", metric="histograms", value=1.0, p_value=0.01, verdict="fail"),
        Row(name="x5", metric="means", value=1.0, verdict="pass", p_value=0.9),
    )
    comparison = Comparison(Many(), sample(50, 1), sample(50, 2))
    pictures = draw(comparison, Scorecard(rows=rows), tmp_path)
    assert drawn == ["x4", "x5"]
    assert "Of 6 observables these are the 2" in pictures[0].caption


def test_the_page_is_offline_and_puts_the_verdict_first(run, tmp_path):
    text = report(run, tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://", text)
    assert text.index('class="badge pass"') < text.index("<td") < text.index("<figure")
    assert "name: toy" in text
    assert "versions.torch" in text
    assert page.tags.count("img") == 6


def test_the_badge_counts_the_warnings_and_lists_them(tmp_path):
    rows = [
        Row(name="good", metric="m", value=1, verdict="pass", tolerance=2.0),
        Row(name="spectrum, bin 1", metric="means", value=1, pull=19.0, p_value=1e-80),
        Row(name="copies", metric="copies", value=3, warning="3 rows are <copies>"),
    ]
    text = report([Section("a", Scorecard(rows=rows))], tmp_path / "report.html").read_text()
    assert '<span class="badge pass warned">pass, 2 warnings</span>' in text
    assert "copies: 3 rows are &lt;copies&gt;" in text
    assert "differ beyond chance" in text
    judged = text[: text.index("<details")] if "<details" in text else text
    assert "+19.0" in judged


def test_several_runs_share_a_page(run, tmp_path):
    other = Section("second", Scorecard(rows=[Row(name="z", metric="m", value=1, verdict="fail")]))
    text = report([run, other], tmp_path / "report.html").read_text()
    assert 'href="#run2"' in text
    assert 'id="run2"' in text
    assert "badge fail" in text


def test_hostile_names_stay_text(tmp_path):
    row = Row(name=HOSTILE, metric="m", value=1.0, unit=HOSTILE, note=HOSTILE)
    card = Scorecard(rows=[row], provenance={HOSTILE: HOSTILE})
    section = Section(HOSTILE, card, recipe=HOSTILE, summary=HOSTILE)
    page = Page(report([section, section], tmp_path / "r.html", title=HOSTILE).read_text())
    assert "script" not in page.tags
    assert "img" not in page.tags


def test_an_index_cannot_reach_outside_its_folder(run, tmp_path):
    folder = tmp_path / "plots"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    entry = {"file": "../secret.png", "title": "t", "caption": "c"}
    (folder / INDEX).write_text(json.dumps([entry]))
    with pytest.raises(FormatError, match="physgen validate"):
        report([Section("x", Scorecard(rows=[]), folder)], tmp_path / "r.html")


def test_a_run_without_scores(tmp_path):
    with pytest.raises(FormatError, match="no scorecard"):
        report(tmp_path, tmp_path / "r.html")


def test_a_journal_is_read_as_far_as_it_goes():
    lines = [
        '{"step": 1, "metrics": {"norm": 1.0, "loss": 2.0, "bad": null}}',
        '{"step": 2, "metrics": {"norm": 1.5, "loss": NaN}}',
        '{"step": 3, "metrics": {"norm": 1.5, "loss": 1.0}}',
        '{"step": 4, "met',
    ]
    series = read_journal(lines)
    assert list(series) == ["loss", "norm"]
    assert series["loss"] == ([1, 3], [2.0, 1.0])


def test_every_picture_of_every_page_says_what_it_shows():
    templates = sorted(Path(page.__file__).parent.glob("*.j2"))
    images = [tag for file in templates for tag in re.findall(r"<img [^>]*>", file.read_text())]
    assert len(images) >= 4
    assert all(re.search(r'alt="[^"]*{{', tag) for tag in images)


def test_numbers_show_more_digits_under_the_pointer(tmp_path):
    row = Row(name="m", metric="means", value=1.23456789, error=0.0123456, pull=1.0, p_value=0.3)
    text = report([Section("toy", Scorecard(rows=(row,)))], tmp_path / "page.html").read_text()
    assert 'title="1.234568 ± 0.0123"' in text
    assert 'title="pull +1.000, p = 0.3"' in text
