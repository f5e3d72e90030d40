"""What the card of an exported model says, from the trained surrogate and the model itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgen.batch import Schema, Variable
from physgen.export import card as cards
from physgen.export.base import Trained
from physgen.export.domain import OUTPUT
from physgen.io.writer import sha256
from physgen.surrogates.conditions import ConditionPrior
from physgen.systems.geometry import Geometry
from physgen.validation.scorecard import Scorecard
from physgen.version import __version__

if TYPE_CHECKING:
    import onnx


def describe(trained: Trained, model: onnx.ModelProto, path: Path, difference: float) -> cards.Card:
    """Return the card of an ONNX model.

    Args:
        trained: what was exported.
        model: what became of it.
        path: of its file.
        difference: the largest from torch, in units of the largest entry of a sample.
    """
    surrogate = trained.surrogate
    schema, shape = surrogate.schema, tuple(surrogate.noise_shape)  # type: ignore[arg-type]
    drawn = any(one.name == "seed" for one in model.graph.input)
    sampler = getattr(surrogate, "sampler", None)
    data = trained.description.get("data", {})
    return cards.Card(
        physgen=__version__,
        recipe=trained.recipe,
        surrogate=trained.kind,
        sampler=None if sampler is None else sampler.model_dump(mode="json"),
        model=cards.Model(
            file=path.name,
            sha256=sha256(path),
            opset=next(x.version for x in model.opset_import if x.domain == ""),
            parameters=sum(p.numel() for p in surrogate.parameters()),
            parity=difference,
        ),
        inputs=tuple(_input(one, shape, schema) for one in model.graph.input),
        outputs=tuple(
            _outside(one) if one.name == OUTPUT else _samples(one, trained)
            for one in model.graph.output
        ),
        conditions=conditions_of(surrogate.conditions),
        noise=cards.Noise(
            rule="seed" if drawn else "input",
            shape=shape,
            generator="Philox4x32-10, Box-Muller" if drawn else None,
        ),
        geometry=None if trained.geometry is None else voxels_of(trained.geometry),
        data=cards.Data(
            name=_file_name(data.get("name")), sha256=data.get("sha256"), licence=trained.licence
        ),
        scores=None if trained.scorecard is None else scores_of(trained.scorecard),
    )


def _file_name(name: str | None) -> str | None:
    """Return what data are called without the folder: cards are for other machines."""
    return None if name is None else Path(name).name


def _input(one: Any, noise_shape: tuple[int, ...], schema: Schema) -> cards.TensorSpec:
    shape, kind = _shape(one), _dtype(one)
    by_name = {variable.name: variable for variable in schema.condition}
    if one.name == "noise":
        axes = tuple(f"noise {i}" for i in range(len(shape)))
        return cards.TensorSpec(name="noise", role="noise", dtype=kind, shape=shape, axes=axes)
    if one.name == "seed":
        return cards.TensorSpec(name="seed", role="seed", dtype=kind, shape=shape, axes=("seed",))
    if one.name in by_name:
        return cards.TensorSpec(
            name=one.name,
            role="condition",
            dtype=kind,
            shape=shape,
            axes=("condition",),
            quantities=(_quantity(by_name[one.name]),),
        )
    noise = cards.Quantity(name="noise", unit="1", domain="real")
    return cards.TensorSpec(
        name=one.name,
        role="vector",
        dtype=kind,
        shape=shape,
        axes=("noise, then conditions",),
        quantities=(
            *[noise] * math.prod(noise_shape),
            *(_quantity(variable) for variable in schema.condition),
        ),
    )


def _samples(one: Any, trained: Trained) -> cards.TensorSpec:
    schema = trained.surrogate.schema
    axes = [f"axis {i}" for i in range(len(schema.shape))]
    if len(schema.variables) > 1:
        axes[-1] = "column"
    if trained.geometry is not None:
        axes[-1] = "voxel"
    return cards.TensorSpec(
        name=one.name,
        role="samples",
        dtype=_dtype(one),
        shape=schema.shape,
        axes=tuple(axes),
        quantities=tuple(_quantity(variable) for variable in schema.variables),
    )


def _outside(one: Any) -> cards.TensorSpec:
    kind, shape = _dtype(one), _shape(one)
    return cards.TensorSpec(
        name=one.name, role="outside", dtype=kind, shape=shape, axes=("outside",)
    )


def _shape(one: Any) -> tuple[int, ...]:
    return tuple(int(dim.dim_value) for dim in one.type.tensor_type.shape.dim[1:])


def _dtype(one: Any) -> str:
    from onnx import helper

    return str(np.dtype(helper.tensor_dtype_to_np_dtype(one.type.tensor_type.elem_type)))


def _quantity(variable: Variable) -> cards.Quantity:
    return cards.Quantity(name=variable.name, unit=variable.unit, domain=variable.domain)


def conditions_of(prior: ConditionPrior) -> tuple[cards.Condition, ...]:
    """Return what the card says of conditions."""
    found = []
    ends = zip(prior.low.tolist(), prior.high.tolist(), strict=True)
    for column, (variable, (low, high)) in enumerate(zip(prior.variables, ends, strict=True)):
        labels = prior.labels[column].nonzero()[:, 0].tolist()
        found.append(
            cards.Condition(
                name=variable.name,
                unit=variable.unit,
                domain=variable.domain,
                low=low if math.isfinite(low) else None,
                high=high if math.isfinite(high) else None,
                labels=tuple(int(variable.low or 0) + i for i in labels) or None,
            )
        )
    return tuple(found)


def voxels_of(geometry: Geometry) -> cards.Voxels:
    """Return what the card says of a geometry."""
    layers = zip(geometry.layers, geometry.offsets.tolist(), strict=False)
    return cards.Voxels(
        particle=geometry.name,
        pdg=geometry.pid,
        phi_offset_rad=-math.pi,
        placed=geometry.placed,
        sha256=geometry.sha256,
        layers=tuple(
            cards.Layer(id=x.id, n_alpha=x.n_alpha, r_edges_mm=x.r_edges, first_voxel=first)
            for x, first in layers
        ),
    )


def scores_of(card: Scorecard) -> cards.Scores:
    """Return what the card says of a scorecard."""
    timed = [row for row in card.rows if row.metric == "timing"]
    worth = [row for row in card.rows if row.metric == "equivalent-events"]
    return cards.Scores(
        verdict=card.verdict,
        of=f"samples {card.provenance.get('samples', '')}".strip(),
        warnings=tuple(card.warnings),
        n_equiv=tuple(
            cards.Worth(name=row.name, value=row.value, error=row.error) for row in worth
        ),
        latency=tuple(
            cards.Latency(batch=int(row.name.split()[-1]), ms=row.value, note=row.note)
            for row in timed
        ),
    )
