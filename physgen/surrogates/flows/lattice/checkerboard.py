r"""Affine coupling flow on the checkerboard, with which flows for lattice fields began.

After Albergo, Kanwar & Shanahan (Phys. Rev. D 100 (2019) 034515) and the tutorial arXiv 2101.08176,
but from a learned Fourier-diagonal Gaussian, and odd under phi -> -phi where that is a symmetry.
A layer freezes the sites of one parity and moves those of the other, a:

    phi_a' = phi_a exp(s_a(phi_frozen)) + t_a(phi_frozen),    log|det| = sum_a s_a.

The networks are circular convolutions with hyperbolic tangents between them: t is one of their
outputs, s the product of two others, bounded by a tanh. Without biases the networks are odd in the
field, so that t is odd and s even.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physgen.batch import Batch, Schema
from physgen.errors import RecipeError
from physgen.ranges import Positive
from physgen.surrogates.flows.lattice.base import LatticeFlow
from physgen.surrogates.flows.lattice.fourier import FourierGaussian
from physgen.transforms.base import Transform

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def parities(shape: tuple[int, ...]) -> Tensor:
    """Return (*shape,), the parity 0 or 1 of each site."""
    axes = torch.meshgrid(*(torch.arange(extent) for extent in shape), indexing="ij")
    return torch.stack(axes).sum(0) % 2


class CheckerboardCoupling(nn.Module):
    """One affine coupling, which moves the sites of one parity.

    Args:
        shape: of the lattice.
        parity: of the sites that move.
        channels: of each of the hidden layers.
        hidden: number of hidden layers.
        kernel_size: of the convolutions, odd.
        odd: without biases, so that the map is odd in the field.
    """

    active: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        parity: int,
        channels: int,
        hidden: int,
        kernel_size: int,
        odd: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("active", parities(shape) == parity, persistent=False)
        widths = [1, *[channels] * hidden, 3]
        convolutions = [
            _CONVOLUTIONS[len(shape)](
                widths[i],
                widths[i + 1],
                kernel_size,
                padding=kernel_size // 2,
                padding_mode="circular",
                bias=not odd,
            )
            for i in range(hidden + 1)
        ]
        # Near the identity, but not at it: there the product of two zeros would never learn.
        nn.init.normal_(convolutions[-1].weight, std=0.02)
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, *shape) fields; return them and (B,) log-determinants."""
        scale, shift = self._affine(x)
        return torch.where(self.active, x * scale.exp() + shift, x), scale.flatten(1).sum(1)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map back; return the fields and the (B,) log-determinants of this inverse map."""
        scale, shift = self._affine(x)
        back = (x - shift) * (-scale).exp()
        return torch.where(self.active, back, x), -scale.flatten(1).sum(1)

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return s (zero on frozen sites) and t."""
        hidden = self.convolutions[0]((x * ~self.active)[:, None])
        for convolution in self.convolutions[1:]:
            hidden = convolution(torch.tanh(hidden))
        shift, first, second = hidden.unbind(1)
        return torch.tanh(first * second) * self.active, shift


class CheckerboardFlow(LatticeFlow):
    """Affine checkerboard couplings on a Fourier-diagonal Gaussian, in one to three dimensions.

    Args:
        schema: one real variable, whose shape is that of the lattice, with even extents.
        transform: none.
        n_layers: couplings, of alternating parity.
        channels: of the hidden layers of each network.
        hidden: number of hidden layers.
        kernel_size: of the convolutions, odd.
        base_width: the base Gaussian starts as white noise of this width.
        sign_symmetric: the action does not change under phi -> -phi.

    Raises:
        RecipeError: if the lattice has no checkerboard, or more than three dimensions.

    >>> from physgen.systems.scalar import Phi4
    >>> CheckerboardFlow(Phi4(shape=(4, 4)).schema, n_layers=2).sample(5, seed=1).x.shape
    torch.Size([5, 4, 4])
    """

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        n_layers: Positive = 8,
        channels: int = 16,
        hidden: Positive = 2,
        kernel_size: int = 3,
        base_width: float = 0.5,
        sign_symmetric: bool = True,
    ) -> None:
        super().__init__(schema, transform)
        shape = schema.shape
        if len(shape) not in _CONVOLUTIONS or any(extent % 2 for extent in shape):
            raise RecipeError(
                f"a checkerboard flow needs one to three even extents, not {shape}; "
                "continuous-lattice-flow takes any lattice"
            )
        if kernel_size % 2 == 0 or kernel_size // 2 > min(shape):
            raise RecipeError(
                f"kernel_size = {kernel_size} must be odd and at most {2 * min(shape) + 1}, "
                "to wrap around the lattice no more than once"
            )
        self.symmetries = ("even translation", *(("sign",) if sign_symmetric else ()))
        self.base = FourierGaussian(shape, base_width)
        self.layers = nn.ModuleList(
            CheckerboardCoupling(shape, layer % 2, channels, hidden, kernel_size, sign_symmetric)
            for layer in range(n_layers)
        )

    def from_noise_with_log_prob(
        self, noise: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, *shape) noise to fields and their (B,) log-density, both differentiable."""
        x, log_prob = self.base(noise), self.base.log_prob_of_noise(noise)
        for layer in self.layers:
            x, log_det = layer(x)
            log_prob = log_prob - log_det
        return x, log_prob

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q(x), differentiable."""
        x, total = batch.x, batch.x.new_zeros(len(batch))
        for layer in reversed(self.layers):
            assert isinstance(layer, CheckerboardCoupling)
            x, log_det = layer.inverse(x)
            total = total + log_det
        return self.base.log_prob_of_noise(self.base.whiten(x)) + total
