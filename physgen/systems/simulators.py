"""Simulators with parameters, and the prior distributions of these.

A simulator draws data x given parameters theta. `Simulator` is all that inference of parameters and
their optimisation need to know of one: which parameters there are, what the data are called, and
data at given parameters. `OwnSimulator` is a user's function as one; what it returned is kept in
files, so that no call is paid for twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.batch import Variable
from physgen.errors import DomainError, InputError, RecipeError
from physgen.io.fetch import data_folder
from physgen.io.writer import atomic
from physgen.systems.external import external

LOG = logging.getLogger("physgen")
Array = NDArray[float64]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a simulator, and its prior distribution.

    Attributes:
        name: of the parameter.
        first, second: the ends of a uniform prior; mean and standard deviation of a normal one;
            those of the logarithm of a log-normal one.
        prior: which of the three.
        unit: of the parameter.

    Raises:
        DomainError: there is no such distribution.

    >>> Parameter("T", 2.0, 3.0).variable.range
    (2.0, 3.0)
    """

    name: str
    first: float
    second: float
    prior: Literal["uniform", "normal", "log-normal"] = "uniform"
    unit: str = "1"

    def __post_init__(self) -> None:
        least = self.first if self.prior == "uniform" else 0.0
        if not np.isfinite([self.first, self.second]).all() or self.second <= least:
            needed = "low < high" if self.prior == "uniform" else "a positive standard deviation"
            raise DomainError(
                f"parameter {self.name}: a {self.prior} prior of {self.first:g} and "
                f"{self.second:g}; it needs {needed}"
            )

    @property
    def variable(self) -> Variable:
        """The parameter as a column, with the range of its prior."""
        low, high = {
            "uniform": (self.first, self.second),
            "normal": (None, None),
            "log-normal": (0.0, None),
        }[self.prior]
        return Variable(self.name, self.unit, low=low, high=high)

    def draw(self, n: int, generator: np.random.Generator) -> Array:
        """Return (n,) values from the prior."""
        if self.prior == "uniform":
            return generator.uniform(self.first, self.second, n)
        values = generator.normal(self.first, self.second, n)
        return np.exp(values) if self.prior == "log-normal" else values

    def log_prob(self, values: Array) -> Array:
        """Return the log-density of the prior, up to a constant, of values of any shape.

        >>> Parameter("T", 2.0, 3.0).log_prob(np.array([2.5, 3.5])).tolist()
        [0.0, -inf]
        """
        if self.prior == "uniform":
            inside = (values >= self.first) & (values <= self.second)
            return np.where(inside, 0.0, -np.inf)
        if self.prior == "normal":
            return -(((values - self.first) / self.second) ** 2) / 2
        log = np.log(np.where(values > 0, values, 1.0))
        density = -(((log - self.first) / self.second) ** 2) / 2 - log
        return np.where(values > 0, density, -np.inf)


