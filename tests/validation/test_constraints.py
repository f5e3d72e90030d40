"""Relations that all true samples obey are found, and what breaks them is said."""

import re

import pytest
import torch

from physgen.batch import Batch
from physgen.systems.events import EventTable
from physgen.validation.comparison import Comparison
from physgen.validation.constraints import Constraints

NAMES = ("E1", "px1", "py1", "pz1", "pt1", "pt2", "x", "y")


def rows(seed, n=3000):
    noise = torch.Generator().manual_seed(seed)
    p, free = torch.randn(n, 3, generator=noise), torch.randn(n, 2, generator=noise)
    mass = torch.rand(n, 1, generator=noise)
    energy = (p.square().sum(1, keepdim=True) + mass**2).sqrt()
    pt = torch.empty(n, 2).exponential_(generator=noise).sort(dim=1, descending=True).values
    return torch.cat([energy, p, pt, free], 1)


def judged(generated):
    fields = tuple({"name": name, "dtype": "float32"} for name in NAMES)
    samples = (Batch(rows(1)), Batch(rows(2)))
    comparison = Comparison(EventTable(fields=fields), Batch(generated), *samples)
    return Constraints().rows(comparison)[0]


def test_what_is_like_the_truth_raises_no_warning():
    row = judged(rows(3))
    assert row.value < 3e-3
    assert row.warning == ""


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        (5, lambda x: x[:, 4] * 1.5, "pt1 < pt2"),
        (4, lambda x: x[:, 4] - 0.5, "pt1 < "),
        (0, lambda x: x[:, 0] * 0.9, r"E1 < \|p\|"),
        (5, lambda x: x[:, 5] - 0.1, "pt2 < 0"),
    ],
)
def test_what_breaks_a_relation_is_named_with_its_share(column, change, said):
    x = rows(3)
    x[:150, column] = change(x)[:150]
    row = judged(x)
    assert 5e-3 < row.value <= 0.055
    assert row.floor < 3e-3
    assert re.search(said, row.warning)
