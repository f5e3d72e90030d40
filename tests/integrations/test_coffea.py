"""Exported surrogates in coffea: the same bytes however events are cut into chunks."""

import pickle
import shutil

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea import processor
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

from physgen import export
from physgen.errors import CheckpointError, DomainError, InputError
from physgen.integrations.coffea import BLOCK, SurrogateWrapper, event_seeds

FIELDS = ["pt", "eta", "mass"]


class Jets(NanoAODSchema):
    """NanoAOD with jets alone."""

    warn_missing_crossrefs = False


class Detector(processor.ProcessorABC):
    """Jets of the generator in, reconstructed jets out."""

    def __init__(self, folder):
        self.detector = SurrogateWrapper(folder)

    def process(self, events):
        jets = self.detector.collection(events, "GenJet")
        leading = ak.firsts(jets[ak.argsort(jets.pt, ascending=False)].pt)
        columns = {name: ak.to_numpy(ak.flatten(jets[name])) for name in jets.fields}
        columns |= {
            "n": ak.to_numpy(ak.num(jets)),
            "leading": ak.to_numpy(ak.fill_none(leading, 0)),
        }
        return {name: processor.column_accumulator(column) for name, column in columns.items()}

    def postprocess(self, accumulator):
        return accumulator


def processed(folder, file, chunk):
    run = processor.Runner(
        executor=processor.IterativeExecutor(status=False), schema=Jets, chunksize=chunk
    )
    found = run({"jets": {"files": {str(file): "Events"}}}, processor_instance=Detector(folder))
    return {name: column.value for name, column in found.items()}


def opened(file, mode="eager"):
    where = {"filename": file.name}
    return NanoEventsFactory.from_root(
        {str(file): "Events"}, schemaclass=Jets, mode=mode, metadata=where
    ).events()


@pytest.fixture
def wrapper(exported):
    return SurrogateWrapper(exported)


def test_a_runner_makes_the_same_jets_in_chunks_of_any_size(exported, nanoaod):
    whole = processed(exported, nanoaod, 10_000)
    assert whole["n"].sum() == len(whole["pt"])
    with uproot.open(nanoaod) as file:
        gen = file["Events"].arrays()
    assert whole["n"].tolist() == ak.num(gen.GenJet_pt).tolist()
    response = whole["pt"] / ak.to_numpy(ak.flatten(gen.GenJet_pt))
    assert 0.9 < np.median(response) < 1.1
    for chunk in (7, 100, 499):
        part = processed(exported, nanoaod, chunk)
        assert {name: column.tobytes() for name, column in part.items()} == {
            name: column.tobytes() for name, column in whole.items()
        }, chunk


def test_numpy_awkward_and_dask_make_the_same_bytes(wrapper, nanoaod):
    events = opened(nanoaod)
    jets = wrapper.collection(events, "GenJet")
    assert jets.fields == FIELDS
    assert len(wrapper.collection(events[:0], "GenJet")) == 0
    lazy = wrapper.collection(opened(nanoaod, "dask"), "GenJet")
    assert lazy.fields == FIELDS
    computed = lazy.compute(scheduler="synchronous")
    assert ak.array_equal(computed, jets)
    counts = ak.num(events.GenJet)
    ids = [np.repeat(events[name], counts) for name in ("run", "luminosityBlock", "event")]
    ids.append(ak.flatten(ak.local_index(events.GenJet.pt)))
    flat = wrapper(
        [ak.to_numpy(one) for one in ids],
        {f"GenJet_{name}": ak.to_numpy(ak.flatten(events.GenJet[name])) for name in ("pt", "eta")},
        stream="GenJet",
    )
    assert list(flat) == ["Jet_pt", "Jet_eta", "Jet_mass"]
    for name in FIELDS:
        found = ak.to_numpy(ak.flatten(jets[name]))
        assert isinstance(flat[f"Jet_{name}"], np.ndarray)
        assert found.tobytes() == flat[f"Jet_{name}"].tobytes()


def test_dask_reads_no_more_than_the_columns_it_needs(wrapper, nanoaod):
    import dask_awkward

    lazy = wrapper.collection(opened(nanoaod, "dask"), "GenJet").pt
    ((_, needed),) = dask_awkward.necessary_columns(lazy).items()
    assert needed == {"run", "luminosityBlock", "event", "nGenJet", "GenJet_pt", "GenJet_eta"}


def test_partitions_change_no_byte(wrapper, nanoaod):
    import dask_awkward

    events = opened(nanoaod)
    whole = wrapper.collection(events, "GenJet")
    cut = dask_awkward.from_awkward(ak.Array(ak.drop_none(events)), npartitions=7)
    assert cut.npartitions == 7
    found = wrapper.collection(cut, "GenJet").compute(scheduler="synchronous")
    assert ak.array_equal(found, whole)


