"""Jets of tracks in files of four-momenta: read relative to the jet, and written back nested."""

import json

import awkward as ak
import numpy as np
import pytest
import torch
import uproot

import physgen
from physgen.batch import Batch
from physgen.errors import FormatError, InputError, RecipeError
from physgen.io.four_momenta import Collections, FourMomentaSource, absolute, as_cartesian, as_polar
from physgen.systems.base import open_files
from physgen.systems.tracks import PION, Tracks
from physgen.validation.comparison import Comparison
from physgen.validation.jet_wasserstein import JetWasserstein

PACKAGED = "skhep-testdata:uproot-issue96.root"
REAL = {
    "path": PACKAGED,
    "tree": "tree",
    "collections": ("jet1TrksP4", "jet2TrksP4"),
    "jets": ("jet1P4", "jet2P4"),
    "condition": ("pt", "eta", "phi", "mass"),
    "unit": "MeV",
}
POLAR = ("pt", "eta", "phi", "mass")
TRACKS = {
    "pt": [[20.0, 50.0], [], [10.0]],
    "eta": [[0.9, 1.1], [], [-2.0]],
    "phi": [[3.1, -3.1], [], [0.5]],
    "mass": [[0.1, 0.2], [], [0.0]],
}
JETS = {"pt": [100.0, 30.0, 40.0], "eta": [1.0, 0.0, -2.0], "phi": [3.0, 0.0, 0.0]}


def write(path, tracks=TRACKS, jets=JETS):
    """Write collections as jagged branches, and jets as flat ones, mass 5."""
    jets = {**jets, "mass": [5.0] * len(jets["pt"])}
    with uproot.recreate(path) as file:
        columns = {
            f"track_{n}": ak.unflatten(
                np.array([x for row in v for x in row], "f8"),
                np.array([len(row) for row in v], int),
            )
            for n, v in tracks.items()
        }
        file["events"] = columns | {f"jet_{n}": np.array(v, "f8") for n, v in jets.items()}
    return str(path)


def system(path, **options):
    return Tracks(**{"collections": ("track",), "jets": ("jet",), "path": path, **options})


def real_file():
    pytest.importorskip("skhep_testdata")
    return pytest.importorskip("skhep_testdata").data_path("uproot-issue96.root")


def opened(path, **options):
    return open_files(system(path, **options), path)


def test_tracks_are_relative_to_their_jet_in_the_order_of_pt(tmp_path):
    path = write(tmp_path / "a.root")
    batch = opened(path, condition=("mass", "pt"), unit="MeV").read(0, 3)
    assert batch.mask.tolist() == [[True, True], [False, False], [True, False]]
    turn = 2 * np.pi
    first = [[0.1, -6.1 + turn, 0.5], [-0.1, 0.1, 0.2]]
    assert batch.x[0].numpy() == pytest.approx(np.array(first), abs=1e-6)
    assert batch.x[2].numpy() == pytest.approx(np.array([[0.0, 0.5, 0.25], [0.0] * 3]), abs=1e-6)
    assert batch.x[1].abs().sum() == 0
    mev = np.array([[5.0, 100.0], [5.0, 30.0], [5.0, 40.0]])
    assert batch.condition.numpy() == pytest.approx(1e-3 * mev)


def test_files_are_read_alike_in_any_pieces(tmp_path):
    path = write(tmp_path / "a.root")
    both = Tracks(collections=("track", "track"), jets=("jet", "jet"), path=path)
    source = both.open(path)
    assert len(source) == 6
    assert source.keys().tolist() == [0, 0, 1, 1, 2, 2]
    whole = source.read(0, 6)
    assert torch.equal(whole.x[0], whole.x[1])
    pieces = Batch.concatenate([source.read(a, b) for a, b in ((0, 1), (1, 4), (4, 6))])
    assert torch.equal(whole.x, pieces.x)
    assert torch.equal(whole.mask, pieces.mask)
    assert opened(path).keys() is None


