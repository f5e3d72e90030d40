"""Showers by cylindrical convolutions: layers first, turned with the noise, memory counted."""

import pytest
import torch
from randomised import generator, randomised

from physgen.batch import Batch
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.io.calochallenge import calochallenge_writer
from physgen.networks.cylinder import CylindricalOptions
from physgen.surrogates.base import FromNoise
from physgen.surrogates.diffusion.matching import FlowMatching
from physgen.surrogates.diffusion.showers import ShowerDiffusion
from physgen.surrogates.sampler_options import SamplerOptions
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.geometry import Geometry, Layer, write_geometry
from physgen.systems.ising import Ising
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain

SYSTEM = Calorimeter(energies_mev=(1000.0, 16000.0))
SMALL = CylindricalOptions(channels=8, depth=1, patch=(1, 8))


@pytest.fixture(scope="module")
def data():
    return SYSTEM.simulate(2000, 1)


@pytest.fixture
def model(data):
    torch.manual_seed(0)
    model = ShowerDiffusion(SYSTEM.schema, system=SYSTEM, network=SMALL)
    model.initialise(data)
    model.use_sampler(SamplerOptions(kind="heun", steps=4))
    return randomised(model, 0.1).eval()


def turned(x, sectors):
    """Voxels (B, 368), their layers of twelve sectors turned."""
    parts = []
    for layer, first in zip(SYSTEM.geometry.layers, SYSTEM.geometry.offsets, strict=False):
        part = x[..., first : first + layer.n_voxels].unflatten(-1, (layer.n_alpha, layer.n_r))
        parts.append(part.roll(sectors if layer.n_alpha > 1 else 0, -2).flatten(-2))
    return torch.cat(parts, -1)


def test_noise_that_is_turned_becomes_showers_that_are_turned(model, data):
    model = model.double()
    assert isinstance(model, FromNoise)
    assert model.noise_shape == (5 + 368,)
    noise = torch.randn(20, 373, generator=generator(), dtype=torch.float64)
    condition = data.condition[:20].double()
    with torch.no_grad():
        x = model.from_noise(noise, condition)
        for sectors in (1, 5):
            other = torch.cat([noise[:, :5], turned(noise[:, 5:], sectors)], 1)
            found = model.from_noise(other, condition)
            torch.testing.assert_close(found, turned(x, sectors), rtol=1e-8, atol=1e-8)
            assert (found - x).abs().max() > 1


def test_voxels_sum_to_the_layers_that_were_drawn(model, data):
    noise = torch.randn(300, 373, generator=generator())
    condition = data.condition[:300]
    with torch.no_grad():
        layers = model.layered(noise[:, :5], condition)
        x = model.from_noise(noise, condition)
    assert torch.equal(layers[:, :1], condition)
    found = model.transform.layer_energies(x)
    torch.testing.assert_close(found, layers[:, 1:], rtol=1e-5, atol=1e-3)
    assert x[x > 0].min() >= model.transform.threshold
    assert 0.1 < (x > 0).double().mean() < 0.9


def test_voxels_are_shown_the_layers(model, data):
    """Of the same noise and other energies of layers, not only the scale differs."""
    noise = torch.randn(1, 368, generator=generator()).expand(2, -1)
    given = torch.tensor([[8000.0, 50.0, 1000.0, 5000.0, 100.0, 10.0]]).repeat(2, 1)
    given[1, 1:4] = torch.tensor([500.0, 3000.0, 2500.0])
    mapped = model.map_condition(given)
    level = torch.zeros(2)
    first, second = model.denoiser(noise, level, mapped)
    assert (first - second).abs().mean() > 1e-3


@pytest.mark.parametrize("kind", ["ancestral", "ddim"])
def test_samplers_that_add_noise_take_the_layers_once(data, kind):
    model = ShowerDiffusion(
        SYSTEM.schema, system=SYSTEM, schedule="cosine", prediction="v", network=SMALL
    )
    model.initialise(data)
    model.use_sampler(SamplerOptions(kind=kind, steps=3))
    shape = (3, 373) if kind == "ancestral" else (373,)
    assert model.noise_shape == shape
    noise = torch.randn(4, *shape, generator=generator())
    x = model.from_noise(noise, data.condition[:4])
    first = noise[:, 0, :5] if kind == "ancestral" else noise[:, :5]
    layers = model.layered(first, data.condition[:4])[:, 1:]
    torch.testing.assert_close(model.transform.layer_energies(x), layers, rtol=1e-5, atol=1e-3)
    assert torch.isfinite(model.sample(4, seed=1).x).all()


