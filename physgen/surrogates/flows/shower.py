r"""Showers as a tree of divisions, drawn in blocks.

In the space of `ShowerTransform` a shower is a response and, for each split with energy, an outcome
o (all right, all left, both) and, for both, a real x. With e the incident energy,

    q(shower | e) = q(response | e) \prod_i q(o_i, x_i | earlier blocks, e),

    q(o | ...) = softmax(ln p_o(W) + output),
    q(x | ...) = \sum_c w_c \sigma'((x - \mu_c)/s_c)/s_c,

a mixture of logistic densities, whose parameters a small network gives (`BlockNetwork`), and p_o(W)
the frequencies in the transform's tables. The response depends on e alone: its table is all there
is to it. A new flow is nearly the copula of independent splits. This density is exact, of the
voxels with energy in MeV and of which these are, and what is drawn in tens of steps has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.batch import Batch, Schema
from physgen.errors import DomainError, RecipeError
from physgen.ranges import Positive
from physgen.surrogates.copula import ShowerSurrogate
from physgen.surrogates.flows.logistic_mixture import FARTHEST, LOG_SCALE_LIMIT, draw, log_density
from physgen.surrogates.flows.shower_kernel import Tree, Weights, divide_showers
from physgen.surrogates.flows.shower_network import BlockNetwork
from physgen.surrogates.flows.shower_order import order_of
from physgen.systems.base import System
from physgen.systems.calorimeter import geometry_of
from physgen.transforms.base import Transform
from physgen.transforms.copies import symmetric_copies
from physgen.transforms.showers import (
    ALL_LEFT,
    ALL_RIGHT,
    EMPTY,
    LOG_LEAST,
    NEAR,
    SCARCE,
    ShowerTransform,
    log_odds,
)

SHOWN_SCALE, SHOWN_LIMIT = 0.6, 3.0
"""How the later splits see x: scaled, and bounded, which is also how they see all to one side."""
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
        copies = symmetric_copies(geometry) if symmetric else None
        own = ShowerTransform(schema, geometry, copies=copies, n_knots=n_knots, n_bins=n_bins)
        super().__init__(schema, transform, own)
        if not own.n_splits:
            raise RecipeError(
                "surrogate.kind: shower-flow divides showers among voxels, and this binning has "
                "one; take shower-copula"
            )
        order = order_of(own.tree)
        n_context = 2 + 2 * own.n_layers
        self.network = BlockNetwork(
            order, n_context, n_components, hidden=hidden, n_running=n_running
        )
        self.register_buffer("places", torch.as_tensor(order.splits), persistent=False)
        # While layers are divided, only the energy of the shower is known.
        first = torch.as_tensor(order.splits) < own.tree.n_layer_splits
        divides_layers = torch.stack([part.all() for part in torch.split(first, list(order.sizes))])
        visible = torch.ones(len(order.sizes), n_context)
        visible[divides_layers, 2:] = 0.0
        self.register_buffer("visible", visible, persistent=False)

    def log_prob(self, batch: Batch) -> Tensor:
        """Return (B,) log q of showers: per MeV of each voxel with energy."""
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
        """Return (B,) log q of a mapped batch; probabilities of outcomes, densities of x."""
        if batch.condition is None:
            raise DomainError("shower-flow needs showers with incident energies")
        t, net, condition = self.showers, self.network, batch.condition
        n = t.n_splits
        number, log_whole, contrast = batch.x[:, 1:].reshape(-1, 3, n)[..., self.places].unbind(1)
        shown = _shown(number, log_whole >= 0, contrast)
        context = self._context(condition)[:, None] * self.visible
        running = net.running(shown, context)
        row, split = (log_whole >= 0).nonzero(as_tuple=True)
        # One more that is shown as nothing stands for neighbours that there are not.
        around = functional.pad(torch.cat([shown, log_whole[..., None]], -1), (0, 0, 0, 1))
        x, w = number[row, split], log_whole[row, split]
        whole = net.whole(running, context, slice(None)).flatten(0, 1)
        place = row * len(net.sizes) + net.block[split]
        out = net(
            split,
            whole.index_select(0, place),
            net.own_numbers(running).flatten(0, 1).index_select(0, row * n + split),
            around.flatten(0, 1)[row[:, None] * (n + 1) + net.neighbours[split]],
            torch.stack([w, self._log_base(condition)[row, self._base[split]]], 1),
        )
        odds = self._log_odds(w.exp(), split, out)
        outcome = torch.where(x < ALL_RIGHT / 2, 0, torch.where(x > ALL_LEFT / 2, 1, 2))
        each = odds.gather(1, outcome[:, None])[:, 0] - odds.logsumexp(1)
        both = outcome == 2
        density = log_density(torch.where(both, x, 0.0), out[:, 2:])
        each = each + torch.where(both, density, 0.0)
        response = self._log_response(batch.x[:, 0], condition)
        return response.index_add(0, row, each)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Standard normal numbers behind one shower: one for the response, two a split."""
        return (1 + 2 * self.showers.n_splits,)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (B, *noise_shape) noise and (B, 1) incident energies to (B, n_voxels) in MeV."""
        if condition is None:
            raise DomainError("showers need incident energies: pass them as the condition (B, 1)")
        t = self.showers
        total = t.draw(noise[:, :1], condition)
        u, normal = torch.split(noise[:, 1:], t.n_splits, 1)
        few = len(noise) <= FEW and noise.device.type == "cpu"
        singly = few and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        divide = self._divide_singly if singly else self._divide
        nodes = divide(total, condition, torch.special.ndtr(u), log_odds(normal))
        return nodes[:, t.tree.leaf]

    def _divide(self, total: Tensor, incident: Tensor, u: Tensor, logistic: Tensor) -> Tensor:
        """Return the energies of all nodes in MeV, (B, n_nodes), one block after the other.

        Args:
            total: (B,) in MeV.
            incident: (B, 1) in MeV.
            u, logistic: (B, n_splits) uniform, and standard logistic, in the order of the blocks.
        """
        t, net = self.showers, self.network
        n, v0 = t.n_splits, t.threshold
        nodes = total.new_zeros(len(total), 1 + 2 * n)
        nodes[:, 0] = total
        around = total.new_zeros(len(total), n + 1, 4)
        around[:, :n, 3] = -1.0
        added = total.new_zeros(len(total), net.begin.out_features)
        first = 0
        for k, size in enumerate(net.sizes):
            here = slice(first, first + size)
            first += size
            if k == 0 or self.visible[k, -1] > self.visible[k - 1, -1]:
                condition = t.condition_of(incident, nodes)
                context = self._context(condition) * self.visible[k]
            running = net.begin(context) + added
            splits = self.places[here]
            energy = nodes[:, t.tree.parent[splits]]
            row, j = (energy > 0).nonzero(as_tuple=True)
            if not len(row):
                continue
            split, tree_split = j + here.start, splits[j]
            energy = energy[row, j]
            w = (energy / v0).clamp(min=1)
            log_base = self._log_base(condition)[row, self._base[split]]
            whole = net.whole(running[:, None], context[:, None], slice(k, k + 1))[:, 0]
            out = net(
                split,
                whole.index_select(0, row),
                net.own_numbers_of(running, k)[row, j],
                around[row[:, None], net.neighbours[split]],
                torch.stack([w.log(), log_base], 1),
            )
            right, _, both = self._log_odds(w, split, out).softmax(1).unbind(1)
            place = u[row, split]
            within = (place - right) / both.clamp(min=1e-9)
            x = draw(within, logistic[row, split], out[:, 2:])
            x = torch.where(place < right, ALL_RIGHT, x)
            x = torch.where(place >= right + both, ALL_LEFT, x)
            group = t.tree.group[tree_split]
            s = t.splits.number(t.knot(w), torch.sigmoid(x.double()), group).to(w)
            one, other = t.part(energy, s, place < right, place >= right + both)
            nodes[row, 1 + 2 * tree_split] = one
            nodes[row, 2 + 2 * tree_split] = other
            base = nodes[row, t.tree.base[tree_split]]
            contrast = (one - other) / base / t.spread[tree_split]
            known = torch.ones_like(row, dtype=torch.bool)
            shown = torch.cat([_shown(x, known, contrast), w.log()[:, None]], 1)
            around[row, split] = shown
            added = added + net.step(around[:, here, :3], k)
        return nodes

    def _divide_singly(
        self, total: Tensor, incident: Tensor, u: Tensor, logistic: Tensor
    ) -> Tensor:
        """Do the same shower by shower, compiled."""
        nodes = total.new_zeros(len(total), 1 + 2 * self.showers.n_splits)
        nodes[:, 0] = total
        inputs = (_array(x) for x in (nodes, incident[:, 0], u, logistic))
        divide_showers(*inputs, self._weights(), self._tree())
        return nodes

    def _weights(self) -> Weights:
        net = self.network
        values = {}
        for name, module in net.named_children():
            assert isinstance(module, nn.Linear)
            values[name], values[f"{name}_bias"] = _array(module.weight.T), _array(module.bias)
        for name, parameter in net.named_parameters(recurse=False):
            values[name] = _array(parameter)
        return Weights(
            **values,
            log_scale_limit=LOG_SCALE_LIMIT,
            farthest=FARTHEST,
            shown_scale=SHOWN_SCALE,
            shown_limit=SHOWN_LIMIT,
        )

    def _tree(self) -> Tree:
        t, places = self.showers, self.places
        return Tree(
            first=np.cumsum([0, *self.network.sizes]),
            visible=_array(self.visible[:, -1] > 0),
            neighbours=_array(self.network.neighbours),
            place=_array(places),
            parent=_array(t.tree.parent[places]),
            base=_array(t.tree.base[places]),
            group=_array(t.tree.group[places]),
            spread=_array(t.spread[places]),
            layers=_array(t.tree.layers),
            centre=_array(t.centre),
            scale=_array(t.scale),
            below=_array(t.splits.below),
            atoms=_array(t.splits.atoms),
            scarce=_array(t.scarce),
            first_knot=float(t.splits.ends[0]),
            last_knot=float(t.splits.ends[1]),
            threshold=float(t.threshold),
            enough=SCARCE,
            near=NEAR,
            least=LOG_LEAST,
        )

    @property
    def _base(self) -> Tensor:
        """Number, among those of `_log_base`, of what each split's layer has, by place."""
        return self.showers.tree.split_layer[self.places] + 1

    def _context(self, condition: Tensor) -> Tensor:
        """What the splits may see: energies, and which layers are empty."""
        t = self.showers
        # Mapped energies of empty layers, and a little more against rounding.
        floor = (t.threshold.log() - t.centre[2:]) / t.scale[2:] + 1e-5
        return torch.cat([condition, (condition[:, 2:] > floor).to(condition.dtype)], 1)

    def _log_base(self, condition: Tensor) -> Tensor:
        """Return ln of the energies of the shower and its layers, (B, 1 + n_layers), over v_0."""
        t = self.showers
        return condition[:, 1:] * t.scale[1:] + t.centre[1:] - t.threshold.log()

    def _log_odds(self, whole: Tensor, split: Tensor, out: Tensor) -> Tensor:
        """Return ln p of all right, all left and both, (N, 3), up to a constant."""
        t = self.showers
        right, left, both = t.outcomes(whole, t.tree.group[self.places[split]])
        return torch.stack([right + out[:, 0], left + out[:, 1], both], 1)

    def _log_response(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (B,) ln of the density of the number of the response, or p of an empty shower."""
        t = self.showers
        incident = (condition[:, :1] * t.scale[:1] + t.centre[:1]).exp()
        empty = t.is_empty(incident)
        density = (1 - empty).log() + functional.logsigmoid(x) + functional.logsigmoid(-x)
        return torch.where(x < EMPTY / 2, empty.clamp(min=1e-30).log(), density)


def _array(x: Tensor) -> Any:
    return x.detach().contiguous().numpy()


def _shown(x: Tensor, known: Tensor, contrast: Tensor) -> Tensor:
    """Return how the later splits see one, (..., 3), and nothing where it is not `known`."""
    both = known & (x > ALL_RIGHT / 2) & (x < ALL_LEFT / 2)
    bounded = (SHOWN_SCALE * x).clamp(-SHOWN_LIMIT, SHOWN_LIMIT)
    return torch.stack([bounded, both.to(x.dtype), contrast], -1)
