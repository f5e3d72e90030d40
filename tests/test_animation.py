"""Pictures of fixed noise while a surrogate learns, and of the ways between noise."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from physgen import animation
from physgen.animation import (
    COLUMNS,
    ROWS,
    draw_along,
    draw_between,
    grid,
    has_pictures,
    snapshot_callback,
    write_gif,
)
from physgen.batch import Batch, Schema, Variable
from physgen.errors import InputError
from physgen.surrogates.base import Surrogate
from physgen.surrogates.decoding import DecodedNoise
from physgen.surrogates.exploration import interpolate, latent_moments, moments, widest

GREY = Schema((4, 6), (Variable("i", low=0, high=1),), (Variable("label", low=0, high=9),))
FIELD = Schema((4, 4), (Variable("phi"),))


class Shade(Surrogate):
    """A whole image in one shade: the sum of level, first noise and a tenth of the condition."""

    noise_shape = (2,)

    def __init__(self, schema=GREY):
        super().__init__(schema)
        self.level = torch.nn.Parameter(torch.tensor(0.0))

    def from_noise(self, noise, condition=None):
        shade = self.level + noise[:, 0]
        if condition is not None:
            shade = shade + condition[:, 0] / 10
        return shade[:, None, None].expand(-1, *self.schema.shape)

    def sample(self, n, condition=None, *, generator):
        return Batch(self.from_noise(torch.randn(n, 2, generator=generator), condition), condition)


def labelled():
    surrogate = Shade()
    surrogate.conditions.fit(torch.arange(10.0).repeat(50)[:, None])
    return surrogate


def shades(path):
    """The grey of each sample of a picture, by rows and columns."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[0] // ROWS, pixels.shape[1] // COLUMNS
    return pixels[height // 2 :: height, width // 2 :: width, 0]


def test_the_same_noise_is_seen_again(tmp_path):
    surrogate = labelled()
    on_evaluate = snapshot_callback(surrogate, tmp_path / "a", 1)
    on_evaluate(100)
    surrogate.level.data += 0.3
    on_evaluate(1000)
    surrogate.level.data -= 0.3
    on_evaluate(20)
    names = [path.name for path in sorted((tmp_path / "a").iterdir())]
    assert names == ["step-000000020.png", "step-000000100.png", "step-000001000.png"]
    early, first, later = (shades(tmp_path / "a" / name).astype(int) for name in names)
    assert (first == early).all()
    free = (first > 0) & (later < 255)
    assert free.any()
    assert (abs(later - first - 0.3 * 255)[free] <= 2).all()
    snapshot_callback(surrogate, tmp_path / "b", 2)(20)
    assert (shades(tmp_path / "b" / names[0]) != early).any()


def test_conditions_rise_from_column_to_column(tmp_path):
    surrogate = labelled()
    surrogate.from_noise = lambda noise, condition: Shade.from_noise(
        surrogate, 0 * noise, condition
    )
    snapshot_callback(surrogate, tmp_path, 0)(1)
    found = shades(tmp_path / "step-000000001.png").T.ravel().astype(int)
    assert (np.diff(found) >= 0).all()
    assert len(set(found)) == 10


def test_pictures_become_an_animation(tmp_path):
    for step in range(2 * animation.FRAMES):
        if step < 3:
            write_gif(tmp_path, tmp_path / "animation.gif")
            assert (tmp_path / "animation.gif").exists() == (step > 1), "one picture does not move"
        Image.new("RGB", (20, 10), (2 * step, 0, 0)).save(tmp_path / f"step-{step:09d}.png")
    write_gif(tmp_path, tmp_path / "animation.gif")
    with Image.open(tmp_path / "animation.gif") as picture:
        assert picture.info["loop"] == 0
        assert picture.n_frames == animation.FRAMES
        picture.seek(picture.n_frames - 1)
        red = picture.convert("RGB").getpixel((0, 0))[0]
        assert red == pytest.approx(2 * (2 * animation.FRAMES - 1), abs=4)


def test_ways_between_noise_end_in_moments(tmp_path):
    surrogate = labelled()
    draw_between(surrogate, tmp_path / "between.png", 0)
    found = shades(tmp_path / "between.png")
    assert found.shape == (ROWS, COLUMNS)
    assert (np.diff(found[:, -2].astype(int)) >= 0).all(), "means rise with the condition"


def test_scales_and_colours():
    x = torch.zeros(2, 3, 4, 4)
    x[0, 0] = -5.0
    picture = np.asarray(grid(x, FIELD))
    zoom = animation.WIDTH // 15
    assert picture.shape == (10 * zoom, 15 * zoom, 3)
    red, _, blue = picture[zoom, zoom].astype(int)
    assert blue > red + 50
    assert np.ptp(picture[zoom, 7 * zoom].astype(int)) < 10, "zero is white"
    assert np.isfinite(np.asarray(grid(torch.full((1, 1, 4, 4), math.nan), FIELD))).all()


def test_only_images_of_noise_are_pictured():
    assert has_pictures(labelled())
    assert has_pictures(Shade(FIELD))
    assert not has_pictures(Shade(Schema((3,), (Variable("x"),))))
    assert not has_pictures(Shade(Schema((3, 2), (Variable("x"), Variable("y")))))
    assert not has_pictures(Surrogate(FIELD))


class Bars(DecodedNoise):
    """Four bars, one a latent entry, which shift its shade by 1/10, 0, 1/5 and 1/20."""

    weight = torch.tensor([0.1, 0.0, 0.2, 0.05])
    noise_shape, n_latent = (6,), 4
    device, dtype = torch.device("cpu"), torch.float32

    def decode_noise(self, noise, condition):
        return (0.5 + noise[:, :4] * self.weight)[:, :, None].expand(-1, 4, 6)


def test_the_entries_that_move_samples_most_are_drawn_along(tmp_path):
    surrogate = Bars(GREY)
    surrogate.conditions.fit(torch.zeros(1, 1))
    assert widest(surrogate, 3) == [2, 0, 3]
    assert widest(surrogate, 9) == [2, 0, 3, 1]
    draw_along(surrogate, tmp_path / "along.png", 1)
    with Image.open(tmp_path / "along.png") as picture:
        pixels = np.asarray(picture.convert("L")).astype(float)
    height, width = pixels.shape[0] // ROWS, pixels.shape[1] // (COLUMNS - 1)
    for line, entry in enumerate([2, 0, 3, 1]):
        # The bar of the entry goes from dark to light, the others stay.
        seen = pixels[line * height :: height // 5][:4, width // 2 :: width]
        rise = np.diff(seen, axis=1)
        assert (rise[entry] > 0).all() or entry == 1
        assert not np.delete(rise, entry, 0).any()


# --- exploration ----------------------------------------------------------------------------------


def test_interpolation_keeps_to_the_sphere_and_meets_its_ends():
    surrogate = Shade(FIELD)
    start, end = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [3.0, 1.0]])
    x = interpolate(surrogate, start, end, steps=5)
    assert x.shape == (2, 5, 4, 4)
    torch.testing.assert_close(x[:, 0], surrogate.from_noise(start))
    torch.testing.assert_close(x[:, -1], surrogate.from_noise(end))
    torch.testing.assert_close(x[0, 2, 0, 0].item(), math.sqrt(0.5))
    shifted = interpolate(labelled(), start, end, steps=5, condition=torch.tensor([[0.0], [5.0]]))
    torch.testing.assert_close(
        shifted[:, :, 0, 0] - x[:, :, 0, 0], torch.tensor([[0.0], [0.5]]).expand(2, 5)
    )
    with pytest.raises(InputError, match="no map of noise"):
        interpolate(Surrogate(FIELD), start, end)


def test_moments_of_samples_and_of_the_noise_of_a_label():
    mean, deviation = moments(
        labelled(), 4000, torch.tensor([3.0]), generator=torch.Generator().manual_seed(0)
    )
    assert mean.shape == deviation.shape == GREY.shape
    assert mean[0, 0].item() == pytest.approx(0.3, abs=0.05)
    assert deviation[0, 0].item() == pytest.approx(1.0, abs=0.05)
    noise = torch.randn(5000, 2, generator=torch.Generator().manual_seed(1))
    means, deviations = latent_moments(noise, (noise[:, 0] > 0).long(), 3)
    torch.testing.assert_close(means[1, 0].item(), math.sqrt(2 / math.pi), atol=0.03, rtol=0)
    torch.testing.assert_close(means[0, 1].item(), 0.0, atol=0.05, rtol=0)
    torch.testing.assert_close(
        deviations[0, 0].item(), math.sqrt(1 - 2 / math.pi), atol=0.03, rtol=0
    )
    assert means[2].isnan().all()
