"""Jets: what is measured of hand-made ones is known exactly."""

import itertools
import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import physgen
import physgen.pipeline
from physgen.against import Criteria
from physgen.batch import Batch
from physgen.cli.app import app
from physgen.errors import DomainError, FormatError, RecipeError
from physgen.io.inspect import inspect
from physgen.io.jetnet import JetNetSource
from physgen.io.joined import joined
from physgen.systems import jet_observables
from physgen.systems.jet_observables import DEGREES
from physgen.systems.jets import Jets
from physgen.validation.comparison import Comparison
from physgen.validation.judging import judge
from physgen.validation.rows_read import look_at

PT = "particles without pT"


def some_jets(n, particles=30, seed=1, generator=None):
    """Return (n, particles, 3) float32 jets and their mask: pT falls, and sums to 1 at most."""
    generator = generator or np.random.default_rng(seed)
    number = generator.integers(3, particles + 1, n)
    mask = np.arange(particles) < number[:, None]
    pt = np.where(mask, generator.exponential(1.0, (n, particles)), 0.0)
    pt = -np.sort(-pt / pt.sum(1, keepdims=True), axis=1)
    position = generator.normal(0, 0.1, (n, particles, 2))
    x = np.concatenate([position, pt[..., None]], 2) * mask[..., None]
    return x.astype("f4"), mask


def write_jetnet(path, n=300, particles=30, seed=1, **replaced):
    x, mask = some_jets(n, particles, seed)
    features = np.stack([np.full(n, 1000.0), np.zeros(n), np.full(n, 80.0), mask.sum(1)], 1)
    datasets = {
        "particle_features": np.concatenate([x, mask[..., None]], 2).astype("f4"),
        "jet_features": features.astype("f4"),
        **replaced,
    }
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def brute_force(x, graph):
    """Sum over all assignments of particles to vertices, as the definition says."""
    edges = [(int(edge[0]), int(edge[1])) for edge in graph.split(".") if edge]
    n_vertices = 1 + max((max(edge) for edge in edges), default=0)
    total = 0.0
    for chosen in itertools.product(range(len(x)), repeat=n_vertices):
        term = math.prod(x[i, 2] for i in chosen)
        for a, b in edges:
            term *= math.dist(x[chosen[a], :2], x[chosen[b], :2])
        total += term
    return total


def isomorphism_class(graph):
    """Return the smallest form of a multigraph under renaming of its vertices."""
    edges = [tuple(map(int, edge)) for edge in graph.split(".") if edge]
    names = sorted({v for edge in edges for v in edge})
    forms = []
    for renamed in itertools.permutations(range(len(names))):
        new = dict(zip(names, renamed, strict=True))
        forms.append(tuple(sorted(tuple(sorted((new[a], new[b]))) for a, b in edges)))
    return min(forms)


def test_the_graphs_are_all_connected_multigraphs_of_up_to_four_edges():
    """Found anew by adding edges to the edgeless graph in every way that stays connected."""
    known, layer = {()}, {()}
    for _ in range(4):
        grown = set()
        for graph in layer:
            n = 1 + max((max(edge) for edge in graph), default=0)
            for a, b in itertools.combinations(range(n + 1), 2):
                edges = ".".join(f"{p}{q}" for p, q in (*graph, (a, b)))
                grown.add(isomorphism_class(edges))
        layer = grown
        known |= grown
    ours = [isomorphism_class(graph) for graph in DEGREES]
    assert len(set(ours)) == len(ours) == 21
    assert set(ours) == known
    assert [list(DEGREES.values()).count(d) for d in range(5)] == [1, 1, 2, 5, 12]


