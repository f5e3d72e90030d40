r"""Machines of archives that the Python package `rbms` leaves of a training.

An HDF5 file has the strings and groups

    model_type                  "BBRBM" (0/1 units), "IIRBM" (-1/+1) or "PBRBM" (Potts, 0/1 hidden)
    parallel_chains             (C, sites), where the chains stand after the last update
    update_N/params             `weight_matrix` (sites, hidden) or (sites, q, hidden), `vbias`
                                (sites,) or (sites, q), and `hbias` (hidden,)

with E = - vbias.v - hbias.h - v.weight_matrix.h. Hidden units of 0 and 1 become spins by the map at
the head of `physgen.surrogates.boltzmann.rbm`; what the distribution does not depend on is fixed.
"""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import torch
from torch import Tensor

from physgen.batch import Domain, Schema, Variable
from physgen.errors import FormatError
from physgen.io.hdf5 import dataset, open_hdf5, read_rows
from physgen.io.hdf5_tables import text_of
from physgen.surrogates.boltzmann.rbm import RBM

_KINDS: dict[str, Domain] = {"BBRBM": "binary", "IIRBM": "spin", "PBRBM": "integer"}


def updates_of(path: Path | str) -> list[int]:
    """Return the numbers of the updates that an archive of `rbms` holds, the earliest first."""
    with open_hdf5(Path(path)) as file:
        names = [name.removeprefix("update_") for name in file if name.startswith("update_")]
    return sorted(int(name) for name in names if name.isdecimal())


def read_rbms(
    path: Path | str, update: int | None = None, *, shape: tuple[int, ...] | None = None
) -> RBM:
    """Return the machine of an archive of `rbms`, with its chains.

    Args:
        path: of the HDF5 file.
        update: which one of `updates_of`; `None` is the last.
        shape: of one configuration, whose flat sites are in raster order; `None` is flat.

    Raises:
        FormatError: it is no such archive, holds a machine of other units, or sizes do not fit.
    """
    path = Path(path)
    known = updates_of(path)
    update = known[-1] if known and update is None else update
    if update not in known:
        raise FormatError(
            f"{path}: no update_{update} with the parameters of a machine"
            + (f"; there are {known}" if known else ": not an archive of rbms")
        )
    with open_hdf5(path) as file:
        kind = text_of(file, "model_type")
        if kind not in _KINDS:
            raise FormatError(
                f"{path}: a machine {kind!r}, and those of spins are {', '.join(_KINDS)}"
            )
        folder, rank = f"update_{update}/params", 3 if kind == "PBRBM" else 2
        weight = _numbers(file, f"{folder}/weight_matrix", rank)
        a = _numbers(file, f"{folder}/vbias", rank - 1)
        b = _numbers(file, f"{folder}/hbias", 1)
        chains = _numbers(file, "parallel_chains", 2)
    sites, q, hidden = len(weight), weight.shape[1] if rank == 3 else 1, weight.shape[-1]
    shape = (sites,) if shape is None else shape
    if not (
        math.prod(shape) == sites == chains.shape[1]
        and (a.shape, b.shape) == (weight.shape[:-1], (hidden,))
        and len(chains)
    ):
        raise FormatError(
            f"{path}: weight_matrix {tuple(weight.shape)}, vbias {tuple(a.shape)}, hbias "
            f"{tuple(b.shape)} and parallel_chains {tuple(chains.shape)} do not fit one another, "
            f"or not configurations of shape {list(shape)}"
        )
    machine = RBM(_schema(kind, shape, q), hidden=hidden, n_chains=len(chains)).double()
    # Values before sites, as the machine has them.
    weight = weight.reshape(sites, q, hidden).transpose(0, 1).reshape(q * sites, hidden)
    a = a.reshape(sites, q).T.flatten()
    if kind != "IIRBM":
        scale = machine.visible.scale
        weight = weight / (2 * scale)
        a = a / scale + weight.sum(1)
        b = b / 2 - machine.visible.shift * weight.sum(0)
    with torch.no_grad():
        machine.coupling.weight.copy_(weight.T)
        machine.visible_bias.copy_(a.reshape(machine.visible_bias.shape))
        machine.hidden_bias.copy_(b)
        machine.fix_gauge()
        machine.chains.copy_(machine.pack(machine.units(chains.reshape(-1, *shape))))
    return machine.eval()


def _schema(kind: str, shape: tuple[int, ...], q: int) -> Schema:
    low, high = (0.0, q - 1.0) if kind == "PBRBM" else (None, None)
    return Schema(shape, (Variable("spin", "1", _KINDS[kind], "int8", low, high),))


def _numbers(file: h5py.File, name: str, rank: int) -> Tensor:
    node = dataset(file, name, rank)
    return torch.from_numpy(read_rows(node, 0, len(node))).double()
