"""Posteriors of the parameters of a simulator, for data that were observed."""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physgen import pipeline
from physgen.arguments import Whole, user_path, whole
from physgen.errors import CheckpointError, FormatError, InputError
from physgen.generation import Sampler
from physgen.isolation import isolated
from physgen.run import Run
from physgen.systems.inference_tasks import Task
from physgen.systems.posterior import Posterior

LOG = logging.getLogger("physgen")

_EDGE = 0.02
"""Share of the range of a uniform prior at its end."""
_CROWDED = 0.5
"""Share of a posterior that lies there where the prior may not cover the data."""


@isolated()
def infer(
    run: str | PathLike[str],
    observation: str | PathLike[str] | Tensor,
    n: Whole,
    output: str | PathLike[str],
    *,
    seed: Whole = 1,
    extrapolate: bool = False,
) -> list[dict[str, Any]]:
    """Write `n` draws of the posterior for each observation, and return what they say.

    Args:
        run: of the system `posterior`.
        observation: a file of data, rows of numbers and commas (.csv, .txt) or `condition` of
            samples in HDF5, or of the samples that `physgen.systems.physics_tasks` makes data of;
            or (D,) or (N, D) numbers.
        n: draws of the posterior of each observation.
        output: file of the draws, those of the first observation first.
        seed: of the draws.
        extrapolate: accept data outside the range of the simulated ones; the file says so.

    Returns:
        Of each observation the mean, standard deviation, and central 68% and 95% intervals of each
        parameter, and what must be known of them.

    Raises:
        InputError: the run is of another system, or an argument cannot be understood.
        DomainError: an observation lies outside the simulated range.
    """
    n = whole("n", n)
    trained = Run(user_path(run))
    system = trained.system
    if not isinstance(system, Posterior):
        raise InputError(
            f"{run} is a run of {type(system).__name__}: parameters are inferred by one of the "
            "system posterior, such as infer-two-moons"
        )
    sampler = pipeline.load(run, sampling={"extrapolate": extrapolate})
    if isinstance(observation, Tensor):
        data = observation.double()
    else:
        data = _read(user_path(observation), sampler, system)
    data = data.reshape(-1, data.shape[-1])
    if data.shape[1] != len(system.schema.condition):
        raise InputError(
            f"an observation of {data.shape[1]} numbers: the data of {system.simulator} are "
            f"{', '.join(variable.name for variable in system.schema.condition)}"
        )
    given = data.repeat_interleave(n, 0)
    path = sampler.write(output, len(given), seed, given)
    draws = system.open(path).read(0, len(given)).x.double().reshape(len(data), n, -1)
    outside = [sampler.outside_domain(1, row) for row in data[:, None]]
    found = []
    if doubt := uncalibrated(trained):
        LOG.warning("%s", doubt)
    for number, (one, beyond) in enumerate(zip(draws, outside, strict=True)):
        notes = ("outside the simulated range" if beyond else "", at_edge(system, one))
        warning = "; ".join(filter(None, notes))
        if warning:
            LOG.warning("observation %d: %s", number, warning)
        warning = "; ".join(filter(None, (warning, doubt)))
        found.append({"observation": number, **_summary(system, one), "warning": warning})
    return found


def uncalibrated(run: Run) -> str:
    """Say why the intervals of a run may be wrong; "" if its calibration was judged and holds."""
    try:
        rows = [row for row in run.scorecard.rows if row.metric == "calibration"]
    except CheckpointError:
        rows = []
    if not rows:
        return (
            "whether the posteriors of this run are calibrated was never judged: add the metric "
            "calibration, and run `physgen validate`"
        )
    failed = [f"{row.name} {row.value:.2f}" for row in rows if row.verdict == "fail"]
    if not failed:
        return ""
    return (
        f"the posteriors of this run are not calibrated ({', '.join(failed)} beyond the limit), so "
        "intervals may be too narrow or too wide: learn from more simulations"
    )


def _read(path: Path, sampler: Sampler, system: Posterior) -> Tensor:
    """Return the (N, D) data of a file, or of the samples in it."""
    if path.suffix in (".csv", ".txt"):
        try:
            return torch.from_numpy(np.loadtxt(path, delimiter=",", ndmin=2))
        except (ValueError, UnicodeDecodeError) as error:
            raise FormatError(f"{path}: not rows of numbers and commas ({error})") from error
    if isinstance(system.model, Task) and system.model.of_file is not None:
        return torch.from_numpy(system.model.of_file(path))
    condition = sampler.conditions_in(path).condition
    assert condition is not None
    return condition.double()


def at_edge(system: Posterior, draws: Tensor) -> str:
    """Say which parameters crowd at an end of a uniform prior, of (n, P) draws; "" if none does.

    >>> system = Posterior(simulator="two-moons")
    >>> at_edge(system, torch.tensor([[0.995, 0.0]]))
    'theta0 is at the upper end of its prior, which may not cover this observation: widen it'
    """
    words = []
    for variable, column in zip(system.schema.variables, draws.unbind(1), strict=True):
        if variable.low is None or variable.high is None:
            continue
        step = _EDGE * (variable.high - variable.low)
        for side, near in (
            ("lower", column < variable.low + step),
            ("upper", column > variable.high - step),
        ):
            if near.double().mean() > _CROWDED:
                words.append(
                    f"{variable.name} is at the {side} end of its prior, which may not cover this "
                    "observation: widen it"
                )
    return "; ".join(words)


def _summary(system: Posterior, draws: Tensor) -> dict[str, Any]:
    levels = draws.new_tensor([0.025, 0.16, 0.84, 0.975])
    low95, low68, high68, high95 = draws.quantile(levels, 0).tolist()
    summary = {}
    for i, name in enumerate(system.schema.names):
        summary[name] = {
            "mean": draws[:, i].mean().item(),
            "std": draws[:, i].std().item(),
            "68%": [low68[i], high68[i]],
            "95%": [low95[i], high95[i]],
        }
    return summary


def observation_of(text: str) -> Path | Tensor:
    """Return the file, or the numbers, that a user names on the command line.

    >>> observation_of("0.1,-0.2").tolist()
    [0.1, -0.2]
    """
    try:
        return torch.tensor([float(word) for word in text.split(",")], dtype=torch.float64)
    except ValueError:
        return user_path(text)
