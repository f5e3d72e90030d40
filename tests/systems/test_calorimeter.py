import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import stats

from physgen.against import Against, Criteria
from physgen.batch import Batch
from physgen.errors import DomainError, FormatError, InputError, RecipeError
from physgen.systems.base import HasFeatures, HasFiles, HasUnits, Simulates, System
from physgen.systems.calorimeter import Calorimeter
from physgen.systems.geometry import Geometry, Layer, write_geometry
from physgen.systems.kernels import shower
from physgen.systems.kernels.parameters import Beam, Detector, Readout, Voxels
from physgen.systems.media import homogeneous, material, sampling
from physgen.systems.shower_observables import layer_energies
from physgen.systems.shower_reference import moments
from physgen.validation import galleries
from physgen.validation.comparison import Comparison

LEAD_ARGON = sampling(material("lead"), material("liquid-argon"), 1.5, 4.2, 0.11)
TUNGSTATE = homogeneous(material("lead-tungstate"))


def simulate(medium=LEAD_ARGON, energy=20e3, n=400, depths=None, edges=(0.0, 1e9), **changes):
    """Showers in layers of one ring, everything off that `changes` does not switch on."""
    beam = {"converts": False, "cell_mm": 0.0, "angle": 0.0, "fluctuates": False, "max_spots": 0}
    readout = {"cross_talk": 0.0, "noise_mev": 0.0, "cut_mev": 0.0}
    n_alpha = changes.pop("n_alpha", 1)
    for options in (beam, readout):
        options.update({name: changes.pop(name) for name in list(changes) if name in options})
    depths = np.linspace(0, 40, 9) if depths is None else np.array(depths, float)
    layers, size = len(depths) - 1, (len(edges) - 1) * n_alpha
    voxels = Voxels(
        depths,
        np.tile(np.array(edges), layers),
        np.arange(layers + 1) * len(edges),
        np.full(layers, n_alpha),
        np.arange(layers + 1) * size,
    )
    detector = Detector(voxels, medium, Beam(**beam), Readout(**readout))
    return shower.showers(np.full(n, float(energy)), detector, changes.pop("seed", 1))


@pytest.mark.parametrize(("a", "x"), [(0.7, 0.1), (2.5, 1.0), (2.5, 9.0), (8.0, 8.5), (3.0, 60.0)])
def test_the_incomplete_gamma_function_is_that_of_scipy(a, x):
    assert shower.gamma_cdf(a, x) == pytest.approx(stats.gamma.cdf(x, a), abs=1e-11)


@pytest.mark.parametrize("medium", [LEAD_ARGON, TUNGSTATE], ids=["sampling", "homogeneous"])
def test_the_longitudinal_profile_is_the_gamma_distribution(medium):
    medium = medium._replace(resolution=0.0)
    energy = 20.0
    log_t, _, log_a, _, _ = shower.profile_means(math.log(energy / medium.critical_gev), medium)
    alpha, peak = math.exp(log_a), math.exp(log_t)
    voxels, _ = simulate(medium, energy=1e3 * energy, n=3)
    expected = np.diff(stats.gamma.cdf(np.linspace(0, 40, 9), alpha, scale=peak / (alpha - 1)))
    assert np.allclose(voxels / (1e3 * energy), expected, atol=1e-6)


def test_lead_in_the_formulae_of_the_paper():
    # By hand from hep-ex/0001020: lead, E = 10 GeV, Ec = 2.66 (6.37 * 82 / 207.2)^1.1 MeV.
    lead = homogeneous(material("lead"))
    log_y = math.log(10 / lead.critical_gev)
    log_t, sigma_t, log_a, sigma_a, rho = shower.profile_means(log_y, lead)
    assert 1e3 * lead.critical_gev == pytest.approx(2.66 * 2.52099**1.1, abs=1e-3)
    assert math.exp(log_t) == pytest.approx(log_y - 0.812, abs=1e-3)
    assert math.exp(log_a) == pytest.approx(0.81 + (0.458 + 2.26 / 82) * log_y, abs=1e-3)
    assert (sigma_t, sigma_a, rho) == pytest.approx((0.13003, 0.17781, 0.53906), abs=1e-4)


