"""The estimator among those of scikit-learn: its own checks, and what it learns."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from physgen.integrations.sklearn import SurrogateEstimator

COVARIANCE = [[1.0, 0.8], [0.8, 2.0]]
QUICK = {"steps": 2, "batch_size": 16}


# All of them apply; that of the array API is skipped unless SCIPY_ARRAY_API=1 is set.
@pytest.mark.slow
@parametrize_with_checks([SurrogateEstimator(engine=QUICK, random_state=0)])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def fitted():
    """Two correlated normal columns, and a flow of them."""
    rng = np.random.default_rng(1)
    table = rng.multivariate_normal([1.0, -2.0], COVARIANCE, size=4000)
    estimator = SurrogateEstimator(
        {"kind": "flow", "bijection": {"kind": "coupling", "n_layers": 2, "hidden": [16]}},
        method={"kind": "maximum-likelihood", "learning_rate": 0.01},
        engine={"steps": 200, "batch_size": 256},
        random_state=1,
    )
    return estimator.fit(table), table


def test_samples_and_densities_are_those_of_the_table(fitted):
    estimator, table = fitted
    found = estimator.sample(20_000, random_state=2)
    assert np.abs(found.mean(0) - [1, -2]).max() < 0.15
    assert np.abs(np.cov(found.T) - COVARIANCE).max() < 0.25
    truth = multivariate_normal([1.0, -2.0], COVARIANCE).logpdf(table)
    density = estimator.score_samples(table)
    assert np.abs(density - truth).mean() < 0.2
    assert estimator.score(table) == pytest.approx(density.mean())
    assert density.dtype == np.float64


def test_a_random_state_means_the_same_samples(fitted):
    estimator, _ = fitted
    first = estimator.sample(5, random_state=3)
    assert (estimator.sample(5, random_state=3) == first).all()
    assert (estimator.sample(5, random_state=4) != first).all()
    assert (estimator.sample(5) != estimator.sample(5)).all()
    with pytest.raises(ValueError, match="n = 0: ask for one sample"):
        estimator.sample(0)


def test_only_those_that_know_their_density_have_scores():
    estimator = SurrogateEstimator(
        {"kind": "vae", "latent": 1, "network": {"kind": "mlp", "hidden": [8]}},
        method="evidence-lower-bound",
        engine=QUICK,
    )
    assert not hasattr(estimator, "score_samples")
    estimator.fit(np.random.default_rng(1).normal(size=(50, 2)))
    assert not hasattr(estimator, "score_samples")
    assert estimator.sample(3).shape == (3, 2)


def test_what_is_no_recipe_is_a_value_error():
    table = np.zeros((20, 2)) + np.arange(20)[:, None]
    for wrong, message in (
        ({"surrogate": "flw"}, "did you mean 'flow'"),
        ({"engine": {"step": 3}}, "unknown key 'engine.step'"),
        ({"transforms": ["standardize"]}, "did you mean 'standardise'"),
    ):
        with pytest.raises(ValueError, match=message):
            SurrogateEstimator(**wrong).fit(table)


def test_it_is_chosen_by_cross_validation():
    table = np.random.default_rng(1).normal(size=(200, 2)) ** 3
    search = GridSearchCV(
        SurrogateEstimator(engine=QUICK, random_state=0),
        {"transforms": [[], ["standardise"]]},
        cv=2,
    )
    assert len(search.fit(table).cv_results_["mean_test_score"]) == 2
