"""Pictures of a validation: PNG files, and an index of what they show for the report.

Everything is drawn on figures of their own (no global pyplot state), truth in black, generated
samples in colour, the baseline dashed; histograms in the bins of `distances.bin_edges`, with bands
of their statistical errors sqrt(sum w^2) and the ratio to the truth below.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.comparison import Comparison, Measured
from physgen.validation.distances import bin_edges
from physgen.validation.means import profile
from physgen.validation.scorecard import Scorecard
from physgen.validation.shapes import complete, correlation_matrix, varying
from physgen.validation.uncertainty import autocorrelation

Array = NDArray[float64]
INDEX = "index.json"
COLOURS = {"truth": "black", "generated": "#d1495b", "baseline": "#7a8b99", "floor": "#00798c"}
_PANELS = 6
_IMAGES = 8


@dataclass(frozen=True)
class Picture:
    """A PNG file of a run and the words that stand below it."""

    file: str
    title: str
    caption: str


def draw(
    comparison: Comparison, scorecard: Scorecard, folder: Path, *, journal: Path | None = None
) -> list[Picture]:
    """Draw all that there is to be seen into `folder`, with an index for the report.

    Args:
        journal: the run's `journal.jsonl`, for its loss curves.
    """
    import matplotlib as mpl
    import mplhep

    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Picture] = []
    style = {**mplhep.style.ATLAS, **_STYLE}
    with mpl.rc_context({key: value for key, value in style.items() if key in mpl.rcParams}):
        for figure, title, caption in _figures(comparison, scorecard, journal):
            name = f"{len(pictures) + 1:02d}-{title.lower().replace(' ', '-')}.png"
            figure.savefig(folder / name, dpi=110, metadata={"Software": "physgen"})
            pictures.append(Picture(name, title, caption))
    index = json.dumps([asdict(picture) for picture in pictures], indent=1)
    (folder / INDEX).write_text(index, encoding="utf-8")
    return pictures


_STYLE: dict[str, Any] = {
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
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "xtick.major.size": 5,
    "ytick.major.size": 5,
    "xtick.minor.size": 2.5,
    "ytick.minor.size": 2.5,
}


def _figures(
    comparison: Comparison, scorecard: Scorecard, journal: Path | None
) -> Iterator[tuple[Any, str, str]]:
    yield from _histograms(comparison)
    yield from _profiles(comparison)
    yield from _samples(comparison)
    yield from _voxels(comparison)
    yield from _correlations(comparison)
    yield from _curves(scorecard)
    yield from _chains(comparison)
    if journal is not None and journal.exists():
        yield from _losses(journal)


def _new(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.03, hspace=0.0)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _label(comparison: Comparison, name: str) -> str:
    unit = comparison.unit(name)
    return name if unit == "1" else f"{name} [{unit}]"


def _shown(comparison: Comparison) -> dict[str, Measured]:
    """Truth first, then what is compared with it; the floor is in the numbers, not drawn."""
    order = ("truth", "baseline", "generated")
    by_role = {str(role): measured for role, measured in comparison.measured.items()}
    return {role: by_role[role] for role in order if role in by_role}


def _histograms(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    shown = _shown(comparison)
    names = [
        name
        for name, values in shown["generated"].scalars.items()
        if all(np.isfinite(m.values[name]).any() for m in shown.values()) and np.nanstd(values) > 0
    ]
    for page, start in enumerate(range(0, len(names), _PANELS)):
        part = names[start : start + _PANELS]
        n_columns = min(3, len(part))
        n_rows = -(-len(part) // n_columns)
        figure = _new(3.9 * n_columns, 3.5 * n_rows)
        for cell, name in zip(
            figure.subfigures(n_rows, n_columns, squeeze=False).flat, part, strict=False
        ):
            _histogram(comparison, shown, name, cell)
        title = "Histograms" if page == 0 else f"Histograms {page + 1}"
        yield (
            figure,
            title,
            (
                "Distributions of the observables with statistical errors; below, the ratio to the "
                "truth, whose own error is the grey band. The outer bins hold the overflow."
            ),
        )


def _histogram(comparison: Comparison, shown: Mapping[str, Measured], name: str, cell: Any) -> None:
    import mplhep

    reference = shown.get("truth", shown["generated"])
    edges = bin_edges(reference.values[name], reference.weight)
    two = "truth" in shown
    axes = cell.subplots(
        2 if two else 1,
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": [3, 1], "hspace": 0.06} if two else {},
    )[:, 0]
    heights = {role: _density(m, name, edges) for role, m in shown.items()}
    for role, (height, error) in heights.items():
        mplhep.histplot(
            height,
            edges,
            yerr=error if role == "generated" else None,
            ax=axes[0],
            label=role,
            color=COLOURS[role],
            linestyle="--" if role == "baseline" else "-",
            linewidth=1.3,
        )
        axes[0].stairs(
            height + error,
            edges,
            baseline=height - error,
            fill=True,
            color=COLOURS[role],
            alpha=0.2,
            linewidth=0,
        )
    axes[0].set_ylabel("density")
    positive = heights["generated"][0][heights["generated"][0] > 0]
    if len(positive) and positive.max() > 300 * np.median(positive):
        axes[0].set_yscale("log")
    else:
        axes[0].set_ylim(bottom=0)
    axes[0].margins(x=0)
    axes[0].legend(loc="best")
    axes[-1].set_xlabel(_label(comparison, name))
    if two:
        _ratios(axes[1], heights, edges)
        cell.align_ylabels(axes)


def _ratios(axis: Any, heights: Mapping[str, tuple[Array, Array]], edges: Array) -> None:
    truth, error = heights["truth"]
    safe = np.where(truth > 0, truth, np.nan)
    axis.stairs(1 + error / safe, edges, baseline=1 - error / safe, fill=True, color="0.8")
    axis.axhline(1, color="black", linewidth=0.8)
    centres = (edges[1:] + edges[:-1]) / 2
    for role, (height, own) in heights.items():
        if role != "truth":
            axis.errorbar(
                centres,
                height / safe,
                own / safe,
                fmt="o" if role == "generated" else "_",
                color=COLOURS[role],
                markersize=2.5,
                linewidth=0.8,
            )
    axis.set_ylim(0.5, 1.5)
    axis.set_ylabel("ratio")
    axis.margins(x=0)


def _density(measured: Measured, name: str, edges: Array) -> tuple[Array, Array]:
    """Return (bins,) densities and errors; what lies outside the edges is in the outer bins."""
    values = measured.values[name]
    keep = np.isfinite(values)
    weight = np.ones(len(values)) if measured.weight is None else measured.weight
    inside = np.clip(values[keep], edges[0], np.nextafter(edges[-1], -np.inf))
    counts, _ = np.histogram(inside, edges, weights=weight[keep])
    squares, _ = np.histogram(inside, edges, weights=weight[keep] ** 2)
    norm = weight[keep].sum() * np.diff(edges)
    return counts / norm, np.sqrt(squares) / norm


def _profiles(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    shown = _shown(comparison)
    names = [name for name, value in shown["generated"].values.items() if value.ndim > 1]
    for name in names[:4]:
        figure = _new(6.0, 4.2)
        axes = figure.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1], "hspace": 0.06}
        )
        bins = np.arange(1, shown["generated"].values[name].shape[1] + 1)
        found = {role: profile(measured, name) for role, measured in shown.items()}
        reference = found.get("truth", found["generated"])[0]
        safe = np.where(reference != 0, reference, np.nan)
        for role, (mean, error) in found.items():
            style = {"fmt": "o-" if role == "truth" else "s--", "color": COLOURS[role]}
            axes[0].errorbar(bins, mean, error, label=role, linewidth=1, **style)
            axes[1].errorbar(bins, mean / safe, error / np.abs(safe), linewidth=1, **style)
        axes[0].set_ylabel(f"mean of {_label(comparison, name)}")
        if np.nanmin(reference) > 0 and np.nanmax(reference) > 100 * np.nanmin(reference):
            axes[0].set_yscale("log")
        axes[0].legend()
        axes[1].set_ylim(0.8, 1.2)
        axes[1].set_xlabel("bin")
        axes[1].set_ylabel("ratio")
        yield (
            figure,
            f"Profile of {_word(name)}",
            f"Mean of {name}, bin by bin, and its ratio to the truth.",
        )


def _word(name: str) -> str:
    return "".join(c if c.isalnum() else " " for c in name).strip().replace("  ", " ")


def _samples(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    """Two-dimensional lattices and images, truth above, generated below."""
    if len(comparison.system.schema.shape) != 2 or len(comparison.system.schema.variables) != 1:
        return
    rows = [r for r in ("truth", "generated") if getattr(comparison, r) is not None]
    figure = _new(1.5 * _IMAGES, 1.6 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), _IMAGES, squeeze=False)
    limit = float(np.quantile(np.abs(getattr(comparison, rows[0]).x.double().cpu().numpy()), 0.999))
    variable = comparison.system.schema.variables[0]
    image = None
    for line, role in zip(axes, rows, strict=True):
        batch = getattr(comparison, role)
        chosen = np.linspace(0, len(batch) - 1, _IMAGES).astype(int)
        for axis, i in zip(line, chosen, strict=True):
            image = axis.imshow(
                batch.x[int(i)].double().cpu().numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit
            )
            axis.set_xticks([], minor=False)
            axis.set_yticks([], minor=False)
            axis.minorticks_off()
        line[0].set_ylabel(role)
    unit = "" if variable.unit == "1" else f" [{variable.unit}]"
    figure.colorbar(image, ax=axes, label=variable.name + unit, shrink=0.8, pad=0.01)
    yield (
        figure,
        "Samples beside truth",
        ("Configurations, evenly spaced through both samples, on one colour scale."),
    )


def _voxels(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    """Mean energy of the voxels of a calorimeter, layer by layer in the transverse plane."""
    geometry = getattr(comparison.system, "geometry", None)
    if geometry is None or comparison.truth is None:
        return
    layers = geometry.layers
    wanted = sorted({int(i) for i in np.linspace(0, len(layers) - 1, min(5, len(layers)))})
    ends = np.cumsum([layer.n_voxels for layer in layers])
    figure = _new(2.3 * len(wanted) + 0.8, 4.9)
    grid = figure.subplots(2, len(wanted), squeeze=False, subplot_kw={"projection": "polar"})
    for column, i in enumerate(wanted):
        layer, piece = layers[i], slice(int(ends[i]) - layers[i].n_voxels, int(ends[i]))
        means = [
            _mean_voxels(b.x, b.weight, piece) for b in (comparison.truth, comparison.generated)
        ]
        top = max(float(means[0].max()), 1e-9)
        radii = np.asarray(layer.r_edges, dtype=float64)
        angles = np.linspace(0, 2 * math.pi, layer.n_alpha + 1)
        # A layer of one sector is drawn as a ring, which needs more than one step of angle.
        repeat = 1 if layer.n_alpha > 1 else 60
        angles = angles if repeat == 1 else np.linspace(0, 2 * math.pi, repeat + 1)
        for axis, mean, role in zip(grid[:, column], means, ("truth", "generated"), strict=True):
            tile = mean.reshape(layer.n_alpha, len(radii) - 1).T.repeat(repeat, axis=1)
            mesh = axis.pcolormesh(
                angles,
                np.sqrt(radii),
                np.log10(np.maximum(tile, top * 1e-4)),
                cmap="magma",
                vmin=math.log10(top) - 4,
                vmax=math.log10(top),
            )
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
            axis.set_title(f"layer {layer.id}" if role == "truth" else "")
            if column == 0:
                axis.set_ylabel(role, labelpad=12)
        figure.colorbar(
            mesh,
            ax=grid[:, column],
            orientation="horizontal",
            shrink=0.8,
            pad=0.03,
            label="log10 of mean energy [MeV]" if column == len(wanted) // 2 else None,
        )
    yield (
        figure,
        "Mean showers",
        (
            "Mean energy of each voxel in the transverse plane; drawn is the root of the radius, "
            "and both rows of a layer share their scale."
        ),
    )


def _mean_voxels(x: Any, weight: Any, piece: slice) -> Array:
    values = x[:, piece].double()
    mean = values.mean(0) if weight is None else (weight.double() @ values) / weight.double().sum()
    return np.asarray(mean.cpu().numpy())


def _correlations(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    if "truth" not in comparison.measured:
        return
    names = varying(comparison.measured["truth"])[:24]
    if len(names) < 2:
        return
    truth, ours = (
        correlation_matrix(*complete(m, names))
        for m in (comparison.measured["truth"], comparison.measured["generated"])
    )
    size = 3.0 + 0.24 * len(names)
    figure = _new(2 * size + 1, size)
    limit = max(0.05, float(np.abs(ours - truth).max()))
    pairs = ((truth, 1.0, "truth"), (ours - truth, limit, "generated - truth"))
    for axis, (matrix, bound, title) in zip(figure.subplots(1, 2), pairs, strict=True):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.minorticks_off()
        axis.tick_params(length=0, top=False, right=False)
        axis.set_title(title)
        figure.colorbar(image, ax=axis, label="correlation", shrink=0.8)
    yield figure, "Correlations", "Pearson correlations of the observables, and their difference."


def _curves(scorecard: Scorecard) -> Iterator[tuple[Any, str, str]]:
    """ROC curves of the judges, and the histogram of the log-weights."""
    judged = [row for row in scorecard.rows if any(name.startswith("ROC") for name in row.curves)]
    if judged:
        figure = _new(3.9 * len(judged), 3.9)
        for axis, row in zip(
            figure.subplots(1, len(judged), squeeze=False)[0], judged, strict=True
        ):
            axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
            for name, (x, y) in row.curves.items():
                role = name.removeprefix("ROC ")
                value = {"generated": row.value, "floor": row.floor}.get(role, row.baseline)
                axis.plot(
                    x,
                    y,
                    color=COLOURS[role],
                    label=f"{role}, AUC {value:.3f}",
                    linestyle="--" if role == "baseline" else "-",
                )
            axis.set_xlabel("generated taken for true")
            axis.set_ylabel("true taken for true")
            axis.set_title(row.name.removeprefix("AUC, "), fontsize=10)
            axis.legend(loc="lower right")
            axis.set_aspect("equal")
        yield (
            figure,
            "Classifiers",
            ("ROC curves of the judges; the floor is the same judge between two samples of truth."),
        )
    for row in scorecard.rows:
        if "log weights" in row.curves:
            edges, counts = row.curves["log weights"]
            figure = _new(5.0, 3.6)
            axis = figure.subplots()
            axis.stairs(counts, edges, fill=True, color=COLOURS["generated"], alpha=0.5)
            axis.set_xlabel("log weight, relative to the mean weight")
            axis.set_ylabel("samples")
            axis.set_title(f"ESS {row.value:.3f}")
            yield figure, "Importance weights", "All at zero would be a perfect model."


def _chains(comparison: Comparison) -> Iterator[tuple[Any, str, str]]:
    measured = comparison.measured["generated"]
    if measured.chain is None:
        return
    names = [name for name, v in measured.scalars.items() if np.isfinite(v).all() and v.std() > 0]
    figure = _new(5.6, 3.8)
    axis = figure.subplots()
    reach = 5
    for name in names[:6]:
        rho = autocorrelation(measured.values[name], measured.chain)
        below = np.flatnonzero(rho < 0.02)
        reach = max(reach, 2 * int(below[0]) if len(below) else len(rho))
        axis.plot(rho, label=name)
    axis.set_xlim(0, reach)
    axis.axhline(0, color="0.7", linewidth=0.8)
    axis.set_xlabel("distance in the chain [steps]")
    axis.set_ylabel("autocorrelation")
    axis.legend()
    yield figure, "Autocorrelation", "How long the generated chain remembers its observables."


def _losses(journal: Path) -> Iterator[tuple[Any, str, str]]:
    series = read_journal(journal.read_text(encoding="utf-8").splitlines())
    if not series:
        return
    figure = _new(min(4.4 * len(series), 13.2), 3.6 * -(-len(series) // 3))
    axes = figure.subplots(-(-len(series) // 3), min(3, len(series)), squeeze=False).ravel()
    for axis, (name, (steps, values)) in zip(axes, series.items(), strict=False):
        axis.plot(steps, values, color=COLOURS["floor"], linewidth=1)
        low, high = np.quantile(values, [0.0, 0.98])
        if high > low:
            axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axis.set_xlabel("step")
        axis.set_ylabel(name)
    for axis in axes[len(series) :]:
        axis.remove()
    yield figure, "Training", "The journal of the training; the first, largest losses are cut off."


def read_journal(lines: Iterable[str]) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Return (steps, values) of up to six finite metrics of a journal, the losses first."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # A line torn by a kill: the engine cuts it off on resume.
        for name, value in record.get("metrics", {}).items():
            if isinstance(value, int | float) and math.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    kept = sorted(
        (name for name in series if len(series[name][0]) > 1), key=lambda n: "loss" not in n
    )
    return {name: series[name] for name in kept[:6]}
