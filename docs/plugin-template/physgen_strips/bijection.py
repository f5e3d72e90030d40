"""A bijection for flows: tails and correlations, without a network."""

import torch
from torch import Tensor, nn

from physgen.surrogates.flows.bijection import Bijection


class SinhArcsinh(Bijection):
    """z = L y + b, y = sinh(d arcsinh(x) + e), where b and e are linear in the condition.

    Jones & Pewsey, Biometrika 96 (2009) 761, in several dimensions by a lower triangular L.

    Args:
        features: size of x.
        n_condition: size of the condition; 0 for none.
        tails: whether d, which makes tails lighter or heavier, is learned.
    """

    not_exported = "it solves a triangular system; take bijection.kind=coupling, or pyfunc"

    def __init__(self, features: int, n_condition: int = 0, *, tails: bool = True) -> None:
        super().__init__(features, n_condition)
        self.log_d = nn.Parameter(torch.zeros(features), requires_grad=tails)
        self.log_diagonal = nn.Parameter(torch.zeros(features))
        self.lower = nn.Parameter(torch.zeros(features, features))
        self.given = nn.Linear(n_condition, 2 * features)
        nn.init.zeros_(self.given.weight)
        nn.init.zeros_(self.given.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data (B, features) to the base; return z and log|det dz/dx|, (B,)."""
        b, e = self._shifts(x, condition)
        inner = self.log_d.exp() * x.arcsinh() + e
        slope = self.log_d + inner.cosh().log() - 0.5 * x.square().log1p()
        return inner.sinh() @ self._matrix().T + b, (slope + self.log_diagonal).sum(-1)

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the base (B, features) to data; return x and log|det dx/dz|, (B,)."""
        b, e = self._shifts(z, condition)
        y = torch.linalg.solve_triangular(self._matrix(), (z - b).T, upper=False).T
        x = ((y.arcsinh() - e) / self.log_d.exp()).sinh()
        return x, -self(x, condition)[1]

    def _shifts(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        given = x.new_zeros(len(x), 0) if condition is None else condition
        b, e = self.given(given).chunk(2, -1)
        return b, e

    def _matrix(self) -> Tensor:
        return self.lower.tril(-1) + self.log_diagonal.exp().diag()
