"""What holds for every transform that is registered; a new one adds a line to the dict."""

from functools import cache

import pytest
import torch

from physgen.batch import Batch, Schema, Variable
from physgen.errors import InputError
from physgen.export.onnx import _parity, exported
from physgen.registry import lookup, registered
from physgen.surrogates.conditions import ConditionPrior
from physgen.systems.calorimeter import Calorimeter
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain, Transform
from physgen.transforms.bounded import Bounded
from physgen.transforms.gaussian_showers import GaussianShowers
from physgen.transforms.images import Dequantise, Logit, OneHot, Rescale
from physgen.transforms.ordered import Ordered
from physgen.transforms.quantile import Gaussianise

TABLE = Schema(
    (5,),
    (
        Variable("pt1", low=0.0),
        Variable("pt2", low=0.0),
        Variable("phi", domain="angle"),
        Variable("debt", high=5.0),
        Variable("free"),
    ),
)
GREY = Schema((2, 3), (Variable("grey", low=0.0, high=1.0),))
LABELLED = Schema((2, 3), GREY.variables, (Variable("label", domain="integer", low=2.0, high=5.0),))
SHOWERS = Calorimeter(energies_mev=(1000.0, 16000.0))

TRANSFORMS = {
    "standardise": lambda: (Standardise(TABLE), table()),
    "bounded": lambda: (Bounded(TABLE), table()),
    "gaussianise": lambda: (Gaussianise(TABLE, atoms=0), table()),
    "gaussianise with atoms": lambda: (Gaussianise(TABLE), table()),
    "ordered": lambda: (Ordered(TABLE, pairs=(("pt1", "pt2"),)), table()),
    "rescale": lambda: (Rescale(GREY), images()),
    "logit": lambda: (Logit(GREY, alpha=0.1), images()),
    "dequantise": lambda: (Dequantise(GREY, levels=17), images()),
    "one-hot": lambda: (OneHot(LABELLED), images()),
    "gaussian-showers": lambda: (GaussianShowers(SHOWERS.schema, system=SHOWERS), showers()),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def table():
    u = torch.rand(300, 5, generator=generator(), dtype=torch.float64)
    columns = 3 + 9 * u[:, 0], 3 * u[:, 1], torch.pi * (2 * u[:, 2] - 1), 5 + u[:, 3].log(), u[:, 4]
    return Batch(torch.stack(columns, 1))


def images():
    levels = torch.randint(17, (300, 2, 3), generator=generator()).double() / 16
    return Batch(levels, torch.randint(2, 6, (300, 1), generator=generator(1)).double())


@cache
def showers():
    return SHOWERS.simulate(300, 1).to(dtype=torch.float64)


@pytest.fixture(params=TRANSFORMS)
def case(request):
    transform, batch = TRANSFORMS[request.param]()
    transform.double().fit(batch)
    return transform, batch, TRANSFORMS[request.param]


def test_no_transform_is_left_out():
    known = {lookup("transforms", kind) for kind in registered("transforms")}
    assert {type(build()[0]) for build in TRANSFORMS.values()} == known


def test_the_inverse_undoes_it(case):
    transform, batch, _ = case
    mapped, _ = transform(batch, generator())
    assert mapped.x.shape == (len(batch), *transform.latent_shape(batch.x.shape[1:]))
    back = transform.inverse(mapped)
    if isinstance(transform, GaussianShowers):
        # Atoms are drawn within an interval and may round out of it; tables have finite knots.
        close = torch.isclose(back.x.double(), batch.x, rtol=1e-2, atol=1e-2)
        assert close.double().mean() > 1 - 1e-4
    else:
        torch.testing.assert_close(back.x, batch.x)
    if batch.condition is not None:
        given = transform.map_condition(batch.condition)
        assert given.shape[1] == transform.latent_condition(batch.condition.shape[1])
        torch.testing.assert_close(mapped.condition, given)


def test_the_log_determinant_is_that_of_the_jacobian_or_there_is_none(case):
    transform, batch, _ = case
    _, log_det = transform(batch, generator())
    assert (log_det is not None) == transform.exact
    if log_det is None:
        return
    for i in range(5):
        row = batch[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda x, row=row: transform(row.replace(x=x))[0].x.flatten(), row.x
        )
        size = row.x.numel()
        torch.testing.assert_close(jacobian.reshape(size, size).slogdet()[1], log_det[i])


def test_entries_depend_on_others_where_it_mixes_them(case):
    transform, batch, _ = case
    other = batch.x.clone()
    first = other.flatten(1)[:, 0]
    first.copy_(torch.maximum(first, first.roll(1)))  # Of ordered columns the larger one.
    before, after = (transform(batch.replace(x=x), generator())[0].x for x in (batch.x, other))
    same = torch.equal(before.flatten(1)[:, 1:], after.flatten(1)[:, 1:])
    assert same != transform.mixes


def test_noise_follows_from_the_generator(case):
    transform, batch, _ = case
    first, again = (transform(batch, generator(2))[0].x for _ in range(2))
    assert torch.equal(first, again)
    if transform.exact:
        assert torch.equal(first, transform(batch, generator(3))[0].x)


def test_a_saved_state_is_all_that_was_fitted(case):
    transform, batch, build = case
    fresh, _ = build()
    fresh.double().load_state_dict(transform.state_dict())
    ours, theirs = (one(batch, generator())[0] for one in (transform, fresh))
    assert torch.equal(ours.x, theirs.x)
    assert torch.equal(transform.inverse(ours).x, fresh.inverse(theirs).x)


class FromLatent(torch.nn.Module):
    """A flow whose layers are the identity: what a transform makes of normal noise."""

    def __init__(self, transform, batch):
        super().__init__()
        given = 0 if batch.condition is None else batch.condition.shape[1]
        condition = tuple(Variable(f"condition{i}") for i in range(given))
        self.chain, self.schema = Chain([transform]), Schema((1,), (Variable("x"),), condition)
        self.chain.fit(batch)
        self.noise_shape = tuple(self.chain(batch, generator())[0].x.shape[1:])
        self.conditions, self.dtype = ConditionPrior(self.schema), torch.float32
        if given:
            self.conditions.fit(batch.condition)

    def from_noise(self, noise, condition=None):
        if condition is not None:
            condition = self.chain.map_condition(condition)
        return self.chain.inverse(Batch(noise, condition)).x


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name == "gaussian-showers"))
        for name in TRANSFORMS
    ],
)
def test_its_inverse_is_exported_to_onnx_or_says_why_not(name):
    transform, batch = TRANSFORMS[name]()
    surrogate = FromLatent(transform, batch.to(dtype=torch.float32)).eval()
    if reason := getattr(transform, "not_exported", ""):
        assert len(reason) > 20
        return
    assert _parity(exported(surrogate), surrogate) < 1e-2


def test_an_export_that_fails_names_the_transform():
    class Branching(Transform):
        def forward(self, batch, generator=None):
            return batch, None

        def inverse(self, batch):
            return batch if batch.x.sum() > 0 else batch.replace(x=-batch.x)

    with pytest.raises(InputError, match="for its part Branching: torch says"):
        exported(FromLatent(Branching(), table().to(dtype=torch.float32)))
