"""Means and covariances of all observables together.

Frechet is the distance of normals with these moments (Dowson & Landau, J. Multivar. Anal. 12 (1982)
450) to second order in their differences; the whitened ones weigh every direction by its pooled
deviation, so that a change along a direction of little spread is seen. Among hundreds of products
of two observables a single one that changed is seen by the largest.
"""

from __future__ import annotations

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.validation.two_sample.pool import FLOORED, Family, Pool

Array = NDArray[float64]

MOST = 100
"""Principal directions whose covariance is tested, those of the largest spread; also the columns
beyond which their products are not tested one by one."""

_CLIP = 6.0
_ROUNDING = 1e-6
"""Products that deviate by less do not vary."""


def of_moments(pool: Pool) -> Family:
    """Return statistics of the moments of the standardised columns."""
    names, z = pool.standardised.names, pool.standardised.rows
    values, vectors = np.linalg.eigh(np.cov(z.T).reshape(z.shape[1], -1))
    values, vectors = values[::-1][:MOST], vectors[:, ::-1][:, :MOST]
    spread = np.maximum(values, FLOORED * values[0])
    rotated = z @ vectors
    d = len(values)
    i, j = np.triu_indices(d)
    sums = [pool.relabelling.sums(rotated)]
    for k in range(d):
        products = rotated[:, k:] * rotated[:, [k]]
        sums.append(pool.relabelling.sums(products - products.mean(0)))
    twice = np.where(i == j, 1.0, 2.0)
    frechet = twice / (2 * (spread[i] + spread[j]))
    whitened = twice / (spread[i] * spread[j])

    def statistics(difference: Array) -> Array:
        mean, covariance = difference[:, :d] ** 2, difference[:, d:] ** 2
        return np.stack(
            [mean.sum(1) + covariance @ frechet, mean @ (1 / spread), covariance @ whitened], 1
        )

    def causes(truth: Array, generated: Array) -> list[str]:
        difference = generated - truth
        mean = vectors @ difference[:d]
        matrix = np.zeros((d, d))
        matrix[i, j] = matrix[j, i] = difference[d:]
        covariance = vectors @ matrix @ vectors.T
        shifted = int(np.abs(mean).argmax())
        a, b = np.unravel_index(int(np.abs(covariance).argmax()), covariance.shape)
        by_mean = f"mean of {names[shifted]}: {mean[shifted]:+.3g} standard deviations"
        by_covariance = (
            f"variance of {names[a]}: {covariance[a, a]:+.3g} of the pooled one"
            if a == b
            else f"correlation of {names[a]} and {names[b]}: {covariance[a, b]:+.3g}"
        )
        larger = by_mean if mean[shifted] ** 2 > covariance[a, b] ** 2 / 4 else by_covariance
        return [larger, by_mean, by_covariance]

    return Family(
        ("Frechet", "whitened means", "whitened covariance"),
        np.concatenate(sums, 1),
        statistics,
        causes,
    )


def of_products(pool: Pool) -> Family | None:
    """Return the largest deviation of the mean of any column, or of the product of any two."""
    names, z = pool.standardised.names, np.clip(pool.standardised.rows, -_CLIP, _CLIP)
    d = z.shape[1]
    if d > MOST:
        return None
    sums, labels = [], []
    for k in range(d):
        features = np.concatenate([z[:, [k]], z[:, k:] * z[:, [k]]], 1)
        deviation = features.std(0)
        varies = deviation > _ROUNDING
        scaled = (features[:, varies] - features[:, varies].mean(0)) / deviation[varies]
        sums.append(pool.relabelling.sums(scaled))
        pairs = [f"correlation of {names[k]} and {name}" for name in names[k + 1 :]]
        about = [f"mean of {names[k]}", f"width of {names[k]}", *pairs]
        labels += [label for label, keep in zip(about, varies, strict=True) if keep]
    together = pool.in_deviations(np.concatenate(sums, 1))

    def causes(truth: Array, generated: Array) -> list[str]:
        return [pool.largest(truth, generated, labels)]

    return Family(("largest moment",), together, lambda d: (d**2).max(1, keepdims=True), causes)
