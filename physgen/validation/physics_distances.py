"""FPD and KPD, the Frechet and kernel distances of physics features (arXiv 2211.10295), as defined.

What the packages of JetNet and CaloChallenge compute, with the same random numbers as `jetnet`
0.2.5: features are divided by the largest |x| of the truth; then

    FPD: |dm|^2 + Tr(C + C' - 2 (C C')^{1/2}) of rows drawn with replacement, at 10 sizes linear in
         1/N, the mean of 20 draws each, fitted by a + b/N with a, b >= 0; FPD is a
    KPD: the unbiased MMD^2 of the kernel (x.y/d + 1)^4, the median of 10 batches drawn with
         replacement; its error is half of the range from 16.275% to 83.725%

Both have faults. One outlier of the truth rescales a feature. Rows drawn twice, and a >= 0, keep
FPD above 0 where samples agree, and its error is that of the fit alone. So a robust form stands
beside each: features are clipped to the central 99.9% of the truth and divided by what is then the
largest |x|; FPD is extrapolated from halves drawn without replacement, KPD is the mean of batches
that share no rows, and both may be negative.

The kernel of degree 4 is evaluated in blocks and squared twice; the moments of all 200 draws of FPD
are one product of a matrix of multiplicities with the products of features.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from physgen.errors import DomainError, NotMeasurable
from physgen.validation.comparison import Comparison, Role
from physgen.validation.frechet import between_normals, frechet_distance
from physgen.validation.half_sampling import half_sampling
from physgen.validation.reference import ReferenceFeatures, reference_features
from physgen.validation.scorecard import Row, row_by_role
from physgen.validation.uncertainty import Estimate

Array = NDArray[float64]
Rows = NDArray[np.int64]

SEED = 42
N_SIZES, N_DRAWS, N_BATCHES = 10, 20, 10
CENTRAL = 0.999
"""Share of the truth that the robust form does not clip."""

_CELLS = 2**20
"""Numbers that are held at once."""


@dataclass(frozen=True, kw_only=True)
class PhysicsDistances:
    """FPD and KPD of the reference features, each beside a robust form; see the module.

    Attributes:
        smallest, largest: sizes of the draws of FPD; `jetnet` begins at 20,000.
        batch: rows of a batch of KPD; `jetnet` takes 5000.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> samples = Comparison(system, *(system.simulate(400, seed=i) for i in range(3)))
    >>> [row.name for row in PhysicsDistances().rows(samples)]
    ['FPD', 'FPD, robust', 'KPD', 'KPD, robust']
    """

    smallest: int = 10_000
    largest: int = 50_000
    batch: int = 10_000

    def rows(self, comparison: Comparison) -> list[Row]:
        """Return four rows; sizes are lowered to what rows there are, which the notes say.

        Raises:
            InputError: see `physgen.validation.reference.reference_features`.
        """
        given = reference_features(comparison, "high")
        truth = given.values["truth"]
        n = min(len(values) for values in given.values.values())
        smallest, largest = self._sizes(n)
        batch = min(self.batch, n)
        wanted = f"{self.smallest} to {self.largest}"
        sizes = f"sizes {smallest} to {largest}" + (
            f", not {wanted}: there are {n} rows" if largest < self.largest else ""
        )
        batches = f"batches of {batch}" + ("" if batch == self.batch else f", not {self.batch}")
        about = given.note
        others: dict[Role, Array] = {
            role: values for role, values in given.values.items() if role != "truth"
        }
        exact: dict[str, dict[Role, Estimate]] = {"FPD": {}, "KPD": {}}
        for role, values in others.items():
            scaled = by_largest(truth, values)
            exact["FPD"][role] = fpd(*scaled, sizes=(smallest, largest))
            exact["KPD"][role] = kpd(*scaled, batch=batch)
        robust = _robust(given, others, comparison.seed, n // N_BATCHES)
        of_fit, halves = "its error is that of the fit", "from halves; near 0 where samples agree"
        return [
            _row("FPD", exact["FPD"], f"{about}; {sizes}; {of_fit}"),
            _row(
                "FPD, robust",
                robust["FPD"],
                f"{about}; clipped, {halves}",
                _singular(n, truth.shape[1]),
            ),
            _row("KPD", exact["KPD"], f"{about}; {batches}"),
            _row("KPD, robust", robust["KPD"], f"{about}; clipped, batches that share no rows"),
        ]

    def _sizes(self, n: int) -> tuple[int, int]:
        largest = min(self.largest, n)
        return max(2, round(largest * self.smallest / self.largest)), largest


def _row(name: str, scores: Mapping[Role, Estimate], note: str, warning: str = "") -> Row:
    return row_by_role(name, "physics-distances", scores, note=note, warning=warning)


def _singular(n: int, width: int) -> str:
    """Return what is wrong with covariances of halves of `n` rows, if they are singular."""
    if n // 2 > width:
        return ""
    return (
        f"halves of {n} rows have singular covariances of {width} features, and the distance is "
        f"too large also where samples agree: judge {2 * width + 2} rows or more"
    )


def _robust(
    given: ReferenceFeatures, others: dict[Role, Array], seed: int, batch: int
) -> dict[str, dict[Role, Estimate]]:
    """Return the robust forms by role."""
    result: dict[str, dict[Role, Estimate]] = {"FPD": {}, "KPD": {}}
    truth = given.values["truth"]
    for role, values in others.items():
        a, b = clipped(truth, values)
        units = (given.unit["truth"], given.unit[role])
        halves = half_sampling(
            lambda x, y: np.array([frechet_distance(x, y)]), (a, b), units, seed=seed
        )
        result["FPD"][role] = Estimate(float(halves.extrapolated[0]), float(halves.error[0]))
        result["KPD"][role] = kpd_of_disjoint(a, b, batch=batch, seed=seed)
    return result


def by_largest(truth: Array, generated: Array) -> tuple[Array, Array]:
    """Return both divided by the truth's largest |x|, column by column; not where it is 0."""
    largest = np.abs(truth).max(0)
    scale = np.where(largest > 0, largest, 1.0)
    return truth / scale, generated / scale


