"""Several files as one: patterns and lists, what must be the same, and what stays apart."""

import awkward as ak
import h5py
import numpy as np
import pytest
import torch
import uproot

from physgen.batch import Batch
from physgen.errors import FormatError
from physgen.io.joined import expand, joined
from physgen.io.source import blocks
from physgen.recipe import read
from physgen.systems.base import open_files
from physgen.systems.ensemble import Ensemble
from physgen.systems.events import EventTable
from physgen.systems.ising import Ising


def columns(path, shift, names=("a", "b"), **attributes):
    rows = np.arange(5.0) + shift
    if path.suffix == ".root":
        with uproot.recreate(path) as file:
            file.mktree("t", dict.fromkeys(names, "f8")).extend(dict.fromkeys(names, rows))
    elif path.suffix == ".npz":
        np.savez(path, **dict.fromkeys(names, rows))
    else:
        with h5py.File(path, "w") as file:
            for name in names:
                file[name] = rows
                file[name].attrs.update(attributes)
    return path


@pytest.mark.parametrize("suffix", ["root", "h5", "npz"])
def test_a_pattern_and_a_list_are_all_their_files(tmp_path, suffix):
    paths = [columns(tmp_path / f"part_{k}.{suffix}", 10 * k) for k in range(3)]
    table = EventTable(path=str(tmp_path / f"part_*.{suffix}"), fields=("a", "b"))
    source = open_files(table, table.path)
    wanted = [10 * k + i for k in range(3) for i in range(5)]
    assert len(source) == 15
    assert source.read(0, 15).x[:, 1].tolist() == wanted
    assert source.read(3, 12).x[:, 0].tolist() == wanted[3:12]
    assert torch.cat([batch.x for batch in blocks(source)]).shape == (15, 2)
    listed = open_files(table, [str(path) for path in paths])
    digest = source.digest()
    assert listed.digest() == digest != open_files(table, str(paths[0])).digest()
    assert table.sum_of_weights == 15
    columns(paths[2], 7)
    assert open_files(EventTable(path=table.path, fields=("a", "b")), table.path).digest() != digest


def test_what_a_path_stands_for(tmp_path):
    odd = columns(tmp_path / "a#b?c [1]*.h5", 0)
    assert expand(odd) == [odd]
    with pytest.raises(FormatError, match=r"part_\*\.root: no file matches this pattern"):
        expand(str(tmp_path / "part_*.root"))
    with pytest.raises(FormatError, match="is named twice; its rows would count twice"):
        expand([str(odd), str(tmp_path / "a*.h5")])


def test_files_of_another_layout_are_named(tmp_path):
    first = columns(tmp_path / "1.h5", 0, unit="GeV")
    table = EventTable(path=str(first), fields=("a", "b"))
    other = columns(tmp_path / "2.h5", 0, unit="MeV")
    with pytest.raises(FormatError, match=r"2\.h5 holds rows of .*'MeV'.*1\.h5 .*'GeV'"):
        open_files(table, [str(first), str(other)])
    missing = columns(tmp_path / "3.h5", 0, names=("a",))
    with pytest.raises(FormatError, match=r"3\.h5: dataset 'b' does not exist"):
        open_files(table, [str(first), str(missing)])


def test_jagged_events_of_all_files_have_room_for_the_longest(tmp_path):
    for name, counts in (("1.root", [1, 2]), ("2.root", [4, 0, 1])):
        with uproot.recreate(tmp_path / name) as file:
            hits = ak.unflatten(np.arange(sum(counts), dtype="f4"), counts)
            file.mktree("t", {"Hit": "var * {e: float32}"}).extend({"Hit": ak.zip({"e": hits})})
    table = EventTable(path=str(tmp_path / "*.root"), fields=("Hit_e",))
    x = open_files(table, table.path).read(0, 5).x
    assert x.shape == (5, 5)
    assert x[:, 0].tolist() == [1, 2, 4, 0, 1]


def test_chains_of_different_files_are_different(tmp_path):
    for k in range(2):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file["samples"] = np.ones((6, 4, 4), "i1")
            file["chain"] = np.repeat([0, 1], 3)
    source = open_files(Ising(shape=(4, 4)), str(tmp_path / "*.h5"))
    assert len(source.read(0, 12).chain.unique()) == 4
    assert len(source.read(2, 7).chain.unique()) == 3
    series = [tmp_path / f"{k}.npz" for k in range(2)]
    for path in series:
        np.savez(path, x=np.arange(4.0))
    read = Batch.concatenate(list(Ensemble(path=str(tmp_path / "*.npz")).parts()))
    assert read.chain.tolist() == [0] * 4 + [1] * 4
    assert joined([Ensemble(path=str(series[0])).source]).name == str(series[0])


def test_recipes_take_patterns_and_lists(tmp_path):
    for k in range(2):
        columns(tmp_path / f"part_{k}.h5", k)
    changes = {"data.fields": ["a", "b"]}
    listed = [str(tmp_path / "part_0.h5"), str(tmp_path / "part_1.h5")]
    for path in (str(tmp_path / "part_*.h5"), listed):
        recipe = read("events-flow", {**changes, "data.path": path})
        assert expand(recipe.data.path) == [tmp_path / "part_0.h5", tmp_path / "part_1.h5"]
    (tmp_path / "mine.yaml").write_text(
        "extends: events-flow\ndata: {path: 'part_*.h5', fields: [a, b]}"
    )
    assert len(expand(read(tmp_path / "mine.yaml").data.path)) == 2
