"""CPU seconds to write the page of a run with 50 pictures, and to show it in headless Chromium.

The time of the browser is by the clock, from the start of
the navigation to the event `load`, where a browser is installed.
"""

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from physgen.validation.plots import INDEX
from physgen.validation.report import report
from physgen.validation.scorecard import Row, Scorecard

PICTURES, ROWS, REPEATS = 50, 200, 5


def run_directory(folder):
    """Make what a page is made of: 200 rows, and 50 pictures of 12 panels."""
    plots = folder / "plots"
    plots.mkdir()
    figure, panels = plt.subplots(3, 4, figsize=(12, 8))
    for panel, draws in zip(
        panels.flat, np.random.default_rng(0).normal(size=(12, 2000)), strict=True
    ):
        panel.hist(draws, bins=50, histtype="step")
    index = []
    for number in range(PICTURES):
        figure.suptitle(str(number))
        figure.savefig(plots / f"{number}.png", dpi=110)
        index.append({"file": f"{number}.png", "title": f"Picture {number}", "caption": "Twelve."})
    plt.close(figure)
    (plots / INDEX).write_text(json.dumps(index))
    rows = tuple(
        Row(name=f"x{i}", metric="means", value=1.0, error=0.1, floor=0.0, floor_error=0.1)
        for i in range(ROWS)
    )
    (folder / "scorecard.json").write_text(Scorecard(rows=rows).to_json())


def shown(browser, page_file):
    page = browser.new_page()
    page.goto(page_file.as_uri(), wait_until="load")
    timing = page.evaluate("(t => t.loadEventStart - t.navigationStart)(performance.timing)")
    page.close()
    return timing / 1000


def row(name, unit, times):
    return {
        "name": name,
        "value": statistics.median(times),
        "unit": unit,
        "peer": None,
        "peer_value": None,
        "ratio": {"median": None, "min": min(times), "max": max(times)},
    }


def run():
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_directory(folder)
        times = []
        for _ in range(REPEATS):
            start = time.process_time()
            page = report(folder, folder / "report.html")
            times.append(time.process_time() - start)
        size = page.stat().st_size / 1e6
        what = f"page of {PICTURES} pictures and {ROWS} rows, {size:.1f} MB"
        rows.append(row(f"{what}, written", "s of CPU time (less is better)", times))
        chromium = shutil.which("chromium")
        if chromium is not None:
            from playwright.sync_api import sync_playwright

            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox"]
                )
                times = [shown(browser, page) for _ in range(REPEATS)]
                browser.close()
            rows.append(row(f"{what}, shown by Chromium", "s by the clock (less is better)", times))
    return {"benchmark": "report-page", "results": rows}
