"""Images: files in, intensities out; binarising, labels, observables with known values, faults."""

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from physgen import simulation
from physgen.batch import Batch, Schema
from physgen.components import system_of
from physgen.errors import FormatError, RecipeError
from physgen.io.split import split
from physgen.recipe import read as read_recipe
from physgen.systems.base import HasFeatures, HasFiles, HasLabels, HasUnits, System
from physgen.systems.images import Images
from physgen.validation.sources import chain_labels

DIGITS = Path("digits.yaml")


@pytest.fixture(scope="module")
def digits():
    system = Images(path=str(DIGITS), labels=True)
    source = system.open(DIGITS)
    return system, source, source.read(0, len(source))


def test_the_digits_are_as_their_card_says(digits):
    system, source, batch = digits
    for protocol in (System, HasFiles, HasFeatures, HasUnits, HasLabels):
        assert isinstance(system, protocol)
    assert len(source) == 1797
    assert batch.x.shape == (1797, *system.schema.shape)
    assert batch.x.dtype == torch.float32
    assert torch.equal(batch.x * 16, (batch.x * 16).round())
    assert batch.x.aminmax() == (0, 1)
    counts = batch.condition[:, 0].long().bincount()
    assert len(counts) == 10
    assert counts.min() > 170
    assert source.keys() is None


def test_images_of_known_classes_are_no_markov_chain(tmp_path):
    """Those of one writer, or of one class, follow one another; the lattices of a file may too."""
    digits = Images(path=str(DIGITS))
    assert chain_labels(digits, digits.open(DIGITS)) is None
    x = np.cumsum(np.random.default_rng(0).normal(size=(500, 4, 4)), 0)
    np.savez(tmp_path / "walk.npz", images=(x - x.min()) / np.ptp(x))
    walk = Images(path=str(tmp_path / "walk.npz"))
    for system in (walk, digits):
        assert chain_labels(system, walk.open(tmp_path / "walk.npz")) is not None


def test_the_schema_of_a_described_file_needs_no_file_and_survives_json():
    system = Images(path="mnist.yaml", labels=True)  # which nobody may have fetched
    assert system.schema.shape == (28, 28)
    assert system.schema.condition[0].high == 9
    assert Schema.from_dict(system.schema.to_dict()) == system.schema
    assert Images(path="mnist.yaml").schema.condition == ()


def test_thresholded_digits_are_bits(digits):
    grey = digits[2].x
    system = Images(path=str(DIGITS), binarise="threshold")
    source = system.open(DIGITS)
    assert system.schema.variables[0].domain == "binary"
    assert torch.equal(source.read(3, 9).x, (grey[3:9] >= 0.5).float())
    assert source.read(3, 9).condition is None
    assert source.digest() != digits[1].digest()


def test_drawn_pixels_have_the_intensities_as_their_means(digits):
    grey = digits[2].x
    system = Images(path=str(DIGITS), binarise="dynamic", draws=100)
    source = system.open(DIGITS)
    assert len(source) == 100 * 1797
    x = source.read(0, 100 * 1797).x.reshape(100, 1797, 8, 8)
    assert set(x.unique().tolist()) == {0, 1}
    # Deviations of up to 0.05 in 115008 pixels.
    assert (x.mean(0) - grey).abs().max() < 0.25
    assert abs((x.mean(0) - grey).mean()) < 1e-4
    assert len(x[:, 7].flatten(1).unique(dim=0)) > 95
    assert not x[:, grey == 0].any()
    assert x[:, grey == 1].all()


def test_drawn_pixels_follow_from_the_row_alone():
    system = Images(path=str(DIGITS), binarise="dynamic", draws=3)
    source = system.open(DIGITS)
    whole = source.read(1750, 1850).x  # from one draw into the next
    assert torch.equal(source.read(1780, 1820).x, whole[30:70])
    pieces = [source.read(i, i + 1).x for i in range(1795, 1800)]
    assert torch.equal(torch.cat(pieces), whole[45:50])
    assert torch.equal(system.open(DIGITS).read(1750, 1850).x, whole)
    parts = split(len(source), keys=source.keys(), fractions=(0.5, 0.1, 0.4), seed=1)
    assert not set(parts.train % 1797) & set(parts.test % 1797)


def test_labelled_images_are_spread_over_the_file(digits):
    _, _, batch = digits
    x, labels = digits[0].labelled(600)
    assert x.shape == (600, 8, 8)
    assert labels.dtype == torch.int64
    assert torch.equal(x[-1], batch.x[-1])
    assert torch.equal(labels[[0, -1]].float(), batch.condition[[0, -1], 0])
    assert len(digits[0].labelled(5000)[0]) == 1797
    drawn, again = Images(path=str(DIGITS), binarise="dynamic").labelled(600)
    assert torch.equal(again, labels)
    assert set(drawn.unique().tolist()) == {0, 1}


