"""What metrics of a scorecard ask of the surrogate itself, besides samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from physgen.batch import Batch
from physgen.posterior_draws import posterior_draws
from physgen.surrogates.base import Surrogate
from physgen.surrogates.gan.few_labels import LabelledGenerator, plainly_trained
from physgen.validation.answers import Guesses
from physgen.validation.judging import Metric
from physgen.validation.label_accuracy import LabelAccuracy


def asked(
    surrogate: Surrogate, truth: Batch | None, metrics: Sequence[Metric], seed: int
) -> dict[str, Any]:
    """Return fields of a `Comparison`, `None` where no metric asks or the surrogate cannot say.

    Args:
        surrogate: trained.
        truth: samples that training never saw.
        metrics: of the scorecard.
        seed: of what is drawn.
    """
    return {
        "posterior": posterior_draws(surrogate, truth, metrics, seed),
        "guesses": guesses(surrogate, truth, metrics, seed),
    }


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
