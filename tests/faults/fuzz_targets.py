"""Small good files of every kind that is mutated, and what reads them."""

import gzip
import json
import shutil
import struct
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from physgen import card as cards
from physgen import recipe
from physgen.batch import Batch, Schema, Variable
from physgen.comparing import read_plan
from physgen.components import system_of
from physgen.engine import journal
from physgen.io import manifest
from physgen.io.arrays import names_in, stated
from physgen.io.branches import BranchSource
from physgen.io.calochallenge import CaloChallengeSource
from physgen.io.hdf5_source import HDF5Source
from physgen.io.idx import read_idx
from physgen.io.inspect import inspect
from physgen.io.jetnet import JetNetSource
from physgen.io.lattice.content import read as read_configuration
from physgen.io.lattice.milc import checksums
from physgen.io.lattice.source import ConfigurationSource
from physgen.io.lattice.writing import write_configuration
from physgen.io.layouts import open_points, open_voxels
from physgen.io.npz import NpzSource
from physgen.io.showerdata import showerdata_writer
from physgen.io.spins import SpinSource
from physgen.io.tensors import read_tensors, write_tensors
from physgen.overrides import parse_overrides
from physgen.run import Run
from physgen.systems.ensemble import Ensemble
from physgen.systems.event_files import Named, columns_to_choose, open_columns
from physgen.systems.geometry import Geometry, Layer, read_geometry, write_geometry
from physgen.systems.image_files import image_card, read_images
from physgen.validation.scorecard import Row, Scorecard

GOOD = Path(__file__).with_name("good")

# Good files.


def hdf5(path):
    with h5py.File(path, "w") as file:
        schema = Schema((3,), (Variable("a", "GeV"), Variable("b"), Variable("c")))
        file.attrs["physgen_schema"] = json.dumps(schema.to_dict())
        x = np.arange(60.0).reshape(20, 3)
        file.create_dataset("x", data=x, chunks=(8, 3), compression="gzip", fletcher32=True)
        file["weight"] = np.ones(20)
        file["group/chain"] = np.repeat(np.arange(4), 5)
        file["x"].attrs["unit"] = "GeV"


def jets(path):
    x = np.abs(np.random.default_rng(1).normal(0, 0.1, (12, 5, 4))).astype("f4")
    x[..., 3] = np.arange(5) < np.arange(12)[:, None] % 6
    with h5py.File(path, "w") as file:
        file["particle_features"] = x * x[..., 3:]
        file["jet_features"] = np.ones((12, 4), "f4")


def table():
    """Return flat columns, lists, and lists of structures."""
    lists = [[float(i)] * (i % 4) for i in range(20)]
    pairs = [[{"a": i, "b": True}] * (i % 3) for i in range(20)]
    return pa.table({"x": np.arange(20.0), "n": np.arange(20), "jets": lists, "pairs": pairs})


def parquet(path):
    pq.write_table(table(), path, row_group_size=8, write_page_checksum=False)


def arrow(path):
    with pa.ipc.new_file(path, table().schema) as file:
        file.write_table(table(), max_chunksize=8)


def spins(path):
    with h5py.File(path, "w") as file:
        file["samples"] = np.random.default_rng(1).integers(0, 2, (12, 16)).astype("u1")
        file["variable_type"] = "bernoulli"
        file["chain"] = np.repeat(np.arange(3), 4)
        file.attrs["shape"] = (4, 4)


