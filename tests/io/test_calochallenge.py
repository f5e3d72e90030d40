import h5py
import numpy as np
import pytest
import torch

from physgen.batch import Batch
from physgen.errors import FormatError, InputError
from physgen.io.calochallenge import CaloChallengeSource, calochallenge_writer
from physgen.io.inspect import inspect


def showers(n=10, n_voxels=6):
    generator = torch.Generator().manual_seed(n)
    x = torch.rand(n, n_voxels, generator=generator)
    return Batch(x=x * (x > 0.5), condition=1000 * (1 + torch.rand(n, 1, generator=generator)))


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


ENERGIES, VOXELS = np.ones((4, 1)), np.ones((4, 6))


def test_what_is_written_reads_back_bit_by_bit(tmp_path):
    path, parts = tmp_path / "a.hdf5", [showers(5), showers(7)]
    with calochallenge_writer(path) as append:
        for part in parts:
            append(part)
    source = CaloChallengeSource(path, 6)
    whole = Batch.concatenate(parts)
    read = source.read(3, 9)
    assert len(source) == 12
    assert torch.equal(read.x, whole.x[3:9])
    assert torch.equal(read.condition, whole.condition[3:9])
    assert source.schema.condition[0].unit == source.schema.variables[0].unit == "MeV"
    with h5py.File(path) as file:
        assert file["showers"].compression == "gzip"
        assert file["showers"].chunks[1] == 6
        assert file["incident_energies"].shape == (12, 1)


def test_the_digest_is_of_the_content_not_of_the_file(tmp_path):
    batch = showers()
    with calochallenge_writer(tmp_path / "a.hdf5") as append:
        append(batch)
    write(tmp_path / "b.hdf5", incident_energies=batch.condition, showers=batch.x)
    changed = batch.replace(x=batch.x + 1)
    write(tmp_path / "c.hdf5", incident_energies=batch.condition, showers=changed.x)
    a, b, c = (CaloChallengeSource(tmp_path / f"{name}.hdf5").digest() for name in "abc")
    assert a == b != c


def test_double_precision_and_flat_energies_are_read_too(tmp_path):
    path = write(tmp_path / "a.hdf5", incident_energies=np.full(4, 7.0), showers=VOXELS)
    batch = CaloChallengeSource(path).read(0, 4)
    assert batch.x.dtype == torch.float32
    assert batch.condition.shape == (4, 1)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"incident_energies": ENERGIES, "shower": VOXELS}, "'showers' does not exist; did you"),
        ({"showers": VOXELS}, "no dataset 'incident_energies' of .* copy them from the file"),
        (
            {"incident_energies": ENERGIES[:3], "showers": VOXELS},
            "'showers' has 4, 'incident_energies' has 3 rows",
        ),
        ({"incident_energies": ENERGIES, "showers": VOXELS[:, :5]}, "5 voxels.*binning has 6"),
        ({"incident_energies": ENERGIES[:0], "showers": VOXELS[:0]}, "holds no showers"),
        ({"incident_energies": ENERGIES, "showers": VOXELS[None]}, "unequal length"),
        ({"incident_energies": ENERGIES, "showers": np.full((4, 6), b"x")}, "not numbers"),
    ],
)
def test_faulty_structure_is_refused_on_opening(tmp_path, datasets, message):
    with pytest.raises(FormatError, match=message):
        CaloChallengeSource(write(tmp_path / "a.hdf5", **datasets), 6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("showers", np.nan, "'showers': row 2 holds nan"),
        ("showers", -1.0, "'showers' row 2, column 0 is -1"),
        ("showers", np.inf, "'showers': row 2 holds inf"),
        ("incident_energies", 0.0, "'incident_energies' row 2, column 0 is 0"),
        ("incident_energies", np.nan, "'incident_energies': row 2 holds nan"),
    ],
)
def test_faulty_values_are_refused_with_their_row(tmp_path, name, value, message):
    arrays = {"incident_energies": ENERGIES.copy(), "showers": VOXELS.copy()}
    arrays[name][2, 0] = value
    source = CaloChallengeSource(write(tmp_path / "a.hdf5", **arrays))
    assert len(source.read(0, 2)) == 2
    with pytest.raises(FormatError, match=message):
        source.read(1, 4)


def test_truncated_and_foreign_files_are_refused(tmp_path):
    path = write(tmp_path / "a.hdf5", incident_energies=ENERGIES, showers=VOXELS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match="cut short"):
        CaloChallengeSource(path)
    path.write_text("incident_energies showers")
    with pytest.raises(
        FormatError, match=r"HDF5.*though it is named \.hdf5: cut short, or damaged"
    ):
        CaloChallengeSource(path)
    with pytest.raises(FormatError, match="no such file"):
        CaloChallengeSource(tmp_path / "b.hdf5")


def test_data_in_other_files_are_refused(tmp_path):
    write(tmp_path / "other.hdf5", showers=VOXELS)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["incident_energies"] = ENERGIES
        file["showers"] = h5py.ExternalLink("other.hdf5", "showers")
    with pytest.raises(FormatError, match=r"is a link \(ExternalLink\)"):
        CaloChallengeSource(tmp_path / "a.hdf5")
    layout = h5py.VirtualLayout((4, 6), dtype=float)
    layout[:] = h5py.VirtualSource(tmp_path / "other.hdf5", "showers", (4, 6))
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["incident_energies"] = ENERGIES
        file.create_virtual_dataset("showers", layout)
    with pytest.raises(FormatError, match="keeps its data in other files"):
        CaloChallengeSource(tmp_path / "b.hdf5")


