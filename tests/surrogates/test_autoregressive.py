"""Autoregressive flows: exact Gaussians, derivatives of the slow direction, conditions."""

import pytest
import torch
from randomised import generator, randomised

from physgen.batch import Batch, Schema, Variable
from physgen.surrogates.flows.autoregressive import (
    AutoregressiveOptions,
    AutoregressiveStack,
)
from physgen.surrogates.flows.flow import Flow
from physgen.transforms.affine import Standardise


@pytest.mark.parametrize("fast", ["density", "sampling"])
def test_a_flow_begins_at_the_gaussian_of_the_data(fast):
    noise = generator()
    mixing = torch.eye(4) + 0.2 * torch.randn(4, 4, generator=noise, dtype=torch.float64)
    x = torch.randn(500, 4, generator=noise, dtype=torch.float64) @ mixing.T + torch.arange(4)
    schema = Schema((4,), tuple(Variable(name) for name in "abcd"), (Variable("c"),))
    flow = Flow(
        schema,
        Standardise(schema),
        bijection=AutoregressiveOptions(hidden=8, fast=fast, layer="spline"),
    ).double()
    c = x[:, :1] + torch.randn(len(x), 1, generator=generator(2), dtype=x.dtype)
    flow.initialise(Batch(x, c))
    regressors = torch.cat([c, torch.ones_like(c)], 1)
    mean = regressors @ torch.linalg.lstsq(regressors, x).solution
    covariance = (x - mean).T @ (x - mean) / len(x)
    exact = torch.distributions.MultivariateNormal(mean, covariance)
    with torch.no_grad():
        got = flow.log_prob(Batch(x, c))
    torch.testing.assert_close(got, exact.log_prob(x), rtol=1e-2, atol=1e-2)


def test_a_constant_feature_does_not_hinder_the_beginning():
    stack = AutoregressiveStack(3, options=AutoregressiveOptions(hidden=8))
    x = torch.randn(100, 3, generator=generator())
    x[:, 1] = 2.0
    stack.start_at(x, None, torch.ones(100))
    assert stack.log_prob(x).isfinite().all()


@pytest.mark.parametrize("layer", ["affine", "spline"])
def test_the_slow_direction_has_the_derivatives_of_its_definition(layer):
    """Features found one after the other, each by a whole pass that autograd follows."""
    flow = randomised(
        AutoregressiveStack(
            3,
            1,
            options=AutoregressiveOptions(
                n_layers=1, hidden=8, layer=layer, bins=4, fast="sampling"
            ),
        )
    ).double()
    fast = flow.layers[0]
    x = torch.randn(6, 3, generator=generator(2), dtype=torch.float64, requires_grad=True)
    c = torch.randn(6, 1, generator=generator(3), dtype=torch.float64, requires_grad=True)
    z = torch.zeros_like(x)
    for i in range(3):
        # With all earlier features right, the fast map of feature i is a function of z_i alone,
        # whose root is found here by Newton steps.
        for _ in range(30):
            value, _ = fast(z, c)
            jacobian = torch.autograd.functional.jacobian(
                lambda v, i=i: fast(v, c.detach())[0].sum(0)[i], z.detach()
            )
            step = (x - value)[:, i] / jacobian[:, i]
            z = z + torch.nn.functional.one_hot(torch.tensor(i), 3) * step[:, None]
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) - fast(z, c)[1]
    got = flow.log_prob(x, c)
    torch.testing.assert_close(got, wanted)
    inputs = [x, c, *flow.parameters()]
    expected = torch.autograd.grad(wanted.sum(), inputs)
    for mine, other in zip(torch.autograd.grad(got.sum(), inputs), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8)


def test_maf_and_iaf_are_each_other_backwards():
    options = {"n_layers": 3, "hidden": 8}
    maf = randomised(AutoregressiveStack(4, options=AutoregressiveOptions(**options))).double()
    iaf = AutoregressiveStack(4, options=AutoregressiveOptions(fast="sampling", **options)).double()
    for i in range(3):
        iaf.layers[2 - i].load_state_dict(maf.layers[i].state_dict())
    iaf.orders.copy_(maf.orders_back.flip(0))
    iaf.orders_back.copy_(maf.orders.flip(0))
    x = torch.randn(5, 4, generator=generator(), dtype=torch.float64)
    for mine, theirs in zip(maf(x), iaf.inverse(x), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_going_feature_by_feature_is_as_exact_in_float32():
    flow = randomised(
        AutoregressiveStack(64, options=AutoregressiveOptions(n_layers=3, hidden=32)), 0.1
    )
    z = torch.randn(100, 64, generator=generator())
    with torch.no_grad():
        assert (flow(flow.from_noise(z))[0] - z).abs().max() < 1e-3
