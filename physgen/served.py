"""What a served process runs: MLflow copies this file into the model and executes it there."""

from __future__ import annotations

from secrets import randbits
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel
from pandas import DataFrame

from physgen.errors import InputError
from physgen.pipeline import load


class ServedSurrogate(PythonModel):  # type: ignore[misc]
    """Loads the run inside the model, and generates from it."""

    def load_context(self, context: Any) -> None:
        """Build the surrogate and load its weights, which are compared with their hash."""
        self._sampler = load(context.artifacts["run"], "cpu")

    def predict(
        self, context: Any, model_input: DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray[Any, Any]:
        """Return (n, *shape) samples; `model_input` is a data frame, `params` may hold `seed`."""
        seed = (params or {}).get("seed")
        if seed is None and "seed" in model_input.columns:
            return self._by_rows(model_input)
        # Without a seed no two calls draw the same, nor two processes.
        return self._samples(model_input, randbits(62) if seed is None else seed)

    def _by_rows(self, rows: DataFrame) -> np.ndarray[Any, Any]:
        """Generate the rows of each seed together, and put their samples into the rows' order."""
        parts: dict[int, np.ndarray[Any, Any]] = {}
        for seed in rows["seed"].unique():
            places = np.flatnonzero(rows["seed"] == seed)
            chosen = rows.iloc[places]
            ends = self._counts(chosen).cumsum()[:-1]
            samples = np.split(self._samples(chosen, seed), ends)
            parts |= dict(zip(places.tolist(), samples, strict=True))
        return np.concatenate([parts[place] for place in sorted(parts)])

    def _samples(self, rows: DataFrame, seed: Any) -> np.ndarray[Any, Any]:
        names = [variable.name for variable in self._sampler.schema.condition]
        n = int(self._counts(rows).sum())
        try:
            batch = self._sampler.sample(n, seed, rows[names] if names else None)
        except InputError as error:
            # Of others the server tells its clients no more than that there was one.
            raise MlflowException(str(error), error_code=BAD_REQUEST) from error
        samples: np.ndarray[Any, Any] = batch.x.numpy()
        return samples

    def _counts(self, rows: DataFrame) -> np.ndarray[Any, Any]:
        """Return how many samples each row asks for."""
        if self._sampler.schema.condition:
            return np.ones(len(rows), dtype=np.int64)
        counts: np.ndarray[Any, Any] = rows["n"].to_numpy()
        return counts


set_model(ServedSurrogate())