def test_the_hardest_tracks_are_kept_where_that_is_asked_for(tmp_path):
    source = opened(write(tmp_path / "a.root"), particles=1)
    assert source.read(0, 1).x[0, :, 2].tolist() == [0.5]
    assert "jets of up to 2 tracks, of which the 1 of largest pT" in source.notes()[0]


def test_jets_without_a_momentum_are_the_sums_of_their_tracks(tmp_path):
    tracks = {name: values[:1] for name, values in TRACKS.items()}
    path = write(tmp_path / "a.root", tracks, {n: v[:1] for n, v in JETS.items()})
    batch = opened(path, jets=(), condition=POLAR).read(0, 1)
    momenta = as_cartesian(np.array([[20.0, 0.9, 3.1, 0.1], [50.0, 1.1, -3.1, 0.2]]))
    total = momenta.sum(0)
    assert as_cartesian(batch.condition.double().numpy())[0] == pytest.approx(total, rel=1e-5)
    tracks = absolute(batch.x[0].double().numpy(), batch.condition.double().numpy()[:, :3], 0.2)
    assert as_cartesian(tracks)[0] == pytest.approx(momenta[1], rel=1e-5)
    message = r"row 1 of 'track' has no tracks, and so no axis: name the jets"
    with pytest.raises(FormatError, match=message):
        opened(write(tmp_path / "b.root"), jets=()).read(0, 3)


def test_four_momenta_in_both_coordinates():
    polar = np.array([[5.0, -1.5, 3.0, 0.5], [1e5, 2.5, -0.1, 0.0]])
    assert as_polar(as_cartesian(polar)) == pytest.approx(polar, abs=1e-2)
    assert as_polar(np.array([0.0, 0.0, 1.0, 1.0])).tolist() == [0.0, 0.0, 0.0, 0.0]


def test_tlorentzvectors_of_a_real_file_come_back():
    """Of ATLAS dijets: 27,214 jets of up to 6 tracks, in MeV."""
    path = real_file()
    tracks = Tracks(**REAL)
    source = tracks.open(PACKAGED)
    assert (len(source), tracks.schema.shape) == (27214, (6, 3))
    batch = source.read(1, 2001)
    with uproot.open(path) as file:
        found = file["tree"].arrays(["jet1TrksP4", "jet2TrksP4", "jet1P4"], entry_stop=1001)
    for jet, name in ((1, "jet1TrksP4"), (0, "jet2TrksP4")):
        rows = slice(jet, 2000, 2)
        true = found[name][jet:][:1000]
        assert batch.mask[rows].sum(1).tolist() == ak.num(true).tolist()
        x, given = batch.x[rows].double().numpy(), batch.condition[rows, None, :3].double().numpy()
        momenta = as_cartesian(absolute(x, given, PION))[batch.mask[rows].numpy()]
        true = true[ak.argsort(true.fP.fX**2 + true.fP.fY**2, ascending=False)]
        flat = ak.flatten(true)
        for column, member in enumerate((flat.fP.fX, flat.fP.fY, flat.fP.fZ)):
            error = 1e-5 * ak.to_numpy(flat.fE)
            assert (np.abs(1e3 * momenta[:, column] - ak.to_numpy(member)) < error).all()
    momenta = found.jet1P4[1:]
    true = [momenta.fP.fX, momenta.fP.fY, momenta.fP.fZ, momenta.fE]
    jets = 1e3 * as_cartesian(batch.condition[1::2].double().numpy())
    assert jets == pytest.approx(np.stack([ak.to_numpy(t) for t in true], 1), rel=1e-4, abs=10.0)


