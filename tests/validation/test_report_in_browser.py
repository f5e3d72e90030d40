"""Pages in a browser: nothing is asked of the network, all is seen, in light and dark."""

import json
import shutil

import pytest
from toy import compare
from toy import draw as sample

from physgen.validation.judging import judge
from physgen.validation.metrics import Means
from physgen.validation.plots import INDEX, draw
from physgen.validation.report import report

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
MANY = 50
CONTRAST = 4.5
"""Of text, WCAG 2.2 level AA."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("default"),  # Of the browser's driver.
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A page of one run with many pictures, some of them drawn and the others their copies."""
    folder = tmp_path_factory.mktemp("runs") / "toy" / "0123"
    comparison = compare(sample(400, 3))
    card = judge(comparison, [Means(tolerance={"a^2": 0.5, "b": 1e-6})])
    pictures = draw(comparison, card, folder / "plots")
    index = json.loads((folder / "plots" / INDEX).read_text())
    index += [index[i % len(pictures)] for i in range(MANY - len(pictures))]
    (folder / "plots" / INDEX).write_text(json.dumps(index))
    (folder / "scorecard.json").write_text(card.to_json())
    return report(folder, folder / "report.html")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


def luminance(colour):
    """Return the relative luminance of "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_whole_and_asks_for_nothing(scheme, browser, page_file):
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri(), wait_until="load")
        images = page.evaluate(
            "[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt])"
        )
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        inks = page.evaluate(
            "['body', 'th', 'td.pass', 'td.fail', 'td small', 'figcaption'].map("
            "s => document.querySelector(s)).filter(e => e).map(e => getComputedStyle(e).color)"
        )
        badge = page.evaluate(
            "(s => [s.color, s.backgroundColor])"
            "(getComputedStyle(document.querySelector('.badge')))"
        )
        hover = page.locator("td[title]").first.get_attribute("title")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert len(images) == MANY
    assert all(decoded and alt for decoded, alt in images)
    assert (luminance(paper) > 0.5) == (scheme == "light")
    assert len(inks) >= 4
    assert min(contrast(ink, paper) for ink in inks) > CONTRAST
    assert contrast(*badge) > CONTRAST
    assert "±" in hover
