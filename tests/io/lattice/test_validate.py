"""`physgen validate` of gauge configurations: what files do not say, and what makes no sense."""

import sys

import numpy as np
import pytest
from by_hand import ildg, nersc, random_links

from physgen import cli
from physgen.ensembles import score_ensemble
from physgen.io.lattice.configuration import Given, Reading
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
