"""Dask's workers write what one process writes, whoever dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import dask
import pytest
from distributed import Client
from small import Reaper, run_of, sums

from physgen import Shards, cli
from physgen.errors import InputError, PhysgenError
from physgen.generation import BLOCK
from physgen.scale.workers import cluster, job_file, outcomes

N = 12 * BLOCK + 5
COMMAND = [sys.executable, "-m", "physgen", "generate"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of("ising-pca", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory):
    return sums(Shards(run, N, 12, seed=7).write(tmp_path_factory.mktemp("here") / "shards"))


def test_the_workers_of_a_users_client_write_the_same_bytes(run, expected, tmp_path):
    with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
        written = Shards(run, N, 12, seed=7).write(tmp_path / "shards", client=client)
        assert sums(written) == expected
        assert client.status == "running"
        with pytest.raises(InputError, match="another generation"):
            Shards(run, N, 12, seed=8).write(tmp_path / "shards", client=client)


@pytest.mark.slow
def test_killed_workers_change_no_byte(run, expected, tmp_path):
    reaper = Reaper(at=(1, 3, 6))
    with (
        cluster("dask", workers=2) as client,
    ):
        shards = Shards(run, N, 12, seed=7)
        written = shards.write(tmp_path / "shards", client=client, progress=reaper)
    assert len(reaper.killed) == 3
    assert sums(written) == expected


def start(*words, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + words[0], *map(str, words[1:])],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"},
    )


def end(*processes):
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_another_scheduler_goes_on_where_one_died(run, expected, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, folder = f"tcp://127.0.0.1:{port}", tmp_path / "shards"
    words = [run, "-n", N, "--seed", 7, "--shards", 12, "-o", folder]
    command = [*COMMAND, *map(str, words), "--on", "dask", "--scheduler", address]
    environment = os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}

    def started():
        scheduler = start("scheduler", "--port", port, "--no-dashboard", cwd=tmp_path)
        worker = start("worker", address, "--nthreads", 1, "--no-dashboard", cwd=tmp_path)
        return scheduler, worker

    processes = started()
    try:
        first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        while not list(folder.glob("shard-*.json")) and first.poll() is None:
            time.sleep(0.05)
        processes[0].send_signal(signal.SIGKILL)
        _, said = first.communicate(timeout=120)
        assert first.returncode == 1, said
        assert "error: the Dask scheduler is gone" in said.splitlines()[-1]
        assert not (folder / "manifest.json").exists()
    finally:
        end(*processes)
    processes = started()
    try:
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    finally:
        end(*processes)
    assert sums(folder) == expected


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_work_that_kills_its_workers_is_given_up_with_a_reason():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster("dask", workers=1) as client,
        pytest.raises(PhysgenError, match="task 0 outlived none of its workers"),
    ):
        list(outcomes(client, die, [()]))


# Dask-jobqueue leaves a cluster half made behind if an option is wrong.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"place": "sge"}, "--on sge: there are here, dask, slurm, htcondor"),
        ({"place": "slurm"}, "--on slurm: there is no sbatch on this machine"),
        ({"place": "htcondor"}, "--on htcondor: there is no condor_submit on this machine"),
        ({"place": "here", "scheduler": "tcp://a:1"}, "add --on dask"),
        ({"place": "here", "workers": 2}, "--workers"),
        ({"place": "dask", "workers": 0}, "--workers"),
        ({"place": "dask", "job": {"queue": "long"}}, "--job is of batch systems"),
        ({"place": "dask", "scheduler": "tcp://127.0.0.1:9"}, "no Dask scheduler answers"),
        ({"place": "dask", "scheduler": "nonsense:/"}, "no Dask scheduler answers"),
        (
            {"place": "slurm", "job": {"quue": "long"}},
            "slurm has no option 'quue'; did you mean 'queue'",
        ),
        ({"place": "htcondor", "job": {"walltime": "08:00:00"}}, "htcondor has no .*'walltime'"),
    ],
)
def test_wrong_places_are_refused(words, said):
    timeouts = {"distributed.comm.timeouts.connect": "0.2s"}
    with dask.config.set(timeouts), pytest.raises(InputError, match=said), cluster(**words):
        pass


def test_job_files_name_what_was_asked():
    slurm = job_file("slurm", {"queue": "long", "walltime": "02:00:00", "memory": "8 GiB"})
    for line in ("#SBATCH -p long", "#SBATCH -t 02:00:00", "#SBATCH --mem=8G"):
        assert line in slurm.splitlines()
    condor = job_file("htcondor", {})
    assert "RequestCpus = MY.DaskWorkerCores" in condor
    assert "MY.DaskWorkerMemory = 4294967296" in condor
    with pytest.raises(InputError, match="batch system"):
        job_file("dask", {})


def test_dry_run_prints_the_job_file_alone(tmp_path, monkeypatch, capsys):
    words = ["generate", "nowhere", "-o", "x", "--on", "slurm", "--dry-run"]
    for option in ("queue=long", "walltime=12:00:00", "account=0123"):
        words += ["--job", option]
    monkeypatch.setattr(sys, "argv", ["physgen", *words])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsys.readouterr().out
    assert printed.startswith("#!/usr/bin/env bash")
    for line in ("-p long", "-t 12:00:00", "-A 0123"):  # neither seconds nor octal
        assert f"#SBATCH {line}" in printed.splitlines()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_starts_workers_of_its_own(run, expected, tmp_path):
    words = [run, "-n", N, "--seed", 7, "--shards", 12, "-o", tmp_path / "shards", "--json"]
    command = [*COMMAND, *map(str, words), "--on", "dask", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["shards"] == 12
    assert sums(tmp_path / "shards") == expected
