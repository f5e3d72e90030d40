"""All configurations of small lattices, and how samples agree with their exact probabilities."""

import itertools

import numpy as np
import torch
from scipy.stats import chi2


def states(shape, values=(-1, 1)):
    """Return all configurations (len(values)^N, *shape), in the order of `code`."""
    every = list(itertools.product(values, repeat=int(np.prod(shape))))
    return torch.tensor(every, dtype=torch.float64).reshape(-1, *shape)


def code(x, values=(-1, 1)):
    """Number of a configuration (B, ...): its spins read as digits, highest first."""
    digits = np.searchsorted(values, x.reshape(len(x), -1))
    return digits @ (len(values) ** np.arange(digits.shape[1])[::-1])


def p_value(x, system, values=(-1, 1)):
    """Of chi-squared between independent configurations and the exact distribution."""
    probabilities = torch.softmax(-system.action(states(system.shape, values)), 0).numpy()
    expected = probabilities * len(x)
    counts = np.bincount(code(x, values), minlength=len(expected))
    # States seen too rarely for the chi-squared law are counted together.
    rare = expected < 5
    pooled = np.append(expected[~rare], expected[rare].sum())
    seen = np.append(counts[~rare], counts[rare].sum())
    held = pooled > 0
    statistic = ((seen - pooled)[held] ** 2 / pooled[held]).sum()
    return float(chi2.sf(statistic, held.sum() - 1))


def thermodynamics(system, values=(-1, 1)):
    """Return F/N, E/N, C/N, ln Z and m, by the sum over all configurations."""
    x, n = states(system.shape, values), int(np.prod(system.shape))
    action = system.action(x)
    log_z = torch.logsumexp(-action, 0)
    p, energy = (-action - log_z).exp(), action * system.temperature
    mean = float((p * energy).sum())
    return {
        "F/N": float(-system.temperature * log_z / n),
        "E/N": mean / n,
        "C/N": float((p * (energy - mean) ** 2).sum()) / system.temperature**2 / n,
        "ln Z": float(log_z),
        "m": float((p * x.flatten(1).mean(1)).sum()),
        "m^2": float((p * x.flatten(1).mean(1) ** 2).sum()),
    }


def imbalance(update, system, values=(-1, 1), n=4000):
    """Return by how many errors the flows between two configurations differ, at most.

    Each of `n` times an update, which moves (N,) spins in place, begins at every configuration.
    """
    every = states(system.shape, values)
    weights = torch.softmax(-system.action(every), 0).numpy()
    starts = every.flatten(1).numpy().astype(np.int8)
    flows = np.zeros((len(starts), len(starts)))
    ends = np.empty((n, starts.shape[1]), np.int8)
    for row, start in enumerate(starts):
        for end in ends:
            end[:] = start
            update(end)
        flows[row] = weights[row] * np.bincount(code(ends, values), minlength=len(starts)) / n
    # A flow w m / n has the variance w^2 m / n^2; one that was not seen counts as one that was.
    variance = weights[:, None] * np.maximum(flows, weights[:, None] / n) / n
    return float((abs(flows - flows.T) / np.sqrt(variance + variance.T)).max())
