"""What metrics of a scorecard ask of the surrogate itself, besides samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from physgen.batch import Batch
from physgen.posterior_draws import posterior_draws
from physgen.surrogates.base import Surrogate
from physgen.surrogates.gan.few_labels import LabelledGenerator, plainly_trained
from physgen.systems.base import System
from physgen.systems.posterior import Posterior
from physgen.validation.answers import Guesses
from physgen.validation.judging import Metric
from physgen.validation.label_accuracy import LabelAccuracy
from physgen.validation.posterior_test import PosteriorTest
from physgen.validation.ranks import Array


def asked(
    surrogate: Surrogate,
    system: System,
    truth: Batch | None,
    metrics: Sequence[Metric],
    seed: int,
) -> dict[str, Any]:
    """Return fields of a `Comparison`, `None` where no metric asks or the surrogate cannot say.

    Args:
        surrogate: trained.
        system: of the samples.
        truth: samples that training never saw.
        metrics: of the scorecard.
        seed: of what is drawn.
    """
    return {
        "posterior": posterior_draws(surrogate, truth, metrics, seed),
        "posteriors": posteriors(surrogate, system, truth, metrics, seed),
        "guesses": guesses(surrogate, truth, metrics, seed),
    }


@torch.no_grad()
def posteriors(
    surrogate: Surrogate,
    system: System,
    truth: Batch | None,
    metrics: Sequence[Metric],
    seed: int,
) -> list[tuple[Array, Array, Array]] | None:
    """Return draws of the posteriors of the first true data, if a metric is `PosteriorTest`.

    Of each (n, P) of the surrogate, and twice of the exact posterior; none where nobody knows that.
    """
    metric = next((one for one in metrics if isinstance(one, PosteriorTest)), None)
    if metric is None or truth is None or not isinstance(system, Posterior):
        return None
    assert truth.condition is not None  # The data.
    found = []
    n = metric.draws
    surrogate.conditions.extrapolate, before = True, surrogate.conditions.extrapolate
    for number, x in enumerate(truth.condition[: metric.observations]):
        exact = system.exact_posterior(x, 2 * n, seed + number)
        if exact is None:
            break
        given = x.to(surrogate.device, surrogate.dtype).expand(n, -1)
        generator = torch.Generator(device=surrogate.device).manual_seed(seed + number)
        draws = surrogate.sample(n, given, generator=generator).x.double().cpu().numpy()
        found.append((draws, exact[:n], exact[n:]))
    surrogate.conditions.extrapolate = before
    return found


def guesses(
    surrogate: Surrogate, truth: Batch | None, metrics: Sequence[Metric], seed: int
) -> Guesses | None:
    """Return the classes of true samples as classifiers see them, if a metric is their accuracy."""
    metric = next((one for one in metrics if isinstance(one, LabelAccuracy)), None)
    if metric is None or truth is None or not isinstance(surrogate, LabelledGenerator):
        return None
    assert truth.condition is not None  # A label.
    labels = surrogate.transform.map_condition(truth.condition).argmax(1)
    networks = [plainly_trained(surrogate, metric.steps, seed + i) for i in range(metric.seeds)]
    found = [surrogate.probabilities(truth.x, network).argmax(1) for network in (None, *networks)]
    own, plain = found[0], torch.stack(found[1:])
    n_labels = len(surrogate.known)
    return Guesses(labels.numpy(), own.cpu().numpy(), plain.cpu().numpy(), n_labels)
