"""The output of an ONNX graph that tells which samples are of conditions outside their domain.

A host that cannot read the card, or allows conditions beyond it, is told so by the model itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from physgen.export.card import Condition

if TYPE_CHECKING:
    import onnx

OUTPUT = "outside_domain"
"""(batch, 1), boolean."""

_LARGEST = np.finfo(np.float64).max


def mark_outside(model: onnx.ModelProto, conditions: tuple[Condition, ...]) -> None:
    """Add the output `outside_domain` to a model, in place; nothing without conditions.

    Args:
        model: whose inputs are the conditions by name, or which has them at the end of a vector.
        conditions: in the order of the model.
    """
    from onnx import TensorProto, helper, numpy_helper

    if not conditions:
        return
    nodes, constants = list[Any](), list[Any]()

    def node(operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"domain_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(value: Any) -> str:
        name = f"domain_constant_{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    named = {one.name for one in model.graph.input}
    inside = []
    for column, one in enumerate(conditions):
        x = one.name
        if x not in named:
            place = np.array([column - len(conditions)])
            x = node("Gather", "vector", constant(place), axis=1)
        x = node("Cast", x, to=TensorProto.DOUBLE)
        # NaN is in no interval, and infinity in none of finite numbers.
        low, high = np.clip(one.ends, -_LARGEST, _LARGEST)
        inside.append(node("GreaterOrEqual", x, constant(low)))
        inside.append(node("LessOrEqual", x, constant(high)))
        if one.labels is not None:
            equal = node("Equal", x, constant(np.array([one.labels], np.float64)))
            count = node("Cast", equal, to=TensorProto.INT64)
            most = node("ReduceMax", count, constant(np.array([1])), keepdims=1)
            inside.append(node("Cast", most, to=TensorProto.BOOL))
    whole = inside[0]
    for one_more in inside[1:]:
        whole = node("And", whole, one_more)
    nodes.append(helper.make_node("Not", [whole], [OUTPUT], name=OUTPUT))
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.BOOL, [batch, 1]))
