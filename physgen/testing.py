"""What holds for every component of a kind, for the tests of packages that add some.

A component in one class is tested in one line:

>>> from physgen.surrogates.flows.stack import CouplingStack
>>> from physgen.systems.calorimeter import Calorimeter
>>> check_bijection(CouplingStack(3, 2))
>>> check_system(Calorimeter(), n=20)
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from physgen.surrogates.flows.bijection import Bijection
from physgen.systems.base import HasFeatures, HasUnits, Simulates, System

_ROWS = 8


def check_bijection(bijection: Bijection, scale: float = 0.2, seed: int = 0) -> None:
    """Check a bijection in double precision, with its parameters moved away from where they begin.

    That the ways there and back undo each other, log-determinants are those of the Jacobians, the
    condition matters, and rows do not mix.

    Args:
        bijection: a new one; it is left as it is.
        scale: of the normal numbers that are added to its parameters.
        seed: of these, and of the data.

    Raises:
        AssertionError: something does not hold; the message says what.
    """
    draws = torch.Generator().manual_seed(seed)
    moved = copy.deepcopy(bijection).double().eval()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=draws).to(parameter))
    x = torch.randn(_ROWS, moved.features, generator=draws, dtype=torch.float64)
    condition = None
    if moved.n_condition:
        condition = torch.randn(_ROWS, moved.n_condition, generator=draws, dtype=torch.float64)
    z, log_det = moved(x, condition)
    assert z.shape == x.shape, f"forward gives {tuple(z.shape)} for {tuple(x.shape)}"
    assert log_det.shape == (_ROWS,), f"a log-determinant of shape {tuple(log_det.shape)}"
    back, log_det_back = moved.inverse(z, condition)
    _close(back, x, "the inverse does not undo the map")
    _close(log_det_back, -log_det, "log-determinants there and back are not opposite")
    _close(moved.from_noise(z, condition), x, "from_noise is not the inverse")
    for row in range(_ROWS):
        given = None if condition is None else condition[row : row + 1]

        def alone(x: Tensor, given: Tensor | None = given) -> Tensor:
            mapped: Tensor = moved(x[None], given)[0][0]
            return mapped

        _close(alone(x[row]), z[row], "rows of a batch mix")
        jacobian = torch.autograd.functional.jacobian(alone, x[row])  # type: ignore[no-untyped-call]
        _close(jacobian.slogdet()[1], log_det[row], "the log-determinant is not that of the map")
    if condition is not None:
        other = moved(x, condition + 1)[0]
        assert not torch.equal(other, z), "the condition makes no difference"


def check_system(system: System, n: int = 200, seed: int = 1) -> None:
    """Check what a system says of `n` samples: those it simulates, else any normal numbers.

    That samples fit the schema, follow from the seed, and have observables and features of the
    right shapes, whose names derived quantities and units know.

    Raises:
        AssertionError: something does not hold; the message says what.
        DomainError: simulated samples are not in the domain of the schema.
    """
    assert isinstance(system, Simulates), f"{type(system).__name__} has no method `simulate`"
    batch = system.simulate(n, seed)
    again, other = system.simulate(n, seed), system.simulate(n, seed + 1)
    assert batch.x.shape == (n, *system.schema.shape), "samples are not of the schema's shape"
    assert torch.equal(batch.x, again.x), "the same seed gives other samples"
    assert not torch.equal(batch.x, other.x), "another seed gives the same samples"
    system.schema.check(batch.x if batch.mask is None else batch.x[batch.mask])
    if system.schema.condition:
        asked = (n, len(system.schema.condition))
        assert batch.condition is not None, "samples come without their conditions"
        assert batch.condition.shape == asked, f"conditions are not of shape {asked}"
        at = system.simulate(n, seed, batch.condition)
        assert at.condition is not None, "samples at conditions come without them"
        _close(at.condition, batch.condition, "samples are not at the conditions asked for")
    values = system.observables(batch)
    for name, value in values.items():
        assert value.shape[:1] == (n,), f"observable {name!r} is of shape {tuple(value.shape)}"
        assert value.ndim <= 2, f"observable {name!r} has {value.ndim} axes; (B,) or (B, bins)"
    for name, quantity in system.derived.items():
        unknown = set(quantity.means) - set(values)
        assert not unknown, f"{name!r} is made of {sorted(unknown)}, which are no observables"
    if isinstance(system, HasUnits):
        known = {v.name for v in (*system.schema.variables, *system.schema.condition)}
        unknown = set(system.units) - set(values) - set(system.derived) - known
        assert not unknown, f"units of {sorted(unknown)}, which are no observables"
    for level in ("low", "high") if isinstance(system, HasFeatures) else ():
        features = system.features(batch, level)  # type: ignore[attr-defined]
        assert features.ndim == 2, f"features {level!r} are of shape {tuple(features.shape)}"
        assert features.shape[0] == n, f"features {level!r} are not of {n} rows"
        assert bool(features.isfinite().all()), f"features {level!r} are not finite"


def _close(found: Tensor, expected: Tensor, problem: str) -> None:
    torch.testing.assert_close(
        found,
        expected,
        rtol=1e-6,
        atol=1e-6,
        check_dtype=False,
        msg=lambda detail: f"{problem}: {detail}",
    )