def test_energy_flow_polynomials_are_those_of_the_definition():
    generator = np.random.default_rng(3)
    x = np.concatenate([generator.normal(0, 0.3, (2, 5, 2)), generator.random((2, 5, 1))], 2)
    mask = np.array([[True] * 4 + [False], [True] * 5])
    found = jet_observables.connected_polynomials(torch.tensor(x), torch.tensor(mask))
    for graph in DEGREES:
        wanted = [brute_force(jet[here], graph) for jet, here in zip(x, mask, strict=True)]
        assert found[graph].numpy() == pytest.approx(wanted, rel=1e-10), graph
    every = jet_observables.all_polynomials(found)
    assert len(every) == 36
    assert every["01 01.12"].numpy() == pytest.approx((found["01"] * found["01.12"]).numpy())


def test_polynomials_of_two_particles_in_closed_form():
    """Every edge joins the two, or the term vanishes: 2 z_1^a z_2^b theta^d summed over colours."""
    z1, z2, theta = 0.6, 0.4, 0.5
    x = torch.tensor([[[0.0, 0.0, z1], [0.3, 0.4, z2]]], dtype=torch.float64)
    found = jet_observables.connected_polynomials(x, torch.ones(1, 2, dtype=torch.bool))
    assert found["01"].item() == pytest.approx(2 * z1 * z2 * theta)
    assert found["01.12"].item() == pytest.approx((z1**2 * z2 + z1 * z2**2) * theta**2)
    assert found["01.02.12"].item() == 0
    assert found["01.12.23.03"].item() == pytest.approx(2 * z1**2 * z2**2 * theta**4)
    assert found["01.02.03.04"].item() == pytest.approx((z1 * z2**4 + z1**4 * z2) * theta**4)


