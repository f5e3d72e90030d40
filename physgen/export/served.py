"""What a served process runs: MLflow copies this file into the model and executes it there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from pandas import DataFrame


class ServedSurrogate(PythonModel):  # type: ignore[misc]
    """Loads the run inside the model, and generates from it."""

    def load_context(self, context: Any) -> None:
        """Build the surrogate and load its weights, which are compared with their hash."""
        # By name, since a served process stands above the rooms that this file stands among.
        self._generate = import_module("physgen.generation").generate
        self._surrogate = import_module("physgen.run").Run(Path(context.artifacts["run"])).load()

    def predict(
        self, context: Any, model_input: DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray[Any, Any]:
        """Return (n, *shape) samples; `model_input` is a data frame, `params` may hold `seed`."""
        names = [variable.name for variable in self._surrogate.schema.condition]
        n, condition = len(model_input), None
        if names:
            columns = model_input[names].to_numpy(dtype="float64")
            condition = torch.from_numpy(columns).to(self._surrogate.dtype)
        else:
            n = int(model_input["n"].sum())
        seed = int((params or {}).get("seed", 1))
        samples: np.ndarray[Any, Any] = self._generate(
            self._surrogate, n, seed=seed, condition=condition
        ).x.numpy()
        return samples


set_model(ServedSurrogate())