def test_sampling_media_differ_as_in_the_paper():
    log_y, inverse, loss = 7.0, LEAD_ARGON.inverse_frequency, 1 - LEAD_ARGON.ehat
    log_t, sigma_t, log_a, _, rho = shower.profile_means(log_y, LEAD_ARGON)
    assert math.exp(log_t) == pytest.approx(log_y - 0.812 - 0.55 * inverse - 0.69 * loss)
    assert math.exp(log_a) == pytest.approx(
        0.81 + (0.458 + 2.26 / LEAD_ARGON.z) * log_y - 0.476 * inverse
    )
    assert (sigma_t, rho) == pytest.approx((1 / (-2.5 + 1.25 * log_y), 0.784 - 0.023 * log_y))
    assert loss == pytest.approx(1 - 1 / (1 + 0.007 * (82 - 18)))


def test_the_radial_profile_is_its_analytic_integral():
    edges = (0.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 1e9)
    depths = np.arange(1.5, 5, 0.5)
    voxels, _ = simulate(edges=edges, depths=depths, n=4000, energy=50e3, max_spots=4000)
    measured = voxels.reshape(-1, 6, 8).mean(0) / voxels.reshape(-1, 6, 8).sum(2).mean(0)[:, None]
    log_t = shower.profile_means(math.log(50 / LEAD_ARGON.critical_gev), LEAD_ARGON)[0]
    for i, slab in enumerate(measured):
        tau = (depths[i] + 0.25) / math.exp(log_t)
        core, tail, p = shower.radial_parameters(tau, 50.0, LEAD_ARGON)
        r2 = (np.array(edges) / LEAD_ARGON.moliere_mm) ** 2
        cdf = p * r2 / (r2 + core**2) + (1 - p) * r2 / (r2 + tail**2)
        assert np.allclose(slab, np.diff(cdf), atol=0.01)


def test_energy_is_conserved_before_the_readout():
    still = LEAD_ARGON._replace(resolution=0.0)
    voxels, _ = simulate(still, depths=[0, 150], fluctuates=True, converts=True, energy=3e3)
    assert np.allclose(voxels.sum(1), 3e3, rtol=1e-5)


def test_sampling_fluctuations_have_their_resolution():
    voxels, _ = simulate(n=4000, depths=[0, 150], energy=5e3)
    response = voxels.sum(1) / 5e3
    assert response.std() == pytest.approx(0.11 / math.sqrt(5), rel=0.05)
    assert response.mean() == pytest.approx(1, abs=0.003)


def test_the_resolution_of_a_named_medium_is_near_that_of_geant4():
    # Geant4 11.4, 135 periods of 1.5 mm lead and 4.2 mm liquid argon: 5.8%/sqrt(E/GeV).
    medium = Calorimeter().effective_medium
    assert medium.resolution == pytest.approx(0.058, rel=0.1)
    thick = Calorimeter(absorber_mm=3.0, active_mm=8.4).effective_medium
    assert thick.resolution == pytest.approx(math.sqrt(2) * medium.resolution)
    assert Calorimeter(resolution=0.2).effective_medium.resolution == 0.2


def test_a_constant_term_adds_in_quadrature():
    medium = LEAD_ARGON._replace(constant=0.02)
    for energy in (5.0, 500.0):
        voxels, _ = simulate(medium, n=4000, depths=[0, 150], energy=1e3 * energy)
        response = voxels.sum(1) / (1e3 * energy)
        assert response.std() == pytest.approx(math.hypot(0.11 / math.sqrt(energy), 0.02), rel=0.05)
        assert response.mean() == pytest.approx(1, abs=0.003)
    assert Calorimeter(constant_term=0.02).effective_medium.constant == 0.02


def test_more_energy_hits_more_voxels():
    system = Calorimeter()
    energies = (16e3, 64e3, 256e3)
    hit = [(system.simulate(200, 1, torch.full((200, 1), e)).x > 0).sum() / 200 for e in energies]
    assert hit[0] < hit[1] < hit[2]


