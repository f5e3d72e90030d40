"""What the compiled sampler of `ShowerFlow` reads: its network and tree as arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from physgen.surrogates.flows.logistic_mixture import FARTHEST, LOG_SCALE_LIMIT
from physgen.surrogates.flows.shower_network import SHOWN_LIMIT, SHOWN_SCALE, TILT, BlockNetwork
from physgen.surrogates.flows.shower_numbers import (
    FARTHEST_DISTANCE,
    FARTHEST_ENERGY,
    ShowerNumbers,
)
from physgen.transforms.counted_showers import ANYWHERE, NONE, ROUNDING, CountedShowers
from physgen.transforms.energy_shares import NEAREST, SHIFT
from physgen.transforms.occupancy import LOGISTIC
from physgen.transforms.quantile_table import EDGE
from physgen.transforms.showers import NEAR, SPAN

Array = NDArray[np.floating]
Ints = NDArray[np.int64]


class Weights(NamedTuple):
    """Those of `BlockNetwork`; matrices of layers are (inputs, outputs).

    Attributes:
        begin, begin_bias: (n_context, n_running), (n_running,).
        absorb: (n_splits * n_shown, n_running).
        own: (n_splits * n_own, n_running).
        of_block: (n_blocks, hidden).
        shower_in, shower_hidden, shower_out: layers of a block.
        shower_in_bias, shower_hidden_bias, shower_out_bias: (hidden,).
        of_split: (n_splits, hidden).
        split_in, split_hidden: layers of a split.
        energy_in: one more for its energy.
        split_in_bias, split_hidden_bias, energy_in_bias: (hidden,).
        count_out, energy_out: of the two mixtures, with count_out_bias, energy_out_bias.
        offset: (n_splits, n_outputs) of both.
        tilt: (n_splits,) how the energies follow the numbers of occupied voxels.
        voxels_in, voxels_hidden, voxels_out: layers of `ShowerNumbers`, with their biases.
        linear: (3, n_layers, n_layers).
        tilt_unit, log_scale_limit, farthest, shown_scale, shown_limit, farthest_distance,
            farthest_energy: constants of `ShowerFlow`.
    """

    begin: Array
    begin_bias: Array
    absorb: Array
    own: Array
    of_block: Array
    shower_in: Array
    shower_in_bias: Array
    shower_hidden: Array
    shower_hidden_bias: Array
    shower_out: Array
    shower_out_bias: Array
    of_split: Array
    split_in: Array
    split_in_bias: Array
    split_hidden: Array
    split_hidden_bias: Array
    energy_in: Array
    energy_in_bias: Array
    count_out: Array
    count_out_bias: Array
    energy_out: Array
    energy_out_bias: Array
    offset: Array
    tilt: Array
    voxels_in: Array
    voxels_in_bias: Array
    voxels_hidden: Array
    voxels_hidden_bias: Array
    voxels_out: Array
    voxels_out_bias: Array
    linear: Array
    tilt_unit: float
    log_scale_limit: float
    farthest: float
    shown_scale: float
    shown_limit: float
    farthest_distance: float
    farthest_energy: float


class Tree(NamedTuple):
    """The splits in the order of their blocks, and what `CountedShowers` knows of them.

    Attributes:
        first: (n_blocks + 1,) where blocks begin.
        visible: (n_blocks,) whether the energies of layers are known.
        neighbours: (n_splits, n_neighbours); n_splits is none.
        place: (n_splits,) numbers in the tree.
        parent, base, group: (n_splits,) of the `SplitTree`.
        leaves: (2, n_splits) voxels on both sides; 2 of splits of layers.
        is_of_layers: (n_splits,) whether it is one of these.
        power: (n_groups,) how the energies follow the numbers.
        spread: (n_splits,) of the contrasts.
        layers: (n_layers,) nodes.
        centre, scale: (2 + 2 n_layers,) of the logarithms of energies and numbers.
        counts, below: F of numbers and of energies, (n_groups or n_tables, n_knots, n_bins + 1).
        tables: (n_groups, 4) which of the latter.
        first_knot, last_knot: of the latter.
        n_voxels, of_layers, units: of the N_i (`Occupancy`), the last (n_layers,) of distances.
        threshold: v_0.
        near, none, anywhere, edge, least, nearest, rounding, shift: the constants of the transform
            and its tables.
    """

    first: Ints
    visible: NDArray[np.bool_]
    neighbours: Ints
    place: Ints
    parent: Ints
    base: Ints
    group: Ints
    leaves: Ints
    is_of_layers: NDArray[np.bool_]
    power: Array
    spread: Array
    layers: Ints
    centre: Array
    scale: Array
    counts: Array
    below: Array
    tables: Ints
    first_knot: float
    last_knot: float
    n_voxels: Array
    of_layers: Array
    units: Array
    threshold: float
    near: float
    none: float
    anywhere: float
    edge: float
    least: float
    nearest: float
    rounding: float
    shift: float


Network = tuple[Weights, Tree]


def array_of(x: Tensor) -> Any:
    """Return the numbers of a tensor, contiguous."""
    return x.detach().contiguous().numpy()


def weights_of(network: BlockNetwork, numbers: ShowerNumbers) -> Weights:
    """Return the weights of networks, on a CPU."""
    values: dict[str, Any] = {}
    for module in (network, numbers):
        own = module.named_parameters(recurse=False)
        values |= {name: array_of(parameter) for name, parameter in own}
        for name, layer in module.named_children():
            assert isinstance(layer, nn.Linear)
            if name in Weights._fields:
                values[name] = array_of(layer.weight.T)
                values[f"{name}_bias"] = array_of(layer.bias)
    return Weights(
        **values,
        tilt_unit=TILT,
        log_scale_limit=LOG_SCALE_LIMIT,
        farthest=FARTHEST,
        shown_scale=SHOWN_SCALE,
        shown_limit=SHOWN_LIMIT,
        farthest_distance=FARTHEST_DISTANCE,
        farthest_energy=FARTHEST_ENERGY,
    )


def tree_of(
    transform: CountedShowers, network: BlockNetwork, places: Tensor, visible: Tensor
) -> Tree:
    """Return the tree of a transform, on a CPU.

    Args:
        transform: see there.
        network: for its blocks and neighbours.
        places: (n_splits,) numbers in the tree, in the order in which they are drawn.
        visible: (n_blocks,) whether the energies of layers are known.
    """
    t = transform
    return Tree(
        first=np.cumsum([0, *network.sizes]),
        visible=array_of(visible),
        neighbours=array_of(network.neighbours),
        place=array_of(places),
        parent=array_of(t.tree.parent[places]),
        base=array_of(t.tree.base[places]),
        group=array_of(t.tree.group[places]),
        leaves=array_of(t.leaves[:, places]),
        is_of_layers=array_of(places < t.tree.n_layer_splits),
        power=array_of(t.power),
        spread=array_of(t.spread[places]),
        layers=array_of(t.tree.layers),
        centre=array_of(t.centre),
        scale=array_of(t.scale),
        counts=array_of(t.counts.below),
        below=array_of(t.splits.below),
        tables=array_of(t.tables),
        first_knot=float(t.splits.ends[0]),
        last_knot=float(t.splits.ends[1]),
        n_voxels=array_of(t.occupancy.n_voxels),
        of_layers=array_of(t.occupancy.of_layers),
        units=array_of(LOGISTIC * t.occupancy.spread),
        threshold=float(t.threshold),
        near=NEAR,
        none=NONE,
        anywhere=ANYWHERE,
        edge=EDGE,
        least=SPAN,
        nearest=NEAREST,
        rounding=ROUNDING,
        shift=SHIFT,
    )
