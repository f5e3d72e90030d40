"""A user's own action of a real field on a periodic lattice, as a system.

The user writes a Python file with a function of (B, *shape) fields that returns (B,) actions,

    def action(phi):
        return (phi**4 - 2 * phi * phi.roll(1, 1) - 2 * phi * phi.roll(1, 2)).flatten(1).sum(1)

and names it as `my_action.py:action`. To name it is to agree that the file is run.
"""

from __future__ import annotations

import importlib.util
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import DomainError, InputError, suggest
from physgen.io.arrays import Axes
from physgen.io.writer import sha256
from physgen.sampling import hmc, ladder
from physgen.sampling.autocorrelation import mixed
from physgen.sampling.thinning import spacing
from physgen.systems.family import refuse_condition
from physgen.systems.probing import check_normalisable, wells
from physgen.systems.real_field import RealField, check_shape

LOG = logging.getLogger("physgen")

_CHAINS = 64
_SYSTEMS = 32
"""At most so many chains where each of them needs several levels, and fewer, so that they are long,
where few configurations are asked for."""


class LatticeAction(RealField):
    r"""A real scalar field with the density exp(-action), the action being a user's.

    Args:
        action: FILE.py:FUNCTION.
        shape: extents of the lattice, one to four of them.
        axes: of the field in files of several chains, ("chain", "time") or the other way round.

    Raises:
        InputError: if the file or the function is missing, or fails.
        DomainError: if it is no action: of the wrong shape or type, not finite, not differentiable,
            not one number a field, or not normalisable, or if it changes the field it is given.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "action.py"
    ...     _ = file.write_text("def action(x): return (x**2 / 2).flatten(1).sum(1)")
    ...     system = LatticeAction(action=f"{file}:action", shape=(4,))
    >>> system.schema.shape
    (4,)
    """

    def __init__(
        self, *, action: str, shape: tuple[int, ...] = (8, 8), axes: Axes | None = None
    ) -> None:
        check_shape(shape)
        self.source = action
        self.shape = tuple(shape)
        self.axes = axes
        self._function = load_function(action)
        self._check()

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the user's action of (B, *shape) fields."""
        refuse_condition(condition, self)
        value: Tensor = self._function(x)
        return value

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` configurations by tuned, thinned HMC, chain after chain, in float64.

        Chains begin at random and in all wells of uniform fields. Where a trial finds that they do
        not forget where they began, levels of tempering connect the wells. What does not mix even
        then is said in the log, and shows in the chains.
        """
        refuse_condition(condition, self)
        generator = torch.Generator().manual_seed(seed)
        trial = hmc.sample(
            self._starts(generator), self.action, hmc.Schedule(100), generator=generator
        )
        series = self._slow(trial.x)
        if all(mixed(one) for one in series):
            length = -(-n // _CHAINS)
            x = hmc.sample(
                trial.x[:, -1],
                self.action,
                hmc.Schedule(length, n_skip=max(map(spacing, series)), n_warm=100),
                generator=generator,
            ).x
        else:
            x = self._tempered(trial, n, generator)
        if not all(mixed(one) for one in self._slow(x)):
            LOG.warning(
                "%s: the chains do not mix, even with tempering: means differ from chain to chain "
                "by more than their errors, and depend on where the chains began",
                self.source,
            )
        length = x.shape[1]
        chain = torch.arange(len(x)).repeat_interleave(length)
        return Batch(x=x.flatten(0, 1)[:n].contiguous(), chain=chain[:n])

    def _starts(self, generator: torch.Generator) -> Tensor:
        """Return (_CHAINS, *shape) fields, at random and around the wells in turns."""
        noise = torch.randn((_CHAINS, *self.shape), generator=generator, dtype=torch.float64)
        centres = torch.tensor([0.0, *wells(self.action, self.shape)[: _CHAINS // 8]])
        which = torch.arange(_CHAINS) % len(centres)
        each = (-1, *[1] * len(self.shape))
        centre = centres.double()[which].reshape(each)
        return centre + torch.where(which == 0, 0.5, 0.1).double().reshape(each) * noise

    def _slow(self, x: Tensor) -> list[NDArray[np.float64]]:
        """Return series (T, C) of chains (C, T, ...) that know in which well a chain is.

        They are the energy, the magnetisation and its square, and four random projections.
        """
        magnetisation = x.flatten(2).sum(2)
        with torch.no_grad():
            energy = torch.stack([self.action(fields) for fields in x.unbind(1)], 1)
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn((x[0, 0].numel(), 4), generator=generator, dtype=x.dtype)
        projections = (x.flatten(2) @ directions).unbind(2)
        series = (magnetisation, magnetisation**2, energy, *projections)
        return [values.T.contiguous().numpy() for values in series]

    def _tempered(self, trial: hmc.Run, n: int, generator: torch.Generator) -> Tensor:
        """Return (C, T, *shape) chains of at least `n` configurations of a tempered ladder."""
        n_systems = min(max(n // 64, 8), _SYSTEMS)
        start = trial.x[:n_systems, -1]
        levels = ladder.init(start, self.action, step_size=trial.step_size, generator=generator)
        series = self._slow(ladder.sample(levels, 200))
        # Farther apart costs more than the autocorrelation that is left, which the chains show.
        n_skip = min(max(map(spacing, series)), 10)
        return ladder.sample(levels, -(-n // n_systems), n_skip)

    def digest(self) -> str:
        """Return the SHA-256 of the file that holds the action."""
        return sha256(Path(self.source.rpartition(":")[0]))

    @property
    def attributes(self) -> dict[str, Any]:
        """The name of the action."""
        return {"action": self.source}

    def _check(self) -> None:
        """Try the action on a few random fields; raise `DomainError` where it is none."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((3, *self.shape), generator=generator, dtype=torch.float64)
        given = x.clone().requires_grad_()
        try:
            value = self._function(given)
        except Exception as error:
            raise InputError(
                f"{self.source}: fails on fields of shape {tuple(x.shape)}{_where(error)}"
            ) from error
        wanted = "a torch.float64 tensor of shape (3,) for three float64 fields"
        if not isinstance(value, Tensor) or value.shape != (3,) or value.dtype != x.dtype:
            result = (
                f"a {value.dtype} tensor of shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else f"a {type(value).__name__}"
            )
            raise DomainError(
                f"{self.source}: returns {result}, expected {wanted}: sum over the sites, not over "
                "the batch, and keep the precision of the field"
            )
        if not torch.isfinite(value).all():
            raise DomainError(f"{self.source}: is {value.tolist()} on three random fields")
        if not value.requires_grad:
            raise DomainError(
                f"{self.source}: is not differentiable; use torch functions throughout (no numpy, "
                "no detach, no item)"
            )
        (gradient,) = torch.autograd.grad(value.sum(), given, allow_unused=True)
        if gradient is None or not torch.isfinite(gradient).all() or not gradient.any():
            raise DomainError(
                f"{self.source}: its derivative by the field is missing, zero, or not finite"
            )
        if not torch.equal(given.detach(), x):
            raise DomainError(f"{self.source}: changes the field it is given; write to a copy")
        alone = self._function(x[:1])
        if not torch.allclose(alone, value[:1].detach(), rtol=1e-9):
            raise DomainError(
                f"{self.source}: gives a field another action when it comes with others "
                f"({value[0].item():.9g}) than alone ({alone[0].item():.9g}); do not mix the batch"
            )
        check_normalisable(self._function, self.shape, self.source)


def load_function(name: str, key: str = "action") -> Callable[..., Any]:
    """Run FILE.py and return FUNCTION, for a `name` of FILE.py:FUNCTION under a key of a recipe.

    Raises:
        InputError: there is no such file or function, or the file fails.
    """
    file, _, function = name.rpartition(":")
    if not file or not function.isidentifier():
        raise InputError(f"{key} {name!r}: name it as FILE.py:FUNCTION, such as my_{key}.py:{key}")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        near = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise InputError(
            f"{key} {name!r}: there is no file {path}{suggest(path.name, near)}; name yours, "
            f"system.{key}=FILE.py:FUNCTION"
        )
    spec = importlib.util.spec_from_file_location(f"_action_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{key} {name!r}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{key} {name!r}: {path} fails{_where(error)}") from error
    result = getattr(module, function, None)
    if not callable(result):
        choices = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(f"{path} has no function {function!r}{suggest(function, choices)}")
    return result  # type: ignore[no-any-return]


def _where(error: Exception) -> str:
    """Return the line of the user's file in which an error arose, and the error."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f" in line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    return f"{line}: {type(error).__name__}: {error}"
