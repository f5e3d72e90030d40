"""Bodies for images and for diffusion: laws over a dict of constructors; a new one costs a line."""

import pytest
import torch

from physgen.errors import RecipeError
from physgen.networks.conv import ConvDecoder, ConvEncoder, ConvOptions
from physgen.networks.residual import ResidualMLP, ResidualOptions
from physgen.networks.unet import UNet, UNetOptions

CONDITIONS = 3
SMALL = {"channels": (8, 16)}
NETWORKS = {
    "encoder 8x8": lambda c: (ConvEncoder((8, 8), 5, c, ConvOptions(**SMALL)), [(8, 8)], (5,)),
    "encoder 28x28": lambda c: (
        ConvEncoder((28, 28), 5, c, ConvOptions(kernel=5, **SMALL)),
        [(28, 28)],
        (5,),
    ),
    "encoder torus": lambda c: (
        ConvEncoder((16, 8), 5, c, options=ConvOptions(periodic=True)),
        [(16, 8)],
        (5,),
    ),
    "decoder 8x8": lambda c: (ConvDecoder(5, (8, 8), c, ConvOptions(**SMALL)), [(5,)], (8, 8)),
    "decoder 28x28": lambda c: (
        ConvDecoder(5, (28, 28), c, ConvOptions(kernel=5, **SMALL)),
        [(5,)],
        (28, 28),
    ),
    "decoder torus": lambda c: (
        ConvDecoder(5, (8, 16), c, options=ConvOptions(periodic=True)),
        [(5,)],
        (8, 16),
    ),
    "u-net 8x8": lambda c: (UNet((8, 8), c, UNetOptions(**SMALL)), [(8, 8), ()], (8, 8)),
    "u-net 28x28": lambda c: (
        UNet((28, 28), c, options=UNetOptions(channels=(8, 12, 10))),
        [(28, 28), ()],
        (28, 28),
    ),
    "u-net torus": lambda c: (
        UNet((8, 16), c, UNetOptions(periodic=True, **SMALL)),
        [(8, 16), ()],
        (8, 16),
    ),
    "residual": lambda c: (
        ResidualMLP(6, c, options=ResidualOptions(hidden=16, depth=2)),
        [(6,), ()],
        (6,),
    ),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[0, CONDITIONS], ids=["unconditional", "conditional"])
def n_condition(request):
    return request.param


@pytest.fixture(params=NETWORKS)
def case(request, n_condition):
    return prepared(request.param, n_condition)


def prepared(name, n_condition):
    """A network with random weights in float64, its inputs, and the shape of its output."""
    network, shapes, out = NETWORKS[name](n_condition)
    noise = generator(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))
    inputs = [torch.randn(4, *s, generator=generator(2), dtype=torch.float64) for s in shapes]
    condition = torch.randn(4, CONDITIONS, generator=generator(3), dtype=torch.float64)
    return network.double().eval(), inputs, condition if n_condition else None, out


def test_the_output_has_the_shape_and_follows_every_input(case):
    network, inputs, condition, shape = case
    out = network(*inputs, condition)
    assert out.shape == (4, *shape)
    assert out.dtype == torch.float64
    for i in range(len(inputs)):
        changed = [value + 0.1 * (i == k) for k, value in enumerate(inputs)]
        # By row: a sample sees its own time and condition.
        assert ((network(*changed, condition) - out).flatten(1).abs().amax(1) > 1e-4).all()
    if condition is not None:
        assert ((network(*inputs, condition + 1) - out).flatten(1).abs().amax(1) > 1e-4).all()


def test_samples_do_not_see_each_other(case):
    network, inputs, condition, _ = case
    alone = network(*[v[1:2] for v in inputs], None if condition is None else condition[1:2])
    torch.testing.assert_close(alone[0], network(*inputs, condition)[1])


def test_every_parameter_gets_a_gradient(case):
    network, inputs, condition, _ = case
    network(*inputs, condition).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", ["encoder torus", "decoder torus", "u-net torus", "residual"])