class Simulator(Protocol):
    """Draws data given parameters."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """In the order of the columns of theta."""
        ...

    @property
    def data(self) -> tuple[Variable, ...]:
        """In the order of the columns of x."""
        ...

    def simulate(self, theta: Array, seed: int) -> Array:
        """Return (N, D) data at (N, P) parameters; the same seed gives the same data."""
        ...


def draw_parameters(parameters: Sequence[Parameter], n: int, seed: int) -> Array:
    """Return (n, P) parameters from their priors.

    >>> draw_parameters([Parameter("a", 0.0, 1.0), Parameter("b", 0.0, 1.0, "normal")], 5, 1).shape
    (5, 2)
    """
    generator = np.random.default_rng([seed, 0])
    return np.stack([parameter.draw(n, generator) for parameter in parameters], 1)


def log_prior(parameters: Sequence[Parameter], theta: Array) -> Array:
    """Return (...) log-densities of the prior of (..., P) parameters, up to a constant.

    >>> prior = [Parameter("a", 0.0, 1.0), Parameter("b", 0.0, 1.0, "normal")]
    >>> log_prior(prior, np.array([[0.5, 2.0], [1.5, 2.0]])).tolist()
    [-2.0, -inf]
    """
    columns = zip(parameters, np.moveaxis(theta, -1, 0), strict=True)
    return np.asarray(sum(prior.log_prob(column) for prior, column in columns))


class OwnSimulator:
    """A user's function of (N, P) parameters and a seed that returns (N, D) data.

    The data of every call are kept in the folder of `physgen.io.fetch.data_folder`, by the content
    of the file that holds the function, the parameters and the seed: a run that fails, or is
    repeated, or asks for more, calls the function only for what is not there.

    Args:
        function: FILE.py:FUNCTION, or what else `physgen.systems.external` knows.
        parameters: of the function, each a mapping of the attributes of `Parameter`.
        folder: of these files, in the place of that one.
        key: of the settings that hold the parameters, for messages.

    Raises:
        InputError: file or function is missing, or it fails.
        RecipeError: a parameter cannot be understood.
        DomainError: it returns other things than finite numbers (N, D).
    """

    def __init__(
        self,
        function: str,
        parameters: Sequence[Mapping[str, Any]],
        folder: Path | None = None,
        key: str = "system.parameters",
    ) -> None:
        if not parameters:
            raise RecipeError(
                f"{key}: name the parameters of your simulator and their priors, as in "
                "[{name: mass, first: 1.0, second: 2.0, prior: uniform}]"
            )
        try:
            self.parameters = tuple(Parameter(**given) for given in parameters)
        except TypeError as error:
            raise RecipeError(f"{key}: {error}") from error
        self._name, self._folder = function, folder
        self._function, self.digest = external(function, "simulator")
        self.data = tuple(Variable(f"x{i}") for i in range(self._look()))

    def simulate(self, theta: Array, seed: int) -> Array:
        """Return (N, D) data, from their file if they are known."""
        key = hashlib.sha256(f"{self.digest} {self._name} {seed} {theta.shape}".encode())
        key.update(np.ascontiguousarray(theta).tobytes())
        folder = self._folder or data_folder() / "simulations"
        path = folder / f"{key.hexdigest()[:32]}.npy"
        if path.is_file():
            return np.asarray(np.load(path, allow_pickle=False), float64)
        x = self._call(theta, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as part, part.open("wb") as file:
            np.save(file, x, allow_pickle=False)
        return x

    def _call(self, theta: Array, seed: int) -> Array:
        call: Any = self._function
        try:
            x = np.asarray(call(theta.copy(), seed), float64)
        except Exception as error:
            raise InputError(
                f"{self._name}: fails at parameters of shape {theta.shape}, seed {seed}: "
                f"{type(error).__name__}: {error}; what it returned before is kept"
            ) from error
        if x.ndim != 2 or len(x) != len(theta):
            raise DomainError(
                f"{self._name}: returns shape {x.shape} for parameters of shape {theta.shape}; "
                f"expected ({len(theta)}, D), a row of data for each row of parameters"
            )
        if hasattr(self, "data") and x.shape[1] != len(self.data):
            raise DomainError(
                f"{self._name}: returns {x.shape[1]} numbers a row, and {len(self.data)} before"
            )
        if not np.isfinite(x).all():
            row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
            values = ", ".join(
                f"{p.name}={v:g}" for p, v in zip(self.parameters, theta[row], strict=True)
            )
            raise DomainError(f"{self._name}: returns {x[row].tolist()} at {values} (row {row})")
        return x

    def _look(self) -> int:
        """Return how many numbers a row of data has; say if they ignore the parameters."""
        theta = draw_parameters(self.parameters, 8, 0)
        first, other = self.simulate(theta, 0), self.simulate(theta[::-1], 0)
        if np.array_equal(first, other):
            LOG.warning(
                "%s: returns the same data at other parameters: it ignores them, and nothing can "
                "be inferred from its data",
                self._name,
            )
        return int(first.shape[1])
