"""Ensembles of configurations: replicas and trajectories from names, and what does not belong."""

from pathlib import Path

import numpy as np
import pytest
from by_hand import ildg, milc, nersc, random_links
from hypothesis import given
from hypothesis import strategies as st

from physgen.errors import FormatError
from physgen.io.inspect import inspect_all
from physgen.io.joined import expand
from physgen.io.lattice.names import history
from physgen.io.lattice.source import ConfigurationSource, in_files
from physgen.systems.gauge import Gauge


def names(*texts):
    found = history([Path(text) for text in texts])
    return [path.as_posix() for path in found.paths], found


@pytest.mark.parametrize(
    ("given", "replicas", "step", "times"),
    [
        (["cfg_100.ildg", "cfg_20.ildg", "cfg_60.ildg"], ["cfg_*"], 40, [0, 1, 2]),
        (["a/lat.10", "b/lat.10", "a/lat.30"], ["a/lat.*", "b/lat.*"], 20, [0, 1, 0]),
        (["E1r001n12", "E1r001n13", "E1r002n15"], ["E1r001n*", "E1r002n*"], 1, [0, 1, 0]),
        (["run_100_r0", "run_100_r1", "run_120_r1"], ["run_*_r0", "run_*_r1"], 20, [0, 0, 1]),
        (["cfg_8_b5.7.ildg", "cfg_10_b5.7.ildg"], ["cfg_*_b5.7"], 2, [0, 1]),
        (["l48_a.0100", "l48_a.0110", "l48_b.0105"], ["l48_a.*", "l48_b.*"], 10, [0, 1, 0]),
        (["conf.n7.ildg"], ["conf.n*"], 1, [0]),
    ],
)
def test_replicas_and_trajectories_of_names(given, replicas, step, times):
    _, found = names(*given)
    assert (list(found.replicas), found.step, found.times.tolist()) == (replicas, step, times)
    assert found.sentences() == []


def test_missing_trajectories_are_said():
    order, found = names("r1_40", "r1_10", "r1_30", "r2_20", "r2_60")
    assert order == ["r1_10", "r1_30", "r1_40", "r2_20", "r2_60"]
    assert found.missing() == {"r1_*": [20], "r2_*": [30, 40, 50]}
    assert found.times.tolist() == [0, 2, 3, 0, 4]
    assert (
        "r2_*: 3 of the trajectories are missing, by steps of 10: 30, 40, 50"
        in (found.sentences()[1])
    )


@given(
    st.sets(st.integers(0, 10**6), min_size=2, max_size=20),
    st.integers(1, 50),
    st.permutations(range(20)),
)
def test_the_order_of_files_does_not_matter(numbers, step, order):
    trajectories = sorted(numbers)
    paths = [Path(f"lat.{step * number}") for number in trajectories]
    shuffled = [paths[i] for i in order if i < len(paths)]
    found = history(shuffled)
    assert list(found.paths) == paths
    assert (found.times * found.step).tolist() == [
        step * (number - trajectories[0]) for number in trajectories
    ]


def test_names_without_numbers_twins_and_dates():
    assert "names without trajectory numbers" in names("a.ildg", "b.ildg")[1].sentences()[0]
    with pytest.raises(FormatError, match="are both trajectory 7 of"):
        names("cfg_7.ildg", "cfg_07.ildg")
    with pytest.raises(FormatError, match="are these trajectory numbers"):
        names("cfg_1", "cfg_2", "cfg_20261129")


@pytest.fixture
def folder(tmp_path):
    for replica in (1, 2):
        for n in (10, 20, 40):
            links = random_links((2, 2, 2, 4), seed=100 * replica + n)
            ildg(tmp_path / f"r{replica}n{n}.ildg", links)
    (tmp_path / "readme.txt").write_text("beta = 6\n")
    return tmp_path


def test_a_folder_is_an_ensemble(folder):
    paths = expand(folder)
    assert len(paths) == 6
    source = ConfigurationSource(paths)
    assert source.replica.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.times.tolist() == [0, 1, 3, 0, 1, 3]
    batch = source.read(4, 9)
    assert batch.chain.tolist() == [1, 1]
    expected = random_links((2, 2, 2, 4), seed=220)
    np.testing.assert_array_equal(in_files(batch.x[0].numpy()), expected)
    assert len(source.notes()) == 2
    assert source.digest() == ConfigurationSource(paths[::-1]).digest()


def test_an_ensemble_is_described_as_one(folder):
    (report,) = inspect_all(expand(folder)).values()
    assert report["reader"] == "yes"
    contents = report["contents"]
    assert contents["configurations"] == 6
    assert contents["replicas"]["r1n*"] == "3 trajectories, 10 to 40 by 10"
    assert contents["checksums"] == {"agrees": 6, "do not agree": 0}
    assert any("missing" in hint for hint in report["hints"])


def test_one_that_is_damaged_is_named_among_the_others(folder):
    path = folder / "r2n20.ildg"
    whole = bytearray(path.read_bytes())
    whole[1500] ^= 1
    path.write_bytes(whole)
    (report,) = inspect_all(expand(folder)).values()
    assert report["reader"] == "no"
    assert "1 of 6 files fail" in report["problem"]
    assert str(path) in report["problem"]
    assert "checksum suma" in report["problem"]
    (forced,) = inspect_all(expand(folder), force=True).values()
    assert forced["reader"] == "by force"
    path.write_bytes(b"")
    assert path in expand(folder)
    assert next(iter(inspect_all(expand(folder)).values()))["reader"] == "no"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda path: ildg(path, random_links((4, 2, 2, 2))), r"4x2x2x2, and .* 2x2x2x4"),
        (lambda path: ildg(path, random_links((2, 2, 2, 4)), ">f4"), "precision of 32 bits"),
        (lambda path: nersc(path, random_links((2, 2, 2, 4))), "format NERSC"),
        (lambda path: milc(path, random_links((2, 2, 2, 4))), "precision of 32 bits"),
        (lambda path: ildg(path, random_links((2, 2, 2, 4), 2)), r"the group SU\(2\)"),
    ],
)
def test_ensembles_that_mix(folder, other, message):
    other(folder / "r2n50.ildg")
    with pytest.raises(FormatError, match=f"r2n50.*{message}"):
        ConfigurationSource(expand(folder))


def test_copies_are_said(folder):
    (folder / "r2n50.ildg").write_bytes((folder / "r1n20.ildg").read_bytes())
    source = ConfigurationSource(expand(folder))
    source.read(0, 7)
    assert "1 configurations are copies of others" in source.notes()[-1]
    source.read(0, 7)
    assert len(source.notes()) == 3


def test_a_theory_opens_its_ensemble(folder):
    theory = Gauge(group="SU(3)", shape=(2, 2, 2, 4))
    source = theory.open_ensemble(expand(folder))
    assert len(source) == 6
    plaquette = theory.observables(source.read(0, 1))["plaquette"].item()
    expected = source.configuration(0).measured.plaquette
    assert plaquette == pytest.approx(expected, abs=1e-14)
    with pytest.raises(FormatError, match=r"links of SU\(3\) on \[2, 2, 2, 4\].*set system"):
        Gauge(group="SU(3)", shape=(4, 2, 2, 2)).open(folder / "r1n10.ildg")


def test_a_file_that_changes_is_noticed(folder):
    source = ConfigurationSource(expand(folder))
    path = folder / "r1n10.ildg"
    path.write_bytes(path.read_bytes())
    with pytest.raises(FormatError, match="was changed while it was in use"):
        source.read(0, 1)
