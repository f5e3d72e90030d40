"""Means of the features of two samples, and the covariance of these means, columns at a time.

Rows of one unit (a chain, a group) vary together: what counts is what each unit adds to the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy import float64
from numpy.typing import NDArray
from scipy import sparse

from physgen.validation.comparison import Comparison, Role
from physgen.validation.event_features import Features
from physgen.validation.independence import Selection

Array = NDArray[float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Sums:
    """Features of a sample, added up.

    Attributes:
        mean, square: (F,) of the features, and of their squares.
        sums: (units, F), what the rows of a unit add to the mean.
        shares: (units,) of their weights.
    """

    mean: Array
    square: Array
    sums: Features
    shares: Array

    @classmethod
    def of(
        cls,
        comparison: Comparison,
        selected: Mapping[Role, Selection],
        role: Role,
        phi: Features,
        units: Rows,
    ) -> Sums:
        """Add up features (n, F) of the chosen rows of a sample by their units."""
        chosen, measured = selected[role], comparison.measured[role]
        n = len(chosen.rows)
        weight = np.ones(n) if measured.weight is None else measured.weight[chosen.rows]
        share = weight / weight.sum()
        place = np.searchsorted(units, chosen.unit)
        members = sparse.csr_matrix((share, (place, np.arange(n))), shape=(len(units), n))
        squares = phi.multiply(phi) if sparse.issparse(phi) else phi**2
        return cls(
            np.asarray(phi.T @ share).ravel(),
            np.asarray(squares.T @ share).ravel(),
            members @ phi,
            np.asarray(members.sum(1)).ravel(),
        )


@dataclass(frozen=True)
class Covariance:
    """A^T A of A = sums - the shares of each unit times the means, summed.

    Attributes:
        sums: (units, F), by columns where it is sparse.
        shares: (units, samples).
        means: (F, samples).

    >>> sums = np.array([[0.25, 0.0], [0.75, 1.0]])  # of two units, whose shares are a half
    >>> covariance = Covariance(sums, np.full((2, 1), 0.5), np.array([[1.0], [1.0]]))
    >>> covariance.columns(slice(0, 1)).ravel().tolist(), covariance.diagonal().tolist()
    ([0.125, 0.25], [0.125, 0.5])
    """

    sums: Features
    shares: Array
    means: Array

    @classmethod
    def of(cls, sums: Features, samples: Sequence[Sums]) -> Covariance:
        """Return that of what the units of all samples together add to the mean."""
        return cls(
            sums.tocsc() if sparse.issparse(sums) else sums,
            np.stack([sample.shares for sample in samples], 1),
            np.stack([sample.mean for sample in samples], 1),
        )

    @cached_property
    def _mixed(self) -> Array:
        """(F, samples)."""
        return np.asarray(self.sums.T @ self.shares)

    def columns(self, part: slice) -> Array:
        """Return (F, columns)."""
        products = self.sums.T @ self.sums[:, part]
        result: Array = products.toarray() if sparse.issparse(products) else products
        result -= self._mixed @ self.means[part].T
        result -= self.means @ self._mixed[part].T
        result += self.means @ (self.shares.T @ self.shares) @ self.means[part].T
        return result

    def diagonal(self) -> Array:
        """Return (F,)."""
        squares = self.sums.power(2) if sparse.issparse(self.sums) else self.sums**2
        own = np.asarray(squares.sum(0)).ravel() - 2 * (self._mixed * self.means).sum(1)
        return np.asarray(own + ((self.means @ (self.shares.T @ self.shares)) * self.means).sum(1))
