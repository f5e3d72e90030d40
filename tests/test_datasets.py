"""Cards of data sets: all is said, and hashes are those of the data."""

from pathlib import Path

import pytest
import yaml

from physgen.io.fetch import MNIST_SHA256
from physgen.io.shipped import shipped, shipped_folder
from physgen.io.writer import sha256
from physgen.registry import Component, build
from physgen.systems.event_files import located
from physgen.systems.image_files import image_card, read_images

CARDS = sorted(path.stem for path in shipped_folder("datasets").glob("*.yaml"))


def card(name):
    return yaml.safe_load(shipped("datasets", f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_all(name):
    found = card(name)
    for key in ("summary", "contents", "origin", "split", "licence"):
        assert len(found[key]) > 10, key
    assert found["name"] == name
    assert len(found.get("sha256", "")) == 64 or "see provenance.json" in found["hash"]
    assert ("read" in found) != ("simulate" in found)


@pytest.mark.parametrize("name", ["calo-368", "calo-6480"])
def test_the_hash_of_a_calorimeter_is_that_of_its_binning(name):
    assert card(name)["sha256"] == sha256(shipped("datasets", card(name)["simulate"]["binning"]))


def test_the_hash_of_the_digits_is_that_of_their_arrays():
    assert card("digits")["sha256"] == read_images(image_card("digits.yaml")).digest()


def test_the_hash_of_mnist_is_that_which_fetching_asks_for():
    assert card("mnist")["sha256"] == MNIST_SHA256


def test_the_hash_of_events_is_that_of_their_file():
    pytest.importorskip("skhep_testdata")
    assert card("wt-loop")["sha256"] == sha256(Path(located(card("wt-loop")["read"]["path"])))


def test_the_hash_of_spins_is_that_of_the_first_thousand(tmp_path):
    system = build("systems", Component(**card("ising-16x16")["simulate"]), {})
    with system.writer(tmp_path / "a.h5", 1000) as append:
        append(system.simulate(1000, seed=1))
    assert system.open(tmp_path / "a.h5").digest() == card("ising-16x16")["sha256"]
