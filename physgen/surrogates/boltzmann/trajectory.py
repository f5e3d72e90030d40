r"""Trajectory tempering: machines along one training exchange configurations.

A machine mixes fast early in its training, when its modes are still to come. Chains of machines t =
0, 1, ..., T of one training move each by Gibbs sampling, and neighbours exchange x of the one and y
of the other with the probability

    min(1, exp(F_t(x) - F_t(y) + F_t+1(y) - F_t+1(x))),

in which no partition function occurs, so that the chains of the last machine reach modes by way of
those before it (Bereux, Decelle, Furtlehner, Rosset & Seoane, "Fast training and sampling of
restricted Boltzmann machines", arXiv 2405.15376).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.io.tensors import read_tensors
from physgen.sampling import tempering
from physgen.surrogates.boltzmann.machine import BoltzmannMachine


def trajectory(machine: BoltzmannMachine, checkpoints: Path | str) -> list[BoltzmannMachine]:
    """Return the machines of the checkpoints of a run, the earliest first, and then its own.

    Args:
        machine: trained, as `physgen.load(run).surrogate`.
        checkpoints: the folder of that name in the run, which has as many as `engine.keep`, one
            each `engine.checkpoint_every` steps.

    Raises:
        InputError: there are none of such a machine.
    """
    machines = []
    for path in sorted(Path(checkpoints).glob("step-*/weights.safetensors")):
        earlier = copy.deepcopy(machine)
        try:
            earlier.load_state_dict(read_tensors(path))
        except RuntimeError as error:
            raise InputError(f"{path} holds the weights of another machine: {error}") from error
        machines.append(earlier)
    if not machines:
        raise InputError(
            f"{checkpoints}: no checkpoints of a run; train with engine.checkpoint_every=100 "
            "engine.keep=100"
        )
    return [*machines, machine]


@torch.no_grad()
def ladder(
    machines: Sequence[BoltzmannMachine], acceptance: float = 0.25
) -> list[BoltzmannMachine]:
    """Return as few machines as neighbours need to exchange often enough, with first and last.

    Args:
        machines: along a training, each with chains of its own.
        acceptance: of exchanges, at least, where there are machines close enough.

    Raises:
        InputError: there are fewer than two.
    """
    _check(machines)
    chosen, i = [machines[-1]], len(machines) - 1
    while i > 0:
        far = [j for j in range(i) if _acceptance(machines[j], machines[i]) >= acceptance]
        i = min(far, default=i - 1)
        chosen.append(machines[i])
    return chosen[::-1]


@torch.no_grad()
def along_trajectory(
    machines: Sequence[BoltzmannMachine], n: int, *, generator: torch.Generator
) -> tuple[Batch, Tensor]:
    """Draw `n` samples of the last machine; return them, and how often neighbours exchanged.

    Burn-in, sweeps between draws and the number of chains are those of the last machine; samples
    carry `chain`.

    Args:
        machines: at least two along a training, neighbours of which overlap (`ladder`).
        n: how many, dealt to the chains.
        generator: the only source of randomness.

    Raises:
        InputError: there are fewer than two machines.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.surrogates.boltzmann.rbm import RBM
    >>> spins = Schema((4,), (Variable("spin", domain="spin"),))
    >>> machines = [RBM(spins, hidden=2, weight_scale=scale, burn_in=5) for scale in (0.1, 0.2)]
    >>> batch, rate = along_trajectory(machines, 8, generator=torch.Generator())
    >>> batch.x.shape, rate.shape
    (torch.Size([8, 4]), torch.Size([1]))
    """
    _check(machines)
    last = machines[-1]
    n_chains = min(n, *(len(machine.chains) for machine in machines))
    replicas = [machine.unpack(machine.chains[:n_chains]) for machine in machines]
    numbers = [float(number) for number in range(len(machines))]

    def log_ratio(x: Tensor, before: float, after: float) -> Tensor:
        return machines[int(before)].free_energy(x) - machines[int(after)].free_energy(x)

    def move(x: Tensor, number: float, generator: torch.Generator) -> Tensor:
        return machines[int(number)].gibbs(x, 1, generator)

    n_draws = -(-n // n_chains)
    draws, exchanged = [], torch.zeros(2, len(machines) - 1, dtype=torch.float64)
    for time in range(last.burn_in + (n_draws - 1) * last.thin + 1):
        odd = time % 2
        replicas, accepted = tempering.step(
            replicas, log_ratio, move, numbers, odd=bool(odd), generator=generator
        )
        exchanged[0, odd::2] += accepted.double().mean(1).cpu()
        exchanged[1, odd::2] += 1
        if time >= last.burn_in and (time - last.burn_in) % last.thin == 0:
            draws.append(replicas[-1])
    chain = torch.arange(n_chains, device=last.device).repeat(len(draws))[:n]
    x = last.physical(torch.cat(draws)[:n])
    return Batch(x, chain=chain), exchanged[0] / exchanged[1].clamp(min=1)


def _acceptance(one: BoltzmannMachine, other: BoltzmannMachine) -> float:
    """Return how often the chains of two machines would exchange."""
    n = min(len(one.chains), len(other.chains))
    x, y = one.unpack(one.chains[:n]), other.unpack(other.chains[:n])
    gain = one.free_energy(x) - other.free_energy(x) + other.free_energy(y) - one.free_energy(y)
    return float(gain.exp().clamp(max=1).mean())


def _check(machines: Sequence[BoltzmannMachine]) -> None:
    if len(machines) < 2:
        raise InputError(f"{len(machines)} machines: a trajectory has two at least")
