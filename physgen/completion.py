"""Samples of which parts are missing, completed by a trained surrogate."""

from __future__ import annotations

from os import PathLike

from torch import Tensor

from physgen.arguments import Whole, whole
from physgen.batch import Batch
from physgen.isolation import isolated
from physgen.pipeline import load
from physgen.surrogates.completion import completed


@isolated()
def complete(
    run: str | PathLike[str],
    x: Tensor,
    known: Tensor,
    *,
    seed: Whole = 1,
    condition: Tensor | None = None,
) -> Tensor:
    """Return samples (n, *shape) on the CPU whose known entries are those of `x`.

    How the others are found depends on the family: clamped Markov chains, diffusion with
    replacement, or a search in the latent space; see `physgen.surrogates.completion`.

    Args:
        run: a run directory whose training has finished.
        x: (n, *shape) in physical units; of entries that are not known, any allowed values.
        known: (*shape) or (n, *shape), whether an entry is known.
        seed: of the random numbers.
        condition: (n, C) in physical units, where the surrogate has conditions.

    Raises:
        CheckpointError: there is no finished surrogate, or a file of it was changed.
        InputError: the surrogate is of a family that cannot, or shapes do not fit.

    >>> import physgen, torch
    >>> known = torch.zeros(8, 8, dtype=torch.bool)
    >>> known[:4] = True                                # the upper half
    >>> physgen.complete("runs/digits-ddpm/1a2b3c", x, known)  # doctest: +SKIP
    """
    surrogate = load(run).surrogate
    return completed(surrogate, Batch(x, condition), known, whole("seed", seed)).cpu()
