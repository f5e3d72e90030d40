"""The interface of what a trained surrogate can be exported to: one class, one file a target.

A target is registered under the entry-point group `physgen.exporters`. The keyword-only parameters
of its constructor are its options; what it writes into an empty folder appears at its place when it
is complete.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from physgen.errors import InputError
from physgen.io.writer import part_of, sweep

if TYPE_CHECKING:
    from physgen.surrogates.base import Surrogate
    from physgen.systems.geometry import Geometry
    from physgen.validation.scorecard import Scorecard

_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}


@dataclass(frozen=True)
class Trained:
    """A trained surrogate with all that an exporter may tell of it.

    Attributes:
        surrogate: on the CPU, in evaluation mode, sampled as `sampling` says.
        run: its run directory.
        recipe: name of the recipe.
        kind: what the recipe calls the surrogate.
        description: its card in the run, `physgen.card`.
        sampling: changes to the recipe's section `sampling`, by dotted keys.
        correction: what the recipe makes its samples exact with.
        scorecard: of its samples, as they are exported; `None` if these were not validated.
        geometry: of a calorimeter.
        licence: of the training data, where it is known.
        progress: called with (what is being done, steps done, steps in all, figures worth showing).
    """

    surrogate: Surrogate
    run: Path
    recipe: str
    kind: str
    description: Mapping[str, Any]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    correction: str = "none"
    scorecard: Scorecard | None = None
    geometry: Geometry | None = None
    licence: str | None = None
    progress: Callable[[str, int, int, Mapping[str, float]], None] | None = None

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Report that a step of the export begins, and that it has ended."""
        progress, stage = self.progress or (lambda *_: None), f"{self.recipe}: {what}"
        progress(stage, 0, 1, {})
        yield
        progress(stage, 1, 1, {})


class Exporter(Protocol):
    """Writes a trained surrogate in the form of one target."""

    def write(self, trained: Trained, folder: Path) -> None:
        """Write all files of the target into an empty folder.

        Raises:
            InputError: this surrogate cannot be exported so; the message says why, and what to do.
        """
        ...


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` if the block ends without an error.

    Args:
        path: of the folder.
        replace: remove what is there once the new one is complete.

    Raises:
        InputError: there is something at `path` (unless `replace`), or it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     with new_folder(Path(place) / "model") as folder:
    ...         written = (folder / "file").write_text("whole")
    ...     sorted(path.name for path in Path(place).iterdir())
    ['model']
    """
    if path.exists() and not replace:
        raise InputError(f"{path} exists; choose another folder, or remove it")
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        part.mkdir()
        yield part
        if path.exists():
            if not replace:
                raise InputError(f"{path} has appeared meanwhile; choose another folder")
            shutil.rmtree(path)
        part.rename(path)
    except OSError as error:
        if error.errno in _REFUSED:
            raise InputError(
                f"cannot write {path}: {os.strerror(error.errno or 0)}; choose another folder "
                "(nothing was left behind)"
            ) from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
