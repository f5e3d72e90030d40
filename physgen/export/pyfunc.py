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

import numpy as np

from physgen import card as cards
from physgen.batch import Schema
from physgen.errors import InputError
from physgen.io import manifest
from physgen.io.writer import part_of, sweep
from physgen.isolation import environment

CODE = Path(__file__).parents[1] / "served.py"
"""What the served process runs; copied into the model."""

FOLDER = "export/pyfunc"
"""Where a run keeps it."""

NEEDED = ("physgen", "torch", "safetensors", "numpy")


_parts = shutil.ignore_patterns("*.part")


def save(run: Path, destination: Path | None = None) -> Path:
    """Write the trained surrogate of a run as an MLflow model folder; return the folder.

    Args:
        run: a run directory whose training has finished.
        destination: of the folder; `None` is `export/pyfunc` in the run directory, which tracking
            copies to MLflow.

    Raises:
        CheckpointError: the training has not finished.
        InputError: the destination exists and is not such a folder.
    """
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
    target = destination or run / FOLDER
    if target.exists() and not (target / "MLmodel").exists():
        raise InputError(f"{target} exists and is not an MLflow model; choose another folder")
    columns = [ColSpec("double", variable.name) for variable in schema.condition]
    columns = columns or [ColSpec("long", "n")]
    samples = TensorSpec(np.dtype(description["dtype"]), (-1, *schema.shape))
    signature = ModelSignature(
        inputs=Columns([*columns, ColSpec("long", "seed", required=False)]),
        outputs=Columns([samples]),
        params=ParamSchema([ParamSpec("seed", "long", None)]),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    folder = part_of(target)
    try:
        copied = folder / "run"
        shutil.copytree(run / "surrogate", copied / "surrogate", ignore=_parts)
        shutil.copy(run / "recipe.yaml", copied)
        manifest.write(copied, manifest.sums_of(copied, ("recipe.yaml", "surrogate")))
        # An example input would make it generate samples only to guess what the signature says.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            save_model(
                folder / "model",
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
        if target.exists():
            shutil.rmtree(target)
        (folder / "model").rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def is_current(run: Path) -> bool:
    """Return whether a run keeps a model of its surrogate as it is now, verdict included."""
    copied = run / FOLDER / "artifacts" / "run" / "surrogate" / cards.CARD
    return copied.exists() and copied.read_bytes() == (run / "surrogate" / cards.CARD).read_bytes()