def test_one_sample_an_event_where_conditions_are_not_jagged(wrapper):
    event = np.arange(5)
    given = {"GenJet_pt": np.full(5, 50.0), "GenJet_eta": 0.5}
    found = wrapper([event], given)
    records = wrapper([ak.Array(event)], given)
    assert records.fields == list(found)
    assert ak.to_numpy(records.Jet_pt).tobytes() == found["Jet_pt"].tobytes()
    assert len(set(found["Jet_pt"].tolist())) == 5
    again = wrapper([event[::-1]], given)
    assert again["Jet_pt"][::-1].tobytes() == found["Jet_pt"].tobytes()
    assert wrapper([event[:0]], {"GenJet_pt": 50.0, "GenJet_eta": 0.5})["Jet_pt"].shape == (0,)


def test_another_seed_or_event_is_another_draw(wrapper, exported):
    given = {"GenJet_pt": 50.0, "GenJet_eta": 0.5}
    first = wrapper([np.arange(3)], given)["Jet_pt"]
    assert (SurrogateWrapper(exported, seed=2)([np.arange(3)], given)["Jet_pt"] != first).all()
    assert (wrapper([np.arange(3, 6)], given)["Jet_pt"] != first).all()
    with pytest.raises(InputError, match="seed = -1"):
        SurrogateWrapper(exported, seed=-1)


def test_the_model_meets_blocks_of_one_size(exported, monkeypatch):
    sizes = []
    model = export.load(exported, block=8)
    run = model._session.run

    class Session:
        def run(self, names, feed):
            sizes.append({len(value) for value in feed.values()})
            return run(names, feed)

    monkeypatch.setattr(model, "_session", Session())
    given = {"GenJet_pt": np.linspace(30, 150, 19), "GenJet_eta": 0.0}
    found = model.sample(19, given, seed=3).x
    assert sizes == [{8}, {8}, {8}]
    np.testing.assert_allclose(found, export.load(exported).sample(19, given, seed=3).x, rtol=1e-5)
    assert SurrogateWrapper(exported).model._block == BLOCK


