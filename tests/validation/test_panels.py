"""Ratios that lie beyond a panel are marked at its edge."""

import numpy as np
from matplotlib.figure import Figure

from physgen.validation.panels import RATIO, Drawn, histogram


def test_ratios_beyond_the_panel_are_triangles_at_its_edge():
    errors = np.full(4, 0.01)
    truth = Drawn("truth", (np.ones(4), errors), "black")
    ours = Drawn("generated", (np.array([0.2, 1.0, 1.4, 3.0]), errors), "red")
    figure = Figure()
    histogram(figure.subfigures(), [truth, ours], np.arange(5.0), "x")
    ratio = figure.axes[1] if figure.axes else figure.subfigs[0].axes[1]
    marked = {
        line.get_marker(): (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in ratio.lines
        if line.get_marker() in ("v", "^")
    }
    assert marked == {"v": ([0.5], [RATIO[0]]), "^": ([3.5], [RATIO[1]])}
