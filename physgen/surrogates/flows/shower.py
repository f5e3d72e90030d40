r"""Showers as a tree of divisions, drawn in blocks.

In the space of `CountedShowers` a shower is a response, the numbers N_j of its layers' occupied
voxels, and, for each split, how many of its N are on the left, k, and, where both sides have some,
a real x for the energies. With e the incident energy,

    q(shower | e) = q(response | e) q(N | energies of layers, e)
                    \prod_i q(k_i, x_i | earlier blocks, e),

    q(x | ...) = \sum_c w_c \sigma'((x - \mu_c)/s_c)/s_c,
    q(k | ...) = \int of the same over [logit F(k), logit F(k + 1)],

with mixtures of logistic densities, whose parameters a small network gives (`BlockNetwork`), and F
the share of the divisions of N that lie below k in the transform's tables. All s_c are at most 1:
the tables hold what splits do on the average, and few have heavier tails. The N_j come from such
mixtures too (`ShowerNumbers`), between the splits of layers and those within. The response depends
on e alone: its table is all there is to it. This density is exact, of the voxels with energy in MeV
and of which these are, and what is drawn in tens of steps has it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError
from physgen.ranges import Positive
from physgen.surrogates.copula import ShowerSurrogate
from physgen.surrogates.flows.logistic_mixture import (
    below,
    draw_with_ends,
    log_density,
    log_probability,
)
from physgen.surrogates.flows.shower_arrays import array_of, tree_of, weights_of
from physgen.surrogates.flows.shower_kernel import divide_showers
from physgen.surrogates.flows.shower_network import BlockNetwork, shown_of
from physgen.surrogates.flows.shower_numbers import ShowerNumbers
from physgen.surrogates.flows.shower_order import order_of
from physgen.systems.base import System
from physgen.systems.calorimeter import geometry_of
from physgen.transforms.base import Transform
from physgen.transforms.copies import symmetric_copies
from physgen.transforms.counted_showers import CountedShowers
from physgen.transforms.showers import ALL_LEFT, ALL_RIGHT, EMPTY, log_odds

FEW = 1024
"""Up to so many showers at once are divided shower by shower, on a CPU."""
AT_ONCE = 1_000_000
"""Nodes of showers whose densities are computed together, which bounds the memory."""


class ShowerFlow(ShowerSurrogate):
    """A conditional, exact density of calorimeter showers.

    Args:
        schema: of the showers.
        transform: must be absent; the surrogate brings its own.
        system: the calorimeter, for its geometry.
        hidden: units of each layer of the networks.
        n_running: numbers that hold what is known of a shower so far.
        n_components: of the mixture of each split.
        symmetric: whether showers are equally likely turned by quarters and mirrored, so that each
            is learnt from as any of eight: for a beam along the axis, spread over a square at most,
            and cells that are all alike.
        n_knots, n_bins: of the transform's tables.

    Raises:
        RecipeError: the recipe asks for a transform, the system is no calorimeter or one of a
            single voxel, or its sectors cannot be turned by quarters.

    >>> from physgen.systems.calorimeter import Calorimeter
    >>> system = Calorimeter()
    >>> flow = ShowerFlow(system.schema, system=system, hidden=16)
    >>> flow.initialise(system.simulate(200, seed=1))
    >>> flow.sample(2, torch.tensor([[2000.0], [50000.0]]), seed=1).x.shape
    torch.Size([2, 368])
    """

    showers: CountedShowers
    places: Tensor
    visible: Tensor

    def __init__(
        self,
        schema: Schema,
        transform: Transform | None = None,
        *,
        system: System,
        hidden: Positive = 64,
        n_running: Positive = 64,
        n_components: Positive = 3,
        symmetric: bool = False,
        n_knots: int = 32,
        n_bins: int = 128,
    ) -> None:
        geometry = geometry_of(system, "surrogate shower-flow")
        if geometry.n_voxels == 1:
            raise RecipeError(
                "surrogate.kind: shower-flow divides showers among voxels, and this binning has "
                "one; take shower-copula"
            )
        copies = symmetric_copies(geometry) if symmetric else None
        own = CountedShowers(schema, geometry, copies=copies, n_knots=n_knots, n_bins=n_bins)
        super().__init__(schema, transform, own)
        order = order_of(own.tree)
        n_context = own.latent_condition(1)
        self.network = BlockNetwork(
            order, n_context, n_components, hidden=hidden, n_running=n_running
        )
        self.numbers = ShowerNumbers(own.n_layers, n_components, hidden=hidden)
        self.register_buffer("places", torch.as_tensor(order.splits), persistent=False)
        # While layers are divided, only what the shower has is known.
        first = torch.as_tensor(order.splits) < own.tree.n_layer_splits
        divides_layers = torch.stack([part.all() for part in torch.split(first, list(order.sizes))])
        visible = torch.ones(len(order.sizes), n_context)
        visible[divides_layers, 2:] = 0.0
        self.register_buffer("visible", visible, persistent=False)

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q of showers: per MeV of each voxel with energy.

        It is finite for showers that are never drawn, too: energies below the threshold of the
        training data, and responses above what was seen there, count as if they were at it.
        """
        step, parts = max(1, AT_ONCE // (1 + 2 * self.showers.n_splits)), []
        for first in range(0, max(len(batch), 1), step):
            mapped, log_det = self.showers.numbers(batch[first : first + step])
            parts.append(self.latent_log_prob(mapped) + log_det)
        return torch.cat(parts)

    def sample_with_log_prob(
        self, n: int, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> tuple[Batch, Tensor]:
        """Draw showers and return their (n,) log-density."""
        batch = self.sample(n, condition, generator=generator)
        return batch, self.log_prob(batch)

    def latent_log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q of a mapped batch; probabilities of numbers, densities of x."""
        if batch.condition is None:
            raise DomainError("shower-flow needs showers with incident energies")
        t, net, condition = self.showers, self.network, batch.condition
        n = t.n_splits
        parts = batch.x[:, 1:].reshape(-1, 5, n)[..., self.places]
        number, log_whole, contrast, count, left = parts.unbind(1)
        context = condition[:, None] * self.visible
        row, split = (count > 0).nonzero(as_tuple=True)
        whole = log_whole[row, split].exp()
        middle = self._log_odds(count[row, split], whole, left[row, split] + 0.5, split)
        middle = torch.zeros_like(number).index_put((row, split), middle.to(number))
        shown = shown_of(number, middle, contrast)
        running = net.running(shown, context)
        # One more that is shown as nothing stands for neighbours that there are not.
        sizes = torch.stack([log_whole, count.clamp(min=1).log()], -1)
        around = functional.pad(torch.cat([shown, sizes], -1), (0, 0, 0, 1))
        blocks = net.whole(running, context, slice(None)).flatten(0, 1)
        place = row * len(net.sizes) + net.block[split]
        own = net.own_numbers(running).flatten(0, 1).index_select(0, row * n + split)
        bases = self._bases(condition)
        out, h = net(
            split,
            blocks.index_select(0, place),
            own,
            around.flatten(0, 1)[row[:, None] * (n + 1) + net.neighbours[split]],
            torch.cat([sizes[row, split], bases[row, self._base[split]]], 1),
        )
        count, left, x = count[row, split], left[row, split], number[row, split]
        each = self._log_count((count, left, whole), split, out)
        right = count - left
        both = ((left > 0) & (right > 0)).nonzero()[:, 0]
        sides = torch.stack([left, right], 1).index_select(0, both)
        split, h, own = (v.index_select(0, both) for v in (split, h, own))
        density = log_density(x.index_select(0, both), net.energies(split, h, own, sides))
        each = each.index_add(0, both, density)
        total = self._log_response(batch.x[:, 0], condition) + self.numbers.log_prob(t, condition)
        return total.index_add(0, row, each)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Standard normal numbers behind one shower: one, two a layer, and three a split."""
        return (1 + 2 * self.showers.n_layers + 3 * self.showers.n_splits,)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, 1) incident energies to (B, n_voxels) in MeV."""
        if condition is None:
            raise DomainError("showers need incident energies: pass them as the condition (B, 1)")
        t = self.showers
        first, of_layers, of_splits = torch.split(noise, [1, 2 * t.n_layers, 3 * t.n_splits], 1)
        total = t.draw(first, condition)
        few = len(noise) <= FEW and noise.device.type == "cpu"
        singly = few and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        divide = self._divide_singly if singly else self._divide
        noises = of_layers.reshape(-1, t.n_layers, 2), of_splits.reshape(-1, 3, t.n_splits)
        return divide(total, condition, noises)[:, t.tree.leaf]

    def _divide(self, total: Tensor, incident: Tensor, noises: tuple[Tensor, Tensor]) -> Tensor:
        """Return the energies of all nodes in MeV, (B, n_nodes), one block after the other.

        Args:
            total: (B,) in MeV.
            incident: (B, 1) in MeV.
            noises: standard normal, (B, n_layers, 2) of the N_i, and (B, 3, n_splits), in the order
                of the blocks.
        """
        of_layers, noise = noises
        t, net = self.showers, self.network
        n, v0 = t.n_splits, t.threshold
        nodes = total.new_zeros(len(total), 1 + 2 * n)
        counts = torch.zeros_like(nodes)
        nodes[:, 0], counts[:, 0] = total, t.of_layers(total)
        voxels = total.new_zeros(len(total), t.n_layers)
        around = total.new_zeros(len(total), n + 1, 5)
        around[..., 3] = -1.0
        added = total.new_zeros(len(total), net.begin.out_features)
        first = 0
        for k, size in enumerate(net.sizes):
            here = slice(first, first + size)
            first += size
            if k == 0 or self.visible[k, -1] > self.visible[k - 1, -1]:
                if self.visible[k, -1]:
                    voxels = self.numbers.draw_voxels(t, nodes, incident, of_layers)
                    counts[:, t.tree.layers] = voxels
                condition = t.counted_condition(incident, nodes, voxels)
                context = condition * self.visible[k]
                bases = self._bases(condition)
            running = net.begin(context) + added
            splits = self.places[here]
            row, j = (counts[:, t.tree.parent[splits]] > 0).nonzero(as_tuple=True)
            if not len(row):
                continue
            split, tree_split = j + here.start, splits[j]
            parent = t.tree.parent[tree_split]
            energy, count = nodes[row, parent], counts[row, parent]
            w = (energy / v0).clamp(min=1)
            sizes = torch.stack([w.log(), count.log()], 1)
            whole = net.whole(running[:, None], context[:, None], slice(k, k + 1))[:, 0]
            own = net.own_numbers_of(running, k)[row, j]
            nearby = around[row[:, None], net.neighbours[split]]
            base = bases[row, self._base[split]]
            whole = whole.index_select(0, row)
            out, h = net(split, whole, own, nearby, torch.cat([sizes, base], 1))
            one, other = self._divide_count((count, w), split, out, noise[row, 0, split])
            x = torch.where(one > 0, ALL_LEFT, ALL_RIGHT).to(w)
            both = ((one > 0) & (other > 0)).nonzero()[:, 0]
            sides = torch.stack([one, other], 1)[both]
            out = net.energies(split[both], h[both], own[both], sides)
            z = noise[row, :, split][both]
            x[both] = draw_with_ends(torch.special.ndtr(z[:, 1]), log_odds(z[:, 2]), out)
            left, right = t.part_counted(energy, x, (one, other), t.tree.group[tree_split])
            nodes[row, 1 + 2 * tree_split], nodes[row, 2 + 2 * tree_split] = left, right
            below = (one, other) if self.visible[k, -1] else (t.of_layers(left), t.of_layers(right))
            counts[row, 1 + 2 * tree_split], counts[row, 2 + 2 * tree_split] = below
            contrast = (left - right) / nodes[row, t.tree.base[tree_split]] / t.spread[tree_split]
            middle = self._log_odds(count, w, one + 0.5, split).to(x)
            around[row, split] = torch.cat([shown_of(x, middle, contrast), sizes], 1)
            added = added + net.step(around[:, here, :3], k)
        return nodes

    def _divide_count(
        self, sizes: tuple[Tensor, Tensor], split: Tensor, out: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return k and m of N and W, (N,) each, drawn by normal noise."""
        number, whole = sizes
        least, size = self.showers.choices(number, self.places[split])

        def smaller(place: Tensor) -> Tensor:
            return below(self._log_odds(number, whole, least + place, split), out.double())

        k = least + _largest(torch.special.ndtr(noise.double()), size, smaller)
        return k, number - k

    def _divide_singly(
        self, total: Tensor, incident: Tensor, noises: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Do the same shower by shower, compiled."""
        nodes = total.new_zeros(len(total), 1 + 2 * self.showers.n_splits)
        nodes[:, 0] = total
        inputs = (array_of(x) for x in (nodes, incident[:, 0], *noises))
        tree = tree_of(self.showers, self.network, self.places, self.visible[:, -1] > 0)
        divide_showers(*inputs, (weights_of(self.network, self.numbers), tree))
        return nodes

    @property
    def _base(self) -> Tensor:
        """Number, among those of `_bases`, of what each split's layer has, by place."""
        return self.showers.tree.split_layer[self.places] + 1

    def _bases(self, condition: Tensor) -> Tensor:
        """Return ln of energies over v_0 and of N_i, (B, 1 + n_layers, 2)."""
        t = self.showers
        logs, n = condition * t.scale + t.centre, t.n_layers
        numbers = functional.pad(logs[:, 2 + n :], (1, 0))
        return torch.stack([logs[:, 1 : 2 + n] - t.threshold.log(), numbers], -1)

    def _log_odds(self, number: Tensor, whole: Tensor, k: Tensor, split: Tensor) -> Tensor:
        """Return logit of how much of the divisions of N and W lies below a k, (N,)."""
        return torch.logit(self.showers.count_level(number, whole, k, self.places[split]))

    def _log_count(
        self, sizes: tuple[Tensor, Tensor, Tensor], split: Tensor, out: Tensor
    ) -> Tensor:
        """Return ln of the probabilities that splits divide N into k and m, given N, k and W."""
        number, left, whole = sizes
        least, size = self.showers.choices(number, self.places[split])
        low, high = (self._log_odds(number, whole, left + d, split) for d in (0.0, 1.0))
        low = torch.where(left <= least, -torch.inf, low)
        high = torch.where(left - least + 1 >= size, torch.inf, high)
        return log_probability(low, high, out.double()).to(out)

    def _log_response(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (B,) ln of the density of the number of the response, or p of an empty shower."""
        t = self.showers
        incident = (condition[:, :1] * t.scale[:1] + t.centre[:1]).exp()
        empty = t.is_empty(incident)
        density = (1 - empty).log() + functional.logsigmoid(x) + functional.logsigmoid(-x)
        return torch.where(x < EMPTY / 2, empty.clamp(min=1e-30).log(), density)


def _largest(u: Tensor, size: Tensor, smaller: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the largest place j < size with P(less than j) <= u, (N,), by bisection.

    Args:
        u: (N,) uniform.
        size: (N,) of the places 0, 1, ...
        smaller: P(less than j) of places, (N,), from 1 on.
    """
    low, high = torch.zeros_like(size), size - 1
    while bool((high > low).any()):
        middle = ((low + high + 1) / 2).floor()
        reached = (smaller(middle.clamp(min=1)) <= u) & (high > low)
        low, high = torch.where(reached, middle, low), torch.where(reached, high, middle - 1)
        high = torch.maximum(low, high)
    return low
