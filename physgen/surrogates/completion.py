r"""Missing parts of samples, drawn given the known ones, by families that can.

Boltzmann machines: block Gibbs sweeps after each of which the known units take their values again;
what is drawn is exactly conditional once the chain has forgotten its start. Energy models: adjusted
Langevin steps of the energy as a function of the unknown entries.

Diffusion (RePaint: Lugmayr et al., arXiv 2201.09865, algorithm 1): on the way back the known
entries are those of the sample at that level of noise, alpha x + sigma eps; every ancestral step is
repeated, noise being added again in between, so that both parts come to agree. They do not quite:
of two normal numbers of correlation 0.5 to 0.99, by the exact denoiser, the unknown one has its
conditional deviation within 3%, and a mean 0.07 to 0.15 of it too close to the unconditional one.

Maps of noise (generators, decoders; Yeh et al., arXiv 1607.07539): the noise z is sought that
minimises the mean square difference of the known entries, plus a small multiple of |z|^2; the best
of several starts is taken. That is a likely completion and no draw from the conditional
distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.sampling import langevin
from physgen.surrogates.base import Surrogate
from physgen.surrogates.boltzmann.chains import MarkovSurrogate
from physgen.surrogates.boltzmann.energy import EnergyModel
from physgen.surrogates.boltzmann.machine import BoltzmannMachine
from physgen.surrogates.decoding import DecodedNoise
from physgen.surrogates.diffusion.model import Diffusion

SWEEPS = 200
"""Gibbs sweeps, or Langevin steps."""

STEPS, REPEATS = 200, 5
"""Levels of noise of diffusion, and how often each is gone through: of fewer levels, what is
repeated comes out too narrow, and of fewer repeats too little correlated with what is known."""

STARTS, SEARCH, RATE, PRIOR = 8, 200, 0.1, 1e-3
"""Of the search for noise: starts, steps of Adam, their rate, and the weight of |z|^2 / D."""


def completed(surrogate: Surrogate, given: Batch, known: Tensor, seed: int) -> Tensor:
    """Return (n, *shape) samples whose known entries are those given.

    Args:
        surrogate: a Boltzmann machine, an energy model, a diffusion model, a generator or decoder.
        given: samples (n, *shape) in physical units, with their conditions; of entries that are not
            known, any allowed values.
        known: (*shape) or (n, *shape), whether an entry is known.
        seed: of the random numbers.

    Raises:
        InputError: the surrogate is of another family, or shapes do not fit.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.surrogates.boltzmann.rbm import RBM
    >>> model = RBM(Schema((3,), (Variable("s", domain="spin"),)), hidden=2)
    >>> known = torch.tensor([True, True, False])
    >>> x = completed(model, Batch(torch.tensor([[1.0, -1.0, 1.0]])), known, seed=1)
    >>> x[0, :2].tolist()
    [1.0, -1.0]
    """
    shape = surrogate.schema.shape
    if given.x.shape[1:] != shape or known.shape not in (shape, given.x.shape):
        raise InputError(
            f"samples of shape {tuple(given.x.shape)} with what is known of shape "
            f"{tuple(known.shape)}: they must be (n, {', '.join(map(str, shape))}), and the same "
            "or without the n"
        )
    if surrogate.schema.condition and given.condition is None:
        raise InputError("the surrogate has conditions: give those of the samples to complete")
    known = known.to(surrogate.device, torch.bool).expand(given.x.shape)
    given = given.to(surrogate.device)
    generator = torch.Generator(surrogate.device).manual_seed(seed)
    if isinstance(surrogate, MarkovSurrogate):
        x = _by_chains(surrogate, given, known, generator)
    elif surrogate.transform.mixes or surrogate.transform.latent_shape(shape) != shape:
        raise InputError(
            "the transform mixes the entries of a sample, so that none is known in its space: "
            "train with transforms of single entries, such as rescale or standardise"
        )
    elif isinstance(surrogate, Diffusion):
        x = _by_diffusion(surrogate, given, known, generator)
    elif isinstance(surrogate, DecodedNoise):
        x = _by_search(surrogate, given, known, generator)
    else:
        raise InputError(
            f"{type(surrogate).__name__} cannot complete samples: Boltzmann machines, energy "
            "models, diffusion models, generators and decoders can"
        )
    return torch.where(known, given.x.to(x), x)


def _by_chains(
    surrogate: MarkovSurrogate, given: Batch, known: Tensor, generator: torch.Generator
) -> Tensor:
    numbers = torch.arange(len(given), device=surrogate.device) % len(surrogate.chains)
    start = surrogate.unpack(surrogate.chains[numbers])
    if isinstance(surrogate, BoltzmannMachine):
        values = surrogate.units(_mapped(surrogate, given, generator))
        # A visible unit of several numbers is known in all of them.
        more = (1,) * (values.ndim - known.ndim)
        known = known.reshape(len(known), *more, *known.shape[1:])
        x = torch.where(known, values, start)
        for _ in range(SWEEPS):
            # Sweeps alone: the turn of all spins, by which symmetric machines move on, is not
            # conditional on some of them.
            x = torch.where(known, values, BoltzmannMachine.gibbs(surrogate, x, 1, generator))
        return surrogate.physical(x)
    if not isinstance(surrogate, EnergyModel):
        raise InputError(f"{type(surrogate).__name__} has chains that cannot be clamped")
    values = surrogate.units(_mapped(surrogate, given, generator))

    def energy(u: Tensor) -> Tensor:
        # The known entries of u count for nothing but a normal distribution of their own.
        free = 0.5 * (u * known).square().flatten(1).sum(1)
        return surrogate.energy(torch.where(known, values, u)) + free

    state = langevin.init(start, energy)
    for _ in range(SWEEPS):
        state, _ = langevin.step(state, energy, step_size=surrogate.step_size, generator=generator)
    return surrogate.physical(torch.where(known, values, state.x))


@torch.no_grad()
def _by_diffusion(
    surrogate: Diffusion, given: Batch, known: Tensor, generator: torch.Generator
) -> Tensor:
    values, mask = _mapped(surrogate, given, generator).flatten(1), known.flatten(1)
    alpha, sigma, log_snr = (
        getattr(surrogate.schedule.grid(STEPS, surrogate.sampler.spacing, values), name)
        for name in ("alpha", "sigma", "log_snr")
    )
    denoise = surrogate.denoise(given.condition)

    def noise() -> Tensor:
        return torch.randn(
            values.shape, generator=generator, device=values.device, dtype=values.dtype
        )

    z = surrogate.start() * noise()
    for i in range(STEPS):
        for turn in range(REPEATS):
            z = torch.where(mask, alpha[i] * values + sigma[i] * noise(), z)
            # The ancestral step, in amplitudes, so that the first may begin without a signal.
            remains = (alpha[i] * sigma[i + 1] / (sigma[i] * alpha[i + 1])).square()
            mean = alpha[i + 1] * (1 - remains) * denoise(z, log_snr[i])
            mean = mean + alpha[i] / alpha[i + 1] * (sigma[i + 1] / sigma[i]).square() * z
            cleaner = mean + (1 - remains).sqrt() * sigma[i + 1] * noise()
            if turn < REPEATS - 1 and i < STEPS - 1:
                ratio = alpha[i] / alpha[i + 1]
                added = (sigma[i].square() - (ratio * sigma[i + 1]).square()).clamp_min(0)
                z = ratio * cleaner + added.sqrt() * noise()
        z = cleaner
    return surrogate.physical(z, given.condition)


def _by_search(
    surrogate: DecodedNoise, given: Batch, known: Tensor, generator: torch.Generator
) -> Tensor:
    values = _mapped(surrogate, given, generator).flatten(1).repeat(STARTS, 1)
    mask = known.flatten(1).repeat(STARTS, 1)
    condition = given.condition
    if condition is not None:
        condition = condition.to(values).repeat(STARTS, 1)
    mapped = None if condition is None else surrogate.transform.map_condition(condition)
    # Noise besides the latent vector, such as that of a likelihood, could imitate all: it is 0.
    others = values.new_zeros(len(values), *surrogate.noise_shape)[:, surrogate.n_latent :]
    shape = len(values), surrogate.n_latent
    latent = torch.randn(shape, generator=generator, device=values.device, dtype=values.dtype)
    latent.requires_grad_()
    optimiser = torch.optim.Adam([latent], lr=RATE)
    with torch.enable_grad():
        for _ in range(SEARCH):
            noise = torch.cat([latent, others], 1)
            made = surrogate.decode_noise(noise, mapped).flatten(1)
            square = ((made - values).square() * mask).sum(1) / mask.sum(1).clamp_min(1)
            loss = square + PRIOR * latent.square().mean(1)
            (latent.grad,) = torch.autograd.grad(loss.sum(), latent)
            optimiser.step()
    best = loss.detach().reshape(STARTS, -1).argmin(0)
    rows = best * len(given) + torch.arange(len(given), device=best.device)
    with torch.no_grad():
        return surrogate.from_noise(noise.detach()[rows], given.condition)


def _mapped(surrogate: Surrogate, given: Batch, generator: torch.Generator) -> Tensor:
    """Return samples in the transform's space, in the type of the parameters."""
    with torch.no_grad():
        x: Tensor = surrogate.transform(surrogate.accept(given), generator)[0].x
    return x.to(surrogate.dtype)