def bar(rows=9, columns=12):
    """A bright bar of 4x2 pixels in columns 6 to 7, rows 1 to 4."""
    x = torch.zeros(rows, columns)
    x[1:5, 6:8] = 1
    return x


def test_moments_of_a_bar_are_known():
    faint = 0.25 * bar().roll((3, 3), (0, 1))
    x = torch.stack([bar(), 0.5 * bar(), bar() + faint])
    o = Images().observables(Batch(x))
    for name, value in {
        "intensity": 8 / 108,
        "x": 6.5,
        "y": 2.5,
        "width": 0.5,
        "height": 1.25**0.5,
        "tilt": 0.0,
        # Two rows of 2 jumps among vertical neighbours, two columns of 4 among horizontal ones.
        "edges": (4 / (8 * 12) + 8 / (9 * 11)) / 2,
        "pieces": 1,
        "holes": 0,
        "largest piece": 1,
    }.items():
        assert o[name][0].item() == pytest.approx(value, abs=1e-9), name
    for name in ("x", "y", "width", "height"):
        torch.testing.assert_close(o[name][1], o[name][0])
    torch.testing.assert_close(o["intensity"][1], o["intensity"][0] / 2)
    # The faint copy lies to the lower right of the bar, which tilts the whole.
    assert 0.5 < o["tilt"][2] < 1
    two = torch.zeros(2, 9, 12)
    two[0, 1, 2] = two[0, 5, 4] = two[1, 1, 4] = two[1, 5, 2] = 1
    assert Images().observables(Batch(two))["tilt"].tolist() == pytest.approx([1, -1])


def test_pieces_and_holes_are_counted():
    art = """
    .........  #########  #.......#  .........
    .##...#..  #...#...#  .#.....#.  .........
    .##..#...  #...#...#  ..#...#..  .........
    ....#....  #########  ...#.#...  .........
    ...#.....  #...#...#  ....#....  .........
    .........  #...#...#  .........  .........
    .###.....  #########  ###...###  .........
    """
    images = [[] for _ in range(4)]
    for line in art.split("\n")[1:-1]:
        for image, row in zip(images, line.split(), strict=True):
            image.append([float(c == "#") for c in row])
    o = Images().observables(Batch(torch.tensor(images)))
    assert o["pieces"].tolist() == [3, 1, 3, 0]
    assert o["holes"].tolist() == [0, 4, 0, 0]
    assert o["largest piece"][0].item() == pytest.approx(4 / 11)
    assert o["largest piece"][:3].max() == 1
    for name in ("x", "y", "width", "height", "tilt", "largest piece"):
        assert o[name][3].isnan()
    assert o["intensity"][3] == 0
    features = Images().features(Batch(torch.tensor(images)), "high")
    assert features.shape == (4, 10)
    assert features.isfinite().all()
    assert Images().features(Batch(torch.tensor(images)), "low").shape == (4, 63)


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim])
    content = head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 6, 4)).astype(np.uint8)
CLASSES = (np.arange(20) % 3).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_bring_the_labels_beside_them(tmp_path, suffix):
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    write_idx(path, PIXELS)
    assert Images(path=str(path)).schema.shape == (6, 4)
    with pytest.raises(FormatError, match="no labels"):
        Images(path=str(path), labels=True).open(path)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", CLASSES)
    system = Images(path=str(path), labels=True)
    assert system.schema.condition[0].high == 2
    batch = system.open(path).read(0, 20)
    np.testing.assert_array_equal(batch.condition[:, 0], CLASSES)
    np.testing.assert_array_equal(batch.x, PIXELS / np.float32(255))


