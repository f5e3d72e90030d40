r"""The network of `ShowerFlow`: what the earlier blocks say of a split.

Blocks are k = 1, ..., K, and a split i is shown to later ones by three numbers t_i. A shower so far
is a running sum of linear maps of all that has been drawn,

    c_k = C e_k + \sum_{earlier i} A_i t_i,

with e_k the energies and numbers of voxels that block k may know. From it two small layers make a
vector for the whole block, and P_i c_k are a few numbers of each split's own. A network common to
all splits sees these, W and N of the split, the earlier splits next to it (`Order.neighbours`) and
what these have; a split has an input vector and output offsets of its own. How the energy is
divided is computed after how the occupied voxels are, and given it. Only splits with energy are
computed: the cost is linear in occupied voxels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.surrogates.flows.logistic_mixture import located, narrowed, spread
from physgen.surrogates.flows.shower_order import N_NEIGHBOURS, Order

N_SHOWN = 3
"""Numbers by which later splits see one; two more are its ln W and ln N."""
SHOWN_SCALE, SHOWN_LIMIT = 0.6, 3.0
"""How the later splits see x: scaled, and bounded, which is also how they see all to one side."""
N_OWN = 2
"""Linear maps of the running sum for each split: locations of its two numbers."""
N_SIZES = 6
"""Numbers that say a split's energy and occupied voxels."""
N_SIDES = 3
"""Numbers that say how a split divides its occupied voxels."""
NEARLY_ONE = 2.0
"""Outputs for scales to begin with: sigma(2) = 0.88."""
TILT = 6.0
"""Unit of how the energies follow the numbers of occupied voxels, for each split its own."""


