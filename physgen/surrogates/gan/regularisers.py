r"""What keeps a generator regular: mixed styles, path lengths of styles, orthogonal weights.

Mixing (Karras, Laine & Aila, arXiv 1812.04948, section 3.1): the layers of an image take the styles
of two latent vectors, those of the second from a layer on that is drawn at random, so that the
layers do not conspire.

Path lengths (Karras et al., arXiv 1912.04958, equation 4): with J the derivative of an image by its
styles w and y an image of normal numbers,

    E_{w, y} (|J^T y| - a)^2,    a the moving average of |J^T y|,

so that steps of one length in w change images by like amounts everywhere.

Orthogonality (Brock, Donahue & Simonyan, arXiv 1809.11096, equation 3): for every matrix W of
weights, whose rows are what an output sees,

    sum_{i != j} <W_i, W_j>^2,

which leaves the rows' lengths free. It lets a generator be truncated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from physgen.batch import Batch
from physgen.errors import RecipeError
from physgen.networks.style import StyleDecoder
from physgen.surrogates.gan.networks import Generator


def mixed(first: Tensor, second: Tensor, begins: Tensor, n_layers: int) -> Tensor:
    """Return styles (B, n_layers, W): the first (B, W), from layer `begins` (B,) on the second.

    >>> styles = mixed(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([1, 3]), 3)
    >>> styles[..., 0].tolist()
    [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    later = torch.arange(n_layers, device=begins.device) >= begins[:, None]
    return torch.where(later[..., None], second[:, None], first[:, None])


@torch.no_grad()
def mixed_images(generator: Generator, rows: Tensor, columns: Tensor, begin: int) -> Tensor:
    """Return (R, C, *shape) physical images: coarse styles of the rows, fine ones of the columns.

    Args:
        generator: of styles, without conditions.
        rows: (R, latent) noise of styles below layer `begin`, and of the sites.
        columns: (C, latent) noise of styles from layer `begin` on.
        begin: number of a layer, 0 being the coarsest.

    Raises:
        RecipeError: the generator is not of styles.
    """
    decoder = styles_of(generator)
    first, second = (decoder.style(noise[:, : decoder.n_in]) for noise in (rows, columns))
    n_rows, n_columns = len(rows), len(columns)
    begins = torch.full((n_rows * n_columns,), begin, device=rows.device)
    styles = mixed(
        first.repeat_interleave(n_columns, 0), second.repeat(n_rows, 1), begins, decoder.n_layers
    )
    sites = rows[:, decoder.n_in :].repeat_interleave(n_columns, 0)
    x = generator.finished(decoder.synthesise(styles, sites))
    images = generator.transform.inverse(Batch(x)).x
    return images.reshape(n_rows, n_columns, *images.shape[1:])


def n_mixed(decoder: StyleDecoder) -> int:
    """Return how many numbers `decode_mixed` takes: noise, a second vector, and two choices."""
    return 2 * decoder.n_in + decoder.n_sites + 2


def decode_mixed(
    generator: Generator, noise: Tensor, condition: Tensor | None, share: float
) -> Tensor:
    """Return images (B, *latent_shape) of which a share has mixed styles.

    Args:
        generator: of styles.
        noise: (B, n_mixed), normal.
        condition: (B, C), mapped.
        share: of the images.
    """
    decoder = styles_of(generator)
    n, n_layers = decoder.n_in, decoder.n_layers
    first, sites, second, choices = torch.split(noise, [n, decoder.n_sites, n, 2], 1)
    chosen, where = (0.5 * (1 + (choices / math.sqrt(2)).erf())).unbind(1)  # Uniform numbers.
    begins = (1 + where * (n_layers - 1)).floor().masked_fill(chosen >= share, n_layers)
    pair = decoder.style(first, condition), decoder.style(second, condition)
    return generator.finished(decoder.synthesise(mixed(*pair, begins, n_layers), sites))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # Compiled, it has no derivatives.
def path_lengths(
    generator: Generator, noise: Tensor, condition: Tensor | None, direction: Tensor
) -> Tensor:
    """Return (B,) lengths |J^T y| at images y (B, number of entries), differentiable."""
    decoder = styles_of(generator)
    with torch.enable_grad():
        style = decoder.style(noise[:, : decoder.n_in], condition)
        sites = noise[:, decoder.n_in : decoder.n_in + decoder.n_sites]
        styles = style[:, None].expand(-1, decoder.n_layers, -1)
        image = generator.finished(decoder.synthesise(styles, sites)).flatten(1)
        (gradient,) = torch.autograd.grad((image * direction).sum(), styles, create_graph=True)
    # A mean over the sites and one over the layers, so that sizes do not matter.
    squared = gradient.square().sum(2).mean(1) / image.shape[1]
    return (squared + torch.finfo(squared.dtype).tiny).sqrt()


def orthogonality(network: nn.Module) -> Tensor:
    """Return the sum of squared products of different rows, over all matrices of weights.

    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    >>> orthogonality(layer).item()  # (1 * 3)^2, twice
    18.0
    """
    weights = [p.flatten(1) for p in network.parameters() if p.ndim > 1]
    products = [(w @ w.T).square().sum() - w.square().sum(1).square().sum() for w in weights]
    return torch.stack(products).sum()


def styles_of(generator: Generator) -> StyleDecoder:
    """Return the network of a generator of styles.

    Raises:
        RecipeError: it is another one.
    """
    if not isinstance(generator.body, StyleDecoder):
        raise RecipeError(
            "method.mixing and method.path_length are of styles: take surrogate.network.kind=style"
        )
    return generator.body