def test_a_card_names_labels_and_white(tmp_path):
    write_idx(tmp_path / "a", PIXELS // 16)
    write_idx(tmp_path / "b", CLASSES)
    card = tmp_path / "own.yaml"
    card.write_text(
        f"read: {{path: {tmp_path}/a, labels: {tmp_path}/b, shape: [6, 4], classes: 5, white: 15}}"
    )
    system = Images(path=str(card), labels=True)
    assert system.schema.condition[0].high == 4
    batch = system.open(card).read(0, 20)
    np.testing.assert_allclose(batch.x, PIXELS // 16 / 15, rtol=1e-6)
    assert batch.condition[4] == 1
    card.write_text(f"read: {{path: {tmp_path}/a, labeles: x}}")
    with pytest.raises(FormatError, match=r"unknown key 'read\.labeles'; did you mean 'labels'"):
        Images(path=str(card)).schema  # noqa: B018


PHYSICS = {
    "spins": ("ising-rbm", {}, "spins.h5", "array: samples, black: -1, white: 1", (16, 16)),
    "a field": ("phi4-flow", {}, "field.npz", "array: configurations, black: -9, white: 9", (8, 8)),
    "showers": (
        "calo-flow",
        {"data.binning": "calo-6480.xml", "system.depths": []},
        "showers.hdf5",
        "array: showers, shape: [45, 144], white: 300000",
        (45, 144),
    ),
}


@pytest.mark.parametrize("name", PHYSICS)
def test_lattices_and_showers_are_images_too(tmp_path, name):
    recipe, changes, file, read, shape = PHYSICS[name]
    checked = read_recipe(recipe, changes)
    simulation.simulate(checked, tmp_path / file, 20, 1)
    card = tmp_path / "card.yaml"
    card.write_text(f"read: {{path: {tmp_path / file}, {read}}}")
    system = Images(path=str(card))
    batch = system.open(card).read(0, 20)
    physical = system_of(checked).open(tmp_path / file).read(0, 20).x.reshape(20, *shape)
    kept = yaml.safe_load(card.read_text())["read"]
    black, white = kept.get("black", 0), kept["white"]
    torch.testing.assert_close(
        batch.x * (white - black) + black, physical.float(), atol=1e-5, rtol=1e-4
    )
    drawn = Images(path=str(card), binarise="dynamic", draws=3)
    assert len(drawn.open(card)) == (20 if name == "spins" else 60)


def test_black_and_the_array_are_checked(tmp_path):
    np.savez(tmp_path / "a.npz", spins=2 * (PIXELS > 99) - 1.0)
    card = tmp_path / "own.yaml"
    for said, told in (
        ("array: spins", r"row 0 holds -1, outside \[0, 1\].*read\.black"),
        ("array: spin", r"called spin; .*'spins'"),
        ("array: spins, black: 2, white: 1", "black is 2 and white 1"),
        ("array: spins, black: -1, white: 0", r"row 0 holds 1, outside \[-1, 0\]"),
        ("array: spins, black: dark", r"own\.yaml: read\.black = 'dark': .*valid number"),
        ("array: spins, classes: two", "read.classes = 'two': .*valid integer"),
        ("array: [1]", r"own\.yaml: read\.array = \[1\]: .*valid string"),
        ("array: spins, labels: 3", r"own\.yaml: read\.labels = 3: .*valid string"),
        ("array: spins, white: .inf", r"own\.yaml: read\.white = inf: .*finite"),
        ("array: spins, classes: 0", r"own\.yaml: read\.classes = 0: .*greater than 0"),
        ("array: spins, shape: 3", r"own\.yaml: read\.shape = 3: "),
        ("array: spins, shape: [6, four]", r"read\.shape\.1 = 'four'"),
    ):
        card.write_text(f"read: {{path: {tmp_path}/a.npz, {said}}}")
        with pytest.raises(FormatError, match=told):
            Images(path=str(card)).schema  # noqa: B018
    write_idx(tmp_path / "b", PIXELS)
    card.write_text(f"read: {{path: {tmp_path}/b, array: x}}")
    with pytest.raises(FormatError, match="an IDX file is one array"):
        Images(path=str(card)).schema  # noqa: B018


ARCHIVES = {
    "own names": {"images": PIXELS, "labels": CLASSES},
    "floats": {"x": PIXELS / 255.0, "y": CLASSES.astype(float)},
    "flat rows": {"data": PIXELS[:, :4].reshape(20, 16), "target": CLASSES},
    "a channel": {"images": PIXELS[..., None], "labels": CLASSES[:, None]},
    "a channel first": {"images": PIXELS[:, None], "labels": CLASSES[:, None]},
    "two parts": {
        "x_train": PIXELS[:15],
        "x_test": PIXELS[15:],
        "y_train": CLASSES[:15],
        "y_test": CLASSES[15:],
    },
}


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_archives_of_many_kinds(tmp_path, name, suffix):
    path = tmp_path / f"images{suffix}"
    if suffix == ".npz":
        np.savez(path, **ARCHIVES[name])
    else:
        with h5py.File(path, "w") as file:
            for key, value in ARCHIVES[name].items():
                file[key] = value
    system = Images(path=str(path), labels=True)
    batch = system.open(path).read(0, 20)
    expected = PIXELS[:, :4] if name == "flat rows" else PIXELS
    np.testing.assert_allclose(batch.x, expected / 255, rtol=1e-6)
    np.testing.assert_array_equal(batch.condition[:, 0], CLASSES)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("binarise", ["none", "threshold", "dynamic"])
def test_what_is_written_comes_back(digits, tmp_path, suffix, binarise):
    system = Images(path=str(DIGITS), labels=True, binarise=binarise)
    batch = system.open(DIGITS).read(0, 30)
    path = tmp_path / f"out{suffix}"
    with system.writer(path, 30) as append:
        append(batch[:10])
        append(batch[10:])
    source = system.open(path)
    assert len(source) == 30  # what is black and white already is not drawn again
    assert torch.equal(source.read(0, 30).x, batch.x)
    assert torch.equal(source.read(0, 30).condition, batch.condition)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_weights_that_are_written_come_back(digits, tmp_path, suffix):
    system = Images(path=str(DIGITS), labels=True)
    batch = system.open(DIGITS).read(0, 30)
    assert batch.weight is None
    weight = torch.rand(30)
    with system.writer(tmp_path / f"out{suffix}", 30) as append:
        append(batch.replace(weight=weight))
    source = system.open(tmp_path / f"out{suffix}")
    assert torch.equal(source.read(5, 30).weight, weight[5:])
    with system.writer(tmp_path / f"plain{suffix}", 30) as append:
        append(batch)
    assert source.digest() != system.open(tmp_path / f"plain{suffix}").digest()


def broken(**arrays):
    return {"images": PIXELS / 255.0, "labels": CLASSES} | arrays


def spoilt(value):
    x = PIXELS / 255.0
    x[7, 2, 1] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (broken(images=spoilt(np.nan)), "row 7 holds nan"),
        (broken(images=PIXELS[:0], labels=CLASSES[:0]), "no images"),
        (broken(images=spoilt(1.5)), r"row 7 holds 1\.5, outside \[0, 1\]"),
        (broken(images=spoilt(-0.1)), r"row 7 holds -0\.1, outside"),
        (broken(images=PIXELS.astype(int)), "which value is intensity 1"),
        (broken(images=np.zeros((20, 6, 4, 3))), "are not grey images"),
        (broken(images=np.zeros((20, 5))), "are not grey images"),
        (broken(labels=CLASSES[:9]), "20 images, but labels of shape"),
        (broken(labels=CLASSES - 0.5), r"the label of row 0 is -0\.5"),
        ({"pictures": PIXELS}, "no array of images"),
    ],
)
def test_files_that_are_not_images_are_refused(tmp_path, arrays, said):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(FormatError, match=said) as error:
        Images(path=str(path), labels=True).open(path)
    assert str(path) in str(error.value)


