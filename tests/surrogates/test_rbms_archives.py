"""Archives of the package rbms: the machines that are read have the energies of its layout."""

import itertools

import h5py
import numpy as np
import pytest
import torch

from physgen.errors import FormatError
from physgen.surrogates.boltzmann.archives import read_rbms, updates_of

SITES, HIDDEN, Q = 4, 3, 3
VALUES = {"BBRBM": (0, 1), "IIRBM": (-1, 1), "PBRBM": range(Q)}


def parameters(kind, seed):
    noise = np.random.default_rng(seed)
    lead = (SITES, Q) if kind == "PBRBM" else (SITES,)
    shapes = {"weight_matrix": (*lead, HIDDEN), "vbias": lead, "hbias": (HIDDEN,)}
    return {name: noise.normal(size=shape) for name, shape in shapes.items()}


def archive(path, kind, chains, updates=(1, 20, 100)):
    """What `rbms` writes, as far as machines go, and what else lies there."""
    with h5py.File(path, "w") as file:
        file["model_type"] = kind
        file["parallel_chains"] = chains.astype(np.float32)
        for update in updates:
            group = file.create_group(f"update_{update}")
            group["time"] = 1.0
            for name, value in parameters(kind, update).items():
                group[f"params/{name}"] = value
                group[name] = group[f"params/{name}"]
        file["sampler/name"] = "PCD"


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("update", [20, None])
def test_machines_have_the_distribution_of_their_archive(tmp_path, kind, update):
    path = tmp_path / "rbm.h5"
    x = np.array(list(itertools.product(VALUES[kind], repeat=SITES)))
    archive(path, kind, x[:5])
    assert updates_of(path) == [1, 20, 100]
    machine = read_rbms(path, update, shape=(2, 2))
    known = parameters(kind, update or 100)
    w, a, b = known["weight_matrix"], known["vbias"], known["hbias"]
    s = np.eye(Q)[x] if kind == "PBRBM" else x  # Values on a last axis.
    hidden = np.array(list(itertools.product((-1, 1) if kind == "IIRBM" else (0, 1), repeat=3)))
    fields = b + np.tensordot(s, w, s.ndim - 1)
    log_f = np.log(np.exp(fields @ hidden.T).sum(1)) + np.tensordot(s, a, s.ndim - 1)
    found = -machine.action(torch.from_numpy(x).reshape(-1, 2, 2)).detach().numpy()
    np.testing.assert_allclose(found - found[0], log_f - log_f[0], rtol=0, atol=1e-10)
    chains = machine.physical(machine.unpack(machine.chains))
    assert np.array_equal(chains.flatten(1).numpy(), x[:5])
    machine.burn_in = machine.thin = 1
    assert machine.sample(7, seed=1).x.shape == (7, 2, 2)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "rbm.h5"
    chains = np.zeros((5, SITES))
    archive(path, "PBRBM", chains)
    with pytest.raises(FormatError, match=r"no update_7 .*\[1, 20, 100\]"):
        read_rbms(path, 7)
    with pytest.raises(FormatError, match=r"not configurations of shape \[3, 3\]"):
        read_rbms(path, shape=(3, 3))
    archive(path, "BGRBM", chains)
    with pytest.raises(FormatError, match=r"'BGRBM', and those of spins are BBRBM, IIRBM, PBRBM"):
        read_rbms(path)
    archive(path, "BBRBM", chains, updates=())
    with pytest.raises(FormatError, match="not an archive of rbms"):
        read_rbms(path)
    archive(path, "BBRBM", np.zeros((5, SITES + 1)))
    with pytest.raises(FormatError, match=r"parallel_chains \(5, 5\) do not fit"):
        read_rbms(path)
    with h5py.File(path, "r+") as file:
        del file["update_100/params/hbias"]
    with pytest.raises(FormatError, match=r"update_100/params/hbias"):
        read_rbms(path)
