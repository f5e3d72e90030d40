"""A surrogate of showers that is small, and as good as trained."""

from pathlib import Path

import torch

from physgen.batch import Batch
from physgen.export.base import Trained
from physgen.io.showers import voxel_schema
from physgen.surrogates.autoencoders.vae import VAE
from physgen.systems.geometry import Geometry, Layer
from physgen.transforms.affine import Standardise
from physgen.transforms.base import Chain
from physgen.transforms.bounded import Bounded

GEOMETRY = Geometry(
    (Layer(0, (0.0, 5.0, 10.0), 1), Layer(1, (0.0, 3.0, 6.0, 10.0), 4), Layer(3, (0.0, 20.0), 8)),
    pid=22,
    name="photon",
)


def trained():
    """Of 22 voxels, of photons of 1 to 100 GeV."""
    n = GEOMETRY.n_voxels
    schema = voxel_schema(n, low=1e3, high=1e5)
    generator = torch.Generator().manual_seed(1)
    energies = torch.linspace(1e3, 1e5, 64)[:, None]
    showers = energies / n * (1 + torch.rand(64, n, generator=generator))
    surrogate = VAE(schema, Chain([Bounded(schema), Standardise(schema)], schema), latent=3)
    surrogate.initialise(Batch(showers, condition=energies))
    for parameter in surrogate.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return Trained(surrogate.eval(), Path("run"), "small", "vae", {}, geometry=GEOMETRY)