def test_other_sizes_and_classes_than_the_systems_are_refused(tmp_path):
    system = Images(path=str(DIGITS), labels=True)
    np.savez(tmp_path / "large.npz", images=PIXELS, labels=CLASSES)
    with pytest.raises(FormatError, match=r"images of \(6, 4\), but this system's are of \(8, 8\)"):
        system.open(tmp_path / "large.npz")
    np.savez(tmp_path / "more.npz", images=np.zeros((2, 8, 8)), labels=[3, 12])
    with pytest.raises(FormatError, match="the label of row 1 is 12"):
        system.open(tmp_path / "more.npz")


def test_recipes_that_say_too_little_are_refused():
    with pytest.raises(RecipeError, match=r"data\.path, such as digits\.yaml"):
        Images().schema  # noqa: B018
    with pytest.raises(RecipeError, match="at least once"):
        Images(draws=0)


def test_labels_that_are_not_used_refuse_nothing(tmp_path):
    pictures = np.zeros((6, 4, 4), "u1")
    classes = np.array([0, 1, 2, 2, 1, 0])
    bad = {
        "words": np.array([f"class{k}" for k in classes]),
        "objects": np.array([{} for _ in classes], dtype=object),
        "few": classes[:4],
        "halves": classes / 2,
        "wide": np.ones((6, 3)),
    }
    for name, labels in bad.items():
        np.savez(tmp_path / f"{name}.npz", images=pictures, labels=labels)
        images = Images(path=str(tmp_path / f"{name}.npz"))
        assert len(images.open(tmp_path / f"{name}.npz").read(0, 6)) == 6
        with pytest.raises(FormatError, match=name if name == "objects" else "label"):
            images.labelled(3)
    np.savez(tmp_path / "onehot.npz", images=pictures, labels=np.eye(3)[classes])
    images = Images(path=str(tmp_path / "onehot.npz"), labels=True)
    assert images.open(tmp_path / "onehot.npz").read(0, 6).condition[:, 0].tolist() == [
        *classes.tolist()
    ]