def showers(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("incident_energies", data=np.full((9, 1), 1000.0), compression="gzip")
        file.create_dataset("showers", data=np.ones((9, 6)), compression="gzip")


def points(path):
    """Lists of unequal length, as the library `showerdata` keeps them."""
    batch = Batch(
        torch.rand(9, 4, 4),
        condition=torch.ones(9, 4),
        mask=torch.arange(4) < torch.arange(9)[:, None] % 5,
    )
    path.unlink(missing_ok=True)
    with showerdata_writer(path, 4) as append:
        append(batch)


def records(path):
    """A table of showers, as LEMURS keeps them."""
    fields = [("showers", "f4", (3, 4, 2))]
    fields += [(f"incident_{name}", "f4") for name in ("energy", "theta", "phi")]
    with h5py.File(path, "w") as file:
        file["events"] = np.ones(9, fields)


def npz(path):
    with path.open("wb") as file:
        np.savez_compressed(file, x=np.arange(60.0).reshape(20, 3), weight=np.ones(20))


UNIT = np.broadcast_to(np.eye(3), (2, 2, 2, 2, 4, 3, 3)).astype(complex)


def nersc(path):
    write_configuration(path, UNIT[:1, :1, :1], "nersc", overwrite=True)


def ildg(path):
    write_configuration(path, UNIT[:1, :1, :1], "ildg", bits=32, overwrite=True)


def milc(path):
    links = UNIT[:1, :1, :1].astype("c8")
    sums = checksums(links.reshape(-1).view("u4"))
    path.write_bytes(
        struct.pack("<5i64siII", 20103, 2, 1, 1, 1, b"now", 0, *sums.values()) + links.tobytes()
    )


def openqcd(path):
    path.write_bytes(struct.pack("<4id", 2, 2, 2, 2, 3.0) + UNIT.tobytes())


def link_array(path):
    with path.open("wb") as file:
        np.save(file, UNIT[:, :1, :1])


def pixels(path):
    path.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 5, 4, 4) + bytes(range(80)))


def packed_pixels(path):
    pixels(path)
    path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def root(path):
    """Columns x, n and jets; not written anew, since uproot puts time and place into a file."""
    shutil.copy(GOOD / "tree.root", path)


def rntuple(path):
    shutil.copy(GOOD / "rntuple.root", path)


def geometry(path):
    write_geometry(path, Geometry((Layer(0, (0.0, 1.0, 2.0), 3), Layer(2, (0.0, 5.0), 1))))


def scorecard(path):
    row = Row(name="E", metric="means", value=1.0, error=0.1, curves={"a": ((1.0,), (2.0,))})
    path.write_text(Scorecard(rows=(row,), provenance={"run": "x"}).to_json())


def lines(path):
    path.write_text(
        "".join(f'{{"step":{i},"time":1.5,"metrics":{{"loss":{i}}}}}\n' for i in (1, 2))
    )


def tensors(path):
    write_tensors(path, {"a": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.float64)})


def settings(path):
    text = recipe.read("phi4-flow").to_yaml()
    path.write_text(text + "presets: {small: {engine.steps: 3}}\n")


def plan(path):
    path.write_text("title: t\nrecipes: [digits-vae]\noverrides: {a: 1}\ncolumns: {FPD: Frechet}\n")


def words(path):
    path.write_text("engine.steps=3\nsystem.shape=[4,4]\ndata.n=20\nmethod.k=2\nname=a\n")


def dataset_card(path):
    column = {"name": "b", "unit": "GeV", "domain": "real", "dtype": "float32", "low": 0}
    column |= {"high": 1e4, "present": "a >= 3"}
    said = {"path": "good.h5", "tree": None, "fields": ["a", column], "weight": "w", "group": ["n"]}
    path.write_text(yaml.safe_dump({"name": "good", "read": said}))


def image_card_file(path):
    said = {"path": "good.npz", "array": "x", "labels": "labels", "shape": [4, 4], "classes": 5}
    path.write_text(yaml.safe_dump({"read": said | {"black": 0, "white": 255.0}}))


def card(path):
    """The card of a run whose other files are made anew around it."""
    described = {
        "schema": Schema((4, 4), (Variable("spin", domain="spin", dtype="int8"),)).to_dict(),
        "dtype": "float32",
        "condition_domain": {},
        "weights_sha256": "0" * 64,
        "training_seconds": 1.0,
    }
    path.write_text(cards.to_text(described))


# What reads them.


def configurations(path):
    found = read_configuration(path, force=True)
    read(ConfigurationSource([path], force=True))
    assert found.checks
    read_configuration(path)


def read(source):
    source.read(0, min(len(source), 1000))
    source.keys()
    source.digest()


def events_of(path):
    """Read what a data set card names; the good file lies beside it."""
    with h5py.File(path.with_name("good.h5"), "w") as file:
        for name in ("a", "b", "w", "n"):
            file[name] = np.arange(12.0)
    system = system_of(recipe.read("events-flow", {"data.path": str(path)}))
    source = system.open(path)
    read(source)
    system.observables(source.read(0, 10))
    system.features(source.read(0, 10), "high")


