"""How many items a sample has: a categorical distribution given its condition."""

from __future__ import annotations

from torch import Tensor

from physgen.networks.mlp import MLP


class NumberOfItems(MLP):
    """p(n | c) of n = 0 to `n_items`, the softmax of a network of the condition.

    Args:
        n_items: the largest number.
        n_condition: columns of c; 0 for none.
        hidden: widths of the network.

    >>> number = NumberOfItems(3, 0, hidden=())
    >>> number.log_p(None, 5).shape
    torch.Size([5, 4])
    """

    def __init__(self, n_items: int, n_condition: int, *, hidden: tuple[int, ...]) -> None:
        # One input at least, which is constant where there is no condition.
        super().__init__(max(n_condition, 1), n_items + 1, hidden=hidden)

    def log_p(self, condition: Tensor | None, n: int) -> Tensor:
        """Return (n, n_items + 1), the log-probabilities of every number at (n, C) conditions."""
        if condition is None or not condition.shape[1]:
            condition = next(self.parameters()).new_ones(n, 1)
        log_p: Tensor = self(condition).log_softmax(1)
        return log_p

    def quantile(self, u: Tensor, condition: Tensor | None) -> Tensor:
        """Return (B,) integers, the numbers at which the distribution reaches u (B,) in (0, 1).

        Of uniform u they are draws.
        """
        reached = self.log_p(condition, len(u)).exp().cumsum(1)[:, :-1]
        return (reached < u[:, None]).sum(1)
