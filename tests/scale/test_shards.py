"""Shards: the same samples whoever writes them, and nothing that is wrong is taken for done."""

import json
import multiprocessing
import shutil
from functools import partial
from pathlib import Path

import h5py
import pytest
import torch
from small import run_of, sums

from physgen import Shards, pipeline
from physgen.batch import Batch, Schema, Variable
from physgen.errors import CheckpointError, DomainError, FormatError, InputError
from physgen.generation import BLOCK
from physgen.io.hdf5_source import HDF5Source
from physgen.io.joined import joined
from physgen.io.shards import shards_in
from physgen.io.writer import hdf5_writer
from physgen.run import Run
from physgen.scale.one_shard import rows_of
from physgen.systems.base import open_files

N = 4 * BLOCK + 100


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of("ising-pca", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    return pipeline.load(run, "cpu").write(tmp_path_factory.mktemp("whole") / "spins.h5", N, 7)


@pytest.fixture(scope="module")
def three(run, tmp_path_factory):
    return Shards(run, N, 3, seed=7).write(tmp_path_factory.mktemp("three") / "shards")


def read(run, path):
    source = open_files(Run(run).system, path)
    return source.read(0, len(source))


def test_shards_one_after_the_other_are_the_samples_of_one_file(run, whole, three, tmp_path):
    expected = read(run, whole)
    five = Shards(run, N, 5, seed=7).write(tmp_path / "five")
    for place in (three, three / "shard-*.h5", five):
        found = read(run, place)
        assert found.fields().keys() == expected.fields().keys()
        for name, value in expected.fields().items():
            assert torch.equal(value, found.fields()[name]), (place, name)
    assert len(list(five.glob("*.h5"))) == 5


def test_chains_of_shards_are_numbered_together(tmp_path):
    """Each block goes on from the same chains: more shards are not more chains."""
    schema = Schema((1,), (Variable("x"),))
    for number in range(2):
        with hdf5_writer(tmp_path / f"shard-0000{number}.h5", schema=schema) as append:
            append(Batch(torch.zeros(4, 1), chain=torch.arange(4)))
    sources = [HDF5Source(path) for path in sorted(tmp_path.glob("*.h5"))]
    assert joined(sources).read(0, 8).chain.unique().numel() == 8
    (tmp_path / "generation.json").write_text("{}")
    assert joined(sources).read(0, 8).chain.tolist() == [0, 1, 2, 3] * 2


def test_jobs_of_one_shard_each_write_the_same_bytes(run, three, tmp_path):
    jobs = Shards(run, N, 3, seed=7)
    for number in (2, 0):
        jobs.write_one(tmp_path / "jobs", number)
        with pytest.raises(FormatError, match=r"not complete; `physgen generate`"):
            shards_in(tmp_path / "jobs")
    jobs.write_one(tmp_path / "jobs", 1)
    assert sums(tmp_path / "jobs") == sums(three)


def test_what_is_there_is_checked_and_not_made_again(run, three, tmp_path, monkeypatch):
    copy = shutil.copytree(three, tmp_path / "copy")
    before = {path.name: path.stat().st_mtime_ns for path in copy.glob("*.h5")}
    # A job that was killed left a shard that nothing says is complete, and no manifest.
    (copy / "shard-00001.json").unlink()
    (copy / "shard-00001.h5").write_bytes(b"half")
    (copy / "manifest.json").unlink()
    calls = []
    Shards(run, N, 3, seed=7).write(copy, progress=lambda done, n: calls.append((done, n)))
    assert sums(copy) == sums(three)
    after = {path.name: path.stat().st_mtime_ns for path in copy.glob("*.h5")}
    assert [name for name in before if before[name] != after[name]] == ["shard-00001.h5"]
    assert calls == [(rows_of(N, 3, k)[1], N) for k in range(3)]


def test_a_changed_shard_is_an_error_that_names_it(run, three, tmp_path):
    copy = shutil.copytree(three, tmp_path / "copy")
    with (copy / "shard-00002.h5").open("r+b") as file:
        file.seek(3000)
        file.write(b"x")
    with pytest.raises(CheckpointError, match=r"shard-00002\.h5 is not what was written.*remove"):
        Shards(run, N, 3, seed=7).write(copy)
    with pytest.raises(CheckpointError, match=r"shard-00002\.h5 is not what was written"):
        Shards(run, N, 3, seed=7).write_one(copy, 2)
    (copy / "shard-00002.h5").unlink()
    with pytest.raises(FormatError, match=r"shard-00002\.h5 is missing"):
        read(run, copy)
    assert sums(Shards(run, N, 3, seed=7).write(copy)) == sums(three)


@pytest.mark.parametrize(
    ("key", "value"), [("rows", [0, 4096]), ("size", 7), ("file", "shard-00000.h5")]
)
def test_a_record_of_a_shard_that_was_changed_is_not_believed(run, three, tmp_path, key, value):
    copy = shutil.copytree(three, tmp_path / "copy")
    record = copy / "shard-00001.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {key: value}))
    before, jobs = sums(copy), Shards(run, N, 3, seed=7)
    for use in (jobs.write, partial(jobs.write_one, number=1), partial(jobs.write_one, number=2)):
        with pytest.raises(
            CheckpointError, match=rf"00001\.json is not .*says {key} .*remove both"
        ):
            use(copy)
    assert sums(copy) == before


def test_parts_of_files_are_no_files_of_something_else(run, three, tmp_path):
    """A job that starts at the same time, or was killed, has left the part of a file."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "generation.json.0123abcd.7.0123abcd.part").write_text("{")
    jobs = Shards(run, N, 3, seed=7)
    for number in range(3):
        jobs.write_one(folder, number)
    assert sums(three).items() <= sums(folder).items()


def test_jobs_that_start_together_do_not_refuse_each_other(run, tmp_path, monkeypatch):
    """Between its part of `generation.json` and the file, another job looks at the folder."""
    folder, jobs = tmp_path / "jobs", Shards(run, N, 3, seed=7)
    replace, entered = Path.replace, []

    def later(part, target):
        if Path(target).name == "generation.json" and not entered:
            entered.append(part)
            jobs.write_one(folder, 1)
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", later)
    jobs.write_one(folder, 0)
    assert entered
    assert sorted(path.name for path in folder.glob("*.h5")) == ["shard-00000.h5", "shard-00001.h5"]


def test_jobs_of_processes_that_start_together_all_write(run, three, tmp_path):
    jobs, folders = Shards(run, N, 3, seed=7), [tmp_path / f"jobs{i}" for i in range(5)]
    jobs._resolved()  # Read once, so that the processes are at the folder together.
    context = multiprocessing.get_context("fork")
    for folder in folders:
        barrier = context.Barrier(3)
        processes = [
            context.Process(target=_job, args=(barrier, jobs, folder, number))
            for number in range(3)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert sums(folder) == sums(three)


def _job(barrier, jobs, folder, number):
    barrier.wait()
    jobs.write_one(folder, number)


def test_a_changed_manifest_is_an_error(run, three, tmp_path):
    copy = shutil.copytree(three, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    for use in (lambda: read(run, copy), lambda: Shards(run, N, 3, seed=7).write(copy)):
        with pytest.raises(CheckpointError, match=r"manifest\.json is damaged.*remove it"):
            use()
    (copy / "manifest.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="damaged"):
        read(run, copy)
    (copy / "manifest.json").unlink()
    assert sums(Shards(run, N, 3, seed=7).write(copy)) == sums(three)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 8}, "seed 7, not 8"),
        ({"n": N - 1}, f"n {N}, not {N - 1}"),
        ({"shards": 4}, "shards 3, not 4"),
        ({"suffix": ".npz"}, r"suffix \.h5, not \.npz"),
    ],
)
def test_a_folder_holds_one_generation(run, three, changes, said):
    before = sums(three)
    with pytest.raises(InputError, match=f"another generation .*{said}.*choose another folder"):
        Shards(run, **{"n": N, "shards": 3, "seed": 7, **changes}).write(three)
    assert sums(three) == before


def test_another_run_is_another_generation(three, tmp_path):
    other = run_of("ising-pca", tmp_path, **{"data.n": 100})
    with pytest.raises(InputError, match=r"another generation .*run .*weights"):
        Shards(other, N, 3, seed=7).write(three)


def test_overwrite_replaces_what_is_damaged(run, three, tmp_path):
    copy, jobs = shutil.copytree(three, tmp_path / "copy"), Shards(run, N, 3, seed=7)
    before = (copy / "shard-00001.h5").stat().st_mtime_ns
    (copy / "manifest.json").write_text("[1]")
    assert sums(jobs.write(copy, overwrite=True)) == sums(three)
    assert (copy / "shard-00001.h5").stat().st_mtime_ns == before
    (copy / "generation.json").write_text("[1]")
    with pytest.raises(InputError, match="damaged"):
        jobs.write(copy)
    assert sums(jobs.write(copy, overwrite=True)) == sums(three)


def test_overwrite_removes_the_other_generation(run, three, tmp_path):
    copy = shutil.copytree(three, tmp_path / "copy")
    two = Shards(run, N, 2, seed=9)
    assert sums(two.write(copy, overwrite=True)) == sums(two.write(tmp_path / "two"))


@pytest.mark.parametrize(
    ("changes", "number", "said"),
    [
        ({}, 3, r"shard 3/3: out of range; the shards are 0/3 to 2/3"),
        ({}, -1, "out of range"),
        ({"shards": 6}, None, r"5 blocks of 4096, so that there may be 1 to 5"),
        ({"shards": 0}, None, "1 to 5"),
        ({"n": "many"}, None, "n = 'many'"),
        ({"suffix": ".txt"}, None, "no format has the suffix"),
        ({"condition": {"T": 1.0}}, None, "trained without conditions"),
        ({"run": "nowhere"}, None, "nowhere"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(run, tmp_path, changes, number, said):
    shards = Shards(**{"run": run, "n": N, "shards": 3, "seed": 7, **changes})
    write = shards.write if number is None else partial(shards.write_one, number=number)
    with pytest.raises(InputError, match=said):
        write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("written")
    with pytest.raises(InputError, match="not empty, and holds no shards"):
        Shards(run, N, 3).write(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        Shards(run, N, 3).write(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_conditions_of_a_file_go_to_their_rows(tmp_path):
    run, n = run_of("phi4-conditional", tmp_path / "runs"), BLOCK + 10
    sampler = pipeline.load(run, "cpu", uncorrected=True)
    prior, file = sampler.surrogate.conditions, tmp_path / "conditions.h5"
    rows = torch.linspace(float(prior.low), float(prior.high), n)
    with Run(run).system.writer(file, n) as append:
        append(Batch(torch.zeros(n, 4, 4), condition=rows[:, None]))
    expected = sampler.write(tmp_path / "fields.h5", n, 3, rows)
    given = {"condition_from": file, "uncorrected": True}
    found = read(run, Shards(run, n, 2, seed=3, **given).write(tmp_path / "two"))
    for field, value in read(run, expected).fields().items():
        assert torch.equal(value, found.fields()[field]), field
    with pytest.raises(FormatError, match=f"has only {n} rows"):
        Shards(run, n + 1, 2, **given).write(tmp_path / "no")
    wrong = {prior.variables[0].name: 1e9}
    with pytest.raises(DomainError, match="outside"):
        Shards(run, n, 2, condition=wrong, uncorrected=True).write(tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_corrected_samples_are_a_chain_a_block_in_all_shards(tmp_path):
    run, n = run_of("phi4-coupling", tmp_path / "runs"), BLOCK + 10
    whole = read(run, pipeline.load(run, "cpu").write(tmp_path / "fields.h5", n, 3))
    found = read(run, Shards(run, n, 2, seed=3).write(tmp_path / "two"))
    assert torch.equal(found.x, whole.x)
    assert torch.equal(found.chain, whole.chain)
    assert found.chain.unique().tolist() == [0, BLOCK]


def test_a_shard_says_where_it_belongs(three):
    with h5py.File(three / "shard-00001.h5") as file:
        about = json.loads(file.attrs["physgen_provenance"])
    assert about["shard"] == "1/3"
    assert about["rows"] == list(rows_of(N, 3, 1))
    assert (about["n"], about["seed"]) == (N, 7)
