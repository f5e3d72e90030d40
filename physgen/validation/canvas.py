"""The look of all pictures: colours of the roles, one style, figures without global state."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COLOURS = {"truth": "black", "generated": "#d1495b", "baseline": "#7a8b99", "floor": "#00798c"}

PALETTE = ("#d1495b", "#00798c", "#edae49", "#66418f", "#4f9d4f", "#7a8b99", "#a6611a", "#30638e")
"""Colours of samples side by side; more of them begin anew."""

STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.titlesize": 11,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 3,
    "xaxis.labellocation": "center",
    "yaxis.labellocation": "center",
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "mathtext.cal": "sans",  # the default names fonts that few machines have, and warns
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "xtick.major.size": 5,
    "ytick.major.size": 5,
    "xtick.minor.size": 2.5,
    "ytick.minor.size": 2.5,
}


def new_figure(width: float, height: float, *, placed: bool = True) -> Any:
    """Return a figure of this size in inches, for files only.

    Args:
        width, height: in inches.
        placed: leave space for labels automatically, which takes as long as drawing does.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.03, hspace=0.0) if placed else None
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style meanwhile; the host's settings come back."""
    import matplotlib as mpl
    import mplhep

    style = {**mplhep.style.ATLAS, **STYLE}
    with mpl.rc_context({key: value for key, value in style.items() if key in mpl.rcParams}):
        yield


def data_uri(figure: Any, dpi: int = 100) -> str:
    """Return a PNG picture of a figure that can be embedded in a page."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, metadata={"Software": "physgen"})
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode("ascii")
