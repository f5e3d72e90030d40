"""Options that several verbs share, written once as the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from physgen.errors import InputError


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take a dataclass, the fields of which are options of the command line.

    >>> def verb(name: str, place: Place = Place()) -> None: ...
    >>> [*inspect.signature(grouped(verb)).parameters][:3]
    ['name', 'on', 'scheduler']
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {n: kind for n, kind in hints.items() if is_dataclass(kind)}
    parameters = []
    for one in inspect.signature(command).parameters.values():
        kind = groups.get(one.name)
        own = {one.name: one.default} if kind is None else {f.name: f.default for f in fields(kind)}
        known = hints if kind is None else get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(name, one.KEYWORD_ONLY, default=default, annotation=known[name])
            for name, default in own.items()
        ]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            for name, kind in groups.items()
        }
        command(**given, **made)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


@dataclass(frozen=True)
class Place:
    """Who works: this process, the workers of a Dask cluster, or jobs of a batch system.

    >>> with Place().client() as client:
    ...     client is None
    True
    """

    on: Annotated[
        str,
        typer.Option(
            "--on",
            help="Who works: here (this process), dask (a worker a core, or --scheduler), slurm or "
            "htcondor (jobs of dask-jobqueue).",
        ),
    ] = "here"
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, tcp://HOST:8786.")
    ] = None
    workers: Annotated[int | None, typer.Option(help="How many workers, or jobs, to start.")] = None
    job: Annotated[
        list[str] | None,
        typer.Option(
            help="Of each job, key=value, as dask-jobqueue calls it: memory=8GB, queue=long."
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the job file of a worker, and do nothing.")
    ] = False

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Connect to who works; yield their client, `None` for this process."""
        from physgen.scale.workers import cluster

        with cluster(
            self.on, scheduler=self.scheduler, workers=self.workers, job=self._job()
        ) as client:
            yield client

    def shows_job(self) -> bool:
        """Print what a batch system would be given for one worker, if that is asked for."""
        if self.dry_run:
            from physgen.scale.workers import job_file

            typer.echo(job_file(self.on, self._job()))
        return self.dry_run

    def _job(self) -> dict[str, Any]:
        from physgen.overrides import parse_overrides

        return parse_overrides(self.job or [])


def shard_number(shard: str | None, shards: int | None) -> tuple[int | None, int]:
    """Return which shard is asked for, if a single one is, and how many there are.

    >>> shard_number("17/1000", None)
    (17, 1000)
    """
    if shard is None:
        assert shards is not None
        return None, shards
    number, slash, total = shard.partition("/")
    if not (slash and number.strip().isdigit() and total.strip().isdigit()):
        raise InputError(f"--shard {shard}: not of the form 17/1000")
    if shards is not None and shards != int(total):
        raise InputError(f"--shard {shard} and --shards {shards}: leave --shards out")
    return int(number), int(total)