def test_generated_tracks_are_nested_again_with_counters_and_types(tmp_path):
    real_file()
    run = physgen.train("tracks", {"engine.steps": 4}, runs=tmp_path, track=False, score=False)
    output = physgen.load(run).write(tmp_path / "made.root", 300, seed=1)
    with uproot.open(output) as file:
        tree = file["tree"]
        types = {name: branch.typename for name, branch in tree.items()}
        assert types == {
            "ntrack": "int32_t",
            **{f"track_{name}": "double[]" for name in POLAR},
            **{f"jet_{name}": "double" for name in POLAR},
        }
        made = tree.arrays()
        assert json.loads(file["physgen_provenance"])["n"] == 300
    assert ak.num(made.track_pt).tolist() == made.ntrack.tolist()
    assert ak.all(made.track_pt[:, :-1] >= made.track_pt[:, 1:])
    assert ak.to_numpy(ak.flatten(made.track_mass)) == pytest.approx(1e3 * PION)
    # In MeV, as the file is.
    assert 5e4 < ak.mean(made.jet_pt) < 5e6
    sampled = physgen.generate(run.path, 300, seed=1)
    again = run.system.open(output).read(0, 300)
    assert torch.equal(again.mask, sampled.mask)
    assert again.x.numpy() == pytest.approx(sampled.x.numpy(), rel=1e-5, abs=1e-5)
    assert again.condition.numpy() == pytest.approx(sampled.condition.numpy(), rel=1e-5)
    truth, floor = (run.data.source.read(i, i + 300) for i in (0, 300))
    rows = JetWasserstein().rows(Comparison(run.system, sampled, truth=truth, floor=floor))
    multiplicity = [float(batch.mask.sum(1).double().mean()) for batch in (sampled, truth)]
    assert {row.name: row.value for row in rows}["W1N"] >= abs(np.diff(multiplicity))[0] - 1e-9


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
def test_weights_of_jets_are_read_again(tmp_path, suffix):
    made = system(write(tmp_path / "a.root"), condition=POLAR)
    batch = made.open(made.path).read(0, 3)
    assert batch.weight is None
    with made.writer(tmp_path / f"b{suffix}", 3) as append:
        append(batch.replace(weight=torch.tensor([0.5, -1.0, 2.0])))
    again = made.open(tmp_path / f"b{suffix}")
    assert again.read(1, 3).weight.tolist() == [-1.0, 2.0]
    assert torch.equal(again.read(0, 3).mask, batch.mask)


def test_jets_of_one_event_have_its_weight_unless_that_is_jagged(tmp_path):
    one = {f"{jet}_{n}": ak.Array([[2.0, 3.0], [5.0]]) for jet in "ab" for n in POLAR}
    for name, weight in (("flat", np.array([2.0, 3.0])), ("jagged", one["a_pt"])):
        with uproot.recreate(tmp_path / f"{name}.root") as file:
            file["events"] = one | {"weight": weight}
    flat, jagged = (
        FourMomentaSource(tmp_path / f"{name}.root", Collections(("a", "b")))
        for name in ("flat", "jagged")
    )
    assert flat.read(1, 4).weight.tolist() == [2.0, 3.0, 3.0]
    assert jagged.read(0, 4).weight is None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of event numbers that are not there
def test_nanoevents_see_collections(tmp_path):
    schemas = pytest.importorskip("coffea.nanoevents")
    made = system(write(tmp_path / "a.root"), condition=POLAR)
    with made.writer(tmp_path / "b.root", 3) as append:
        append(made.open(made.path).read(0, 3))
    schemas.NanoAODSchema.error_missing_event_ids = False
    events = schemas.NanoEventsFactory.from_root(
        {str(tmp_path / "b.root"): "events"}, schemaclass=schemas.NanoAODSchema, mode="eager"
    ).events()
    assert ak.num(events.track).tolist() == [2, 0, 1]
    assert events.track.pt[0].tolist() == pytest.approx([50.0, 20.0], rel=1e-6)
    assert events.jet.pt.tolist() == pytest.approx([100.0, 30.0, 40.0])


