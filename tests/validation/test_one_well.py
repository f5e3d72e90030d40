"""A model of one of the two wells of phi^4 looks good on its own samples, and must not pass."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from physgen.batch import Batch
from physgen.systems.scalar import Phi4
from physgen.validation.comparison import Comparison
from physgen.validation.judging import judge
from physgen.validation.metrics import Importance, Means

SYSTEM = Phi4(shape=(4, 4), m2=-3.0, lam=0.5)


@pytest.fixture(scope="module")
def truth():
    return SYSTEM.simulate(16_000, 1)


def compared(truth, wells):
    """Samples of Gaussians fitted to the well at positive m, and to its mirror image if asked."""
    flat = truth.x.flatten(1)
    up = flat * flat.mean(1, keepdim=True).sign()
    normal = MultivariateNormal(up.mean(0), torch.cov(up.T))
    torch.manual_seed(3)
    n = 20_000
    sign = torch.ones(n, 1) if wells == 1 else torch.randint(2, (n, 1)) * 2.0 - 1
    x = sign * normal.sample((n,))

    def log_weight(x):
        density = normal.log_prob(x)
        if wells == 2:
            density = torch.logaddexp(density, normal.log_prob(-x)) - torch.tensor(2.0).log()
        return -SYSTEM.action(x.reshape(-1, 4, 4)) - density

    proposals = Batch(x.reshape(n, 4, 4), log_weight=log_weight(x))
    return Comparison(SYSTEM, proposals, truth.replace(log_weight=log_weight(flat)), corrected=True)


@pytest.mark.parametrize("wells", [1, 2])
def test_only_a_model_of_both_wells_passes(truth, wells):
    card = judge(compared(truth, wells), [Means(), Importance(minimum_ess=0.4)])
    rows = {row.name: row for row in card.rows}
    assert rows["ESS"].value > 0.4
    if wells == 2:
        assert rows["ESS on truth"].verdict == "pass"
        assert rows["ESS"].verdict == "pass"
        assert rows["ln Z"].value > 0
        return
    assert card.verdict == "fail"
    assert rows["ESS on truth"].verdict == "fail"
    assert rows["ESS"].verdict != "pass"
    assert "a sector is missing" in rows["ESS"].warning
    assert rows["ln Z"].value is None, "it would be ln 2 too low"
    assert rows["m"].verdict == "fail"
