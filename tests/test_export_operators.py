"""Operators that stand for those of torch that do not export."""

import pytest
import torch

from physgen.export import operators


def test_the_error_function_and_what_is_made_of_it():
    x = torch.linspace(-27, 27, 20_001, dtype=torch.float64)
    exact = torch.special.erfc(x)
    normal = exact > 1e-300
    assert ((operators.erfc(x) - exact).abs() / exact)[normal].max() < 2e-15
    assert (operators.ndtr(x) - torch.special.ndtr(x)).abs().max() < 5e-16


def test_what_exports_as_it_is_stays():
    x = torch.zeros(3)
    for operator in (torch.ops.aten.erf.default, torch.ops.aten.special_ndtr.default):
        assert operators.REPLACED[operator](x) is NotImplemented
    assert operators.searchsorted(torch.zeros(2, 3), torch.zeros(2, 1)) is NotImplemented


@pytest.mark.parametrize("n", [1, 2, 3, 8, 37])
@pytest.mark.parametrize("right", [False, True])
def test_searches_find_the_places_of_torch(n, right):
    edges = torch.arange(n).double()
    values = torch.tensor([[-1.0, 0.0, 0.5], [n - 1.0, n / 2, n + 3.0]], dtype=torch.float64)
    found = operators.searchsorted(edges, values, right=right)
    assert torch.equal(found, torch.searchsorted(edges, values, right=right))


@pytest.mark.parametrize("descending", [False, True])
def test_sorting(descending):
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    found = operators.sort(x, stable=True, dim=1, descending=descending)
    expected = torch.sort(x, stable=True, dim=1, descending=descending)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
