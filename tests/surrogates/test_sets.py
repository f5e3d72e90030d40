"""Masked samples all the way: what is not there changes nothing, and densities are normalised."""

import dataclasses
import math
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
import yaml

from physgen import pipeline
from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.held_out import held_out
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.flows.likelihood import MaximumLikelihood
from physgen.surrogates.sets import IndependentItems
from physgen.systems.item_sets import ItemSets
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain

MOST = 4


def schema(*names, condition=()):
    given = tuple(Variable(name) for name in condition)
    return Schema((MOST, len(names)), tuple(map(Variable, names)), given, masked=True)


def samples(n=300, n_columns=2, seed=1, condition=False):
    """Sets of 0 to 4 items, nonsense where there is none."""
    rng = np.random.default_rng(seed)
    count = rng.integers(0, MOST + 1, n)
    mask = torch.from_numpy(np.arange(MOST) < count[:, None])
    x = torch.from_numpy(np.exp(rng.normal(size=(n, MOST, n_columns)) + 1)).float()
    x[~mask] = -1e9
    given = torch.from_numpy(rng.normal(size=(n, 1))).float() if condition else None
    return Batch(x, condition=given, mask=mask)


def fitted(n_columns=2, condition=False, trained=0):
    torch.manual_seed(0)
    names = "ab"[:n_columns]
    described = schema(*names, condition=("c",) if condition else ())
    variables = (dataclasses.replace(v, domain="non-negative") for v in described.variables)
    described = dataclasses.replace(described, variables=tuple(variables))
    data = samples(n_columns=n_columns, condition=condition)
    transform = Chain([Standardise(described.items, log=tuple(names))], described)
    model = IndependentItems(described, transform, n_layers=2, hidden=(16,))
    model.initialise(data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model, data


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("condition", [False, True])
def test_what_is_not_there_changes_nothing(condition):
    model, data = fitted(condition=condition)
    other = data.x.clone()
    other[~data.mask] = 12345.0
    again = data.replace(x=other)
    torch.testing.assert_close(model.log_prob(again), model.log_prob(data))
    transform, _ = fitted(condition=condition)
    transform.initialise(again)
    for name, buffer in transform.transform.named_buffers():
        assert torch.equal(buffer, dict(model.transform.named_buffers())[name]), name


def test_the_order_of_items_does_not_matter():
    model, data = fitted()
    full = data[data.mask.all(1)]
    turned = full.replace(x=full.x.flip(1))
    torch.testing.assert_close(model.log_prob(turned), model.log_prob(full))


def test_transforms_see_each_item_as_a_row():
    described = dataclasses.replace(schema("a", "b"))
    data = samples().replace(weight=torch.rand(300))
    chain, alone = Chain([Standardise(described.items)], described), Standardise(described.items)
    chain.fit(data)
    rows = data.x[data.mask]
    sample = data.mask.nonzero()[:, 0]
    alone.fit(Batch(rows, weight=data.weight[sample]))
    mapped, log_det = chain(data)
    expected, each = alone(Batch(rows))
    torch.testing.assert_close(mapped.x[data.mask], expected.x.float())
    assert (mapped.x[~data.mask] == 0).all()
    sums = torch.zeros(300).double().index_add(0, sample, each)
    torch.testing.assert_close(log_det, sums.float())
    back = chain.inverse(mapped)
    torch.testing.assert_close(back.x[data.mask], rows)
    assert (back.x[~data.mask] == 0).all()


def test_the_density_is_normalised():
    """The probabilities of all numbers of items, and the density of a lone item, sum to one."""
    model, _ = fitted(n_columns=1)
    model = model.double()
    p = model.number.log_p(None, 1).exp()[0]
    assert p.sum().item() == pytest.approx(1.0)
    grid = torch.linspace(-9, 13, 4001, dtype=torch.float64).exp()
    x = torch.zeros(len(grid), MOST, 1, dtype=torch.float64)
    x[:, 0, 0] = grid
    mask = torch.zeros(len(grid), MOST, dtype=torch.bool)
    mask[:, 0] = True
    density = model.log_prob(Batch(x, mask=mask)).exp()
    total = torch.trapezoid(density, grid)
    assert total.item() == pytest.approx(p[1].item(), rel=1e-3)
    empty = Batch(x[:1], mask=torch.zeros(1, MOST, dtype=torch.bool))
    assert model.log_prob(empty).exp().item() == pytest.approx(p[0].item())


@pytest.mark.parametrize("condition", [False, True])
def test_samples_come_with_their_density(condition):
    model, _ = fitted(condition=condition)
    batch, log_prob = model.double().sample_with_log_prob(200, generator=generator())
    torch.testing.assert_close(model.log_prob(batch), log_prob, rtol=1e-5, atol=1e-5)
    again = model.sample(200, generator=generator())
    assert torch.equal(again.x, batch.x.detach())
    assert torch.equal(again.mask, batch.mask)
    assert (batch.x[~batch.mask] == 0).all()
    assert (batch.x[batch.mask] > 0).all()


def test_numbers_of_items_come_as_often_as_they_are_probable():
    model, _ = fitted()
    n = model.sample(20_000, generator=generator()).mask.sum(1)
    p = model.number.log_p(None, 1).exp()[0].detach()
    for number in range(MOST + 1):
        error = math.sqrt(p[number] * (1 - p[number]) / 20_000)
        assert abs((n == number).float().mean() - p[number]) < 4.5 * error


def test_held_out_likelihoods_know_the_mask():
    model, data = fitted()
    found = held_out(model, data, None, n=50, draws=1, seed=1)["exact"].truth
    rows = torch.from_numpy(np.linspace(0, len(data) - 1, 50).astype(np.int64))
    torch.testing.assert_close(torch.from_numpy(found).float(), model.log_prob(data[rows]).detach())


def test_wrong_masks_are_refused():
    model, data = fitted()
    with pytest.raises(DomainError, match=r"expected truth values of shape \(300, 4\)"):
        model.log_prob(data.replace(mask=data.mask[:, :2]))
    with pytest.raises(RecipeError, match="have no mask"):
        model.latent_log_prob(Batch(data.x))
    with pytest.raises(RecipeError, match="take independent-items"):
        Flow(schema("a"))
    with pytest.raises(RecipeError, match="no mask; take another surrogate"):
        IndependentItems(Schema((2,), (Variable("a"), Variable("b"))))
    with pytest.raises(DomainError, match="items and columns"):
        Schema((4,), tuple(map(Variable, "abcd")), masked=True)


def test_batches_are_trained_on_with_their_masks():
    model, data = fitted()
    method = MaximumLikelihood(model)
    prepared = method.prepare(data, generator())
    assert torch.equal(prepared.mask, data.mask)
    method.loss(prepared).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.fixture
def jagged(tmp_path):
    """Jets of an event, more of them at larger mu."""
    rng = np.random.default_rng(1)
    mu = rng.uniform(1, 3, 900).astype("f4")
    count = np.minimum(rng.poisson(mu), 5)
    pt = ak.unflatten((10 + rng.exponential(20, count.sum())).astype("f4"), count)
    eta = ak.unflatten(rng.normal(size=count.sum()).astype("f4"), count)
    path = tmp_path / "jets.root"
    with uproot.recreate(path) as file:
        jets = ak.zip({"pt": pt, "eta": eta})
        file.mktree("events", {"jet": jets.type.content, "mu": "f4"})
        file["events"].extend({"jet": jets, "mu": mu})
    return path, pt, mu


def system(path, **options):
    given = {"fields": ("jet_pt", "jet_eta"), "condition": ("mu",)} | options
    return ItemSets(path=str(path), **given)


def test_events_are_read_measured_and_written_back(jagged, tmp_path):
    path, pt, mu = jagged
    sets = system(path)
    assert sets.schema.masked
    assert sets.schema.shape == (5, 2)
    batch = sets.open(path).read(0, 900)
    values = sets.observables(batch)
    np.testing.assert_array_equal(values["number of items"], ak.num(pt))
    np.testing.assert_allclose(values["sum of jet_pt"], ak.sum(pt, 1), rtol=1e-6)
    np.testing.assert_allclose(
        values["largest jet_pt"], ak.to_numpy(ak.fill_none(ak.max(pt, 1), np.nan))
    )
    np.testing.assert_array_equal(batch.condition[:, 0], mu)
    for suffix in (".root", ".h5", ".npz"):
        copy = tmp_path / f"copy{suffix}"
        with sets.writer(copy, 900) as append:
            append(batch)
        again = sets.open(copy).read(0, 900)
        for name in ("x", "mask", "condition"):
            assert torch.equal(getattr(again, name), getattr(batch, name)), (suffix, name)
    noisy = batch.x.clone()
    noisy[~batch.mask] = 7.0
    for level in ("low", "high"):
        features = sets.features(batch, level)
        assert torch.equal(sets.features(batch.replace(x=noisy), level), features)
        assert features.isfinite().all()


@pytest.fixture
def weighted(tmp_path):
    """Jets of weighted events in one of two trees, and what reads them."""
    rng = np.random.default_rng(2)
    count = rng.integers(0, 4, 300)
    columns = {
        "jet": ak.zip({"pt": ak.unflatten(rng.exponential(20, count.sum()), count)}),
        "w": rng.uniform(0.5, 2, 300),
    }
    path = tmp_path / "weighted.root"
    with uproot.recreate(path) as file:
        for tree in ("other", "nominal"):
            file.mktree(tree, {"jet": columns["jet"].type.content, "w": "f8"})
            file[tree].extend(columns)
    card = tmp_path / "weighted.yaml"
    card.write_text(
        yaml.safe_dump(
            {
                "name": "weighted",
                "title": "jets",
                "licence": "CC0-1.0",
                "read": {
                    "path": str(path),
                    "tree": "nominal",
                    "fields": ["jet_pt"],
                    "weight": "w",
                },
            }
        )
    )
    return ItemSets(path=str(card)), columns["w"].sum()


@pytest.mark.parametrize("suffix", [".root", ".h5", ".npz"])
def test_generated_sets_have_the_sum_of_weights_and_can_be_learned_from(weighted, tmp_path, suffix):
    sets, total = weighted
    path = tmp_path / f"made{suffix}"
    with sets.writer(path, 50) as append:
        append(sets.open(Path(sets.path)).read(0, 20).replace(weight=None))
        append(sets.open(Path(sets.path)).read(20, 50).replace(weight=None))
    if suffix == ".root":
        with uproot.open(path) as file:
            assert set(file.keys(cycle=False)) == {"nominal", "physgen_schema"}
            assert file["nominal"]["w"].array().to_numpy().sum() == pytest.approx(total)
    back = sets.open(path).read(0, 50)
    assert back.weight.sum().item() == pytest.approx(total)
    again = ItemSets(path=str(path), fields=("jet_pt",), weight="w" if suffix == ".root" else None)
    assert torch.equal(again.source.read(0, 50).x, back.x)
    assert again.schema.shape == sets.schema.shape
    with pytest.raises(FormatError, match="jet_e"):
        _ = ItemSets(path=str(path), fields=("jet_e",)).source


def test_arrays_that_are_no_sets_say_so(tmp_path):
    path = tmp_path / "flat.npz"
    np.savez(path, x=np.ones((5, 2)))
    with pytest.raises(FormatError, match="read from jagged branches"):
        _ = ItemSets(path=str(path), fields=("a", "b")).source


def test_flat_columns_are_no_sets(jagged):
    path, _, _ = jagged
    flat = system(path, fields=("mu",), condition=())
    with pytest.raises(FormatError, match="mu are flat, a number an event; take the system events"):
        _ = flat.schema
    with pytest.raises(DomainError, match="their mask is missing"):
        system(path).observables(Batch(torch.zeros(2, 5, 2)))


def test_a_run_on_sets(jagged, tmp_path):
    path, _, _ = jagged
    sections = {
        "name": "sets",
        "system": {"kind": "item-sets"},
        "data": {
            "path": str(path),
            "fields": [{"name": "jet_pt", "domain": "non-negative"}, "jet_eta"],
            "condition": ["mu"],
        },
        "transform": [{"kind": "standardise", "log": ["jet_pt"]}],
        "surrogate": {"kind": "independent-items"},
        "method": {"kind": "maximum-likelihood"},
        "engine": {"steps": 150, "batch_size": 128},
        "sampling": {"n": 150},
        "validation": {"metrics": [{"kind": "means"}, {"kind": "likelihood"}]},
    }
    recipe = tmp_path / "sets.yaml"
    recipe.write_text(yaml.safe_dump(sections))
    run = pipeline.train(recipe, runs=tmp_path / "runs", track=False)
    names = [row.name for row in run.scorecard.rows]
    assert "log-likelihood" in names
    assert "bits/dim" not in names
    few, many = (
        pipeline.generate(run.path, 2000, condition={"mu": mu}).mask.sum(1).float().mean()
        for mu in (1.0, 3.0)
    )
    assert few < many - 0.5
    out = tmp_path / "made.root"
    pipeline.load(run).write(out, 50)
    assert ak.num(uproot.open(out)["events"]["jet_pt"].array()).to_numpy().max() <= 5
