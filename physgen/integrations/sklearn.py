"""A surrogate of a table as a density estimator of scikit-learn.

```python
estimator = SurrogateEstimator("flow", engine={"steps": 2000}).fit(X)
estimator.sample(1000, random_state=1)      # (1000, n_features)
estimator.score_samples(X)                  # log-densities
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from physgen.batch import Batch
from physgen.errors import InputError, RecipeError
from physgen.generation import generate
from physgen.isolation import isolated
from physgen.pipeline import train
from physgen.registry import lookup
from physgen.surrogates.base import HasDensity, Surrogate, density_of

Part = str | Mapping[str, Any]
"""A component of a recipe: its `kind`, or that with its options."""


def _has_density(estimator: SurrogateEstimator) -> bool:
    """Return whether `score_samples` can be called, as far as it is known before `fit`."""
    if hasattr(estimator, "surrogate_"):
        return density_of(estimator.surrogate_) is not None
    try:
        return issubclass(lookup("surrogates", _part(estimator.surrogate)["kind"]), HasDensity)
    except (RecipeError, KeyError, TypeError):
        return True  # `fit` says what is wrong.


class SurrogateEstimator(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Learns the distribution of the rows of a table, and draws new rows.

    Parameters are stated as the sections of a recipe are, or by their `kind` alone.

    Args:
        surrogate: such as "flow", "vae", "diffusion", or {"kind": "vae", "latent": 4}.
        method: how it is trained.
        transforms: what is done with the columns before, in turn.
        engine: {"steps": 2000, "batch_size": 512}.
        random_state: of the training.

    Attributes:
        surrogate_: the trained torch module.
        n_features_in_: columns of the table.
        feature_names_in_: their names, if these are all texts.

    >>> X = np.random.default_rng(1).normal(size=(200, 2))
    >>> estimator = SurrogateEstimator(engine={"steps": 5}).fit(X)
    >>> estimator.sample(3, random_state=1).shape, estimator.score_samples(X).shape
    ((3, 2), (200,))
    """

    def __init__(
        self,
        surrogate: Part = "flow",
        *,
        method: Part = "maximum-likelihood",
        transforms: Sequence[Part] = ("standardise",),
        engine: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.surrogate = surrogate
        self.method = method
        self.transforms = transforms
        self.engine = engine
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None) -> SurrogateEstimator:
        """Train a surrogate of the rows of X, (n_samples, n_features); y is not looked at.

        Raises:
            ValueError: the table is unfit, or the parameters are no recipe.
        """
        table = validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=2)
        columns = {f"x{i}": column for i, column in enumerate(table.T)}
        sections = {
            "name": "estimator",
            "summary": "Rows of a table.",
            "system": {"kind": "events"},
            "data": {"path": "table.npz", "fields": [*columns], "split": [1.0, 0.0, 0.0]},
            "transform": [_part(part) for part in self.transforms],
            "surrogate": _part(self.surrogate),
            "method": _part(self.method),
            "engine": {"seed": _seed(self.random_state)} | dict(self.engine or {}),
            "validation": {"metrics": []},
        }
        with TemporaryDirectory(prefix="physgen-") as place:
            np.savez(Path(place, "table.npz"), **columns)
            recipe = Path(place, "estimator.yaml")
            recipe.write_text(yaml.safe_dump(sections), encoding="utf-8")
            try:
                run = train(recipe, runs=Path(place, "runs"), score=False, track=False)
            except InputError as error:
                raise ValueError(str(error)) from error
            self.surrogate_: Surrogate = run.load()
        return self

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> NDArray[Any]:
        """Return (n_samples, n_features) new rows; another `random_state` draws others."""
        check_is_fitted(self)
        try:
            with isolated():
                batch = generate(self.surrogate_, n_samples, seed=_seed(random_state))
        except InputError as error:
            raise ValueError(str(error)) from error
        rows: NDArray[Any] = batch.x.numpy()
        return rows

    @available_if(_has_density)  # type: ignore[untyped-decorator]
    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return (n_samples,) log-densities of rows, computed in double precision.

        Only surrogates that know theirs have this method: flows do.
        """
        check_is_fitted(self)
        table = validate_data(self, X, dtype=np.float64, reset=False)
        density = density_of(self.surrogate_.high_precision())
        assert density is not None
        with isolated(), torch.no_grad():
            found = density.log_prob(Batch(torch.from_numpy(np.array(table))))
        values: NDArray[np.float64] = found.numpy()
        return values

    @available_if(_has_density)  # type: ignore[untyped-decorator]
    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Return the mean log-density of rows, by which `GridSearchCV` chooses."""
        return float(np.mean(self.score_samples(X)))


def _part(part: Part) -> dict[str, Any]:
    return {"kind": part} if isinstance(part, str) else dict(part)


def _seed(state: int | np.random.RandomState | None) -> int:
    return int(check_random_state(state).randint(2**31 - 1))
