"""The accuracy of classifiers that know few labels, beside plain ones."""

import math

import numpy as np
import pytest
import torch
from toy import Normal

from physgen.batch import Batch
from physgen.errors import InputError
from physgen.validation.answers import Guesses
from physgen.validation.comparison import Comparison
from physgen.validation.label_accuracy import LabelAccuracy


def compared(guesses):
    return Comparison(Normal(), Batch(torch.zeros(8, 2)), guesses=guesses)


def test_the_row_is_the_share_of_classes_found_beside_that_of_plain_classifiers():
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    found, plain = labels.copy(), np.stack([labels, labels])
    found[0] = 1  # 7 of 8.
    plain[0, :4] = 9  # 4 of 8.
    plain[1, :2] = 9  # 6 of 8.
    (row,) = LabelAccuracy().rows(compared(Guesses(labels, found, plain, 40)))
    assert row.name == "accuracy with 40 labels"
    assert (row.value, row.baseline) == (0.875, 0.625)
    assert row.error == pytest.approx(math.sqrt(0.875 * 0.125 / 8))
    # Of 0.5 and 0.75: their deviation is 0.1768, that of their mean 0.125.
    assert "2 plain classifiers" in row.note
    assert "0.6250 +- 0.1250 (over seeds), from 0.5000 to 0.7500" in row.note
    # Differences 0, 1, 1/2, 1/2, 0, 0, 0, 0, of deviation 0.3780.
    error = math.hypot(0.3780 / math.sqrt(8), 0.125)
    assert f"difference 0.2500 +- {error:.4f}" in row.note


def test_what_classifies_nothing_has_no_accuracy():
    with pytest.raises(InputError, match="labelled-generator"):
        LabelAccuracy().rows(compared(None))
