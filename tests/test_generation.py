import dataclasses
import json
from contextlib import contextmanager

import h5py
import numpy as np
import pandas
import pytest
import torch
import uproot

import physgen
from physgen.batch import Batch, Schema, Variable
from physgen.errors import DomainError, InputError, TrainingError
from physgen.generation import BLOCK, Sampler, generate, generate_blocks
from physgen.io.hdf5_source import HDF5Source
from physgen.surrogates.base import Surrogate
from physgen.surrogates.boltzmann.rbm import RBM
from physgen.validation.uncertainty import gamma_method

SCHEMA = Schema(
    (2,),
    (Variable("e", "MeV"), Variable("n", domain="integer", dtype="int16")),
    (Variable("e_inc", "MeV"),),
)


class Gaussian(Surrogate):
    """Noise around its condition; remembers the sizes it was asked for."""

    def __init__(self, schema=SCHEMA, scale=1.0):
        super().__init__(schema)
        self.weight = torch.nn.Parameter(torch.tensor(scale))
        self.asked = []

    def sample(self, n, condition=None, *, generator):
        self.asked.append(n)
        if condition is None:
            condition = self.conditions.draw(n, generator)
        noise = torch.randn(n, 2, generator=generator)
        x = self.weight * noise + (0 if condition is None else condition)
        return Batch(x, condition=condition)


@pytest.fixture
def surrogate():
    made = Gaussian()
    made.conditions.fit(torch.tensor([[10.0], [1000.0]]))
    return made


def test_a_sample_depends_on_the_seed_and_its_place_alone(surrogate):
    whole = generate(surrogate, 3 * BLOCK, seed=5)
    cut = generate(surrogate, BLOCK + 7, seed=5)
    assert set(surrogate.asked) == {BLOCK}
    assert torch.equal(cut.x, whole.x[: BLOCK + 7])
    assert torch.equal(cut.condition, whole.condition[: BLOCK + 7])
    later = list(generate_blocks(surrogate, 3 * BLOCK, seed=5, first=2))
    assert torch.equal(later[0].x, whole.x[2 * BLOCK :])
    (middle,) = generate_blocks(surrogate, 3 * BLOCK, seed=5, first=1, last=2)
    assert torch.equal(middle.x, whole.x[BLOCK : 2 * BLOCK])
    for first, last in ((-1, 2), (2, 1), (0, 4)):
        with pytest.raises(InputError, match=r"of 3: .* samples have no others"):
            list(generate_blocks(surrogate, 3 * BLOCK, seed=5, first=first, last=last))
    assert not torch.equal(generate(surrogate, 10, seed=6).x, whole.x[:10])
    assert len(torch.unique(whole.x[:, 0] - whole.condition[:, 0])) > 2 * BLOCK


class Pushed(Gaussian):
    """The same from noise of each sample's own."""

    noise_shape = (2,)

    def from_noise(self, noise, condition=None):
        return self.weight * noise + condition


def test_few_samples_from_noise_are_few_and_the_first_of_many():
    surrogate = Pushed()
    surrogate.conditions.fit(torch.tensor([[10.0], [1000.0]]))
    given = torch.linspace(10, 1000, BLOCK + 3)[:, None]
    for condition in (None, given):
        whole = generate(surrogate, BLOCK + 3, seed=5, condition=condition)
        for n, most in ((1, 1), (2, 16), (16, 16), (17, 256), (300, BLOCK)):
            surrogate.asked.clear()
            some = None if condition is None else condition[:n]
            cut = generate(surrogate, n, seed=5, condition=some)
            assert torch.equal(cut.x, whole.x[:n])
            assert torch.equal(cut.condition, whole.condition[:n])
            assert sum(surrogate.asked) == most
    same = generate(surrogate, BLOCK + 3, seed=5, condition=10.0)
    assert len(torch.unique(same.x[:, 0])) > BLOCK - 15  # No piece repeats another's noise.


def frozen_machine(seed, n_chains=60):
    """A machine of one hidden spin whose two modes no sweep connects; the chains are exact."""
    schema = Schema((4, 4), (Variable("s", domain="spin", dtype="int8"),))
    rbm = RBM(schema, hidden=1, n_chains=n_chains, burn_in=2, thin=1)
    up = torch.rand(n_chains, 1, 1, generator=torch.Generator().manual_seed(seed)) < 0.7
    with torch.no_grad():
        rbm.coupling.weight.fill_(3.0)
        rbm.hidden_bias.fill_(np.arctanh(2 * 0.7 - 1))
        rbm.chains.copy_((2 * up - 1).expand(n_chains, 4, 4).to(torch.int8))
    return rbm


