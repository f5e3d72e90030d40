r"""Networks of sets: equivariant point clouds (EPiC, Buhmann et al., arXiv 2301.08128, figure 1).

A set of n points carries a vector h_i for each of them and one g for them all. A layer is

    g  <-  g + MLP([mean_i h_i, sum_i h_i / N, g, c]),
    h_i  <-  a(h_i + W_2 a(W_1 h_i + U [g, c])),

with c what is known of the set (its condition, a time), n itself included, N the largest number of
points, and a the leaky ReLU. Points speak to one another by way of g alone, at a cost linear in n;
behind each layer there may be an attention block (Vaswani et al., arXiv 1706.03762), whose cost is
quadratic. The first n of N places hold the points, and what stands in the others is not looked at.
Points of several groups stand in order of these, and each also shows the number of its group.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.errors import RecipeError
from physgen.networks.embedding import Embedding
from physgen.networks.mlp import MLP
from physgen.ranges import Count, Options, Positive

SLOPE = 0.1
"""Of the leaky ReLU where it is negative; smooth activations cost as much as the layers."""


class EPiCOptions(Options):
    """EPiC layers, for sets of points.

    Attributes:
        hidden: width of the vector of a point.
        n_global: width of the vector that the points share.
        depth: number of layers.
        heads: of the attention block behind each layer; 0 is none.
    """

    kind: Literal["epic"] = "epic"
    hidden: Positive = 64
    n_global: Positive = 32
    depth: Positive = 4
    heads: Count = 0


class EPiC(nn.Module):
    """EPiC layers: (x (B, N, n_in), number (B,), context (B, n_context)) -> (h, g).

    h is (B, N, hidden), of which the first `number` entries mean something, and g (B, n_global).

    Args:
        n_in: columns of a point.
        n_context: columns of what is known of a set, besides the number of its points.
        options: of the layers.

    Raises:
        RecipeError: the width is no multiple of the number of heads.

    >>> network = EPiC(3, 2, EPiCOptions(hidden=8, n_global=4, depth=2))
    >>> h, g = network(torch.zeros(5, 7, 3), torch.full((5,), 6.0), torch.zeros(5, 2))
    >>> h.shape, g.shape
    (torch.Size([5, 7, 8]), torch.Size([5, 4]))
    """

    def __init__(self, n_in: int, n_context: int, options: EPiCOptions = EPiCOptions()) -> None:
        super().__init__()
        if options.heads and options.hidden % options.heads:
            raise RecipeError(
                f"hidden={options.hidden} is no multiple of heads={options.heads}: each head of "
                "the attention takes an equal part"
            )
        self.first = nn.Linear(n_in, options.hidden)
        n_known = n_context + 1
        self.start = MLP(2 * options.hidden + n_known, options.n_global, hidden=(options.hidden,))
        self.layers = nn.ModuleList(_Layer(n_known, options) for _ in range(options.depth))

    def forward(self, x: Tensor, number: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return h and g."""
        mask = present(number, x.shape[1])
        known = torch.cat([context, number[:, None] / x.shape[1]], 1)
        h = functional.leaky_relu(self.first(x), SLOPE)
        g = self.start(torch.cat([*_pooled(h, mask), known], 1))
        for layer in self.layers:
            h, g = layer(h, g, known, mask)
        return h, g


class EPiCDenoiser(nn.Module):
    """EPiC layers of (x (B, N, F), time (B,), condition (B, C)); see `Denoiser`.

    The last columns of the condition are the cumulative numbers of points of the groups: of one,
    the number of points. What is returned starts as 0, and is 0 where there is no point.

    Args:
        n_features: F.
        n_condition: C.
        options: of the layers.
        n_groups: of points.

    >>> network = EPiCDenoiser(3, 1, EPiCOptions(hidden=8, depth=2))
    >>> network(torch.ones(2, 5, 3), torch.rand(2), torch.tensor([[5.0], [2.0]])).shape
    torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        n_features: int,
        n_condition: int,
        options: EPiCOptions = EPiCOptions(),
        n_groups: int = 1,
    ) -> None:
        super().__init__()
        self.n_groups, n_labels = n_groups, n_groups if n_groups > 1 else 0
        self.embedding = Embedding(options.hidden, n_condition - 1)
        self.layers = EPiC(n_features + n_labels, options.hidden, options)
        self.last = nn.Linear(options.hidden, n_features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Return (B, N, F)."""
        number = condition[:, -1]
        given = condition[:, :-1]
        if self.n_groups > 1:
            bounds = condition[:, -self.n_groups :]
            which = functional.one_hot(groups_of(bounds, x.shape[1]), self.n_groups)
            x = torch.cat([x, which.to(x)], 2)
            given = torch.cat([given[:, : 1 - self.n_groups], bounds[:, :-1] / x.shape[1]], 1)
        h, _ = self.layers(x, number, self.embedding(time, given))
        return torch.where(present(number, x.shape[1])[..., None], self.last(h), 0.0)