def clipped(truth: Array, generated: Array) -> tuple[Array, Array]:
    """Return both clipped to the central `CENTRAL` of the truth, then as `by_largest`."""
    low, high = np.quantile(truth, [(1 - CENTRAL) / 2, (1 + CENTRAL) / 2], axis=0)
    return by_largest(np.clip(truth, low, high), np.clip(generated, low, high))


def fpd(
    truth: Array, generated: Array, *, sizes: tuple[int, int] = (20_000, 50_000), seed: int = SEED
) -> Estimate:
    """Return the FPD of (N, F) and (M, F) features as they are; see `by_largest`.

    Args:
        truth, generated: features.
        sizes: smallest and largest draw.
        seed: of the draws.

    Raises:
        DomainError: arrays of unlike width.
        NotMeasurable: values are not finite.

    >>> ones, zeros = np.ones((1000, 2)), np.zeros((1000, 2))
    >>> round(fpd(2 * ones, zeros, sizes=(100, 1000)).value, 3)
    8.0
    """
    _check(truth, generated)
    n_rows = (1 / np.linspace(1 / sizes[0], 1 / sizes[1], N_SIZES)).astype("int32")
    generator = np.random.default_rng(seed)
    counts = [
        np.empty((N_SIZES * N_DRAWS, len(sample)), dtype=np.uint16) for sample in (truth, generated)
    ]
    for draw, size in enumerate(np.repeat(n_rows, N_DRAWS)):
        for of, sample in zip(counts, (truth, generated), strict=True):
            of[draw] = np.bincount(generator.choice(len(sample), size), minlength=len(sample))
    first, second = _moments(truth, counts[0]), _moments(generated, counts[1])
    values = [between_normals(*a, *b) for a, b in zip(first, second, strict=True)]
    means = np.reshape(values, (N_SIZES, N_DRAWS)).mean(1)
    return _intercept(1 / n_rows, means)