def test_unknown_filters_are_named(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["incident_energies"] = ENERGIES
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, 6))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple((4, 6))
        h5py.h5d.create(file.id, b"showers", h5py.h5t.NATIVE_FLOAT, space, plist)
    with pytest.raises(FormatError, match="filter 32015"):
        CaloChallengeSource(path)


def test_showers_are_written_with_their_energies_only(tmp_path):
    path = tmp_path / "a.hdf5"
    with pytest.raises(InputError, match="incident_energies"), calochallenge_writer(path) as append:
        append(Batch(x=torch.ones(3, 6)))
    assert not path.exists()


def test_energies_are_read_in_the_unit_that_the_file_says(tmp_path):
    path = write(tmp_path / "a.hdf5", incident_energies=ENERGIES, showers=VOXELS)
    with h5py.File(path, "a") as file:
        file["incident_energies"].attrs["unit"] = "GeV"
        file["showers"].attrs["units"] = np.bytes_(b"keV")
    batch = CaloChallengeSource(path).read(0, 4)
    assert torch.allclose(batch.condition, 1000 * torch.tensor(ENERGIES).float().reshape(4, 1))
    assert torch.allclose(batch.x, torch.tensor(VOXELS).float() / 1000)
    with h5py.File(path, "a") as file:
        file["showers"].attrs["units"] = "Mev"
    with pytest.raises(FormatError, match=r"'showers' is in 'Mev'.*did you mean 'MeV'"):
        CaloChallengeSource(path)


def test_packed_showers_are_unpacked(tmp_path):
    path = write(tmp_path / "a.hdf5", incident_energies=ENERGIES, showers=VOXELS.astype("u2"))
    with h5py.File(path, "a") as file:
        file["showers"].attrs["scale_factor"] = 0.25
    x = CaloChallengeSource(path).read(0, 4).x
    assert torch.equal(x, torch.from_numpy(VOXELS.astype("u2") * 0.25).float())


def test_showers_with_the_axes_of_the_binning_are_reshaped(tmp_path):
    showers = np.arange(4 * 6, dtype="f4").reshape(4, 1, 3, 2)
    path = write(tmp_path / "a.hdf5", incident_energies=ENERGIES, showers=showers)
    assert torch.equal(
        CaloChallengeSource(path, 6, (1, 3, 2)).read(0, 4).x,
        torch.from_numpy(showers.reshape(4, 6)),
    )
    with pytest.raises(FormatError, match=r"not known which axis .* or \(N, 1, 2, 3\), layer by l"):
        CaloChallengeSource(path, 6, (1, 2, 3))
    with pytest.raises(FormatError, match="not known which axis is which"):
        CaloChallengeSource(path, 6)


def test_what_showers_carry_is_written_and_read(tmp_path):
    batch = Batch(torch.ones(3, 6), torch.ones(3, 1), weight=torch.arange(3.0))
    with calochallenge_writer(tmp_path / "a.hdf5", facts={"run": "ab"}) as append:
        append(batch.replace(log_weight=-torch.arange(3.0)))
    read = CaloChallengeSource(tmp_path / "a.hdf5").read(0, 3)
    assert read.weight.tolist() == [0, 1, 2]
    assert read.log_weight.tolist() == [0, -1, -2]
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert (file["showers"].attrs["unit"], file.attrs["run"]) == ("MeV", "ab")


def test_energies_may_have_a_near_name_but_not_two(tmp_path):
    path = write(tmp_path / "a.hdf5", energies=7 * ENERGIES, showers=VOXELS)
    source = CaloChallengeSource(path)
    assert source.read(0, 4).condition.tolist() == [[7]] * 4
    assert source.schema.condition[0].name == "incident_energies"
    both = write(tmp_path / "b.hdf5", incident_energies=ENERGIES, energy=VOXELS, showers=VOXELS)
    assert CaloChallengeSource(both).energies == "incident_energies"
    two = write(tmp_path / "c.hdf5", energies=ENERGIES, incident_energy=ENERGIES, showers=VOXELS)
    with pytest.raises(FormatError, match=r"'incident_energy' and 'energies' may each be.*move\("):
        CaloChallengeSource(two)


def test_inspect_compares_energies_and_counts_empty_showers(tmp_path):
    voxels = VOXELS * (np.arange(4) != 1)[:, None]
    path = write(tmp_path / "a.hdf5", incident_energies=10 * ENERGIES, showers=voxels)
    report = inspect(path)
    assert report["problem"] is None
    assert report["showers"]["median of E_tot/E_inc"] == 0.6
    assert "1 of 4 showers have no energy at all, the first in row 1" in report["hints"]
    mixed = write(tmp_path / "b.hdf5", incident_energies=ENERGIES / 100, showers=VOXELS)
    assert "deposit 600 times the energy of their particle" in inspect(mixed)["problem"]
    hollow = write(tmp_path / "c.hdf5", incident_energies=ENERGIES, showers=0 * VOXELS)
    assert "4 of 4 showers have no energy at all" in inspect(hollow)["problem"]