def test_pions_are_not_simulated_as_photons(tmp_path):
    layers = (Layer(0, (0.0, 10.0), 1), Layer(1, (0.0, 10.0), 1))
    for pid, name in ((211, "pion"), (-11, "positron")):
        write_geometry(tmp_path / f"{name}.xml", Geometry(layers, pid=pid, name=name))
    with pytest.raises(RecipeError, match=r"pion.xml is for pion \(211\).*data.path"):
        Calorimeter(binning=tmp_path / "pion.xml", depths=()).simulate(2, 1)
    assert len(Calorimeter(binning=tmp_path / "positron.xml", depths=()).simulate(2, 1)) == 2


def test_photons_convert_at_an_exponential_depth():
    _, starts = simulate(n=3000, converts=True)
    assert stats.kstest(starts, "expon", args=(0, 9 / 7)).pvalue > 1e-3
    assert (simulate(n=5)[1] == 0).all()


def test_shapes_that_are_no_gamma_distribution_are_drawn_again():
    beam = shower.Beam(True, 0.0, 0.0, True, 100)
    draws = [shower.draw_profile(0.256, LEAD_ARGON, beam) for _ in range(2000)]
    assert min(alpha for _, alpha, _ in draws) > 1
    assert np.isfinite(draws).all()


def test_the_cut_noise_and_cross_talk_do_what_they_say():
    edges = (0.0, 5.0, 20.0, 100.0)
    plain, _ = simulate(edges=edges, n_alpha=8, n=50)
    cut, _ = simulate(edges=edges, n_alpha=8, n=50, cut_mev=10.0)
    assert np.array_equal(cut, np.where(plain >= 10, plain, 0))
    shared, _ = simulate(edges=edges, n_alpha=8, n=50, cross_talk=0.2)
    assert np.allclose(shared.sum(1), plain.sum(1), rtol=1e-5)
    assert not np.allclose(shared, plain)
    noisy, _ = simulate(edges=edges, n_alpha=8, n=50, noise_mev=5.0, depths=[60, 80])
    assert noisy.max() < 40
    assert (noisy > 0).mean() == pytest.approx(0.5, abs=0.05)


def test_a_tilted_axis_moves_the_centre():
    edges = tuple(np.linspace(0, 100, 41))
    straight, _ = simulate(edges=edges, n_alpha=16, depths=[10, 12], n=300)
    tilted, _ = simulate(edges=edges, n_alpha=16, depths=[10, 12], n=300, angle=0.3)
    radius = np.tile(np.arange(40), 16)
    assert (tilted @ radius / tilted.sum(1)).mean() > 1.5 * (
        straight @ radius / straight.sum(1)
    ).mean()


def test_it_keeps_the_contracts():
    system = Calorimeter()
    for contract in (System, Simulates, HasFeatures, HasFiles, HasUnits):
        assert isinstance(system, contract)
    assert system.schema.shape == (368,)
    assert system.schema.condition[0].name == "incident_energies"


def test_the_seed_alone_decides():
    system = Calorimeter()
    a, b, c = system.simulate(1500, 3), system.simulate(1500, 3), system.simulate(1500, 4)
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.condition, b.condition)
    assert not torch.equal(a.x, c.x)
    assert a.chain is None
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(system.simulate(1500, 3).x, a.x)
    finally:
        torch.set_num_threads(threads)


def test_energies_are_those_asked_for():
    system = Calorimeter(energies_mev=(1000.0, 2000.0, 4000.0), spectrum="discrete")
    assert set(system.simulate(100, 1).condition.flatten().tolist()) == {1000.0, 2000.0, 4000.0}
    wanted = torch.full((20, 1), 5e4)
    batch = system.simulate(20, 1, wanted)
    assert torch.equal(batch.condition, wanted)
    assert batch.x.sum(1).mean() == pytest.approx(5e4, rel=0.05)
    with pytest.raises(DomainError, match=r"\(20, 1\) positive"):
        system.simulate(20, 1, -wanted)


