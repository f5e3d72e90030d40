"""What a scorecard may ask of samples, under the names that recipes use."""

from __future__ import annotations

from physgen.validation.classifier import ClassifierTest
from physgen.validation.importance import Importance
from physgen.validation.means import Means
from physgen.validation.shapes import Correlations, Histograms, MaximumMeanDiscrepancy

__all__ = [
    "ClassifierTest",
    "Correlations",
    "Histograms",
    "Importance",
    "MaximumMeanDiscrepancy",
    "Means",
]
