"""Operators that stand for those of torch that do not export."""

import pytest
import torch

from physgen.export import operators
from physgen.transforms import quantile_table
from physgen.transforms.quantile_table import QuantileTable


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


def test_what_is_no_number():
    x = torch.tensor([1.5, torch.nan, torch.inf, -torch.inf])
    assert torch.equal(operators.nan_to_num(x), x.nan_to_num())
    assert torch.equal(operators.nan_to_num(x, 2.0), x.nan_to_num(2.0))
    assert operators.nan_to_num(x, 0.0, 1.0) is NotImplemented


@pytest.mark.parametrize("n_bins", [1, 8, 128, 2048])
def test_tables_are_searched_alike_in_an_export(monkeypatch, n_bins):
    generator = torch.Generator().manual_seed(1)
    table = QuantileTable(3, 5, n_bins)
    steps = torch.rand(3, 5, n_bins, generator=generator) ** 4 * (torch.arange(n_bins) % 7 > 0)
    below = torch.nn.functional.pad(steps.cumsum(-1), (1, 0))
    table.below.copy_(below / below[..., -1:].clamp(min=1e-9))
    group = torch.tensor([0, 2, 1, 2])
    y, level = (torch.rand(500, 4, generator=generator).double() for _ in range(2))
    y[0, 0], level[1] = torch.nan, torch.tensor([0.0, 1.0, -0.1, 1.1])
    expected = table.number(y, level, group)
    monkeypatch.setattr(quantile_table, "_exporting", lambda: True)
    torch.testing.assert_close(table.number(y, level, group), expected, rtol=0, atol=1e-12)