def test_blocks_go_on_from_the_same_chains_and_say_so():
    """However many samples: the error is that of the chains there are, and covers the truth."""
    pulls = []
    for seed in range(24):
        batch = generate(frozen_machine(seed), 3 * BLOCK, seed=seed)
        assert len(batch.chain.unique()) == 60
        up = (batch.x.double().mean((1, 2)) > 0).double().numpy()
        found = gamma_method(up, chain=batch.chain.numpy())
        assert found.error == pytest.approx((0.7 * 0.3 / 60) ** 0.5, rel=0.4)
        pulls.append((found.value - 0.7) / found.error)
    rms = np.sqrt(np.mean(np.square(pulls)))
    assert rms == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(pulls)))


def test_few_samples_come_from_as_many_chains():
    assert len(generate(frozen_machine(0), 60, seed=1).chain.unique()) == 60


def test_conditions_go_to_their_samples(surrogate):
    condition = torch.linspace(10, 1000, BLOCK + 9)[:, None]
    batch = generate(surrogate, BLOCK + 9, seed=1, condition=condition)
    assert torch.equal(batch.condition, condition)
    assert (batch.x.mean(1) - condition[:, 0]).abs().max() < 6
    same = generate(surrogate, 5, seed=1, condition=torch.tensor([20.0]))
    assert same.condition.tolist() == [[20.0]] * 5


TEN = torch.full((4, 1), 20.0)


