"""What a generated sample is worth in true events, where the answer is known."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import norm

from physgen.batch import Batch, Schema, Variable
from physgen.errors import NotMeasurable, RecipeError
from physgen.validation import equivalent
from physgen.validation.combined import CombinedTest
from physgen.validation.comparison import Comparison
from physgen.validation.equivalent import EquivalentEvents, Worth, _difference
from physgen.validation.event_features import binned, fourier, in_region
from physgen.validation.independence import select
from physgen.validation.regions import Regions

BINS = 10


class Columns:
    """Two columns, which are the observables."""

    schema = Schema((2,), (Variable("x"), Variable("y")))
    derived: ClassVar = {}

    def observables(self, batch):
        return dict(zip("xy", batch.x.unbind(1), strict=True))


def sample(n, seed, shift=0.0, **batch):
    x = np.random.default_rng(seed).normal(size=(n, 2)) + np.array([shift, 0.0])
    return Batch(torch.from_numpy(x), **batch)


def limit_of_a_shift(shift):
    """V_P / b^2 in the metric of chi^2."""
    p = np.full(BINS, 1 / BINS)
    edges = norm.ppf(np.arange(1, BINS) / BINS)
    q = np.diff(np.concatenate([[0], norm.cdf(edges - shift), [1]]))
    return (BINS - 1) / np.sum((q - p) ** 2 / p)


def worth(generated, truth):
    comparison = Comparison(Columns(), generated, truth)
    selected = select(comparison)
    features, columns = binned(comparison, selected, BINS)
    return _difference(comparison, selected, "generated", features).worths(columns)["x"]


def whole(difference):
    return difference.worths({"all": slice(None)})["all"]


def test_intervals_cover_what_a_shifted_normal_is_worth():
    wanted, n = limit_of_a_shift(0.1), 20_000
    found = [worth(sample(n, 2 * i, 0.1), sample(n, 2 * i + 1)) for i in range(60)]
    inside = [one.limit[0] <= wanted <= one.limit[1] for one in found]
    # A share of .95 of 60 is .95 +- .03.
    assert np.mean(inside) > 0.86
    mean = 1 / np.mean([one.bias / one.truth for one in found])
    assert mean == pytest.approx(wanted, rel=0.1)
    number = 1 / (1 / wanted + 1 / n)
    assert np.median([one.number for one in found]) == pytest.approx(number, rel=0.1)
    assert not any(one.too_good for one in found)


def test_a_few_rows_again_and_again_are_worth_those_rows():
    """20,000 events drawn from 500: N(infinity) is 500 on harmonic average."""
    inverse = []
    for i in range(20):
        few = sample(500, 10 * i).x
        rows = np.random.default_rng(i).integers(500, size=20_000)
        one = worth(Batch(few[rows]), sample(20_000, 10 * i + 1))
        inverse.append(one.bias / one.truth)
    # 9 directions: the mean of 20 is known to sqrt(2 / 9 / 20) = 11%.
    assert 1 / np.mean(inverse) == pytest.approx(500, rel=0.3)


def test_perfect_events_are_worth_as_many_and_no_bias_is_resolved():
    ones = [worth(sample(5000, 2 * i), sample(5000, 2 * i + 1)) for i in range(20)]
    numbers = np.array([one.number for one in ones])
    assert np.median(numbers) > 3500
    assert numbers.max() < 5500
    unresolved = [np.isinf(one.limit[1]) for one in ones]
    assert np.mean(unresolved) > 0.75


def test_weights_count_as_they_should():
    """Events at half the rate with weights of 2 or 0.5: n_eff = W^2 / sum w^2."""
    n = 20_000
    weight = torch.from_numpy(np.random.default_rng(5).choice([0.25, 2.5], n))
    one = worth(sample(n, 1, weight=weight), sample(n, 2))
    effective = float(weight.sum() ** 2 / weight.square().sum())
    assert one.truth / one.generated == pytest.approx(effective, rel=0.02)


def test_correlated_rows_are_worth_fewer():
    n = 8000
    steps = np.random.default_rng(3).normal(size=(n, 2))
    x = np.empty((n, 2))
    x[0] = steps[0]
    for t in range(1, n):
        x[t] = 0.9 * x[t - 1] + np.sqrt(1 - 0.81) * steps[t]
    chain = torch.zeros(n, dtype=torch.long)
    one = worth(Batch(torch.from_numpy(x), chain=chain), sample(n, 4))
    assert one.truth / one.generated < 0.25 * n
    assert one.limit[1] == np.inf


def test_a_truth_that_was_copied_is_noticed():
    truth = sample(3000, 1)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(1))
    rows = EquivalentEvents().rows(Comparison(Columns(), Batch(truth.x[order]), truth))
    assert "agrees better with the truth than independent samples can" in rows[0].warning


def test_a_joint_fault_is_seen_by_the_joint_number_alone():
    truth, made = sample(6000, 1), sample(6000, 2)
    turned = torch.stack([made.x[:, 0], 0.3 * made.x[:, 0] + 0.954 * made.x[:, 1]], 1)
    comparison = Comparison(Columns(), Batch(turned), truth, floor=sample(6000, 3))
    rows = {row.name: row for row in EquivalentEvents().rows(comparison)}
    together = ["N_equiv", "N_equiv, mean of observables", "N_equiv, tails of observables"]
    assert list(rows) == [*together, "N_equiv x", "N_equiv y"]
    assert rows["N_equiv"].value < 1500
    assert rows["N_equiv y"].value > 3000
    assert rows["N_equiv"].floor > 3000


def test_ends_of_the_interval_are_those_of_the_noncentral_law():
    one = Worth(truth=9.0, generated=0.01, distance=0.05, trace=0.02, square=4e-5, along=1e-4)
    low, high = one.biases
    assert low < one.bias < high
    assert one.limit == (9.0 / high, 9.0 / low)
    assert one.interval[0] < one.number < one.interval[1]
    assert one.enough(900) == pytest.approx(9 * 900 * 0.01 / one.bias)


@pytest.mark.parametrize("place", [3, 6])
def test_intervals_cover_a_bias_along_any_directions_of_the_noise(place):
    """Along small ones b^2 is known better; along the last of these by half."""
    variances, generator = 1 / np.arange(1.0, 257), np.random.default_rng(place)
    trace, square = variances.sum(), np.square(variances).sum()
    b = np.zeros(256)
    b[place] = np.sqrt(30 * np.sqrt(square))
    inside = 0
    for _ in range(400):
        d = b + generator.standard_normal(256) * np.sqrt(variances)
        low, high = Worth(
            truth=1.0,
            generated=0.0,
            distance=d @ d,
            trace=trace,
            square=square,
            along=d @ (variances * d),
        ).biases
        inside += low <= b @ b <= high
    assert 0.92 <= inside / 400 <= 0.975


def test_events_that_are_not_defined_where_true_ones_are_count():
    """A tenth of the generated events without y, which stand for the mean of y elsewhere."""
    truth, made = sample(6000, 1), sample(6000, 2)
    made.x[:600, 1] = torch.nan
    rows = {row.name: row for row in EquivalentEvents().rows(Comparison(Columns(), made, truth))}
    assert rows["N_equiv y"].value < 10
    assert rows["N_equiv"].value < 1000
    assert rows["N_equiv x"].value > 3000


def test_a_depleted_tail_is_seen_in_its_region():
    """Of a tail of 5% a share of .3 is gone: V_P = 1 - .05 and b^2 = (.3 x .05)^2 / .05."""
    edge, n = norm.ppf(0.95), 20_000
    numbers = {"x": [], "y": []}
    for i in range(20):
        x = sample(n, 3 * i).x
        generator = np.random.default_rng(3 * i + 2)
        lost = torch.from_numpy(generator.random(n) < 0.3) & (x[:, 0] > edge)
        x[lost, 0] = torch.from_numpy(norm.ppf(generator.uniform(0, 0.95, int(lost.sum()))))
        comparison = Comparison(Columns(), Batch(x), sample(n, 3 * i + 1))
        selected = select(comparison)
        for name, low in (("x", edge), ("y", -1.0)):
            features = in_region(comparison, selected, name, (low, 10.0), 1)
            one = _difference(comparison, selected, "generated", features).worths(
                {"all": slice(None)}
            )["all"]
            numbers[name].append(1 / (one.bias / one.truth))
    wanted = (1 - 0.05) * 0.05 / (0.3 * 0.05) ** 2
    assert 1 / np.mean(1 / np.array(numbers["x"])) == pytest.approx(wanted, rel=0.15)
    assert abs(1 / np.mean(1 / np.array(numbers["y"]))) > 10_000


def test_tails_are_the_outermost_bins():
    truth, x = sample(20_000, 2), sample(20_000, 1).x
    for low, high, tails, all_of_x in ((0.0, 0.5, 2000, 50), (1.6, 9.0, 0, 150)):
        moved = x.clone()
        within = (moved[:, 0].abs() > low) & (moved[:, 0].abs() < high)
        moved[within, 0] = low * moved[within, 0].sign()
        rows = EquivalentEvents().rows(Comparison(Columns(), Batch(moved), truth))
        found = {row.name: row.value for row in rows}
        assert found["N_equiv x"] < all_of_x
        assert tails < found["N_equiv, tails of observables"]
        assert (found["N_equiv, tails of observables"] < 50) == (tails == 0)


@pytest.mark.parametrize("side", [-1, 1])
def test_either_tail_is_one_of_the_tails(side):
    truth, x = sample(20_000, 2), sample(20_000, 1).x.clone()
    x[side * x[:, 0] > 1.645, 0] = 0.0
    rows = EquivalentEvents().rows(Comparison(Columns(), Batch(x), truth))
    found = {row.name: row.value for row in rows}
    # One of four bins of 5% is empty, V_P / b^2 = 4 (.95) / .05; the other three are as they were.
    assert found["N_equiv, tails of observables"] == pytest.approx(76, rel=0.05)


def test_regions_that_are_not_there_are_refused():
    comparison = Comparison(Columns(), sample(500, 1), sample(500, 2))
    with pytest.raises(RecipeError, match="z"):
        EquivalentEvents(regions={"z": (0.0, 1.0)}).rows(comparison)
    with pytest.raises(NotMeasurable, match="0 true events have x from 50 to 60"):
        EquivalentEvents(regions={"x": (50.0, 60.0)}).rows(comparison)


def test_a_value_that_no_generated_event_has_does_not_make_them_worth_any_number():
    """One of 500 true events has a value that none of the generated ones has, as by chance."""
    truth, made = sample(500, 1), sample(500, 2)
    truth.x[:, 0], made.x[:, 0] = 0.0, 0.0
    truth.x[0, 0] = 1.0
    one = worth(made, truth)
    assert one.generated == pytest.approx(500 * 0.5 / 500**2, rel=0.01)  # of p = 1/500
    assert one.number == pytest.approx(2 * 500, rel=0.01)
    assert one.interval[1] == pytest.approx(1000, rel=0.01)


def test_samples_that_agree_too_well_exclude_no_bias_that_others_could_not():
    ones = [
        Worth(
            truth=19.0,
            generated=19 / 500,
            distance=d,
            trace=0.076,
            square=3e-4,
            along=3e-4 * d / 0.076,
        )
        for d in (0.001, 0.03, 0.07)
    ]
    limits = [one.limit[0] for one in ones]
    assert limits[0] == limits[1] == pytest.approx(limits[2], rel=0.3)
    assert limits[2] <= limits[0] < 1000
    assert ones[0].interval[0] < 450
    assert ones[0].limit[1] == np.inf


class Many(Columns):
    """Sixty columns that are correlated."""

    schema = Schema((60,), tuple(Variable(f"c{i}") for i in range(60)))

    def observables(self, batch):
        return {f"c{i}": column for i, column in enumerate(batch.x.unbind(1))}


def test_samples_of_many_observables_and_few_rows_are_not_called_biased():
    """Whitened by 600 rows, 60 columns of 600 others seemed worth less than 300 events."""
    resolved, numbers = [], []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        mixed = generator.normal(size=(12, 60))
        batches = [
            Batch(
                torch.from_numpy(generator.normal(size=(600, 72)) @ np.vstack([mixed, np.eye(60)]))
            )
            for _ in range(2)
        ]
        comparison = Comparison(Many(), *batches)
        selected = select(comparison)
        features, of = fourier(comparison, selected)
        one = whole(_difference(comparison, selected, "generated", features))
        resolved.append(np.isfinite(one.limit[1]))
        numbers.append(one.number)
    assert of == "the 12 largest principal components"
    assert np.mean(resolved) <= 0.2
    assert np.median(numbers) > 450


@pytest.mark.parametrize("sign", [1, -1])
def test_an_observable_that_is_nearly_always_its_least_value_is_no_alarm(sign):
    """As the energy of a layer that few showers reach: its values lie in two bins, not in one."""

    def rare(seed, share=0.02):
        generator = np.random.default_rng(seed)
        x = generator.normal(size=(2000, 2))
        x[:, 0] = sign * generator.exponential(size=2000) * (generator.random(2000) < share)
        return Batch(torch.from_numpy(x))

    found = [worth(rare(2 * i), rare(2 * i + 1)) for i in range(20)]
    assert not any(one.too_good for one in found)
    assert 500 < np.median([one.number for one in found]) < 20_000
    assert worth(rare(1, 0.06), rare(2)).limit[1] < 200


def test_a_column_that_is_constant_in_the_truth_alone_counts():
    truth, made = sample(3000, 1), sample(3000, 2)
    truth.x[:, 1] = 0.0
    rows = {row.name: row for row in EquivalentEvents().rows(Comparison(Columns(), made, truth))}
    assert rows["N_equiv y"].value < 1
    assert rows["N_equiv, mean of observables"].value < 10
    assert rows["N_equiv"].value > 500  # By the other column alone.
    truth.x[:] = 0.0
    with pytest.raises(NotMeasurable, match="no observable of the truth varies"):
        EquivalentEvents().rows(Comparison(Columns(), made, truth))
    made.x[:] = 0.0
    with pytest.raises(NotMeasurable, match="no observable varies"):
        EquivalentEvents().rows(Comparison(Columns(), made, truth))


def test_intervals_of_several_observables_that_are_biased_together():
    """Two columns of correlation .95, both shifted: their bias lies along the large eigenvalue."""

    def draw(seed, n, shift):
        z = np.random.default_rng(seed).normal(size=(n, 2))
        z[:, 1] = 0.95 * z[:, 0] + np.sqrt(1 - 0.95**2) * z[:, 1]
        return Batch(torch.from_numpy(z + shift))

    wanted, inside = limit_of_a_shift(0.3), 0
    for i in range(100):
        comparison = Comparison(Columns(), draw(2 * i, 2000, 0.3), draw(2 * i + 1, 2000, 0.0))
        selected = select(comparison)
        features, _ = binned(comparison, selected, BINS)
        one = _difference(comparison, selected, "generated", features).worths({"all": slice(None)})[
            "all"
        ]
        inside += one.limit[0] <= wanted <= one.limit[1]
    assert inside >= 88  # A share of .95 of 100, three standard deviations below.


@pytest.mark.parametrize("wide", [1, 7, 512])
def test_the_covariance_is_gone_through_in_columns(wide, monkeypatch):
    monkeypatch.setattr(equivalent, "_WIDE", wide)
    comparison = Comparison(Columns(), sample(3000, 1, 0.1), sample(2000, 2))
    selected = select(comparison)
    features, columns = binned(comparison, selected, BINS)
    ends = [end for part in columns.values() for end in (part.start, part.stop - 2)]
    difference = _difference(comparison, selected, "generated", features)
    found = difference.worths({"all": slice(None), "ends": ends, **columns})
    phi = {role: features[role].toarray() for role in ("generated", "truth")}
    covariance = sum(np.cov(x.T, bias=True) / len(x) for x in phi.values())
    d = phi["generated"].mean(0) - phi["truth"].mean(0)
    for name, part in {"all": slice(None), "ends": ends, **columns}.items():
        s, one = covariance[part][:, part], found[name]
        assert one.trace == pytest.approx(np.trace(s))
        assert one.square == pytest.approx(np.square(s).sum())
        assert one.along == pytest.approx(d[part] @ s @ d[part])
        assert one.distance == pytest.approx(np.square(d[part]).sum())
        assert one.generated == pytest.approx(phi["generated"][:, part].var(0).sum() / 3000)


def test_observables_of_few_values_count_as_much_as_others():
    """1/N of all is the mean of their 1/N."""
    rng, n = np.random.default_rng(0), 20_000
    ours, truth = (
        Batch(torch.from_numpy(np.stack([rng.normal(size=n), 1.0 * (rng.random(n) < p)], 1)))
        for p in (0.6, 0.5)
    )
    rows = {row.name: row for row in EquivalentEvents().rows(Comparison(Columns(), ours, truth))}
    single = [rows[f"N_equiv {name}"].value for name in "xy"]
    mean = 2 / sum(1 / value for value in single)
    assert rows["N_equiv, mean of observables"].value == pytest.approx(mean, rel=0.02)


def test_the_joint_number_depends_on_neither_seed_nor_order():
    class Swapped(Columns):
        def observables(self, batch):
            return dict(reversed(super().observables(batch).items()))

    ours, truth = sample(4000, 1, 0.2), sample(4000, 2)
    values = {
        EquivalentEvents().rows(Comparison(system, ours, truth, seed=seed))[0].value
        for system in (Columns(), Swapped())
        for seed in (0, 1)
    }
    assert max(values) == pytest.approx(min(values), rel=1e-9)


def test_weights_of_any_size_are_worth_the_same_in_a_region():
    truth, ours = sample(4000, 2), sample(4000, 1, 0.1)
    metric = EquivalentEvents(regions={"x": (1.0, 3.0)})
    values = []
    for size in (1.0, 1e-4):
        weighted = truth.replace(weight=torch.full((4000,), size, dtype=torch.float64))
        rows = {row.name: row for row in metric.rows(Comparison(Columns(), ours, weighted))}
        values.append(rows["N_equiv x from 1 to 3"].value)
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_what_is_not_looked_at_is_named():
    class Profile(Columns):
        def observables(self, batch):
            return super().observables(batch) | {"profile": batch.x.repeat(1, 20)}

    comparison = Comparison(Profile(), sample(1000, 1), sample(1000, 2))
    for metric, row in ((EquivalentEvents(), 0), (Regions(), 0), (CombinedTest(), 0)):
        note = metric.rows(comparison)[row].note
        assert "not looked at: profile" in note