def test_layers_and_voxels_are_learned(data):
    torch.manual_seed(0)
    model = ShowerDiffusion(SYSTEM.schema, system=SYSTEM, network=SMALL)
    model.initialise(data)
    method, noise, losses = FlowMatching(model, learning_rate=5e-3), generator(), []
    optimiser = method.optimisers["denoiser"]
    for _ in range(40):
        batch = method.prepare(data[torch.randint(2000, (128,), generator=noise)], noise)
        x, start = batch.x.unbind(1)
        level = model.schedule.log_snr(torch.rand(128, generator=noise))
        energies = batch.condition[:, :6]
        error = model.denoiser.loss(x, start, level, energies).mean()
        loss = method.loss(batch.replace(x=x), start, level, torch.ones(128)).mean()
        losses.append((error.item(), (loss - error).item()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    begun, ended = (torch.tensor(part).mean(0) for part in (losses[:3], losses[-3:]))
    # A mean of 2 is that of a network that says 0; layers of normal numbers have 7.1.
    assert begun[0] > 1.85
    assert ended[0] < 1.75
    assert ended[1] < begun[1] - 0.5


@pytest.mark.slow
def test_the_memory_of_a_step_at_40500_voxels_is_bounded(tmp_path):
    edges = tuple(4.65 * i for i in range(19))
    path = tmp_path / "large.xml"
    write_geometry(path, Geometry(tuple(Layer(i, edges, 50) for i in range(45)), 11, "electron"))
    large = Calorimeter(binning=path, depths=(), cut_mev=0.01515)
    network = CylindricalOptions(channels=64, depth=3, patch=(3, 3))
    model = ShowerDiffusion(large.schema, system=large, network=network)
    assert sum(p.numel() for p in model.parameters()) < 30_000_000
    numbers = []
    for n in (1, 2):
        x, given = torch.zeros(2, n, 40_500), torch.zeros(n, 1 + 2 * 45)
        storages = {}

        def count(part, storages=storages):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes() // 4
            return part

        owned = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(count, lambda part: part):
            loss = model.loss(x[0], x[1], torch.zeros(n), given).sum()
        loss.backward()
        numbers.append(sum(size for at, size in storages.items() if at not in owned))
    # 36 MB a shower; with patches of one voxel, as many channels hold nine times that.
    assert numbers[1] - numbers[0] < 9_000_000
    assert numbers[1] < 2.2 * numbers[0]


def test_it_samples_where_its_parameters_are(model, data):
    noise, condition = torch.randn(4, 373), data.condition[:4]
    with torch.no_grad():
        x = model.to("meta").from_noise(noise.to("meta"), condition.to("meta"))
    assert (x.device.type, x.shape) == ("meta", (4, 368))


def binning(tmp_path, layers):
    path = tmp_path / "binning.xml"
    write_geometry(path, Geometry(tuple(layers)))
    return Calorimeter(binning=path, depths=())


def test_what_cannot_be_convolved_around_the_axis_is_refused(tmp_path):
    flat = binning(tmp_path, [Layer(i, (0.0, 10.0, 30.0), 1) for i in range(3)])
    unplaced = Calorimeter(binning="layers:3x8")
    for system, why in ((flat, "no layer has sectors"), (unplaced, "not known where voxels lie")):
        with pytest.raises(RecipeError, match=rf"{why}.*take surrogate.kind=diffusion with"):
            ShowerDiffusion(system.schema, system=system)
    with pytest.raises(RecipeError, match=r"is for showers: .* not a system of Ising"):
        ShowerDiffusion(SYSTEM.schema, system=Ising(shape=(4, 4), temperature=2.0))
    chain = Chain([Standardise(SYSTEM.schema)], SYSTEM.schema)
    with pytest.raises(RecipeError, match="bring their own; remove it"):
        ShowerDiffusion(SYSTEM.schema, chain, system=SYSTEM)


def test_a_binning_of_other_showers_is_refused(tmp_path, data):
    other = binning(tmp_path, [Layer(0, (0.0, 10.0, 30.0), 8)])
    with pytest.raises(DomainError, match=r"showers of shape \(368,\), but the binning has 16"):
        ShowerDiffusion(SYSTEM.schema, system=other)
    path = tmp_path / "showers.h5"
    with calochallenge_writer(path) as append:
        append(data[:10])
    with pytest.raises(FormatError, match=r"368.*16"):
        other.open(path)
    model = ShowerDiffusion(SYSTEM.schema, system=SYSTEM, network=SMALL)
    with pytest.raises(DomainError, match="incident energies"):
        model.initialise(Batch(data.x))