@pytest.mark.parametrize(
    "given",
    [
        20,
        20.0,
        np.float32(20),
        torch.tensor(20.0),
        [20.0],
        [20] * 4,
        np.full(4, 20),
        torch.full((4,), 20.0, requires_grad=True),
        np.full((4, 1), 20.0),
        [[20.0]] * 4,
        {"e_inc": 20.0},
        {"e_inc": [20.0] * 4},
        {"e_inc": np.full((4, 1), 20.0)},
        pandas.DataFrame({"e_inc": [20.0] * 4}),
        np.array([(20.0,)] * 4, dtype=[("e_inc", "f8")]),
    ],
    ids=lambda given: f"{type(given).__name__} {np.shape(given)}",
)
def test_conditions_are_given_in_any_form(surrogate, given):
    batch = generate(surrogate, 4, seed=1, condition=given)
    assert batch.condition.tolist() == [[20.0]] * 4
    assert torch.equal(batch.x, generate(surrogate, 4, seed=1, condition=TEN).x)
    assert torch.equal(batch.x, Sampler(surrogate).sample(4, 1, given).x)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([20.0] * 3, "3 conditions for 4 samples"),
        ({"e_inc": [20.0] * 3}, "3 conditions for 4 samples"),
        ({"energy": 20.0}, "no condition is called 'energy'; there is 'e_inc'"),
        ({}, "the condition 'e_inc' is missing"),
        (np.full((4, 2), 20.0), r"condition of shape \(4, 2\): expected \(n, 1\), .* e_inc"),
        ("hot", "condition: not numbers"),
        ({"e_inc": [None] * 4}, "condition 'e_inc': not numbers"),
        ([[1.0], [2.0, 3.0]], "condition: not numbers"),
        (np.nan, "e_inc = nan MeV"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_sentence(surrogate, given, said):
    with pytest.raises(InputError, match=said):
        generate(surrogate, 4, seed=1, condition=given)
    assert surrogate.asked == []


def test_a_surrogate_without_conditions_takes_none():
    made = Gaussian(dataclasses.replace(SCHEMA, condition=()))
    with pytest.raises(DomainError, match="trained without conditions"):
        generate(made, 4, seed=1, condition=1.0)


def test_several_conditions_by_place_or_by_name():
    schema = dataclasses.replace(SCHEMA, condition=(Variable("a"), Variable("b")))
    made = Gaussian(schema)
    made.conditions.fit(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
    rows = [[1.0, 2.0]] * 4
    for given in ([1.0, 2.0], rows, {"b": 2.0, "a": [1.0] * 4}):
        assert generate(made, 4, seed=1, condition=given).condition.tolist() == rows
    with pytest.raises(DomainError, match="one number for 2 conditions: give a, b"):
        generate(made, 4, seed=1, condition=1.0)


def test_wrong_conditions_are_refused_before_anything_is_computed(surrogate):
    with pytest.raises(DomainError, match=r"e_inc = 5000 MeV \(row 3\) is outside"):
        generate(surrogate, 4, seed=1, condition=torch.tensor([[10.0], [10], [10], [5000]]))
    with pytest.raises(DomainError, match="3 conditions for 4 samples"):
        generate(surrogate, 4, seed=1, condition=torch.full((3, 1), 10.0))
    with pytest.raises(InputError, match="n = 0"):
        generate(surrogate, 0, seed=1)
    assert surrogate.asked == []


def test_conditions_outside_the_domain_are_accepted_on_request_and_counted(surrogate, tmp_path):
    surrogate.conditions.extrapolate = True
    sampler = Sampler(surrogate)
    given = [10.0, 2000.0, 5000.0, 20.0]
    path = sampler.write(tmp_path / "a.h5", 4, seed=1, condition=given)
    with h5py.File(path) as file:
        about = json.loads(file.attrs["physgen_provenance"])
    said = "2 of 4 samples are outside the trained domain: e_inc [-39.5, 1049.5] MeV"
    assert about["outside_domain"] == said
    with h5py.File(sampler.write(tmp_path / "b.h5", 2, condition=[10.0, 20.0])) as file:
        assert "outside_domain" not in json.loads(file.attrs["physgen_provenance"])
    with pytest.raises(DomainError, match=r"e_inc = nan MeV \(row 1\).*give numbers"):
        generate(surrogate, 2, seed=1, condition=[10.0, float("nan")])


def test_samples_that_are_not_finite_are_not_passed_on():
    schema = dataclasses.replace(SCHEMA, condition=())
    with pytest.raises(TrainingError, match=r"sample \d+ is not finite"):
        generate(Gaussian(schema, scale=float("inf")), 4, seed=1)


def test_hdf5_root_and_npz_hold_the_same_samples(surrogate, tmp_path):
    n = BLOCK + 100
    expected = generate(surrogate, n, seed=3)
    done = []
    for suffix in ("h5", "root", "npz"):
        path = tmp_path / f"out.{suffix}"
        Sampler(surrogate).write(path, n, 3, progress=done.append)
    assert done == [BLOCK, n] * 3
    source = HDF5Source(tmp_path / "out.h5")
    assert source.schema == SCHEMA
    assert torch.equal(source.read(0, n).x, expected.x)
    with uproot.open(tmp_path / "out.root") as file:
        arrays = file["events"].arrays(library="np")
    np.testing.assert_array_equal(arrays["e"], expected.x[:, 0])
    assert arrays["n"].dtype == np.int16
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["condition"], expected.condition)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.h5", "out.npz", "out.root"]


def test_existing_output_survives_refusal_and_failure(surrogate, tmp_path):
    path = tmp_path / "out.h5"
    Sampler(surrogate).write(path, 5, 3)
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists; choose another path"):
        Sampler(surrogate).write(path, 5, 4)
    surrogate.weight.data.fill_(torch.inf)
    with pytest.raises(TrainingError):
        Sampler(surrogate).write(path, 5, 4, overwrite=True)
    assert path.read_bytes() == before
    surrogate.weight.data.fill_(1)
    Sampler(surrogate).write(path, 5, 4, overwrite=True)
    assert torch.equal(HDF5Source(path).read(0, 5).x, generate(surrogate, 5, seed=4).x)
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    with pytest.raises(InputError, match=r"no format has the suffix '\.txt'"):
        Sampler(surrogate).write(tmp_path / "out.txt", 5, 3)
    old = tmp_path / "old"
    old.write_text("kept")
    with pytest.raises(InputError, match=r"old: no format has the suffix ''"):
        Sampler(surrogate).write(old, 3, 1, overwrite=True)
    assert old.read_text() == "kept"
    assert list(tmp_path.glob("old*")) == [old]


class Physics:
    schema = SCHEMA

    @property
    def derived(self):
        return {}

    def observables(self, batch):
        return {}


class OwnFiles(Physics):
    suffixes = (".xyz",)

    def open(self, path):
        return HDF5Source(path, x="0")

    @contextmanager
    def writer(self, path, n, facts=None):
        with h5py.File(path, "w") as file:
            file.attrs["n"] = n
            yield lambda batch: file.create_dataset(f"{len(file)}", data=batch.x)


def test_the_system_decides_the_format(surrogate, tmp_path):
    n = BLOCK + 1
    expected = generate(surrogate, n, seed=3)
    Sampler(surrogate, open_system=OwnFiles).write(tmp_path / "a.xyz", n, 3)
    with h5py.File(tmp_path / "a.xyz") as file:
        assert file.attrs["n"] == n
        np.testing.assert_array_equal(file["0"], expected.x[:BLOCK])
        np.testing.assert_array_equal(file["1"], expected.x[BLOCK:])
    Sampler(surrogate, open_system=OwnFiles).write(tmp_path / "c.root", n, 3)
    assert (tmp_path / "c.root").read_bytes().startswith(b"root")


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "a.root"])
def test_files_say_where_they_come_from(surrogate, tmp_path, name):
    path = tmp_path / name
    Sampler(surrogate, facts={"run": "0123"}).write(path, 5, 3)
    if name == "a.h5":
        with h5py.File(path) as file:
            said = file.attrs["physgen_provenance"]
    elif name == "a.npz":
        said = str(np.load(path)["physgen_provenance"])
    else:
        with uproot.open(path) as file:
            said = str(file["physgen_provenance"])
    about = json.loads(said)
    assert (about["run"], about["seed"], about["n"]) == ("0123", 3, 5)
    assert about["physgen"] == physgen.__version__
