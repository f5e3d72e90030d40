r"""The network of `ShowerFlow`: what the earlier blocks say of a split.

Blocks are k = 1, ..., K, and a split i is shown to later ones by three numbers t_i. A shower so far
is a running sum of linear maps of all that has been drawn,

    c_k = C e_k + \sum_{earlier i} A_i t_i,

with e_k the energies that block k may know. From it two small layers make a vector for the whole
block, and P_i c_k are a few numbers of each split's own. A network common to all splits sees these,
the energy W of the split, the earlier splits next to it (`Order.neighbours`) and their energies; a
split has an input vector and output offsets of its own. Only splits with energy are computed: the
cost is linear in occupied voxels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.surrogates.flows.shower_order import N_NEIGHBOURS, Order

N_SHOWN = 3
"""Numbers by which later splits see one."""
N_OWN = 3
"""Linear maps of the running sum for each split: two log odds and a location."""
N_ENERGIES = 4
"""Numbers that say a split's energy."""


class BlockNetwork(nn.Module):
    """Parameters of splits, (N, n_outputs), given earlier ones.

    Outputs are two log odds, n locations, and 2 n others.

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
        self.n_outputs, self.n_components = 2 + 3 * n_components, n_components
        of = torch.repeat_interleave(torch.arange(len(order.sizes)), torch.tensor(order.sizes))
        self.register_buffer("block", of.long(), persistent=False)
        neighbours = torch.as_tensor(order.neighbours).reshape(-1, N_NEIGHBOURS)
        self.register_buffer("neighbours", neighbours, persistent=False)
        scale = 0.02 / math.sqrt(max(n / 363, 1))
        self.absorb = nn.Parameter(scale * torch.randn(n * N_SHOWN, n_running))
        self.begin = nn.Linear(n_context, n_running)
        self.own = nn.Parameter(torch.zeros(n_running, n * N_OWN))
        self.of_block = nn.Parameter(0.3 * torch.randn(len(order.sizes), hidden))
        self.shower_in = nn.Linear(n_running + n_context, hidden)
        self.shower_hidden = nn.Linear(hidden, hidden)
        self.shower_out = nn.Linear(hidden, hidden)
        self.of_split = nn.Parameter(0.3 * torch.randn(n, hidden))
        n_inputs = N_NEIGHBOURS * (N_SHOWN + 1) + N_OWN + N_ENERGIES
        self.split_in = nn.Linear(n_inputs, hidden)
        self.split_hidden = nn.Linear(hidden, hidden)
        self.split_out = nn.Linear(hidden, self.n_outputs)
        self.offset = nn.Parameter(torch.zeros(n, self.n_outputs))
        nn.init.zeros_(self.split_out.weight)
        nn.init.zeros_(self.split_out.bias)
        with torch.no_grad():
            # Components that are alike would remain alike.
            self.split_out.bias[2 : 2 + n_components] = spread(n_components)

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
        weights = torch.split(self.own, [N_OWN * size for size in self.sizes], 1)
        parts = [c @ weight for c, weight in zip(running.unbind(1), weights, strict=True)]
        return torch.cat(parts, 1).reshape(len(running), -1, N_OWN)

    def own_numbers_of(self, running: Tensor, block: int) -> Tensor:
        """Return them for one block, (B, n, N_OWN), of (B, n_running)."""
        sizes = [N_OWN * size for size in self.sizes]
        return (running @ torch.split(self.own, sizes, 1)[block]).reshape(len(running), -1, N_OWN)

    def forward(
        self, split: Tensor, whole: Tensor, own: Tensor, nearby: Tensor, energy: Tensor
    ) -> Tensor:
        """Return the parameters of N splits.

        Args:
            split: (N,) which.
            whole: (N, hidden) of their blocks.
            own: (N, N_OWN).
            nearby: (N, N_NEIGHBOURS, N_SHOWN + 1) how neighbours are shown, and ln W of them.
            energy: (N, 2), ln W in units of the threshold, and that of what the layer has.
        """
        log_whole, log_base = energy.unbind(1)
        known = self.neighbours[split] < len(self.block)
        ratio = torch.where(known, 0.2 * (nearby[..., -1] - log_whole[:, None]), 0.0)
        enough = (log_whole.exp() - 1.9).clamp(min=0.1).log()
        energies = [0.3 * log_whole, 0.3 * (log_whole - log_base), 0.3 * enough]
        scarce = (log_whole < math.log(2)).to(own.dtype)
        inputs = [nearby[..., :-1].flatten(1), ratio, own, torch.stack([*energies, scarce], 1)]
        h = self.split_in(torch.cat(inputs, 1)) + whole + self.of_split.index_select(0, split)
        h = functional.silu(self.split_hidden(functional.silu(h)))
        out = self.split_out(h) + self.offset.index_select(0, split)
        n = self.n_components
        location = out[:, 2 : 2 + n] + own[:, 2:]
        return torch.cat([out[:, :2] + own[:, :2], location, out[:, 2 + n :]], 1)


def spread(n: int) -> Tensor:
    """Return n different locations about 0."""
    return torch.linspace(-0.5, 0.5, n) if n > 1 else torch.zeros(n)
