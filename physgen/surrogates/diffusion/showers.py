r"""Diffusion and flow matching of calorimeter showers by cylindrical convolutions.

With e the incident energy and E_i those of the layers,

    q(shower | e) = q(E_1, ..., E_L | e) q(voxels | E_1, ..., E_L, e):

layer energies first, by a flow of couplings; then the voxels, as the normal numbers of
`VoxelShowers`, by a diffusion model that is shown the energies (in two steps so: Favaro et al.,
CaloDREAM, arXiv 2405.09629; convolutions: Amram & Pedro, CaloDiffusion, arXiv 2308.03876). What is
minimised is the sum of -log q of the layers and the error of the denoiser.

The map commutes with turns by whole sectors: noise that is turned becomes showers that are turned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError, errors_of
from physgen.networks.cylinder import CylindricalNetwork, CylindricalOptions
from physgen.surrogates.diffusion.denoiser import Prediction
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.diffusion.schedule import ScheduleName
from physgen.surrogates.flows.stack import CouplingOptions, CouplingStack
from physgen.systems.base import System
from physgen.systems.calorimeter import geometry_of
from physgen.systems.geometry import Geometry
from physgen.transforms.base import Chain, Transform
from physgen.transforms.voxel_showers import VoxelShowers

AT_ONCE = 2**19
"""Voxels that are drawn together, which bounds the memory."""
LAYERS = CouplingOptions(n_layers=6, hidden=(64, 64))
"""The flow of the layer energies."""


class ShowerDiffusion(Diffusion):
    """A diffusion or flow-matching model of calorimeter showers (`FromNoise`).

    The noise behind a shower is a normal number a layer, and one a voxel.

    Args:
        schema: of the showers.
        transform: must be absent; the surrogate brings its own.
        system: the calorimeter, for its geometry.
        schedule, prediction: see `Diffusion`; these are those of flow matching.
        network: cylindrical convolutions that learn it.

    Raises:
        RecipeError: the recipe asks for a transform, the system is no calorimeter, it is not known
            where its voxels lie, or no layer has sectors.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> small = CylindricalOptions(channels=8, depth=1)
    >>> model = ShowerDiffusion(system.schema, system=system, network=small)
    >>> model.initialise(system.simulate(200, seed=1))
    >>> model.sample(2, torch.tensor([[2000.0], [50000.0]]), seed=1).x.shape
    torch.Size([2, 368])
    """

    transform: VoxelShowers

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        system: System,
        schedule: ScheduleName = "straight",
        prediction: Prediction = "velocity",
        network: CylindricalOptions = CylindricalOptions(),
    ) -> None:
        if not (transform is None or (isinstance(transform, Chain) and not transform.transforms)):
            raise RecipeError("transform: shower surrogates bring their own; remove it")
        self.geometry = _with_sectors(geometry_of(system, "surrogate shower-diffusion"))
        own = VoxelShowers(schema, self.geometry)
        # `_body` takes what `Diffusion` itself makes nothing of.
        options: Any = network
        super().__init__(schema, own, schedule=schedule, prediction=prediction, network=options)
        self.n_layers, self.at_once = own.n_layers, max(1, AT_ONCE // self.features)
        self.layers = CouplingStack(self.n_layers, 1, LAYERS)

    def _body(self, network: Any, n_condition: int) -> tuple[tuple[int, ...], nn.Module]:
        with errors_of("surrogate.network"):
            body = CylindricalNetwork(self.geometry.voxel_grid, n_condition, network)
        return self.latent_shape, body

    def initialise(self, data: Batch | None) -> None:
        """Fit the transform, piece by piece; its numbers have unit variance as they are."""
        super(Diffusion, self).initialise(data)

    def loss(self, x: Tensor, noise: Tensor, log_snr: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,) errors of the voxels, plus -log q of the layers, of a mapped condition."""
        energies, numbers = _given(condition).tensor_split([1 + self.n_layers], 1)
        error = super().loss(x, noise, log_snr, energies)
        return error - self.layers.log_prob(numbers, energies[:, :1])

    def layered(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B, 1 + n_layers): E_inc (B, 1), and the layers that follow from noise, in MeV."""
        incident = _given(condition)
        numbers = self.layers.from_noise(noise, self.transform.layers.map_condition(incident))
        return torch.cat([incident, self.transform.drawn_layers(numbers, incident)], 1)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One normal number a layer and a voxel, as often as is drawn."""
        *steps, features = super().noise_shape
        return *steps, self.n_layers + features

    def given(self, noise: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return noise of the voxels, and E_inc with the layers, which the other noise decides."""
        of_layers, of_voxels = noise.tensor_split([self.n_layers], -1)
        first = of_layers[:, 0] if of_layers.ndim == 3 else of_layers
        return of_voxels, self.layered(first, condition)

    def draw(self, n: int, condition: Tensor | None, generator: torch.Generator) -> Batch:
        """Draw `n` showers: the energies of their layers first."""
        shape = n, self.n_layers
        noise = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        drawn = super().draw(n, self.layered(noise, condition), generator)
        return drawn.replace(condition=condition)

    def physical(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Map normal numbers (B, n_voxels) to MeV, given E_inc and layers, (B, 1 + n_layers)."""
        return self.transform.showers(x, _given(condition)[:, 1:])


def _given(condition: Tensor | None) -> Tensor:
    if condition is None:
        raise DomainError("showers need incident energies: pass them as the condition (B, 1)")
    return condition


def _with_sectors(geometry: Geometry) -> Geometry:
    """Return a geometry that can be convolved around its axis; raise `RecipeError` otherwise."""
    if geometry.placed and any(layer.n_alpha > 1 for layer in geometry.layers):
        return geometry
    why = "no layer has sectors" if geometry.placed else "it is not known where voxels lie"
    raise RecipeError(
        f"surrogate.kind: shower-diffusion convolves around the axis, and {why} in this binning "
        f"({geometry.in_short}); take surrogate.kind=diffusion with transform gaussian-showers"
    )
