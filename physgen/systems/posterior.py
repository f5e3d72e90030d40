"""Parameters of a simulator given its data, as a system.

A sample are the parameters theta, drawn from their prior; its conditions are the data x that the
simulator draws at them. A surrogate of such samples given their conditions is an estimate of the
posterior p(theta | x), for all x at once (neural posterior estimation: Papamakarios and Murray,
arXiv 1605.06376): it is trained, judged, asked and exported as every other one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError, suggest
from physgen.io.writer import sha256
from physgen.systems.array_files import ArrayFiles
from physgen.systems.base import Derived
from physgen.systems.inference_tasks import TASKS, Task
from physgen.systems.physics_tasks import PHYSICS
from physgen.systems.simulators import OwnSimulator, Simulator, draw_parameters

BUILT_IN = TASKS | PHYSICS


@dataclass(frozen=True, kw_only=True)
class Posterior(ArrayFiles):
    """Parameters given the data of a simulator.

    Attributes:
        simulator: FILE.py:FUNCTION, a function of (N, P) parameters and a seed that returns (N, D)
            data; or a built-in one, of `inference_tasks` or `physics_tasks`.
        parameters: of a function of one's own: mappings with the attributes of
            `physgen.systems.simulators.Parameter`.
        at_once: simulations of one call; those of finished calls are kept.

    Raises:
        RecipeError: there is no such simulator, or its parameters are not said.

    >>> samples = Posterior(simulator="two-moons").simulate(5, seed=1)
    >>> samples.x.shape, samples.condition.shape  # parameters and data
    (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    simulator: str = "two-moons"
    parameters: tuple[dict[str, Any], ...] = ()
    at_once: int = 1000

    file_keys: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise RecipeError(f"system.at_once is {self.at_once}: it must be at least 1")
        if not self._is_own and self.simulator not in BUILT_IN:
            near = suggest(self.simulator, list(BUILT_IN))
            raise RecipeError(
                f"no simulator is called {self.simulator!r}{near}; "
                "name a function of your own as FILE.py:FUNCTION"
            )
        if self._is_own and not self.simulator.rpartition(":")[0].endswith(".py"):
            raise RecipeError(
                f"system.simulator {self.simulator!r}: name a function of your own as "
                "FILE.py:FUNCTION"
            )
        if self.parameters and not self._is_own:
            raise RecipeError(
                f"system.parameters: the prior of {self.simulator} is built in; leave them out"
            )

    @property
    def _is_own(self) -> bool:
        return ":" in self.simulator

    @cached_property
    def model(self) -> Simulator:
        """What simulates."""
        if self._is_own:
            return OwnSimulator(self.simulator, self.parameters)
        return BUILT_IN[self.simulator]

    @cached_property
    def schema(self) -> Schema:
        """The parameters, given the data."""
        variables = tuple(parameter.variable for parameter in self.model.parameters)
        return Schema((len(variables),), variables, tuple(self.model.data))

    @property
    def derived(self) -> Mapping[str, Derived]:
        """Nothing."""
        return {}

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of every parameter."""
        return {variable.name: variable.unit for variable in self.schema.variables}

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return the parameters, (B,)."""
        return dict(zip(self.schema.names, batch.x.unbind(1), strict=True))

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the data and the parameters, (B, D + P)."""
        if batch.condition is None:
            raise DomainError("parameters without the data they are inferred from")
        return torch.cat([batch.condition.to(batch.x), batch.x], 1)

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` parameters from their prior, and data at them, `at_once` a call.

        A call depends on the seed and its number alone: of more simulations the first are the same.

        Raises:
            DomainError: data are given: their posterior is what nobody can draw from.
        """
        if condition is not None:
            raise DomainError("simulations have no given data: parameters come from their prior")
        thetas, data = [np.empty((0, len(self.schema.variables)))], []
        for number, first in enumerate(range(0, n, self.at_once)):
            key, other = map(int, np.random.SeedSequence([seed, number]).generate_state(2))
            theta = draw_parameters(self.model.parameters, self.at_once, key)
            # `default_rng(key)` in a function of one's own would repeat the numbers behind theta;
            # built-in simulators have streams apart from it.
            x = self.model.simulate(theta, other if self._is_own else key)
            data.append(x[: n - first])
            thetas.append(theta[: n - first])
        x = np.concatenate(data) if data else np.empty((0, len(self.schema.condition)))
        parameters = torch.from_numpy(np.concatenate(thetas)).float()
        return Batch(parameters, torch.from_numpy(x).float())

    def exact_posterior(self, x: Tensor, n: int, seed: int) -> NDArray[np.float64] | None:
        """Return (n, P) draws of the posterior of (D,) data; `None` where nobody knows it."""
        if not isinstance(self.model, Task):
            return None
        return self.model.exact_posterior(x.double().numpy(), n, seed)

    def digest(self) -> str:
        """Return the SHA-256 of the file of one's own simulator, or of the name."""
        if self._is_own:
            return sha256(Path(self.simulator.rpartition(":")[0]))
        return hashlib.sha256(self.simulator.encode()).hexdigest()