def images_of(path):
    pixels(path.with_name("good"))
    path.with_name("labels").write_bytes(b"\0\0\x08\x01" + struct.pack(">I5B", 5, *range(5)))
    np.savez(path.with_name("good.npz"), x=np.arange(80, dtype="u1").reshape(5, 4, 4))
    changes = {"data.path": str(path), "system.labels": True}
    system = system_of(recipe.read("digits-vae", changes))
    source = system.open(path)
    read(source)
    system.observables(source.read(0, 5))


def load_with(path):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        resolved = recipe.read("ising-rbm", {"system.shape": [4, 4]})
        (run / "recipe.yaml").write_text(resolved.to_yaml())
        (run / "surrogate").mkdir()
        shutil.copy(path, run / "surrogate" / "card.json")
        tensors(run / "surrogate" / "weights.safetensors")
        manifest.write(run, manifest.sums_of(run, ("recipe.yaml", "surrogate")))
        Run(run).load()


def change(path):
    words = path.read_bytes().decode("utf-8", "replace").splitlines()
    recipe.read("ising-rbm", parse_overrides(words))


def columns(path):
    columns_to_choose(path, None)
    read(
        open_columns([path], Named(["x"], weight="weight"))
        if path.suffix != ".root"
        else open_columns([path], Named(["x"], group=("n",)))
    )


def facts(path):
    names_in(path)
    stated(path, ("unit", "weight", "n"), "x")


TREE = (
    lambda p: read(BranchSource(p, "events", ["x", "n"])),
    lambda p: read(BranchSource(p, None, ["jets"])),
    inspect,
    columns,
)
TABLE = (
    lambda p: read(BranchSource(p, None, ["x", "n"])),
    lambda p: read(BranchSource(p, None, ["jets"])),
    lambda p: read(BranchSource(p, None, ["pairs.a", "pairs.b"], group=["n"])),
    inspect,
)
TARGETS = {
    "hdf5": (hdf5, ".h5", (lambda p: read(HDF5Source(p)), inspect, columns, facts)),
    "spins": (spins, ".h5", (lambda p: read(SpinSource(p)), inspect)),
    "showers": (showers, ".hdf5", (lambda p: read(CaloChallengeSource(p)), inspect)),
    "jetnet": (jets, ".h5", (lambda p: read(JetNetSource(p, ["pt"])), inspect)),
    "parquet": (parquet, ".parquet", TABLE),
    "arrow": (arrow, ".arrow", TABLE),
    "points": (points, ".h5", (lambda p: read(open_points(p)), inspect)),
    "records": (records, ".h5", (lambda p: read(open_voxels(p)), inspect)),
    "ensemble": (spins, ".h5", (lambda p: list(Ensemble(path=str(p)).parts()),)),
    "npz": (npz, ".npz", (lambda p: read(NpzSource(p)), inspect, columns, facts)),
    "nersc": (nersc, "", (configurations, inspect)),
    "ildg": (ildg, ".ildg", (configurations, inspect)),
    "milc": (milc, ".milc", (configurations, inspect)),
    "openqcd": (openqcd, ".cfg", (configurations, inspect)),
    "links": (link_array, ".npy", (configurations, inspect)),
    "idx": (pixels, "", (read_idx, lambda p: read_images(image_card(str(p))), inspect)),
    "idx.gz": (packed_pixels, ".gz", (read_idx, inspect)),
    "root": (root, ".root", TREE),
    "rntuple": (rntuple, ".root", TREE),
    "geometry": (geometry, ".xml", (read_geometry,)),
    "recipe": (settings, ".yaml", (recipe.read, lambda p: recipe.read(p, preset="small"))),
    "comparison": (plan, ".yaml", (lambda p: read_plan(str(p)),)),
    "overrides": (words, "", (change,)),
    "dataset card": (dataset_card, ".yaml", (events_of,)),
    "image card": (image_card_file, ".yaml", (images_of,)),
    "card": (card, ".json", (load_with,)),
    "scorecard": (scorecard, ".json", (lambda p: Scorecard.from_json(p.read_text("latin-1")),)),
    "journal": (lines, ".jsonl", (lambda p: list(journal.read(p)),)),
    "weights": (tensors, ".safetensors", (read_tensors,)),
}
