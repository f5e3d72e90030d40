"""Who does the parts of a work: this process, or the workers of a Dask cluster.

Dask's own machinery runs the tasks again whose workers died. Packages of the extra `scale` are
imported where they are used.
"""

from __future__ import annotations

import inspect
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from physgen.errors import InputError, PhysgenError, suggest

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")
BATCH = ("slurm", "htcondor")
PLACES = ("here", "dask", *BATCH)
"""Who works: this process, a Dask cluster, or one that is started by a batch system."""
ATTEMPTS = 3
"""How often a task is given to Dask that has outlived several workers, by its own count."""
REFILL_S = 10.0
"""Seconds after which workers that ended are asked for again."""
CLOSE_S = 20.0
"""Seconds in which a cluster may close."""
MEMORY = {
    f"distributed.nanny.pre-spawn-environ.MALLOC_{name}_THRESHOLD_": str(size)
    for name, size in (("TRIM", 2**28), ("MMAP", 2**25))
}
"""By Dask's own setting, workers give each array back to the system as soon as it is free, and have
pages made anew for the next: that took more than twice the time of the work itself."""
JOB = {"cores": 1, "processes": 1, "memory": "4 GiB"}
"""Of a worker of a batch system, where nothing else is said."""


def outcomes(
    client: Client | None, function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Result]]:
    """Yield (number of the task, result of `function(*task)`) as they come.

    The first error ends the work; what is being done then is finished by the workers, or not.

    Args:
        client: of Dask; without one, tasks are done here in their order.
        function: of a module, the same on all workers.
        tasks: arguments that Dask can send.

    Raises:
        PhysgenError: of a task; or workers died again and again; or the scheduler is gone.

    >>> list(outcomes(None, divmod, [(7, 2), (9, 4)]))
    [(0, (3, 1)), (1, (2, 1))]
    """
    if client is None:
        for number, task in enumerate(tasks):
            yield number, function(*task)
        return
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, as_completed

    numbers = {client.submit(function, *t, pure=False): i for i, t in enumerate(tasks)}
    attempts = dict.fromkeys(range(len(tasks)), 1)
    try:
        queue = as_completed(list(numbers), loop=client.loop)
        for future in queue:
            number = numbers.pop(future)
            try:
                yield number, future.result()
            except KilledWorker as error:
                if attempts[number] == ATTEMPTS:
                    raise PhysgenError(
                        f"task {number} outlived none of its workers ({error}): give them more "
                        "memory or time; the same command goes on where this one stopped"
                    ) from error
                attempts[number] += 1
                again = client.submit(function, *tasks[number], pure=False)
                numbers[again] = number
                queue.add(again)
            except (CancelledError, OSError) as error:
                raise PhysgenError(
                    "the Dask scheduler is gone, or has forgotten this work "
                    f"({type(error).__name__}); start one, and the same command goes on"
                ) from error
    finally:
        if client.status == "running":
            client.cancel(list(numbers))


@contextmanager
def cluster(
    place: str,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    job: Mapping[str, Any] | None = None,
) -> Iterator[Client | None]:
    """Connect to who does the work; what is started here ends with the block.

    Args:
        place: "here" yields `None`; "dask" starts a worker a core on this machine, unless
            `scheduler` names another cluster; the others start `workers` jobs.
        scheduler: address, "tcp://HOST:8786".
        workers: how many.
        job: options of dask-jobqueue, such as queue, memory, walltime.

    Raises:
        InputError: these do not go together; packages or the program that submits jobs are missing;
            or no scheduler answers.
    """
    if place not in PLACES:
        raise InputError(f"--on {place}: there are {', '.join(PLACES)}")
    if scheduler is not None and place != "dask":
        raise InputError("--scheduler is the address of a Dask cluster: add --on dask")
    if workers is not None and (place == "here" or scheduler is not None or workers < 1):
        raise InputError("--workers is the number of workers to start: add --on dask, or less")
    if job and place not in BATCH:
        raise InputError("--job is of batch systems: add --on slurm or --on htcondor")
    if place == "here":
        yield None
        return
    distributed = _imported("distributed")
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"no Dask scheduler answers at {scheduler} ({error}); start one with `dask "
                "scheduler`, and workers with `dask worker ADDRESS`"
            ) from error
        with client:
            yield client
        return
    dask = _imported("dask")
    if place == "dask":
        with dask.config.set(MEMORY):
            started = distributed.LocalCluster(
                n_workers=workers or os.cpu_count(), threads_per_worker=1, dashboard_address=":0"
            )
        wanted = {"n": workers or os.cpu_count()}
    else:
        started = batch_cluster(place, job or {})
        submit = started.job_cls.submit_command.split()[0]
        if shutil.which(submit) is None:
            started.close(timeout=CLOSE_S)
            raise InputError(
                f"--on {place}: there is no {submit} on this machine, by which jobs are submitted; "
                "call it where there is, or see the job file by --dry-run"
            )
        wanted = {"jobs": workers or 1}
    try:
        with (
            dask.config.set(MEMORY),
            distributed.Client(started, set_as_default=False) as client,
            _refilled(partial(started.scale, **wanted)),
        ):
            yield client
    finally:
        # A cluster of which workers were killed may wait for them; they end with this process.
        with suppress(TimeoutError):
            started.close(timeout=CLOSE_S)


@contextmanager
def _refilled(scale: Callable[[], object]) -> Iterator[None]:
    """Ask a cluster for its workers again and again: those that gave up are not missed by Dask."""
    over = threading.Event()

    def refill() -> None:
        scale()
        while not over.wait(REFILL_S):
            scale()

    thread = threading.Thread(target=refill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def batch_cluster(place: str, job: Mapping[str, Any]) -> Any:
    """Return a cluster of dask-jobqueue, without workers yet.

    What `job` does not say, Dask's own configuration says (`jobqueue.slurm`, `jobqueue.htcondor`),
    else `JOB`.

    Raises:
        InputError: there is no such option.
    """
    jobqueue = _imported("dask_jobqueue")
    import dask

    known = {key: dask.config.get(f"jobqueue.{place}.{key}", None) for key in JOB}
    options = {**JOB, **{key: value for key, value in known.items() if value is not None}, **job}
    if place == "htcondor":
        options.setdefault("disk", dask.config.get("jobqueue.htcondor.disk", None) or "1 GiB")
    kind = jobqueue.SLURMCluster if place == "slurm" else jobqueue.HTCondorCluster
    for key in options:
        names = _options_of(kind.job_cls)
        if key not in names:
            raise InputError(f"--job: {place} has no option {key!r}{suggest(key, names)}")
    try:
        return kind(**options, scheduler_options={"dashboard_address": ":0"})
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"--job: {error}") from error


def _options_of(job_class: type) -> set[str]:
    """Return the names of all options of a kind of jobs of dask-jobqueue."""
    makers = [kind.__init__ for kind in job_class.__mro__ if "__init__" in vars(kind)]  # type: ignore[misc]
    names = {name for maker in makers for name in inspect.signature(maker).parameters}
    return names - {"self", "args", "kwargs", "base_class_kwargs", "scheduler"}


def job_file(place: str, job: Mapping[str, Any]) -> str:
    """Return what would be given to the batch system for one worker.

    Raises:
        InputError: this is not a batch system, or there is no such option.
    """
    if place not in BATCH:
        raise InputError("--dry-run shows the job file of a batch system: --on slurm or htcondor")
    with batch_cluster(place, job) as started:
        return str(started.job_script())


def _imported(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'physgen[scale]'") from error
