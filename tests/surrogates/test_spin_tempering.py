"""Tempering with a network's samples against enumeration: detailed balance, and the targets."""

import pytest
import torch
from randomised import generator, randomised
from scipy.stats import chi2
from test_autoregressive_spins import codes, states

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.sampling import tempering
from physgen.surrogates.autoregressive.heat_bath import groups, interactions, sweep
from physgen.surrogates.autoregressive.network import MaskedDenseOptions
from physgen.surrogates.autoregressive.spins import AutoregressiveSpins
from physgen.surrogates.autoregressive.tempering import tempered
from physgen.surrogates.correction import Corrected
from physgen.surrogates.flows.lattice.continuous import ContinuousLatticeFlow
from physgen.systems.family import family
from physgen.systems.ising import Ising
from physgen.systems.scalar import Phi4

CHAINS = 50_000
POINTS = (2.0, 3.5)
SYSTEM = family(Ising, {"shape": (2, 2), "temperature": POINTS})
CONDITIONS = [torch.full((1, 1), t, dtype=torch.float64) for t in POINTS]


def network():
    torch.manual_seed(0)
    model = AutoregressiveSpins(SYSTEM.schema, network=MaskedDenseOptions(hidden=8))
    model.conditions.span(*SYSTEM.bounds)
    return randomised(model, 0.3).double().eval()


def exact(number):
    every = states(2, 2)
    return torch.softmax(-SYSTEM.action(every, CONDITIONS[number].expand(16, 1)), 0)


def from_targets(seed):
    """Independent samples of both targets."""
    draws = generator(seed)
    rows = [torch.multinomial(exact(k), CHAINS, True, generator=draws) for k in (0, 1)]
    return [states(2, 2)[row] for row in rows]


def balanced(before, after, n):
    """p-value of equal flows there and back, from the numbers of states before and after."""
    flow = torch.zeros(n, n).index_put((before, after), torch.ones(CHAINS), accumulate=True)
    there, back = (part[torch.triu_indices(n, n, 1).unbind()] for part in (flow, flow.T))
    often = there + back >= 10
    assert int(often.sum()) >= 20  # States are left.
    statistic = ((there - back)[often] ** 2 / (there + back)[often]).sum()
    return float(chi2.sf(float(statistic), int(often.sum())))


def one_step(replicas, *, local, exchanges, odd=True):
    """One step with proposals of the network, of which parts may be left out."""
    model = network()
    draws = generator(8)
    given = [c.expand(CHAINS, 1) for c in CONDITIONS]
    weigher = Corrected(model, SYSTEM.action)
    made = [weigher.propose(CHAINS, c, generator=draws) for c in given]

    def log_weight(x, k):
        return weigher.log_weight(Batch(x, given[k]), generator=draws)

    def log_ratio(x, before, after):
        return SYSTEM.action(x, given[int(before)]) - SYSTEM.action(x, given[int(after)])

    # The first of two proposals is where the chain is.
    x = [torch.stack([here, batch.x], 1) for here, batch in zip(replicas, made, strict=True)]
    offered = [
        torch.stack([log_weight(here, k), batch.log_weight], 1)
        for k, (here, batch) in enumerate(zip(replicas, made, strict=True))
    ]
    numbers = [0, 1] if exchanges else [0]
    result = tempering.with_proposals(
        [x[k] for k in numbers],
        [offered[k] for k in numbers],
        log_weight,
        log_ratio,
        local,
        generator=draws,
    )
    return [states_of[:, 1] for states_of in result]


def stay(x, number, generator):
    return x


def test_proposals_are_in_detailed_balance():
    before = from_targets(1)
    after = one_step(before, local=stay, exchanges=False)
    assert (after[0] != before[0]).any()
    assert balanced(codes(before[0]), codes(after[0]), 16) > 1e-3


def test_exchanges_are_in_detailed_balance():
    replicas = from_targets(2)

    def log_ratio(x, before, after):
        given = [c.expand(len(x), 1) for c in CONDITIONS]
        return SYSTEM.action(x, given[int(before)]) - SYSTEM.action(x, given[int(after)])

    after, exchanged = tempering.step(
        replicas, log_ratio, stay, [0.0, 1.0], odd=False, generator=generator(3)
    )
    assert 0.1 < exchanged.double().mean() < 0.99
    joint = [16 * codes(a) + codes(b) for a, b in (replicas, after)]
    assert balanced(*joint, 256) > 1e-3


def test_the_heat_bath_of_a_sublattice_is_in_detailed_balance():
    before = from_targets(4)[0]
    given = CONDITIONS[0].expand(CHAINS, 1)
    found = groups(interactions(SYSTEM.action, (2, 2), CONDITIONS[0]))
    assert found == [[0, 3], [1, 2]]
    after = sweep(SYSTEM.action, before, found[:1], given, generator=generator(5))
    assert (after.flatten(1)[:, [1, 2]] == before.flatten(1)[:, [1, 2]]).all()
    assert balanced(codes(before), codes(after), 16) > 1e-3


def test_a_whole_turn_leaves_both_targets_as_they_are():
    found = groups(interactions(SYSTEM.action, (2, 2), CONDITIONS[0]))

    def local(x, number, generator):
        given = CONDITIONS[int(number)].expand(len(x), 1)
        return sweep(SYSTEM.action, x, found, given, generator=generator)

    after = one_step(from_targets(6), local=local, exchanges=True)
    expected = torch.outer(exact(0), exact(1)).flatten() * CHAINS
    counts = torch.bincount(16 * codes(after[0]) + codes(after[1]), minlength=256)
    often = expected >= 5
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    assert chi2.sf(float(statistic), int(often.sum())) > 1e-3


def test_samples_of_an_untrained_network_are_tempered_to_exact_energies():
    system = family(Ising, {"shape": (4, 4), "temperature": (1.9, 2.3, 3.0)})
    torch.manual_seed(0)
    model = AutoregressiveSpins(system.schema, network=MaskedDenseOptions(hidden=8))
    model.conditions.span(*system.bounds)
    corrected = Corrected(model.eval(), system.action, "tempering")
    condition = torch.tensor([1.9, 2.3, 3.0], dtype=torch.float64)[torch.arange(9000) % 3, None]
    batch = corrected.sample(9000, condition, generator=generator(7))
    torch.testing.assert_close(batch.condition.double(), condition)
    for t in (1.9, 2.3, 3.0):
        rows = batch.x[condition[:, 0] == t]
        known = Ising(shape=(4, 4), temperature=t)
        energy = known.observables(Batch(rows.double()))["E/N"].mean().item()
        assert energy == pytest.approx(known.exact()["E/N"], abs=0.06)


def test_what_cannot_be_tempered_is_refused():
    field = Phi4(shape=(4, 4))
    with pytest.raises(RecipeError, match="domain 'real'"):
        Corrected(ContinuousLatticeFlow(field.schema), field.action, "tempering")
    spins = states(2, 2)[:, None, None].expand(-1, 16, 64, -1, -1).flatten(0, 2)
    proposals = Batch(spins, log_weight=torch.zeros(len(spins)))
    with pytest.raises(RecipeError, match="not linear in each spin"):
        tempered(
            [proposals],
            lambda x, _: x.flatten(1).sum(1) ** 2,
            lambda batch: torch.zeros(len(batch)),
            (64, 32),
            generator=generator(1),
        )
