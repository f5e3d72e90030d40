"""Trajectory tempering: what it leaves invariant, which modes it reaches, what it reads."""

import pytest
import torch
from randomised import generator

from physgen.batch import Schema, Variable
from physgen.errors import InputError
from physgen.io.tensors import write_tensors
from physgen.surrogates.boltzmann.rbm import RBM
from physgen.surrogates.boltzmann.trajectory import along_trajectory, ladder, trajectory
from tests.surrogates.test_potts_machines import (
    exact_samples,
    randomise,
    same_distribution,
    schema,
)


def machines_of(seeds, n_chains=40_000):
    """Machines that differ, whose chains are draws of their distributions."""
    machines = []
    for seed in seeds:
        machine = RBM(schema(4), hidden=3, n_chains=n_chains, burn_in=3, thin=1)
        machine = randomise(machine, 0.6, seed)
        x = exact_samples(machine, n_chains, seed=seed + 10)
        machine.chains.copy_(machine.pack(machine.units(x)))
        machines.append(machine)
    return machines


def test_exchanges_leave_the_last_machine_invariant():
    machines = machines_of((0, 1, 2))
    batch, rate = along_trajectory(machines, 40_000, generator=generator(1))
    assert same_distribution(batch.x, machines[-1]) > 1e-3
    assert ((rate > 0.05) & (rate < 0.9)).all()
    assert torch.equal(batch.chain, torch.arange(40_000))


def ordered(scale):
    """Of two modes, +1 and -1, which are of equal weight; four fifths of the chains are in one."""
    spins = Schema((12,), (Variable("s", domain="spin"),))
    rbm = RBM(spins, hidden=1, n_chains=200, burn_in=100, thin=1)
    rbm.coupling.weight.data.fill_(1.2 * scale)
    rbm.chains.fill_(1)
    rbm.chains[:40] = -1
    return rbm


def test_modes_are_reached_by_way_of_the_earlier_machines():
    cold = ordered(1.0)
    assert cold.sample(200, seed=2).x.float().mean(1).mean() > 0.4
    machines = [ordered(scale) for scale in (0.1, 0.25, 0.4, 0.6, 0.8, 1.0)]
    batch, rate = along_trajectory(machines, 200, generator=generator(2))
    assert abs(batch.x.float().mean(1).mean()) < 0.2
    assert (rate > 0.1).all()


def test_a_ladder_skips_machines_that_are_close():
    machines = machines_of((0,), 500) * 4 + machines_of((1,), 500)
    assert ladder(machines) == [machines[0], machines[4]]
    # Where all are far from one another, none can be left out.
    assert ladder(machines_of((0, 1, 2), 500), 0.99) != []
    assert len(ladder(machines_of((0, 1, 2), 500), 0.99)) == 3


def test_machines_of_checkpoints_are_in_their_order(tmp_path):
    machines = machines_of((3, 4, 5), 10)
    for step, machine in zip((100, 1000), machines, strict=False):
        folder = tmp_path / f"step-{step:09d}"
        folder.mkdir()
        write_tensors(folder / "weights.safetensors", machine.state_dict())
    found = trajectory(machines[-1], tmp_path)
    assert found[-1] is machines[-1]
    for one, other in zip(found, machines, strict=True):
        assert torch.equal(one.coupling.weight, other.coupling.weight)
        assert torch.equal(one.chains, other.chains)
    with pytest.raises(InputError, match="weights of another machine"):
        trajectory(RBM(schema(5), hidden=3), tmp_path)
    with pytest.raises(InputError, match=r"no checkpoints .*engine\.keep=100"):
        trajectory(machines[-1], tmp_path / "none")
    with pytest.raises(InputError, match="1 machines"):
        along_trajectory(machines[:1], 5, generator=generator(1))
