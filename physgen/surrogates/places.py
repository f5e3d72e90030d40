"""Where the points of sets can lie, if that is on a grid: the cells of a calorimeter."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

MOST = 1024
"""Places of a group that are remembered; where there are more, points stay where they are."""

DISTINCT, LOOKED_AT = 0.5, 100_000
"""A column with a smaller share of different values, if several, lies on a grid; of how many."""


class Places(nn.Module):
    """The places of points, by the group that a point belongs to.

    Args:
        n_groups: of points.
        n_columns: of a place.

    Attributes:
        on_grid: (), whether points lie on a grid of no more than `MOST` places.
        known_any: the same as a plain bool, which a graph of operations can branch on.
        number: (n_groups,), how many places are known; 0 where there are too many.
        shared: (), whether there are sets with two points in one place.

    >>> places = Places(1, 1)
    >>> grid = torch.tensor([[[0.0], [2.0]], [[2.0], [4.0]]]).repeat(9, 1, 1)
    >>> there, group = torch.ones(18, 2, dtype=torch.bool), torch.zeros(18, 2, dtype=torch.long)
    >>> places.fit(grid, there, group)
    >>> places.nearest(torch.tensor([[[1.8], [2.1]]]), there[:1], group[:1])
    tensor([[[0.],
             [2.]]])
    """

    on_grid: Tensor
    number: Tensor
    shared: Tensor
    known: Tensor
    middle: Tensor
    size: Tensor

    def __init__(self, n_groups: int, n_columns: int) -> None:
        super().__init__()
        self.register_buffer("on_grid", torch.zeros((), dtype=torch.bool))
        self.register_buffer("shared", torch.zeros((), dtype=torch.bool))
        self.register_buffer("number", torch.zeros(n_groups, dtype=torch.long))
        self.register_buffer("known", torch.zeros(n_groups, MOST, n_columns, dtype=torch.double))
        self.register_buffer("middle", torch.zeros(n_columns, dtype=torch.double))
        self.register_buffer("size", torch.ones(n_columns, dtype=torch.double))
        self.known_any = False
        self.register_load_state_dict_post_hook(_see)  # type: ignore[no-untyped-call]

    def fit(self, x: Tensor, there: Tensor, group: Tensor) -> None:
        """Find the places of points (B, N, M) that are `there` (B, N), of groups (B, N)."""
        self.number.zero_()
        self._find(x, there, group)
        self.known_any = bool(self.number.any())
        self.on_grid.fill_(self.known_any)

    def _find(self, x: Tensor, there: Tensor, group: Tensor) -> None:
        points = x.double()[there].cpu().numpy()
        some = points[:LOOKED_AT].T
        different = [len(np.unique(column)) for column in some]
        # A constant column is no grid.
        if not any(1 < number < DISTINCT * some.shape[1] for number in different):
            return
        self.middle.copy_(torch.from_numpy(np.median(points, 0)))
        away = np.median(np.abs(points - self.middle.cpu().numpy()), 0)
        self.size.copy_(torch.from_numpy(np.where(away > 0, away, 1.0)))
        rows, groups = there.nonzero()[:, 0].cpu().numpy(), group[there].cpu().numpy()
        number, shared = [], False
        for index in range(len(self.number)):
            inside = groups == index
            places, which = _distinct(points[inside])
            number.append(len(places) if len(places) <= MOST else 0)
            if not number[-1]:
                continue
            pairs = rows[inside] * MOST + which
            shared |= len(np.unique(pairs)) < len(pairs)
            self.known[index, : len(places)] = torch.from_numpy(places).to(self.known)
        self.shared.fill_(shared)
        self.number.copy_(torch.tensor(number))

    def nearest(self, x: Tensor, there: Tensor, group: Tensor) -> Tensor:
        """Return points (B, N, M) moved to known places of their groups.

        Unless data share them, no two points of a set have one place, as far as there are enough:
        those are taken whose squared distances have the least sum. They are distances of
        arsinh((x - middle) / size): where points are dense, places are.
        """
        if not self.known_any:
            return x
        result, mapped = x.clone(), self._mapped(x.detach().double()).cpu().numpy()
        known, number = self._mapped(self.known).cpu().numpy(), self.number.tolist()
        for row in range(len(x)):
            for index in np.flatnonzero(number):
                points = (there[row] & (group[row] == index)).nonzero()[:, 0]
                away = mapped[row][points.cpu().numpy()][:, None] - known[index, : number[index]]
                which = torch.from_numpy(self._choose((away**2).sum(2))).to(x.device)
                result[row, points] = self.known[index, which].to(x)
        return result

    def _choose(self, cost: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return (n,) which places (n, P) of some cost are taken."""
        which = np.asarray(cost.argmin(1))
        if not self.shared:
            points, chosen = linear_sum_assignment(cost)
            which[points] = chosen
        return which

    def _mapped(self, x: Tensor) -> Tensor:
        return ((x - self.middle) / self.size).arcsinh()


def _see(places: nn.Module, _: object) -> None:
    """See of loaded places whether there are any."""
    assert isinstance(places, Places)
    places.known_any = bool(places.number.any())


def _distinct(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the different rows of points (n, M), and which of them each is."""
    code = np.zeros(len(points), np.int64)
    for column in points.T:
        values, inverse = np.unique(column, return_inverse=True)
        code = np.unique(code * len(values) + inverse, return_inverse=True)[1].reshape(-1)
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    return points[first], which.reshape(-1)