def test_mass_is_that_of_the_sum_of_massless_particles():
    x = torch.tensor([[[0.0, 0.1, 0.5], [0.0, -0.1, 0.5]], [[0.2, 0.3, 1.0], [9.0, 9.0, 9.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    mass = jet_observables.relative_mass(x.double(), mask)
    assert mass[0].item() == pytest.approx(math.sin(0.1), rel=1e-6)
    assert mass[1].item() == 0  # Exactly: its digits would tell 32 from 64 bits.


def test_subjettiness_of_three_prongs():
    """Axes are the hardest of each prong: tau_2 leaves out the softest prong, tau_3 its halo."""
    x = torch.tensor(
        [[[0.0, 0.0, 0.5], [0.0, 0.01, 0.1], [0.4, 0.0, 0.3], [0.0, 0.6, 0.1]]], dtype=torch.float64
    )
    tau_21, tau_32 = jet_observables.subjettiness_ratios(x, torch.ones(1, 4, dtype=torch.bool))
    tau = [0.1 * 0.01 + 0.3 * 0.4 + 0.1 * 0.6, 0.1 * 0.01 + 0.1 * 0.6, 0.1 * 0.01]
    # Of two axes the second is at 0.4, of one all have merged into the hardest.
    assert tau_21.item() == pytest.approx(tau[1] / tau[0])
    assert tau_32.item() == pytest.approx(tau[2] / tau[1])


def naive_tau(x, n_axes):
    axes = [list(particle) for particle in x]
    while len(axes) > n_axes:
        pairs = itertools.combinations(range(len(axes)), 2)
        a, b = min(
            pairs,
            key=lambda p: (
                min(axes[p[0]][2], axes[p[1]][2]) * math.dist(axes[p[0]][:2], axes[p[1]][:2])
            ),
        )
        hard = max(axes[a], axes[b], key=lambda axis: axis[2])
        merged = [*hard[:2], axes[a][2] + axes[b][2]]
        axes = [axis for i, axis in enumerate(axes) if i not in (a, b)] + [merged]
    return sum(p[2] * min(math.dist(p[:2], axis[:2]) for axis in axes) for p in x)


def test_subjettiness_is_that_of_a_plain_clustering():
    x, mask = some_jets(40, particles=12, seed=5)
    tau_21, tau_32 = jet_observables.subjettiness_ratios(torch.tensor(x), torch.tensor(mask))
    for jet, here, first, second in zip(x.astype(float), mask, tau_21, tau_32, strict=True):
        one, two, three = (naive_tau(jet[here], n) for n in (1, 2, 3))
        assert first.item() == pytest.approx(two / one)
        assert second.item() == pytest.approx(three / two, abs=1e-12)


def test_few_particles_have_the_ratios_that_they_can_have():
    x = torch.zeros(3, 2, 3)
    x[1, 0], x[2, 0], x[2, 1] = (
        torch.tensor(p) for p in ([0.1, 0, 1], [0.1, 0, 0.5], [-0.1, 0, 0.5])
    )
    values = Jets(particles=2).observables(Batch(x, mask=x[..., 2] > 0))
    assert values["number of particles"].tolist() == [0, 1, 2]
    assert values["tau_21"].isnan().tolist() == [True, True, False]
    assert values["tau_21"][2] == 0
    assert torch.isfinite(Jets(particles=2).features(Batch(x, mask=x[..., 2] > 0), "high")).all()


def test_a_jetnet_file_is_read_with_its_mask_and_features(tmp_path):
    path = write_jetnet(tmp_path / "g.hdf5", particles=150)
    source = JetNetSource(path, ["num_particles", "pt"])
    x, mask = some_jets(300, 150)
    batch = source.read(10, 20)
    assert source.schema.shape == (150, 3)
    assert (batch.x.numpy() == x[10:20]).all()
    assert (batch.mask.numpy() == mask[10:20]).all()
    assert batch.condition[:, 0].tolist() == mask[10:20].sum(1).tolist()
    assert [v.name for v in source.schema.condition] == ["num_particles", "pt"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda x: x[7, 2].fill(0.5), r"row 7, particle 2 has a mask that is not 0 or 1"),
        (lambda x: x[7, -1].__setitem__(2, 0.1), r"row 7, particle 29 has features where its mask"),
        (lambda x: x[7, 1, :3].fill(0), r"row 7, particle 1 has only zeros where its mask"),
        (lambda x: x[7, 1, :1].fill(np.nan), r"row 7 holds nan"),
    ],
)
def test_a_mask_that_contradicts_its_particles_is_refused_with_its_row(tmp_path, fault, message):
    x, mask = some_jets(20)
    mask[7, -1], x[7, -1] = False, 0
    x = np.concatenate([x, mask[..., None]], 2).astype("f4")
    fault(x)
    path = write_jetnet(tmp_path / "bad.hdf5", n=20, particle_features=x)
    with pytest.raises(FormatError, match=message):
        JetNetSource(path).read(0, 20)
    assert "row 7" in inspect(path)["problem"]


def test_files_that_are_no_jets_are_refused(tmp_path):
    flat = write_jetnet(tmp_path / "flat.hdf5", particle_features=np.ones((300, 30, 3), "f4"))
    with pytest.raises(FormatError, match=r"rows of shape \(30, 3\); expected \(particles, 4\)"):
        JetNetSource(flat)
    good = write_jetnet(tmp_path / "good.hdf5", jet_features=np.ones((300, 2), "f4"))
    with pytest.raises(FormatError, match="has 2 columns; expected 4: pt, eta, mass"):
        JetNetSource(good, ["pt"])
    with pytest.raises(RecipeError, match="'ptt' is no feature of a jet"):
        Jets(condition=("ptt",))
    with pytest.raises(DomainError, match="their mask is missing"):
        Jets().observables(Batch(torch.zeros(2, 30, 3)))


def test_negative_momenta_are_said(tmp_path):
    x, mask = some_jets(50)
    x[3, 0, 2] = -0.1
    x = np.concatenate([x, mask[..., None]], 2).astype("f4")
    path = write_jetnet(tmp_path / "negative.hdf5", n=50, particle_features=x)
    assert any("1 particles have a negative ptrel" in hint for hint in inspect(path)["hints"])
    x, mask = map(torch.tensor, some_jets(50, seed=2))
    truth = Batch(x, mask=mask)
    said = judge(Comparison(Jets(), JetNetSource(path).read(0, 50), truth), []).warnings
    fault = "'ptrel' is negative in 1 of 50 generated rows, the first being row 3"
    assert any(fault in one for one in said)


def test_jets_of_other_lengths_are_cut_or_padded_by_their_momenta(tmp_path):
    """The 30 of 150 particles that a file of 30 would hold; both are judged side by side."""
    long = write_jetnet(tmp_path / "long.hdf5", particles=150)
    x, mask = some_jets(300, 150)
    cut = Jets(particles=30, condition=("num_particles",)).open(long).read(0, 300)
    assert (cut.x.numpy() == x[:, :30]).all()
    assert (cut.mask.numpy() == mask[:, :30]).all()
    assert cut.condition[:, 0].tolist() == mask[:, :30].sum(1).tolist()
    short = write_jetnet(tmp_path / "short.hdf5", particles=30)
    padded = Jets(particles=40).open(short).read(0, 300)
    assert padded.x.shape == (300, 40, 3)
    assert not padded.mask[:, 30:].any()
    changes = {"validation.metrics": [{"kind": "classifier", "level": "low", "model": "boosted"}]}
    card = physgen.pipeline.validate_files(long, short, Criteria(overrides=changes))
    assert card.rows[0].value > 0.7


def test_what_is_written_is_read_again(tmp_path):
    path = write_jetnet(tmp_path / "in.hdf5")
    system = Jets(path=str(path), condition=("pt", "eta"))
    batch = system.open(path).read(0, 300)
    with system.writer(tmp_path / "out.hdf5", 300) as append:
        append(batch[:100])
        append(batch[100:])
    again = system.open(tmp_path / "out.hdf5").read(0, 300)
    assert all(
        (a == b).all()
        for a, b in zip(batch.fields().values(), again.fields().values(), strict=True)
    )
    with h5py.File(tmp_path / "out.hdf5") as file:
        mass = jet_observables.relative_mass(batch.x, batch.mask)
        assert file["jet_features"][:, 2] == pytest.approx(1000 * mass.numpy(), rel=1e-5)
        assert (file["jet_features"][:, 3] == batch.mask.sum(1).numpy()).all()


def test_two_files_are_judged_by_the_command_line(tmp_path):
    """Jets that are too wide by a tenth fail, and the mass is among what says so."""
    truth = write_jetnet(tmp_path / "truth.hdf5", n=400, seed=1)
    x, mask = some_jets(400, seed=2)
    same = np.concatenate([x, mask[..., None]], 2).astype("f4")
    wide = same * np.array([1.2, 1.2, 1, 1], "f4")
    cards = []
    for name, values in (("same", same), ("wide", wide)):
        path = write_jetnet(tmp_path / f"{name}.hdf5", n=400, particle_features=values)
        words = ["validate", str(path), "--against", str(truth), "--json"]
        words += ["--set", "validation.metrics=[{kind: histograms}]"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        cards.append(json.loads(result.stdout))
        cards[-1] = cards[-1].get(path.name, cards[-1])
    assert [card["verdict"] for card in cards] == ["pass", "fail"]
    rows = {row["name"]: row for row in cards[1]["rows"]}
    assert rows["KS relative mass"]["verdict"] == "fail"
    assert rows["KS number of particles"]["verdict"] == "pass"


def test_momenta_in_gev_are_noticed(tmp_path):
    """They are relative to the jet's: of files that are wrong alike, no distance would say it."""
    x, mask = some_jets(300)
    x = np.concatenate([x * np.array([1, 1, 1000], "f4"), mask[..., None]], 2).astype("f4")
    path = write_jetnet(tmp_path / "gev.hdf5", particle_features=x)
    changes = {"validation.metrics": [{"kind": "means"}]}
    card = physgen.pipeline.validate_files(path, path, Criteria(overrides=changes))
    assert any("relative pT sum" in warning for warning in card.warnings)


def test_the_reference_compares_all_polynomials():
    x, mask = map(torch.from_numpy, some_jets(10))
    system = Jets()
    features = system.reference_features(Batch(x, mask=mask), "high")
    assert features.shape == (10, 36)
    assert features[:, 0].numpy() == pytest.approx(np.ones(10), abs=1e-6)  # the sum of pT
    assert features[:, 1].numpy() == pytest.approx(
        [brute_force(jet[here], "01") for jet, here in zip(x.numpy(), mask.numpy(), strict=True)]
    )


def test_jets_of_unknown_momentum_are_written_relative_to_it(tmp_path):
    path = write_jetnet(tmp_path / "in.hdf5")
    batch = Jets().open(path).read(0, 300)
    with Jets().writer(tmp_path / "out.hdf5", 300, {"recipe": "mine"}) as append:
        append(batch)
    mass = Jets().observables(batch)["relative mass"].numpy()
    with h5py.File(tmp_path / "out.hdf5") as file:
        assert (file["jet_features"][:, 0] == 1).all()
        assert file["jet_features"][:, 2] == pytest.approx(mass, rel=1e-6)
        assert "pT is not known" in file.attrs["jet_features"]
        assert file.attrs["recipe"] == "mine"


def test_weights_of_jets_are_read_again(tmp_path):
    batch = Jets().open(write_jetnet(tmp_path / "in.hdf5")).read(0, 300)
    assert batch.weight is None
    weight = torch.rand(300) - 0.1
    chain = torch.arange(300) // 100
    with Jets().writer(tmp_path / "out.hdf5", 300) as append:
        weighted = batch.replace(weight=weight, chain=chain)
        append(weighted[:100])
        append(weighted[100:])
    again = Jets().open(tmp_path / "out.hdf5").read(50, 250)
    assert torch.equal(again.weight, weight[50:250])
    assert torch.equal(again.chain, chain[50:250])
    assert torch.equal(again.x, batch.x[50:250])


def test_a_baseline_is_trained_and_writes_jets(tmp_path):
    path = write_jetnet(tmp_path / "jets.hdf5", n=600)
    run = physgen.train(
        "jets",
        {"data.path": str(path), "engine.steps": 20, "data.condition": ["pt", "eta"]},
        preset="smoke",
        runs=tmp_path / "runs",
        track=False,
        score=False,
    )
    out = Path(tmp_path / "made.h5")
    physgen.load(run.path).write(out, 50, seed=1)
    assert JetNetSource(out, ["pt"]).read(0, 50).condition.tolist() == [[1000.0]] * 50


def test_jets_without_pt_and_with_other_numbers_are_named(tmp_path):
    write_jetnet(tmp_path / "a.h5", n=60)
    assert JetNetSource(tmp_path / "a.h5").faults() == {}
    write_jetnet(tmp_path / "b.h5", n=60)
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        particles = file["particle_features"][:]
        particles[3, :, 2] = 0
        file["particle_features"][:] = particles
        file["jet_features"][7, 3] = 77
    source = JetNetSource(tmp_path / "b.h5")
    said = source.faults()
    assert "b.h5: 1 of 60 jets have particles (mask 1) whose ptrel is 0" in said[PT]
    assert "the first being row 3" in said[PT]
    assert "b.h5: 1 of 60 jets have another num_particles" in said["num_particles"]
    assert "the first being row 7" in said["num_particles"]
    assert set(said.values()) <= set(inspect(tmp_path / "b.h5")["hints"])
    rows = {row.name: row.warning for row in look_at(source, source.schema).rows("generated")}
    assert rows[f"{PT}, generated rows"] == said[PT]
    both = joined([JetNetSource(tmp_path / "a.h5"), source])
    assert both.faults() == said
