"""What a training depends on, by hashes: another recipe, file or teacher is another run."""

from __future__ import annotations

from physgen import card as cards
from physgen.errors import CheckpointError
from physgen.run import Run
from physgen.systems.base import HasOwnFiles


def identity_of(run: Run) -> dict[str, str]:
    """Return hashes of all that the training depends on.

    They are those of recipe and data, of files of the system, and of the weights of a teacher.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from physgen.recipe import read
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(identity_of(Run.create(read("phi4-flow"), Path(folder))[0]))
    ['recipe']
    """
    hashes = {"recipe": run.recipe.digest()}
    if isinstance(run.system, HasOwnFiles):
        hashes["system"] = run.system.digest()
    if run.teacher is not None:
        hashes["teacher"] = cards.read_card(run.teacher.path / "surrogate")["weights_sha256"]
    return hashes | {name: data.source.digest() for name, data in run.inputs.items()}


def check_unchanged(run: Run) -> None:
    """Raise `CheckpointError` if what a finished run was trained on has changed since."""
    now, before = identity_of(run), run.provenance.get("identity", {})
    for name in sorted((now | before).keys() - {"recipe"}):
        if now.get(name) != before.get(name):
            raise CheckpointError(
                f"{run.path} was trained with another {name}: a file that the recipe names "
                "has changed since; remove the directory to train again, or put the file back"
            )