def test_files_that_are_unfit_are_refused(tmp_path):
    path = write(tmp_path / "a.root")
    for options, message in (
        ({"collections": ("tracks",)}, "there is no branch 'tracks.fP.fX'"),
        ({"jets": ("jets",)}, "there is no branch 'jets.fP.fX'"),
        ({"collections": ("jet",)}, "'jet' is one four-momentum a row; name a collection"),
        ({"tree": "event"}, "no tree 'event'; did you mean 'events'"),
    ):
        with pytest.raises(FormatError, match=message):
            FourMomentaSource(
                path,
                Collections(
                    options.get("collections", ("track",)),
                    options.get("jets", ("jet",)),
                    options.get("tree"),
                ),
            )
    nothing = write(
        tmp_path / "b.root", {n: [[], []] for n in POLAR}, {n: [1.0, 1.0] for n in JETS}
    )
    with pytest.raises(FormatError, match="none of the 2 jets has a track in track"):
        opened(nothing)
    with uproot.recreate(tmp_path / "c.root") as file:
        file["events"] = {"track_pt": ak.Array([[1.0]]), "jet_pt": np.ones(1)}
    with pytest.raises(FormatError, match="no branch 'jet_eta'; did you mean 'jet_pt'"):
        opened(str(tmp_path / "c.root"))
    bad = write(tmp_path / "d.root", {**TRACKS, "pt": [[20.0, 0.0], [], [10.0]]})
    with pytest.raises(FormatError, match="row 0 of 'track' has a track without pT; leave"):
        opened(bad).read(0, 3)
    bad = write(tmp_path / "e.root", jets={**JETS, "pt": [100.0, 30.0, 0.0]})
    with pytest.raises(FormatError, match="row 2 of 'jet' has a pT that is not positive"):
        opened(bad).read(0, 3)


def test_files_of_more_tracks_than_were_trained_on_are_refused(tmp_path):
    described = system(write(tmp_path / "a.root"))
    more = {name: [[1.0, 1.0, 1.0]] for name in POLAR}
    other = write(tmp_path / "b.root", more, {n: [1.0] for n in JETS})
    message = r"jets of 3 tracks, and none of more than 2 in .*a\.root"
    with pytest.raises(FormatError, match=message):
        described.open(other)
    assert system(described.path, particles=2).open(other).schema.shape == (2, 3)


def test_an_empty_file_holds_no_rows(tmp_path):
    path = write(tmp_path / "a.root", {n: [] for n in POLAR}, {n: [] for n in JETS})
    source = opened(path, condition=POLAR)
    assert (len(source), source.read(0, 0).x.shape) == (0, (0, 0, 3))
    changes = {"data.path": path, "data.tree": "events"}
    with pytest.raises(InputError, match=r"a\.root holds no rows"):
        physgen.train("tracks", changes, runs=tmp_path, track=False)


def test_recipes_that_make_no_sense_are_refused(tmp_path):
    for options, message in (
        (
            {"condition": ("ptt",)},
            "'ptt' is no column of the jet's four-momentum; did you mean 'pt'",
        ),
        ({"jets": ("a", "b")}, "names 2 jets, and system.collections 1 collections"),
        ({"jets": ("track",)}, "system.jets: track is one of system.collections; name its jet"),
        ({"collections": ()}, "names 1 jets, and system.collections 0 collections"),
        ({"particles": 0}, "system.particles must be 1 or more"),
        ({"mass": -1.0}, "system.mass must be 0 GeV or more"),
    ):
        with pytest.raises(RecipeError, match=message):
            system("a.root", **options)
    with pytest.raises(RecipeError, match=r"say which file to read in data\.path"):
        _ = system(None).schema
    relative = system(write(tmp_path / "a.root"), condition=("pt",))
    with (
        pytest.raises(RecipeError, match=r"need eta, phi of the jet: train with data\.condition"),
        relative.writer(tmp_path / "b.root", 1),
    ):
        pass
