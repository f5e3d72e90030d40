"""What a scorecard may ask of samples, under the names that recipes use."""

from __future__ import annotations

from physgen.validation.calibration import Calibration
from physgen.validation.classes import InceptionScore
from physgen.validation.classifier import ClassifierTest
from physgen.validation.combined import CombinedTest
from physgen.validation.condition_bins import ConditionBins
from physgen.validation.constraints import Constraints
from physgen.validation.correlations import Correlations
from physgen.validation.coverage import Coverage
from physgen.validation.energy_mover import EnergyMover
from physgen.validation.equivalent import EquivalentEvents
from physgen.validation.event_weights import EventWeights
from physgen.validation.frechet import Frechet
from physgen.validation.importance import Importance
from physgen.validation.jet_wasserstein import JetWasserstein
from physgen.validation.label_accuracy import LabelAccuracy
from physgen.validation.likelihood import Likelihood
from physgen.validation.means import Means
from physgen.validation.memorisation import Memorisation
from physgen.validation.mmd import MaximumMeanDiscrepancy
from physgen.validation.neighbours import NearestNeighbour
from physgen.validation.physics_distances import PhysicsDistances
from physgen.validation.posterior_test import PosteriorTest
from physgen.validation.reference_histograms import ReferenceHistograms
from physgen.validation.regions import Regions
from physgen.validation.response import Response
from physgen.validation.shapes import Histograms
from physgen.validation.timing import Timing

__all__ = [
    "Calibration",
    "ClassifierTest",
    "CombinedTest",
    "ConditionBins",
    "Constraints",
    "Correlations",
    "Coverage",
    "EnergyMover",
    "EquivalentEvents",
    "EventWeights",
    "Frechet",
    "Histograms",
    "Importance",
    "InceptionScore",
    "JetWasserstein",
    "LabelAccuracy",
    "Likelihood",
    "MaximumMeanDiscrepancy",
    "Means",
    "Memorisation",
    "NearestNeighbour",
    "PhysicsDistances",
    "PosteriorTest",
    "ReferenceHistograms",
    "Regions",
    "Response",
    "Timing",
]