class BlockNetwork(nn.Module):
    """Parameters of mixtures of n components, (N, 3 n), of the two numbers of each split.

    Args:
        order: of the splits; all numbers of splits here are places in it.
        n_context: energies of a shower.
        n_components: n.
        hidden: units of each layer.
        n_running: size of the running sum.
    """

    neighbours: Tensor
    block: Tensor

    def __init__(
        self, order: Order, n_context: int, n_components: int, *, hidden: int, n_running: int
    ) -> None:
        super().__init__()
        n, self.sizes = len(order.splits), order.sizes
        self.n_components = n_components
        of = torch.repeat_interleave(torch.arange(len(order.sizes)), torch.tensor(order.sizes))
        self.register_buffer("block", of.long(), persistent=False)
        neighbours = torch.as_tensor(order.neighbours).reshape(-1, N_NEIGHBOURS)
        self.register_buffer("neighbours", neighbours, persistent=False)
        # Layers are few, and come first.
        scale = torch.full((n, 1, 1), 0.02 / math.sqrt(max(n / 363, 1)))
        scale[: order.n_layer_splits] = 0.1
        absorb = scale * torch.randn(n, N_SHOWN, n_running)
        self.absorb = nn.Parameter(absorb.flatten(0, 1))
        self.begin = nn.Linear(n_context, n_running)
        self.own = nn.Parameter(torch.zeros(n * N_OWN, n_running))
        self.of_block = nn.Parameter(0.3 * torch.randn(len(order.sizes), hidden))
        self.shower_in = nn.Linear(n_running + n_context, hidden)
        self.shower_hidden = nn.Linear(hidden, hidden)
        self.shower_out = nn.Linear(hidden, hidden)
        self.of_split = nn.Parameter(0.3 * torch.randn(n, hidden))
        n_inputs = N_NEIGHBOURS * (N_SHOWN + 2) + N_OWN + N_SIZES
        self.split_in = nn.Linear(n_inputs, hidden)
        self.split_hidden = nn.Linear(hidden, hidden)
        self.energy_in = nn.Linear(hidden + N_SIDES, hidden)
        self.count_out = nn.Linear(hidden, 3 * n_components)
        self.energy_out = nn.Linear(hidden, 3 * n_components)
        self.offset = nn.Parameter(torch.zeros(n, 6 * n_components))
        self.tilt = nn.Parameter(torch.zeros(n))
        for layer in (self.count_out, self.energy_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            with torch.no_grad():
                layer.bias[:n_components] = spread(n_components)
                layer.bias[n_components : 2 * n_components] = NEARLY_ONE

    def running(self, shown: Tensor, context: Tensor) -> Tensor:
        """Return the running sums before each block, (B, K, n_running).

        Args:
            shown: (B, n_splits, N_SHOWN).
            context: (B, K, n_context).
        """
        sizes = [N_SHOWN * size for size in self.sizes]
        # One split of the whole: the gradient of a slice would be as large as all of it.
        parts = zip(
            torch.split(shown.flatten(1), sizes, 1), torch.split(self.absorb, sizes), strict=True
        )
        sums = [shown.new_zeros(len(shown), self.begin.out_features)]
        for part, weight in parts:
            sums.append(sums[-1] + part @ weight)
        total: Tensor = self.begin(context) + torch.stack(sums[:-1], 1)
        return total

    def step(self, shown: Tensor, block: int) -> Tensor:
        """Return what a block, (B, n, N_SHOWN), adds to the running sum, (B, n_running)."""
        sizes = [N_SHOWN * size for size in self.sizes]
        return shown.flatten(1) @ torch.split(self.absorb, sizes)[block]

    def whole(self, running: Tensor, context: Tensor, blocks: slice) -> Tensor:
        """Return what the splits of blocks have in common, (B, k, hidden)."""
        h = self.shower_in(torch.cat([running, context], -1)) + self.of_block[blocks]
        h = functional.silu(h)
        h = h + functional.silu(self.shower_hidden(h))
        out: Tensor = self.shower_out(h)
        return out

    def own_numbers(self, running: Tensor) -> Tensor:
        """Return the numbers of each split's own, (B, n_splits, N_OWN), of (B, K, n_running)."""
        weights = torch.split(self.own, [N_OWN * size for size in self.sizes])
        parts = [c @ weight.T for c, weight in zip(running.unbind(1), weights, strict=True)]
        return torch.cat(parts, 1).reshape(len(running), -1, N_OWN)

    def own_numbers_of(self, running: Tensor, block: int) -> Tensor:
        """Return them for one block, (B, n, N_OWN), of (B, n_running)."""
        sizes = [N_OWN * size for size in self.sizes]
        return (running @ torch.split(self.own, sizes)[block].T).reshape(len(running), -1, N_OWN)

    def forward(
        self, split: Tensor, whole: Tensor, own: Tensor, nearby: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the parameters of how N splits divide their voxels, and (N, hidden) of them.

        Args:
            split: (N,) which.
            whole: (N, hidden) of their blocks.
            own: (N, N_OWN).
            nearby: (N, N_NEIGHBOURS, N_SHOWN + 2) how neighbours are shown, and ln W and ln N.
            sizes: (N, 4), ln W in units of the threshold, ln N, and both of what the layer has.
        """
        known = (self.neighbours[split] < len(self.block))[..., None]
        ratio = torch.where(known, 0.2 * (nearby[..., N_SHOWN:] - sizes[:, None, :2]), 0.0)
        log_whole, log_number, *_ = sizes.unbind(1)
        within = 0.3 * (sizes[:, :2] - sizes[:, 2:])
        excess = 0.3 * ((log_whole - log_number).exp() - 0.9).clamp(min=0.1).log()
        own_sizes = [0.3 * log_whole, 0.5 * log_number, excess, (-log_number).exp()]
        inputs = [nearby[..., :N_SHOWN].flatten(1), ratio.flatten(1), own, within]
        h = self.split_in(torch.cat([*inputs, torch.stack(own_sizes, 1)], 1))
        h = functional.silu(h + whole + self.of_split.index_select(0, split))
        h = functional.silu(self.split_hidden(h))
        n = 3 * self.n_components
        out = self.count_out(h) + self.offset[:, :n].index_select(0, split)
        return located(narrowed(out), own[:, 0]), h

    def energies(self, split: Tensor, h: Tensor, own: Tensor, sides: Tensor) -> Tensor:
        """Return the parameters of how M splits divide their energy.

        Args:
            split: (M,) which.
            h: (M, hidden) of `forward`.
            own: (M, N_OWN).
            sides: (M, 2) numbers of occupied voxels of both sides.
        """
        logs = 0.5 * sides.log()
        share = (sides[:, :1] - sides[:, 1:]) / sides.sum(1, keepdim=True)
        h = h + functional.silu(self.energy_in(torch.cat([h, logs, share], 1)))
        n = 3 * self.n_components
        out = self.energy_out(h) + self.offset[:, n:].index_select(0, split)
        tilt = TILT * self.tilt.index_select(0, split) * (logs[:, 0] - logs[:, 1])
        return located(narrowed(out), own[:, 1] + tilt)


def shown_of(x: Tensor, count: Tensor, contrast: Tensor) -> Tensor:
    """Return how the later splits see one, (..., 3).

    Args:
        x: of its energy.
        count: the same of its occupied voxels.
        contrast: of the energies of its sides.
    """
    bounded = (SHOWN_SCALE * torch.stack([x, count], -1)).clamp(-SHOWN_LIMIT, SHOWN_LIMIT)
    return torch.cat([bounded, contrast[..., None]], -1)