def test_observables_by_hand(tmp_path):
    write_geometry(
        tmp_path / "b.xml", Geometry((Layer(0, (0.0, 2.0, 6.0), 4), Layer(5, (0.0, 10.0), 1)))
    )
    system = Calorimeter(binning=tmp_path / "b.xml", depths=())
    x = torch.zeros(2, 9)
    x[0, 1], x[0, 3] = 3.0, 1.0  # both at r = 4 mm, at -135 and -45 degrees
    x[0, 8] = 4.0
    values = system.observables(Batch(x=x, condition=torch.full((2, 1), 16.0)))
    r = 4 / math.sqrt(2)
    expected = {
        "E_tot/E_inc": 0.5,
        "E_layer_0": 4,
        "E_layer_5": 4,
        "fraction_0": 0.5,
        "occupied_0": 0.25,
        "centre_eta_0": -r / 2,
        "width_eta_0": r * math.sqrt(0.75),
        "centre_phi_0": -r,
        "width_phi_0": 0,
        "centre_r_5": 5,
    }
    for name, value in expected.items():
        assert values[name][0].item() == pytest.approx(value, abs=1e-6), name
    assert "centre_eta_5" not in values
    assert "centre_r_0" not in values
    assert values["centre_eta_0"][1].isnan()
    assert values["spectrum"].sum(1).tolist() == pytest.approx([3 / 9, 0])
    assert system.units["centre_r_5"] == "mm"
    assert system.units["E_layer_5"] == "MeV"
    for level, size in (("low", 10), ("high", 2 + 2 + 2 + 4 + 2)):
        features = system.features(Batch(x=x, condition=torch.full((2, 1), 16.0)), level)
        assert features.shape == (2, size)
        assert features.isfinite().all()


def test_widths_of_single_voxels_do_not_tell_how_many_digits_energies_have():
    """A scan found "width_r_12 at or below 0" in one of two samples: 1e-5 mm, by rounding."""
    system = Calorimeter(binning="calo-368.xml")
    generator = np.random.default_rng(1)
    geometry, n = system.geometry, 500
    x = np.zeros((n, geometry.n_voxels))
    for begin, end in zip(geometry.offsets[:-1], geometry.offsets[1:], strict=True):
        x[np.arange(n), generator.integers(begin, end, n)] = generator.uniform(1, 1000, n)
    energies = torch.from_numpy(generator.uniform(1000, 4000, (n, 1)))
    for digits in (np.float32, np.float64):
        rounded = torch.from_numpy(x.astype(digits).astype(float))
        values = system.observables(Batch(rounded, condition=energies))
        widths = [value for name, value in values.items() if name.startswith("width")]
        layers = layer_energies(rounded, geometry)
        widths += [moments(rounded, layers, geometry, name)[1] for name in ("eta", "phi", "r")]
        assert all((width == 0).all() for width in widths), digits


def test_files_round_trip_and_must_fit(tmp_path):
    system = Calorimeter()
    batch = system.simulate(30, 1)
    with system.writer(tmp_path / "a.hdf5", 30) as append:
        append(batch)
    assert torch.equal(system.open(tmp_path / "a.hdf5").read(0, 30).x, batch.x)
    other = Calorimeter(binning=Path("calo-6480.xml"), particle="electron", depths=())
    with pytest.raises(FormatError, match="368 voxels, but the binning has 6480"):
        other.open(tmp_path / "a.hdf5")
    assert other.simulate(3, 1).x.shape == (3, 6480)


