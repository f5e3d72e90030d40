"""`physgen validate` of gauge configurations: what files do not say, and what makes no sense."""

import json
import re
import sys

import h5py
import numpy as np
import pytest
from by_hand import ildg, nersc, random_links

from physgen import cli
from physgen.conversion import convert
from physgen.ensembles import score_ensemble
from physgen.errors import FormatError
from physgen.io.inspect import inspect
from physgen.io.lattice.configuration import Given, Reading
from physgen.io.lattice.content import read_header
from physgen.pipeline import validate_files
from physgen.validation.scorecard import Scorecard

SHAPE = (2, 2, 4, 2)


@pytest.fixture(scope="module")
def links():
    return np.stack([random_links(SHAPE, seed=seed) for seed in range(6)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, links):
    folder = tmp_path_factory.mktemp("files")
    for n, one in enumerate(links):
        nersc(folder / f"a{n}.nersc", one)
        ildg(folder / f"b{n}.lime", one, form=False, dims=False)
    np.savez(folder / "turned.npz", u=np.moveaxis(links, (6, 7), (1, 2)), more=np.zeros(3))
    np.save(folder / "a.npy", links)
    np.savez(folder / "field.npz", phi=np.random.default_rng(0).normal(size=(200, 4, 4)))
    return folder


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["physgen", "validate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0, capsys.readouterr().err


def means(card):
    return {row.name: row.value for row in card.rows if row.name in ("plaquette", "|L|")}


def test_what_files_do_not_say_is_given(monkeypatch, capsys, folder):
    expected = means(validate_files(folder / "a*.nersc"))
    assert len(expected) == 2
    order = "n a b t z y x mu(x y z t)"
    for number, arguments in enumerate(
        (
            [folder / "b*.lime", "--shape", "2,2,4,2"],
            [folder / "turned.npz", "--dataset", "u", "--order", order],
            [folder / "a.npy", "--order", "n t z y x mu(x y z t) a b"],
        )
    ):
        output = folder / f"out{number}"
        assert call(monkeypatch, capsys, *arguments, "-o", output)[0] == 0
        card = Scorecard.from_json((output / "scorecard.json").read_text())
        assert means(card) == pytest.approx(expected, abs=1e-12)


def test_a_theory_measures_what_is_given(folder):
    size = {"system.shape": list(SHAPE), "system.beta": 1.0}
    reading = Reading(Given(shape=SHAPE))
    card = score_ensemble(folder / "b*.lime", "su3-4d", size, reading).card
    expected = means(score_ensemble(folder / "a*.nersc", "su3-4d", size).card)
    assert means(card) == pytest.approx(expected, abs=1e-12)
    path = folder / "damaged.nersc"
    path.write_bytes((folder / "a0.nersc").read_bytes()[:-1] + b"a")
    card = score_ensemble(path, "su3-4d", size, Reading(force=True)).card
    assert any("read by force: checksum" in row.warning for row in card.rows)


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        ("a*.nersc", ["--order", "t x mu(t x) a b"], "a file of nersc has its one field"),
        ("a*.nersc", ["--shape", "2,2"], r"it is [2, 2, 4, 2] (t, z, y, x), and [2, 2] was given"),
        ("b*.lime", [], "as in --shape"),
        ("field.npz", ["--shape", "4,4"], "are of gauge configurations, and these are none"),
        ("field.npz", ["--system", "phi4-coupling", "--force"], "system of phi4-coupling is"),
        ("a*.nersc", ["--against", "a0.nersc", "--shape", "2,2,4,2"], "convert them first"),
        ("run", ["--order", "t x mu(t x) a b"], "and this is a run"),
        ("a*.nersc", ["--set", "data.foo=1"], "--set data.foo: of a Markov chain"),
        ("a*.nersc", ["--set", "system.shpe=1"], "did you mean 'system.shape'"),
        ("a*.nersc", ["--set", "system.n=many"], "--set system.n = 'many': input should be"),
        ("field.npz", ["--set", "data.axs=1"], "did you mean 'data.axes'"),
        ("field.npz", ["--set", "data.axes=1"], "--set data.axes=1: name the first two axes"),
        ("field.npz", ["--set", "system.kind=ising"], "--set system.kind: of a Markov chain"),
        ("field.npz", ["--set", "system.shape=four"], "--set system.shape = 'four': input should"),
    ],
)
def test_what_makes_no_sense_is_one_message(monkeypatch, capsys, folder, file, arguments, message):
    (folder / "run").mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    code, said = call(monkeypatch, capsys, file, *arguments)
    assert code == 2
    assert message in said
    assert "Traceback" not in said


