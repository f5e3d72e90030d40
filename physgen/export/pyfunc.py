"""A surrogate as an MLflow pyfunc model: code and safetensors, no pickle.

The model takes one row a sample with the conditions as columns (a surrogate without conditions: a
column `n`, how many samples); it returns the samples, (n, *shape), in physical units. They are new
at every call, unless a seed is given, as the parameter `seed` or as a column of that name: then
they are those of `physgen generate` with this seed (rows of one seed together).
"""

from __future__ import annotations

import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from physgen import card as cards
from physgen.batch import Schema
from physgen.errors import InputError
from physgen.export.base import Trained, new_folder
from physgen.io import manifest
from physgen.isolation import environment

CODE = Path(__file__).parents[1] / "served.py"
"""What the served process runs; copied into the model."""

FOLDER = "export/pyfunc"
"""Where a run keeps it."""

NEEDED = ("physgen", "torch", "safetensors", "numpy")


_parts = shutil.ignore_patterns("*.part")


class PyFunc:
    """The MLflow pyfunc model as a target of `physgen export`.

    >>> from physgen.registry import lookup
    >>> lookup("exporters", "pyfunc") is PyFunc
    True
    """

    def write(self, trained: Trained, folder: Path) -> None:
        """Write the model; `InputError` if it is to be sampled in another way than the recipe's."""
        if trained.sampling:
            raise InputError(
                "--set: a pyfunc model holds the run as it is, sampled as its recipe says; leave "
                "it out"
            )
        with trained.step("write the model of MLflow"):
            _write(trained.run, folder)


def save(run: Path) -> Path:
    """Write the model of a run to `export/pyfunc` in it, which tracking copies to MLflow.

    Args:
        run: a run directory whose training has finished.

    Raises:
        CheckpointError: the training has not finished.
    """
    with new_folder(run / FOLDER, replace=True) as folder:
        _write(run, folder)
    return run / FOLDER


def _write(run: Path, folder: Path) -> None:
    """Write the trained surrogate of a run as an MLflow model into an empty folder."""
    # MLflow reads it, and warns of its own type hints, when it is imported.
    with (
        environment({"MLFLOW_DISABLE_TELEMETRY": "true"}),
        warnings.catch_warnings(action="ignore", category=UserWarning),
    ):
        from mlflow.models import ModelSignature
        from mlflow.pyfunc import save_model
        from mlflow.types import ColSpec, ParamSchema, ParamSpec, TensorSpec
        from mlflow.types import Schema as Columns

    description = cards.read_card(run / "surrogate")
    schema = Schema.from_dict(description["schema"])
    columns = [ColSpec("double", variable.name) for variable in schema.condition]
    columns = columns or [ColSpec("long", "n")]
    samples = TensorSpec(np.dtype(description["dtype"]), (-1, *schema.shape))
    signature = ModelSignature(
        inputs=Columns([*columns, ColSpec("long", "seed", required=False)]),
        outputs=Columns([samples]),
        params=ParamSchema([ParamSpec("seed", "long", None)]),
    )
    with TemporaryDirectory(prefix="physgen-") as place:
        copied = Path(place) / "run"
        shutil.copytree(run / "surrogate", copied / "surrogate", ignore=_parts)
        shutil.copy(run / "recipe.yaml", copied)
        manifest.write(copied, manifest.sums_of(copied, ("recipe.yaml", "surrogate")))
        # An example input would make it generate samples only to guess what the signature says.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            save_model(
                folder,
                python_model=str(CODE),
                artifacts={"run": copied.resolve().as_uri()},
                signature=signature,
                pip_requirements=[f"{name}=={version(name)}" for name in NEEDED],
                metadata={
                    "condition_domain": description["condition_domain"],
                    "verdict": description.get("verdict", "not validated"),
                    "warnings": description.get("warnings", []),
                },
            )


def is_current(run: Path) -> bool:
    """Return whether a run keeps a model of its surrogate as it is now, verdict included."""
    copied = run / FOLDER / "artifacts" / "run" / "surrogate" / cards.CARD
    return copied.exists() and copied.read_bytes() == (run / "surrogate" / cards.CARD).read_bytes()
