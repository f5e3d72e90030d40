"""Gauge configurations at the command line: inspect and validate, whole and damaged."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from physgen.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "io" / "lattice"))
from by_hand import ildg, nersc, random_links

SHAPE = (4, 2, 2, 2)


@pytest.fixture
def call(capsys, monkeypatch):
    def run(*words):
        monkeypatch.setattr("sys.argv", ["physgen", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def ensemble(tmp_path):
    """Configurations of two replicas, one of them missing."""
    for number in set(range(20)) - {13}:
        name = f"r{number // 10}_{10 * (number % 10) + 5}.ildg"
        ildg(tmp_path / name, random_links(SHAPE, seed=number))
    return tmp_path


def test_validate_an_ensemble_of_files(call, ensemble):
    code, out, _ = call("validate", ensemble / "*.ildg", "--json")
    card = json.loads(out)
    assert code == 0
    rows = {row["name"]: row for row in card["rows"]}
    loops = ("plaquette", "plaquette of space", "plaquette with time", "|L|", "Re L", "Im L")
    for name in (*loops, "Q", "Q^2", "t^2E"):
        assert rows[name]["error"] > 0
        assert rows[f"tau_int {name}"]["value"] >= 0.5
    assert "not defined in 1 of 20 samples" in rows["plaquette"]["note"]
    assert "1 of the trajectories are missing, by steps of 10: 35" in card["warnings"][-1]
    about = card["provenance"]
    assert (about["samples"], about["chains"], about["step"]) == (19, 2, "10 trajectories")
    of_folder = json.loads(call("validate", ensemble, "--json")[1])
    assert of_folder["rows"] == card["rows"]


def test_observables_of_an_ensemble_for_pyerrors(call, ensemble, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "beta0.json.gz"
    code, out, _ = call("validate", ensemble / "*.ildg", "-o", path, "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    written = {o["tag"][0]: o for o in json.loads(gzip.decompress(path.read_bytes()))["obsdata"]}
    plaquette = written["plaquette"]
    assert plaquette["value"][0] == pytest.approx(rows["plaquette"]["value"], abs=1e-14)
    replicas = {one["name"]: dict(one["deltas"]) for one in plaquette["data"][0]["replica"]}
    assert list(replicas) == ["beta0|r0_*", "beta0|r1_*"]
    assert list(replicas["beta0|r0_*"]) == list(range(5, 105, 10))
    assert list(replicas["beta0|r1_*"]) == [n for n in range(5, 105, 10) if n != 35]
    alone = json.loads(call("validate", ensemble / "r1_45.ildg", "--json")[1])
    there = {row["name"]: row["value"] for row in alone["rows"]}["plaquette"]
    assert replicas["beta0|r1_*"][45] + plaquette["value"][0] == pytest.approx(there, abs=1e-14)
    assert call("validate", ensemble / "*.ildg", "-o", path)[0] == 2  # It exists.


def test_observables_of_a_chain_of_a_scalar_field_for_pyerrors(call, tmp_path):
    x = np.random.default_rng(1).normal(size=(12, 4, 4))
    chain = np.array([3, 7] * 6)  # interleaved
    np.savez(tmp_path / "phi.npz", x=x, chain=chain)
    path = tmp_path / "free.json.gz"
    assert call("validate", tmp_path / "phi.npz", "-o", path)[0] == 0
    written = {o["tag"][0]: o for o in json.loads(gzip.decompress(path.read_bytes()))["obsdata"]}
    square = written["phi^2"]
    replicas = {one["name"]: dict(one["deltas"]) for one in square["data"][0]["replica"]}
    assert list(replicas) == ["free|r3", "free|r7"]
    expected = (x[chain == 7] ** 2).mean((1, 2)) - (x**2).mean()
    assert list(replicas["free|r7"]) == [1, 2, 3, 4, 5, 6]
    assert list(replicas["free|r7"].values()) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("words", [("a.h5", "b.h5"), ("a.h5", "--against", "b.h5")])
def test_comparisons_have_no_observables_for_pyerrors(call, tmp_path, words):
    code, _, err = call("validate", *words, "-o", tmp_path / "o.json.gz")
    assert code == 2
    assert "analysed alone" in err
    assert not (tmp_path / "o.json.gz").exists()


def test_one_configuration_alone_has_no_errors(call, tmp_path):
    links = random_links(SHAPE)
    code, out, _ = call("validate", nersc(tmp_path / "a.nersc", links), "--json")
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert code == 0
    assert rows["plaquette"]["error"] is None
    assert not any(name.startswith(("tau_int", "chi")) for name in rows)
    time = links[..., 3, :, :]
    line = np.trace(time[0] @ time[1] @ time[2] @ time[3], axis1=-2, axis2=-1).mean() / 3
    assert rows["Re L"]["value"] == pytest.approx(line.real, abs=1e-14)
    assert rows["Im L"]["value"] == pytest.approx(line.imag, abs=1e-14)
    assert rows["|L|"]["value"] == pytest.approx(abs(line), abs=1e-14)
    plaquettes = [rows[f"plaquette {which}"]["value"] for which in ("of space", "with time")]
    assert rows["plaquette"]["value"] == pytest.approx(np.mean(plaquettes), abs=1e-14)


def test_a_damaged_file_ends_with_2_unless_by_force(call, ensemble):
    path = ensemble / "r0_25.ildg"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    for verb in ("validate", "inspect"):
        code, out, err = call(verb, path)
        assert code == 2
        assert "is not the stored" in out + err
    code, _, err = call("validate", ensemble)
    assert (code, "r0_25.ildg: checksum suma" in err) == (2, True)
    code, _, err = call("validate", "--force", ensemble)
    assert (code, "r0_25.ildg: read by force: checksum suma" in err) == (0, True)


def test_extents_that_a_file_does_not_say(call, tmp_path):
    path = ildg(tmp_path / "a.lime", random_links(SHAPE), form=False, dims=False)
    assert call("inspect", path)[0] == 2
    code, out, _ = call("inspect", path, "--shape", "4,2,2,2")
    assert (code, "dimensions (x, y, z, t): 2, 2, 2, 4" in out) == (0, True)
    code, _, _ = call("validate", path, "--set", "system.shape=[4,2,2,2]")
    assert code == 0
    assert "positive numbers are wanted" in call("inspect", path, "--shape", "4,x")[2]


def test_what_is_not_measured_is_said(call, tmp_path):
    code, _, err = call("validate", nersc(tmp_path / "a", random_links(SHAPE, 4), rows=4))
    assert (code, "SU(2) and SU(3) are measured" in err) == (2, True)
    assert call("inspect", tmp_path / "a")[0] == 0