def test_export_with_any_number_of_samples(name):
    network, inputs, condition, _ = prepared(name, CONDITIONS)
    given = (*inputs, condition)
    batch = torch.export.Dim("batch", min=2)
    shapes = tuple({0: batch} for _ in given)
    exported = torch.export.export(network, given, dynamic_shapes=shapes).module()
    more = [torch.cat([value, value[:3]]) for value in given]
    torch.testing.assert_close(exported(*more), network(*more))


@pytest.mark.parametrize(
    "network", [UNet((8, 8)), ResidualMLP(6, options=ResidualOptions(hidden=16))]
)
def test_new_denoisers_are_zero(network):
    x = torch.randn(3, 8, 8) if isinstance(network, UNet) else torch.randn(3, 6)
    assert torch.equal(network(x, torch.rand(3)), torch.zeros_like(x))


def test_on_a_torus_a_shift_of_the_input_shifts_the_output():
    torch.manual_seed(0)
    unet = UNet((8, 12), options=UNetOptions(channels=(8, 16), periodic=True)).double()
    torch.nn.init.normal_(unet.last.weight)
    x, time = torch.randn(2, 8, 12, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
    shifted = unet(x.roll((2, -4), (1, 2)), time)
    torch.testing.assert_close(shifted, unet(x, time).roll((2, -4), (1, 2)))
    for kernel in (1, 3, 5):
        decoder = ConvDecoder(
            3, (8, 12), options=ConvOptions(channels=(8,), kernel=kernel, periodic=True)
        ).double()
        seed = torch.randn(2, *decoder.seed, dtype=torch.float64)
        moved = decoder.layers(seed.roll((1, 2), (2, 3)))
        torch.testing.assert_close(moved, decoder.layers(seed).roll((2, 4), (2, 3)))


def test_dropout_is_there_while_training_only():
    encoder = ConvEncoder((8, 8), 2, options=ConvOptions(channels=(8,), dropout=0.5))
    x = torch.randn(4, 8, 8)
    assert not torch.equal(encoder(x), encoder(x))
    assert torch.equal(encoder.eval()(x), encoder(x))


def test_the_generator_of_a_dcgan_has_its_layers():
    decoder = ConvDecoder(
        100, (28, 28), options=ConvOptions(channels=(64, 128), kernel=5, activation="leaky-relu")
    )
    assert decoder.seed == (256, 7, 7)
    sizes = []
    h = decoder.first(torch.randn(2, 100)).unflatten(1, decoder.seed)
    for layer in decoder.layers:
        h = layer(h)
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            sizes.append(tuple(h.shape[1:]))
    assert sizes == [(128, 7, 7), (64, 14, 14), (1, 28, 28)]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: ConvEncoder((28, 28), 2, options=ConvOptions(channels=(8, 8, 8))),
            "28x28 cannot be halved 3 times",
        ),
        (
            lambda: ConvDecoder(2, (28, 20), options=ConvOptions(channels=(8, 8, 8))),
            "give `channels` 2 entries at most",
        ),
        (
            lambda: UNet((14, 28), options=UNetOptions(channels=(8, 8, 8))),
            "14x28 cannot be halved 2 times",
        ),
        (
            lambda: UNet((14, 28), options=UNetOptions(channels=(8, 8, 8))),
            "give `channels` 2 entries at most",
        ),
        (lambda: ConvEncoder((7, 7), 2), "only 0: take dense layers"),
        (lambda: ConvEncoder((368,), 2), "rows and columns, not of shape (368,)"),
        (lambda: ConvEncoder((8, 8), 2, options=ConvOptions(kernel=4)), "take 5"),
        (
            lambda: ConvEncoder((8, 8), 2, options=ConvOptions(kernel=7, periodic=True)),
            "too small for a kernel of 7",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, said):
    with pytest.raises(RecipeError) as error:
        build()
    assert said in str(error.value)