class EPiCDecoder(nn.Module):
    """Sets of points from noise: (z (B, n_shared + N n_own), condition (B, C)) -> (B, N, F).

    The last column of the condition is the number of points; 0 is returned where there is none.

    Args:
        shape: N and F.
        n_shared: noise that all points of a set see.
        n_own: noise of each point.
        n_condition: C.
        options: of the layers.

    >>> network = EPiCDecoder((5, 3), 2, 4, 1, EPiCOptions(hidden=8, depth=2))
    >>> network(torch.randn(2, 22), torch.tensor([[5.0], [2.0]])).shape
    torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_shared: int,
        n_own: int,
        n_condition: int,
        options: EPiCOptions = EPiCOptions(),
    ) -> None:
        super().__init__()
        self.n_places, self.n_shared = shape[0], n_shared
        self.layers = EPiC(n_own, n_shared + n_condition - 1, options)
        self.last = nn.Linear(options.hidden, shape[1])

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """Return (B, N, F)."""
        shared, number = z[:, : self.n_shared], condition[:, -1]
        own = z[:, self.n_shared :].reshape(z.shape[0], self.n_places, -1)
        h, _ = self.layers(own, number, torch.cat([shared, condition[:, :-1]], 1))
        return torch.where(present(number, self.n_places)[..., None], self.last(h), 0.0)


class EPiCEncoder(nn.Module):
    """A vector of each set: (x (B, N, F), condition (B, C)) -> (B, n_out), whatever the order.

    Args:
        n_features: F.
        n_out: size of the output.
        n_condition: C, of which the last column is the number of points.
        options: of the layers.

    >>> network = EPiCEncoder(3, 1, 1, EPiCOptions(hidden=8, depth=2))
    >>> network(torch.ones(2, 5, 3), torch.tensor([[5.0], [2.0]])).shape
    torch.Size([2, 1])
    """

    def __init__(
        self, n_features: int, n_out: int, n_condition: int, options: EPiCOptions = EPiCOptions()
    ) -> None:
        super().__init__()
        self.layers = EPiC(n_features, n_condition - 1, options)
        n_in = 2 * options.hidden + options.n_global
        self.last = MLP(n_in, n_out, hidden=(options.hidden,))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (B, n_out)."""
        number = condition[:, -1]
        h, g = self.layers(x, number, condition[:, :-1])
        out: Tensor = self.last(torch.cat([*_pooled(h, present(number, x.shape[1])), g], 1))
        return out


class _Layer(nn.Module):
    def __init__(self, n_known: int, options: EPiCOptions) -> None:
        super().__init__()
        hidden, n_shared = options.hidden, options.n_global + n_known
        self.shared = MLP(2 * hidden + n_shared, options.n_global, hidden=(hidden,))
        self.inner = nn.Linear(hidden, hidden)
        self.known = nn.Linear(n_shared, hidden, bias=False)
        self.outer = nn.Linear(hidden, hidden)
        self.attention = _Attention(hidden, options.heads) if options.heads else None

    def forward(self, h: Tensor, g: Tensor, known: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        g = g + self.shared(torch.cat([*_pooled(h, mask), g, known], 1))
        shift = self.known(torch.cat([g, known], 1))[:, None]
        inner = functional.leaky_relu(self.inner(h) + shift, SLOPE)
        h = functional.leaky_relu(h + self.outer(inner), SLOPE)
        return (h if self.attention is None else h + self.attention(h, mask)), g


class _Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inward = nn.Linear(hidden, 3 * hidden)
        self.outward = nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            self.inward(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )
        # A set of no points has nothing to look at, and nobody looks at what it sees.
        seen = mask | ~mask[:, :1]
        # Fused attention has no second derivatives, which gradient penalties take.
        score = query @ key.mT / key.shape[-1] ** 0.5
        score = torch.where(seen[:, None, None], score, -torch.inf)
        mixed = score.softmax(3) @ value
        out: Tensor = self.outward(mixed.transpose(1, 2).flatten(2))
        return out


def present(number: Tensor, n_places: int) -> Tensor:
    """Return (B, n_places), true in the first `number` (B,) places.

    >>> present(torch.tensor([2.0]), 3)
    tensor([[ True,  True, False]])
    """
    return torch.arange(n_places, device=number.device) < number[:, None]


def groups_of(bounds: Tensor, n_places: int) -> Tensor:
    """Return (B, n_places), the group of each place, of cumulative numbers of points (B, G).

    >>> groups_of(torch.tensor([[1.0, 1.0, 3.0]]), 4)
    tensor([[0, 2, 2, 2]])
    """
    place = torch.arange(n_places, device=bounds.device)
    return (place[:, None] >= bounds[:, None, :-1]).sum(2)


def _pooled(h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean over the points that are there, and sum over all places divided by these."""
    weight = mask.to(h.dtype)
    total = torch.bmm(weight[:, None], h)[:, 0]
    return total / weight.sum(1, keepdim=True).clamp_min(1), total / h.shape[1]