ORDERS = "'n t z y x mu(x y z t) a b' or 'n mu(t z y x) t z y x a b'"


@pytest.fixture(scope="module")
def unclear(tmp_path_factory):
    """Links whose axes no rule tells: in a .npy, under any name, real, and with matrices first."""
    folder = tmp_path_factory.mktemp("unclear")
    links = np.stack([random_links((4, 4, 2, 2), seed=seed) for seed in range(3)])
    np.save(folder / "a.npy", links)
    np.savez(folder / "named.npz", u=links)
    np.savez(folder / "real.npz", x=np.stack([links.real, links.imag], -1))
    np.savez(folder / "turned.npz", x=np.moveaxis(links, (6, 7), (1, 2)))
    with h5py.File(folder / "b.h5", "w") as file:
        file["gauge/u"] = links
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.npy", f"(3, 4, 4, 2, 2, 4, 3, 3): say so with --order, .*as in {ORDERS}"),
        ("named.npz", f"'u' (3, 4, 4, 2, 2, 4, 3, 3): say so with --dataset u .*as in {ORDERS}"),
        ("real.npz", "'x' (3, 4, 4, 2, 2, 4, 3, 3, 2): .*--dataset x .*x y z t) a b c'"),
        ("turned.npz", "'x' (3, 3, 3, 4, 4, 2, 2, 4): .*--dataset x .*x y z t) a b'"),
        ("b.h5", f"'gauge/u' (3, 4, 4, 2, 2, 4, 3, 3): .*--dataset gauge/u .*as in {ORDERS}"),
    ],
)
def test_what_looks_like_links_is_called_so(unclear, name, said):
    path = unclear / name
    pattern = "gauge links\\? " + ".*".join(map(re.escape, said.split(".*")))
    report = inspect(path)
    assert any(re.search(pattern, hint) for hint in report["hints"])
    assert not any("savez" in hint or "system.shape" in hint for hint in report["hints"])
    with pytest.raises(FormatError, match=pattern):
        validate_files(path)
    with pytest.raises(FormatError, match=pattern):
        convert(path, unclear / "out", to="ildg")
    with pytest.raises(FormatError, match=pattern):
        read_header(path)


def test_other_arrays_are_not_called_links(folder):
    for values in (
        np.zeros((50, 8, 8, 8)),
        np.zeros((50, 4, 4, 4, 4, 2)),
        np.zeros((9, 45, 16, 9)),
    ):
        np.savez(folder / "other.npz", x=values)
        assert not any("links" in hint for hint in inspect(folder / "other.npz")["hints"])
    np.save(folder / "other.npy", np.zeros((5, 3)))
    assert "numpy.savez" in inspect(folder / "other.npy")["hints"][0]
    with pytest.raises(FormatError, match="is one array without a name"):
        read_header(folder / "a.npy", Given(dataset="u"))


def test_the_hint_is_the_command_for_what_was_asked(monkeypatch, capsys, folder, tmp_path):
    def hint(*arguments):
        monkeypatch.setattr(sys, "argv", ["physgen", "inspect", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit):
            cli.main()
        return json.loads(capsys.readouterr().out)["hints"][-1].partition(": ")[2]

    monkeypatch.chdir(folder)
    assert hint("a?.nersc") == "physgen validate 'a?.nersc'"
    shape = ["--shape", "2,2,4,2"]
    assert hint("b*.lime", *shape) == "physgen validate 'b*.lime' --shape 2,2,4,2"
    assert hint("b1.lime", *shape).endswith("/b1.lime --shape 2,2,4,2")
    assert hint("a0.nersc", "a1.nersc") == ""
    for name in ("a0.nersc", "a1.nersc"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert hint(tmp_path) == f"physgen validate {tmp_path}"
    assert hint(tmp_path / "a0.nersc", tmp_path / "a1.nersc") == f"physgen validate {tmp_path}"