def _moments(sample: Array, counts: NDArray[np.uint16]) -> list[tuple[Array, Array]]:
    """Return mean and covariance of each draw, given how often it holds each row."""
    n_columns = sample.shape[1]
    centre = sample.mean(0)
    i, j = np.triu_indices(n_columns)
    starts = np.flatnonzero(i == j)  # Where the products of a column with itself and the later are.
    sums, products = np.zeros((len(counts), n_columns)), np.zeros((len(counts), len(i)))
    step = min(len(sample), max(64, _CELLS // len(i)))
    # Once for all: fresh memory costs more than what is done in it.
    squares, times = np.empty((len(i), step)), np.empty((len(counts), step))
    for start in range(0, len(sample), step):
        columns = np.ascontiguousarray((sample[start : start + step] - centre).T)
        of, square = times[:, : columns.shape[1]], squares[:, : columns.shape[1]]
        of[:] = counts[:, start : start + step]
        for column, at in enumerate(starts):
            part = square[at : at + n_columns - column]
            np.multiply(columns[column], columns[column:], out=part)
        sums += of @ columns.T
        products += of @ square.T
    n = counts.sum(1, dtype=np.int64)
    result = []
    for size, total, product in zip(n, sums, products, strict=True):
        mean = total / size
        covariance = np.empty((n_columns, n_columns))
        covariance[i, j] = covariance[j, i] = product
        result.append((centre + mean, (covariance - size * np.outer(mean, mean)) / (size - 1)))
    return result


def _intercept(x: Array, y: Array) -> Estimate:
    """Return a of the fit of y by a + b x with a, b >= 0, and its error.

    By the same minimiser: with x near 1e-4 it stops within a percent of the least squares.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # No error of means that are all 0.
        parameters, covariance = curve_fit(
            lambda t, a, b: a + b * t, x, y, bounds=([0.0, 0.0], [np.inf, np.inf])
        )
    return Estimate(float(parameters[0]), float(np.sqrt(covariance[0, 0])))


def kpd(
    truth: Array,
    generated: Array,
    *,
    batch: int = 5000,
    n_batches: int = N_BATCHES,
    seed: int = SEED,
) -> Estimate:
    """Return the KPD of (N, F) and (M, F) features as they are; see `by_largest`.

    Args:
        truth, generated: features.
        batch: rows of each batch.
        n_batches: how many.
        seed: of the batches.

    Raises:
        DomainError: arrays of unlike width.
        NotMeasurable: values are not finite.

    >>> ones, zeros = np.ones((1000, 2)), np.zeros((1000, 2))
    >>> round(kpd(2 * ones, zeros, batch=100).value, 6)
    624.0
    """
    _check(truth, generated)
    values = []
    for number in range(n_batches):
        generator = np.random.default_rng(seed + 1000 * number)
        first, second = (generator.choice(len(x), batch) for x in (truth, generated))
        values.append(polynomial_mmd(truth[first], generated[second]))
    low, high = np.quantile(values, [0.16275, 0.83725])
    return Estimate(float(np.median(values)), float(high - low) / 2)


def kpd_of_disjoint(truth: Array, generated: Array, *, batch: int, seed: int) -> Estimate:
    """Return the mean of the unbiased MMD^2 of batches that share no rows, with its error."""
    generator = np.random.default_rng(seed)
    n_batches = min(len(truth), len(generated)) // batch
    first, second = (
        generator.permutation(len(x))[: n_batches * batch].reshape(n_batches, batch)
        for x in (truth, generated)
    )
    values = [polynomial_mmd(truth[a], generated[b]) for a, b in zip(first, second, strict=True)]
    error = np.std(values, ddof=1) / math.sqrt(n_batches) if n_batches > 1 else math.nan
    return Estimate(float(np.mean(values)), float(error))


def polynomial_mmd(a: Array, b: Array) -> float:
    """Return the unbiased MMD^2 of (N, F) and (M, F) rows with the kernel (x.y/F + 1)^4."""
    n, m, width = len(a), len(b), a.shape[1]
    within = 0.0
    for x, size in ((a, n), (b, m)):
        diagonal = float((((x**2).sum(1) / width + 1) ** 4).sum())
        within += (_kernel_sum(x, x) - diagonal) / (size * (size - 1))
    return within - 2 * _kernel_sum(a, b) / (n * m)


def _kernel_sum(a: Array, b: Array) -> float:
    """Return the sum of (x.y/F + 1)^4 over all pairs."""
    scaled = np.ascontiguousarray((b / a.shape[1]).T)
    step = max(1, _CELLS // (4 * len(b)))
    held = np.empty((step, len(b)))  # Once for all: fresh memory costs more than the kernel.
    total = 0.0
    for start in range(0, len(a), step):
        rows = a[start : start + step]
        block = np.matmul(rows, scaled, out=held[: len(rows)])
        block += 1.0
        block *= block
        flat = block.ravel()
        total += float(flat @ flat)
    return total


def _check(truth: Array, generated: Array) -> None:
    if truth.ndim != 2 or generated.ndim != 2 or truth.shape[1] != generated.shape[1]:
        raise DomainError(
            f"features must be (N, F) and (M, F), not {truth.shape} and {generated.shape}"
        )
    for name, sample in (("truth", truth), ("generated", generated)):
        bad = int((~np.isfinite(sample)).any(1).sum())
        if bad:
            raise NotMeasurable(
                f"{bad} rows of the {name} features are not finite, of which FPD and KPD are not "
                "defined: leave these rows out"
            )
