"""A user's own action of a real field on a periodic lattice, as a system.

The user writes a Python file with a function of (B, *shape) fields that returns (B,) actions,

    def action(phi):
        return (phi**4 - 2 * phi * phi.roll(1, 1) - 2 * phi * phi.roll(1, 2)).flatten(1).sum(1)

and names it as `my_action.py:action`. To name it is to agree that the file is run.
"""

from __future__ import annotations

import importlib.util
import math
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, InputError, suggest
from physgen.io.arrays import Axes
from physgen.io.source import Source
from physgen.io.writer import Append, sha256
from physgen.sampling import hmc
from physgen.sampling.thinning import spacing
from physgen.systems import lattice_files
from physgen.systems.base import Derived
from physgen.systems.scalar import check_shape, magnetic, moments

_CHAINS = 64


class LatticeAction:
    """A real scalar field with the density exp(-action), the action being a user's.

    Args:
        action: FILE.py:FUNCTION.
        shape: extents of the lattice, one to four of them.
        axes: of the field in files of several chains, ("chain", "time") or the other way round.

    Raises:
        InputError: if the file or the function is missing, or fails.
        DomainError: if it is no action: of the wrong shape or type, not finite, not differentiable,
            not one number a field, or if it changes the field it is given.
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

    @property
    def schema(self) -> Schema:
        """One real number a site."""
        return Schema(self.shape, (Variable("phi", dtype="float64"),))

    @property
    def derived(self) -> Mapping[str, Derived]:
        """chi2, U4 and xi2 as `physgen.systems.scalar` defines them."""
        return magnetic(self.shape)

    def action(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return (B,), the user's action of (B, *shape) fields."""
        return self._function(x)

    def observables(self, batch: Batch) -> dict[str, Tensor]:
        """Return (B,) each: the action a site, and what any scalar field has."""
        return {"action/V": self.action(batch.x) / math.prod(self.shape), **moments(batch.x)}

    def features(self, batch: Batch, level: Literal["low", "high"]) -> Tensor:
        """Return the (B, V) field, or the (B, F) observables."""
        if level == "low":
            return batch.x.flatten(1)
        return torch.stack(list(self.observables(batch).values()), 1)

    def simulate(self, n: int, seed: int, condition: Tensor | None = None) -> Batch:
        """Draw `n` configurations by tuned, thinned HMC, chain after chain, in float64."""
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn((_CHAINS, *self.shape), generator=generator, dtype=torch.float64)
        trial = hmc.sample(0.5 * start, self.action, 100, generator=generator)
        # The slowest of what is at hand: the energy, and the magnetisation and its square.
        magnetisation = trial.x.flatten(2).sum(2).T
        energy = torch.stack([self.action(fields) for fields in trial.x.unbind(1)])
        series = (magnetisation, magnetisation**2, energy)
        n_skip = max(spacing(values.detach().numpy()) for values in series)
        length = -(-n // _CHAINS)
        run = hmc.sample(
            trial.x[:, -1],
            self.action,
            length,
            generator=generator,
            n_skip=n_skip,
            n_warm=100,
        )
        chain = torch.arange(_CHAINS).repeat_interleave(length)
        return Batch(x=run.x.flatten(0, 1)[:n].contiguous(), chain=chain[:n])

    def digest(self) -> str:
        """Return the SHA-256 of the file that holds the action."""
        return sha256(Path(self.source.rpartition(":")[0]))

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that `writer` makes."""
        return (".h5", ".hdf5", ".npz")

    def open(self, path: Path) -> Source:
        """Open an ensemble; raises `FormatError` where it is none, or of another lattice."""
        return lattice_files.open_ensemble(path, self.schema, self.axes)

    def writer(self, path: Path, n: int) -> AbstractContextManager[Append]:
        """Write an ensemble piece by piece, with the name of the action."""
        return lattice_files.ensemble_writer(path, self.schema, {"action": self.source})

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
            found = (
                f"a {value.dtype} tensor of shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else f"a {type(value).__name__}"
            )
            raise DomainError(
                f"{self.source}: returns {found}, expected {wanted}: sum over the sites, not over "
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


def load_function(name: str) -> Callable[[Tensor], Tensor]:
    """Run FILE.py and return FUNCTION, for a `name` of FILE.py:FUNCTION; raises `InputError`."""
    file, _, function = name.rpartition(":")
    if not file or not function.isidentifier():
        raise InputError(
            f"action {name!r}: name it as FILE.py:FUNCTION, such as my_action.py:action"
        )
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        near = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise InputError(f"action {name!r}: there is no file {path}{suggest(path.name, near)}")
    spec = importlib.util.spec_from_file_location(f"_action_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"action {name!r}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"action {name!r}: {path} fails{_where(error)}") from error
    found = getattr(module, function, None)
    if not callable(found):
        choices = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(f"{path} has no function {function!r}{suggest(function, choices)}")
    return found  # type: ignore[no-any-return]


def _where(error: Exception) -> str:
    """Return the line of the user's file in which an error arose, and the error."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f" in line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    return f"{line}: {type(error).__name__}: {error}"
