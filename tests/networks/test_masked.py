import pytest
import torch

from physgen.networks.masked import MaskedMLP


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = MaskedMLP(7, 2, 3, 4, hidden=40, n_direct=2)
    torch.nn.init.normal_(network.direct)
    return network.double()


def test_parameters_depend_on_all_earlier_features_and_on_no_other(network):
    inputs = torch.randn(7, 2, dtype=torch.float64)
    context = torch.randn(1, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None], context)[0], inputs)
    depends = jacobian.abs().amax((1, 3)) > 0
    assert torch.equal(depends, torch.ones(7, 7).tril(-1).bool())


def test_parameters_depend_on_the_context(network):
    inputs = torch.randn(1, 7, 2, dtype=torch.float64)
    context = torch.randn(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda c: network(inputs, c[None])[0], context)
    assert (jacobian.abs().amax((1, 2)) > 0).all()


def test_going_through_the_features_agrees_with_one_pass(network):
    context = torch.randn(5, 3, dtype=torch.float64)
    seen, parameters = [], []

    def draw(i, out):
        parameters.append(out.T)
        seen.append(torch.tanh(out[:2] + i))
        return seen[-1]

    with torch.no_grad():
        network.autoregress(context, draw)
        inputs = torch.stack([value.T for value in seen], 1)
        assert torch.allclose(torch.stack(parameters, 1), network(inputs, context))


def test_the_direct_part_alone_has_full_rank(network):
    for name in ("first", "second", "last"):
        torch.nn.init.zeros_(getattr(network, name).weight)
        torch.nn.init.zeros_(getattr(network, name).bias)
    inputs = torch.randn(64, 7, 2, dtype=torch.float64)
    context = torch.randn(64, 3, dtype=torch.float64)
    out = network(inputs, context)
    assert (out[..., 2:] == 0).all()
    # Two numbers of each of seven features, from 3 + 2 * 6 numbers before the last.
    assert torch.linalg.matrix_rank(out[..., :2].flatten(1)) == 14


def test_every_weight_learns():
    network = MaskedMLP(4, 1, 2, 3, hidden=16, n_direct=1)
    torch.nn.init.normal_(network.direct)
    network(torch.randn(8, 4, 1), torch.randn(8, 2)).square().sum().backward()
    for name, parameter in network.named_parameters():
        mask = getattr(network, name.removesuffix(".weight") + "_mask", None)
        if mask is not None:
            used = mask.bool()
            assert (parameter.grad[~used] == 0).all(), name
            assert (parameter.grad[used] != 0).float().mean() > 0.9, name
