"""Checkpoints and journals that were truncated, flipped, filled up or tampered with."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physgen.engine.checkpoint import CheckpointStore, exclusive, read_tree, verify, write_tree
from physgen.engine.journal import Journal, read
from physgen.errors import CheckpointError, FormatError
from physgen.io import manifest


def filled(directory, steps=(1, 2), keep=2):
    store = CheckpointStore(directory / "checkpoints", keep=keep)
    for step in steps:
        store.save(step, lambda part, step=step: write_tree(part / "state", torch.full((9,), step)))
    return store


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", manifest.NAME])
def test_newest_damaged_is_named_and_the_one_before_used(tmp_path, harm, name):
    store = filled(tmp_path)
    harm(store.path(2) / name)
    with pytest.warns(RuntimeWarning, match=r"step-000000002.*trying the one before"):
        step, path = store.newest()
    assert step == 1
    assert read_tree(path / "state").tolist() == [1] * 9


def test_a_file_the_manifest_does_not_name_is_damage(tmp_path):
    store = filled(tmp_path)
    sums = manifest.read(store.path(2))
    manifest.write(store.path(2), {"state.json": sums["state.json"]})
    with pytest.raises(CheckpointError, match=r"state.safetensors is not in its MANIFEST"):
        verify(store.path(2))


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    store = filled(tmp_path)
    for step in (1, 2):
        flip(store.path(step) / "state.safetensors")
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match="all 2 checkpoints"):
        store.newest()


def test_a_damaged_newer_one_does_not_push_out_the_good_one(tmp_path):
    store = filled(tmp_path, steps=(1, 5), keep=1)
    shutil.copytree(store.path(5), store.path(9))
    flip(store.path(9) / "state.safetensors")
    store.save(6, lambda part: write_tree(part / "state", 1))
    assert store.steps() == [6]
    verify(store.path(6))


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("fsync", errno.ENOSPC),
        ("fsync", errno.EDQUOT),
        ("mkdir", errno.EROFS),
        ("rename", errno.EIO),
    ],
)
def test_a_full_or_readonly_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, function, code):
    store = filled(tmp_path)

    def fail(*arguments, **keywords):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(
        CheckpointError, match=r"cannot save .*step-000000003.*step 2 is still there"
    ):
        store.save(3, lambda part: write_tree(part / "state", torch.zeros(3)))
    monkeypatch.undo()
    assert store.newest()[0] == 2
    assert sorted(path.name for path in store.directory.iterdir()) == [
        "step-000000001",
        "step-000000002",
    ]


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
keys = st.text(max_size=4) | st.integers(-3, 3)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=25)
@given(trees)
def test_trees_come_back_as_they_went(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "state"
    write_tree(path, tree)
    assert read_tree(path) == tree


def test_tensors_of_every_kind_come_back(tmp_path):
    shared = torch.arange(6.0)
    state = {
        "tied": (shared, shared[1:4]),
        0: torch.zeros(2, 0, dtype=torch.bfloat16),
        "scalar": torch.tensor(3, dtype=torch.int8),
        "strided": torch.arange(6, dtype=torch.float64).view(2, 3).T,
        "flags": torch.tensor([True, False]),
    }
    write_tree(tmp_path / "state", state)
    again = read_tree(tmp_path / "state")
    assert again.keys() == state.keys()
    for name in (0, "scalar", "strided", "flags"):
        assert again[name].dtype == state[name].dtype
        assert torch.equal(again[name], state[name])
    assert all(map(torch.equal, again["tied"], state["tied"]))


def test_what_would_need_pickle_is_refused(tmp_path):
    with pytest.raises(TypeError, match="holds a PosixPath at /a/1"):
        write_tree(tmp_path / "state", {"a": [0, tmp_path]})


def test_a_lock_ends_with_its_block(tmp_path):
    with (
        exclusive(tmp_path),
        pytest.raises(CheckpointError, match=f"in use by process {os.getpid()}"),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):
        pass


def test_a_torn_last_line_is_left_out_and_removed(tmp_path):
    journal = Journal(tmp_path)
    journal.note("start", 0)
    for step in (1, 2, 3):
        journal.measure(step, {"loss": float("nan") if step == 2 else step})
    whole = journal.path.read_text()
    journal.path.write_text(whole[:-5])
    assert [entry["step"] for entry in read(journal.path)] == [0, 1, 2]
    journal.truncate(1)
    journal.measure(2, {"loss": 5.0})
    entries = list(read(journal.path))
    assert [entry["step"] for entry in entries] == [0, 1, 2]
    assert entries[-1]["metrics"] == {"loss": 5.0}
    assert "\n".join(whole.splitlines()[:2]) in journal.path.read_text()


def test_a_broken_line_within_a_journal_is_named(tmp_path):
    journal = Journal(tmp_path)
    journal.measure(1, {})
    with journal.path.open("a") as file:
        file.write("nonsense\n")
    journal.measure(2, {})
    with pytest.raises(FormatError, match=r"journal.jsonl, line 2: not a journal entry"):
        list(read(journal.path))