def test_the_only_particle_of_a_binning_is_taken_unless_another_is_asked_for():
    electrons = Path("calo-6480.xml")
    assert Calorimeter(binning=electrons).geometry.pid == 11
    with pytest.raises(InputError, match=r"electron \(11\); set system\.particle=electron"):
        _ = Calorimeter(binning=electrons, particle="photon").geometry


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (0.0, 2.0, 1.0)}, "depths must ascend"),
        ({"energies_mev": (10.0,)}, "log-uniform spectrum needs"),
        ({"energies_mev": (0.0, 10.0)}, "must be positive"),
        ({"cut_mev": -1.0}, "cut_mev must be 0 or more"),
        ({"angle_deg": 90.0}, "angle_deg below 60"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        Calorimeter(**options)


def test_names_are_suggested():
    with pytest.raises(RecipeError, match=r"did you mean 'lead'"):
        Calorimeter(absorber="leed").simulate(1, 1)
    with pytest.raises(InputError, match=r"did you mean 'calo-368.xml'"):
        Calorimeter(binning=Path("calo-36.xml")).schema  # noqa: B018
    with pytest.raises(RecipeError, match=r"5 layers need 6 depths.*set system\.depths=\[\]"):
        Calorimeter(depths=(0.0, 1.0)).simulate(1, 1)
    with pytest.raises(DomainError, match="incident energies"):
        Calorimeter().observables(Batch(x=torch.zeros(1, 368)))


def test_cells_whose_places_are_not_known_have_layers_and_no_centres(tmp_path):
    system = Calorimeter(binning="layers:3x4", energies_mev=(1.0, 1e5))
    x = torch.tensor([[1.0, 0, 3, 0, 0, 0, 0, 0, 2, 2, 2, 2]])
    values = system.observables(Batch(x, condition=torch.tensor([[24.0]])))
    assert values["E_tot/E_inc"].item() == 0.5
    layers = [(values[f"E_layer_{i}"].item(), values[f"occupied_{i}"].item()) for i in range(3)]
    assert layers == [(4, 0.5), (0, 0), (8, 1)]
    assert not [name for name in values if name.startswith(("centre", "width"))]
    assert system.digest() != Calorimeter(binning="layers:4x3").digest()
    with pytest.raises(RecipeError, match="cells without places"):
        system.simulate(3, seed=1)
    batch = Batch(x, condition=torch.tensor([[24.0]]))
    assert not list(galleries.voxels(Comparison(system, batch, batch)))
    placed = Calorimeter().simulate(5, seed=1)
    assert len(list(galleries.voxels(Comparison(Calorimeter(), placed, placed)))) == 1


def test_hgcal_files_are_judged_by_what_they_say_of_their_cells(tmp_path):
    generator = np.random.default_rng(0)

    def write(name, n, scale):
        energy = generator.uniform(10, 100, n)
        shares = generator.dirichlet(np.full(20, 0.2), n) * energy[:, None]
        showers = scale * shares * generator.normal(1, 0.1, (n, 1))
        with h5py.File(tmp_path / name, "w") as file:
            file["showers"] = np.where(showers > 0.01, showers, 0).reshape(n, 4, 5)
            file["gen_info"] = np.stack([energy, np.full(n, 2.0), np.zeros(n)], 1)
        return tmp_path / name

    truth, good, bad = write("t.h5", 1500, 1), write("g.h5", 600, 1), write("b.h5", 600, 1.05)
    only = {"validation.metrics": [{"kind": "means"}]}
    against = Against(truth, Criteria(overrides=only))
    assert against.score(good)[1].verdict == "pass"
    card = against.score(bad)[1]
    assert "E_tot/E_inc" in [row.name for row in card.rows if row.verdict == "fail"]


def test_of_wide_showers_fewer_are_held_unless_a_number_is_stated(tmp_path, monkeypatch):
    """300 showers of 20 numbers in each sample, where 2000 numbers are held at most."""
    monkeypatch.setattr("physgen.against.HELD", 2000)
    monkeypatch.setattr("physgen.against.FEWEST_HELD", 50)
    path = tmp_path / "t.h5"
    with h5py.File(path, "w") as file:
        file["showers"] = np.random.default_rng(1).exponential(0.1, (600, 4, 5))
        file["gen_info"] = np.tile([2.0, 2.0, 0.0], (600, 1))
    only = {"validation.metrics": [{"kind": "means"}]}
    for stated, used in (({}, 100), ({"sampling.n": 250}, 250)):
        against = Against(path, Criteria(overrides=only | stated))
        assert against.count(path) == used
        comparison, card = against.score(path)
        assert card.provenance["generated"]["used"] == used
        assert {role: measured.n for role, measured in comparison.whole().items()} == {
            "truth": min(600, 2 * used),
            "generated": min(600, 2 * used),
        }


def test_layers_of_any_shipped_binning_have_depths_by_default():
    five = Calorimeter()
    assert five.detector.voxels.depths.tolist() == [0, 2, 7, 20, 25, 40]
    many = Calorimeter(binning="calo-6480.xml")
    assert many.detector.voxels.depths == pytest.approx(np.linspace(0, 25, 46))
    assert len(many.simulate(3, 1)) == 3
    equal = Calorimeter(depths=())
    assert equal.detector.voxels.depths.tolist() == [0, 5, 10, 15, 20, 25]
    with pytest.raises(RecipeError, match="45 layers need 46 depths, not 6"):
        Calorimeter(binning="calo-6480.xml", depths=(0, 2, 7, 20, 25, 40)).simulate(2, 1)
