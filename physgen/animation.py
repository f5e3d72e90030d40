"""What fixed noise becomes while a surrogate learns: pictures, and an animation of them.

The pictures are written while training goes on, under names that sort by step; a run that is
resumed writes the later ones again. Last pictures show what lies between noise and noise, and,
where there is a latent vector, along its entries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Schema, Variable
from physgen.io.writer import atomic
from physgen.surrogates.base import FromNoise, Surrogate
from physgen.surrogates.decoding import DecodedNoise
from physgen.surrogates.exploration import interpolate, moments, traverse, widest

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS, COLUMNS = 4, 10

FRAMES = 60
"""Most pictures in an animation; of more, so many evenly spaced ones are taken."""

SECONDS, LAST = 6.0, 1.5
"""How long an animation takes, and its last picture stays."""

WIDTH = 360
"""Of a picture in pixels, at least."""

SAMPLES = 64
"""Behind a mean and a standard deviation; some surrogates need a second for as many."""


def has_pictures(surrogate: Surrogate) -> bool:
    """Return whether samples are rows and columns of one variable, made of noise."""
    schema = surrogate.schema
    return (
        isinstance(surrogate, FromNoise) and len(schema.shape) == 2 and len(schema.variables) == 1
    )


def snapshot_callback(surrogate: Surrogate, folder: Path, seed: int) -> Callable[[int], None]:
    """Return what saves a picture of the samples of fixed noise, given the step.

    Conditions, where there are any, are drawn from those of the training data and rise from column
    to column.

    Args:
        surrogate: one that `has_pictures`.
        folder: where the pictures go.
        seed: of noise and conditions.
    """
    noise, condition = _fixed(surrogate, (COLUMNS, ROWS), seed)

    @torch.no_grad()
    def on_evaluate(step: int) -> None:
        model: Any = surrogate
        rows = None if condition is None else condition.to(model.device, model.dtype)
        x: Tensor = model.from_noise(noise.to(model.device, model.dtype), rows)
        columns = x.reshape(COLUMNS, ROWS, *x.shape[1:])
        _save(grid(columns.transpose(0, 1), surrogate.schema), folder / f"step-{step:09d}.png")

    return on_evaluate


def write_gif(folder: Path, output: Path) -> None:
    """Join the pictures of a folder to an animation; there is none of fewer than two."""
    from PIL import Image

    paths = sorted(folder.glob("step-*.png"))
    if len(paths) < 2:
        return
    chosen = np.unique(np.linspace(0, len(paths) - 1, FRAMES).astype(int))
    frames = [Image.open(paths[i]).quantize(64) for i in chosen]
    pause = round(1000 * SECONDS / len(frames))
    with atomic(output, overwrite=True) as part:
        frames[0].save(
            part,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[pause] * (len(frames) - 1) + [pause + round(1000 * LAST)],
            loop=0,
        )


def draw_between(surrogate: Surrogate, output: Path, seed: int) -> None:
    """Draw the samples between noise and noise, one way a row.

    The last two columns are the mean and the standard deviation of many samples, at the condition
    of the row if there is one.

    Args:
        surrogate: one that `has_pictures`.
        output: a PNG file.
        seed: of noise and conditions.
    """
    noise, condition = _fixed(surrogate, (ROWS, 2), seed)
    noise = noise.to(surrogate.device, surrogate.dtype)
    if condition is not None:
        condition = condition[::2].to(surrogate.device, surrogate.dtype)
    generator = torch.Generator(surrogate.device).manual_seed(seed)
    rows = [
        torch.stack(
            moments(
                surrogate,
                SAMPLES,
                None if condition is None else condition[row],
                generator=generator,
            )
        )
        for row in range(ROWS)
    ]
    ends = noise[::2], noise[1::2]
    between = interpolate(surrogate, *ends, steps=COLUMNS - 2, condition=condition)
    _save(grid(torch.cat([between, torch.stack(rows)], 1), surrogate.schema), output)


def draw_along(surrogate: DecodedNoise, output: Path, seed: int) -> None:
    """Draw samples along the latent entries that move them the most, one entry a row.

    The entry goes from -2.5 to 2.5, all other noise being 0.

    Args:
        surrogate: one that `has_pictures`.
        output: a PNG file.
        seed: of the condition that all samples have, if there is one.
    """
    _, conditions = _fixed(surrogate, (1, 1), seed)
    condition = None if conditions is None else conditions[0]
    entries = widest(surrogate, ROWS, condition=condition)
    rows = traverse(surrogate, entries, steps=COLUMNS - 1, condition=condition)
    _save(grid(rows, surrogate.schema), output)


def grid(x: Tensor, schema: Schema) -> Image:
    """Return a picture of (rows, columns, H, W) samples on one scale.

    That is the range of the variable, from black to white; where it has none, blue to red.
    """
    import matplotlib as mpl
    from PIL import Image

    values: NDArray[float64] = x.double().cpu().numpy()
    low, high, name = _scale(schema.variables[0], values)
    # A rim beside each sample, in the colour of what is not a number.
    framed = np.pad(values, [(0, 0), (0, 0), (0, 1), (0, 1)], constant_values=np.nan)
    n_rows, n_columns, height, width = framed.shape
    page = framed.transpose(0, 2, 1, 3).reshape(n_rows * height, n_columns * width)
    colours = mpl.colormaps[name].with_extremes(bad="#4a6fa5")
    scaled = np.ma.masked_invalid((page - low) / (high - low))
    picture = Image.fromarray(np.ascontiguousarray(colours(scaled, bytes=True)[..., :3]))
    zoom = -(-WIDTH // picture.width)
    return picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST)


def _scale(variable: Variable, values: NDArray[float64]) -> tuple[float, float, str]:
    if variable.low is not None and variable.high is not None:
        return variable.low, variable.high, "gray"
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.quantile(finite, 0.999)) if len(finite) else 0.0
    return -(limit or 1.0), limit or 1.0, "RdBu_r"


def _fixed(surrogate: Surrogate, shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor | None]:
    """Return noise, and conditions that rise with the first of two axes, on the CPU."""
    model: Any = surrogate
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape[0] * shape[1], *model.noise_shape, generator=generator)
    condition = surrogate.conditions.draw(len(noise), generator)
    return noise, None if condition is None else condition[condition[:, 0].argsort()]


def _save(picture: Image, path: Path) -> None:
    with atomic(path, overwrite=True) as part:
        picture.save(part, format="PNG")