def test_seeds_are_hashes_of_all_numbers():
    many = np.arange(1000)
    seeds = event_seeds(1, [np.repeat(many, 3), np.tile([0, 1, 2], 1000)])
    assert len(set(seeds.tolist())) == 3000
    bits = np.unpackbits(seeds.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 5 * 0.5 / np.sqrt(64 * 3000)
    assert event_seeds(1, [[1], [2]]) != event_seeds(1, [[2], [1]])
    assert event_seeds(1, [[-1]]) == event_seeds(1, [np.array([2**64 - 1], np.uint64)])
    with pytest.raises(InputError, match="float64 of shape"):
        event_seeds(1, [[0.5]])
    with pytest.raises(InputError, match="as many each"):
        event_seeds(1, [[1, 2], [1]])


def test_no_seed_is_another_with_its_events_in_another_order():
    runs, means = np.arange(1001), []
    every = np.concatenate([event_seeds(seed, [runs]) for seed in range(1, 6)])
    assert len(np.unique(every)) == 5 * 1001
    for seed in range(1, 401):
        uniform = event_seeds(seed, [runs[:100]]).view(np.uint64) / 2.0**64
        means.append(uniform.mean())
    expected = 1 / np.sqrt(12 * 100)
    assert abs(np.std(means) / expected - 1) < 5 / np.sqrt(2 * 400)
    assert abs(np.mean(means) - 0.5) < 5 * expected / np.sqrt(400)


def test_a_condition_outside_its_domain_is_an_error_unless_allowed(exported, nanoaod):
    events = opened(nanoaod)
    events["GenJet", "pt"] = ak.where(events.event % 10 == 0, 900.0, events.GenJet.pt)
    with pytest.raises(DomainError, match="GenJet_pt = 900"):
        SurrogateWrapper(exported).collection(events, "GenJet")
    found = SurrogateWrapper(exported, allow_outside_domain=True).collection(events, "GenJet")
    assert found.fields == [*FIELDS, "outside"]
    assert ak.all(found.outside == (events.GenJet.pt == 900))


def test_a_file_without_the_collection_is_refused(wrapper, nanoaod):
    events = opened(nanoaod)
    with pytest.raises(
        InputError,
        match=r"^nano\.root: the events lack the collection 'GenJets'; did you mean 'GenJet'",
    ):
        wrapper.collection(events, "GenJets")
    with pytest.raises(InputError, match=r"the column 'charge' in 'GenJet'; there are 'eta', "):
        wrapper.collection(events, "GenJet", {"GenJet_pt": "charge"})
    with pytest.raises(InputError, match="lack the number 'luminosityBlock' of events"):
        wrapper.collection(events[["run", "event", "GenJet"]], "GenJet")
    with pytest.raises(InputError, match="the collection 'GenJets'"):
        wrapper.collection(opened(nanoaod, "dask"), "GenJets")


def test_columns_may_have_other_names(wrapper, nanoaod):
    events = opened(nanoaod)
    whole = wrapper.collection(events, "GenJet")
    events["Truth"] = ak.zip({"energy": events.GenJet.pt, "eta": events.GenJet.eta})
    columns = {"GenJet_pt": "energy", "GenJet_eta": "eta"}
    found = wrapper.collection(events, "Truth", columns)
    assert ak.array_equal(ak.num(found), ak.num(whole))
    events["GenJet"] = events.Truth
    assert ak.array_equal(wrapper.collection(events, "GenJet", columns), whole)


def test_two_collections_of_an_event_have_noise_of_their_own(wrapper, nanoaod):
    events = opened(nanoaod)
    events["Other"] = events.GenJet
    columns = {"GenJet_pt": "pt", "GenJet_eta": "eta"}
    responses = [
        ak.to_numpy(ak.flatten(wrapper.collection(events, name, columns).pt / events.GenJet.pt))
        for name in ("GenJet", "Other")
    ]
    n = len(responses[0])
    assert n > 1000
    assert abs(np.corrcoef(responses)[0, 1]) < 5 / np.sqrt(n)


def test_two_surrogates_of_an_event_have_noise_of_their_own(wrapper, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        "physgen.integrations.coffea.event_seeds",
        lambda *given: seeds.append(event_seeds(*given)) or seeds[-1],
    )
    given = [np.arange(20)], {"GenJet_pt": 50.0, "GenJet_eta": 0.5}
    wrapper(*given)
    other = pickle.loads(pickle.dumps(wrapper))
    wrapper(*given, stream="others")
    model = other.card.model.model_copy(update={"sha256": "0" * 64})
    other._model = wrapper.model
    other.card = other.card.model_copy(update={"model": model})
    other(*given)
    assert len(np.unique(np.concatenate(seeds))) == 60


def test_lists_of_equal_lengths_are_lists(wrapper):
    """A regular array (N, 2) has N events of two objects, also where N is 2."""
    for n in (2, 5):
        pt, ids = np.linspace(30, 150, 2 * n).reshape(n, 2), [np.arange(n), np.arange(n) + 7]
        ragged = ak.from_regular(ak.Array(pt), axis=None)
        whole = wrapper(ids, {"GenJet_pt": ragged, "GenJet_eta": 0.5})
        assert ak.num(whole).tolist() == [2] * n
        for given in (ak.to_regular(ragged), ak.from_numpy(pt)):
            assert given.type.content != ragged.type.content
            for numbers in (ids, [ak.Array(one) for one in ids]):
                found = wrapper(numbers, {"GenJet_pt": given, "GenJet_eta": 0.5})
                assert ak.array_equal(found, whole)
        assert ak.array_equal(
            wrapper([ak.Array(one) for one in ids], {"GenJet_pt": pt, "GenJet_eta": 0.5}), whole
        )


def test_what_is_missing_or_does_not_fit_is_refused(wrapper):
    ids, pt = [np.arange(2)], ak.Array([[50.0, None], [40.0]])
    with pytest.raises(InputError, match=r"missing values \(None\)"):
        wrapper(ids, {"GenJet_pt": pt, "GenJet_eta": 0.0})
    with pytest.raises(InputError, match="different numbers of objects"):
        wrapper(
            ids,
            {"GenJet_pt": ak.Array([[50.0, 60.0], [40.0]]), "GenJet_eta": ak.Array([[1.0], [0]])},
        )
    with pytest.raises(InputError, match="lists of lists"):
        wrapper(ids, {"GenJet_pt": ak.Array([[[50.0]], [[40.0]]]), "GenJet_eta": 0.0})
    with pytest.raises(DomainError, match="no condition is called"):
        wrapper(ids, {"GenJet_et": np.ones(2)})


def test_workers_need_the_same_folder(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    wrapper = SurrogateWrapper(folder)
    given = [np.arange(3)], {"GenJet_pt": 50.0, "GenJet_eta": 0.5}
    first = wrapper(*given)
    there = pickle.loads(pickle.dumps(wrapper))
    assert there._model is None
    assert there(*given)["Jet_pt"].tobytes() == first["Jet_pt"].tobytes()
    other = pickle.loads(pickle.dumps(wrapper))
    other.card = other.card.model_copy(update={"recipe": "other"})
    with pytest.raises(CheckpointError, match="holds another model here"):
        other(*given)
    (folder / "card.json").unlink()
    with pytest.raises(CheckpointError, match=r"no card\.json"):
        SurrogateWrapper(folder)
