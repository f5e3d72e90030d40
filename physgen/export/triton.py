"""A surrogate as a model folder of Triton, which Athena, SONIC of CMS and coffea call (KServe v2).

`1/` is what `physgen export --to onnx` writes, its card included; `config.pbtxt` says what the
server has to know. Clients see no files of the server, so that the card is a parameter of the
configuration too. The name of the folder is that of the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from physgen.errors import InputError
from physgen.export import card as cards
from physgen.export.base import Trained
from physgen.export.onnx import ONNX

CONFIG = "config.pbtxt"
VERSION = "1"
"""Of the model, as the server counts."""

KINDS = {"float32": "TYPE_FP32", "float64": "TYPE_FP64", "int64": "TYPE_INT64", "bool": "TYPE_BOOL"}


class Triton:
    """Export to a model repository of Triton.

    Args:
        noise: of ONNX; by default a seed, which is shorter than the noise it stands for.
        single_input: of ONNX.
        max_batch_size: rows of a request, and of those that the server puts together.

    Raises:
        InputError: options exclude each other, or no batch would be allowed.

    >>> Triton(max_batch_size=64).onnx.noise
    'seed'
    """

    def __init__(
        self,
        *,
        noise: Literal["input", "seed"] | None = None,
        single_input: bool = False,
        max_batch_size: int = 4096,
    ) -> None:
        if max_batch_size < 1:
            raise InputError(f"max_batch_size = {max_batch_size}: one row or more")
        # A vector holds the noise.
        self.onnx = ONNX(
            noise=noise or ("input" if single_input else "seed"), single_input=single_input
        )
        self.max_batch_size = max_batch_size

    def write(self, trained: Trained, folder: Path) -> None:
        """Write `config.pbtxt` and `1/`.

        Raises:
            InputError: it does not export to ONNX.
        """
        version = folder / VERSION
        version.mkdir()
        self.onnx.write(trained, version)
        (folder / CONFIG).write_text(configuration(version, self.max_batch_size))


def configuration(version: Path, max_batch_size: int) -> str:
    """Return the text of `config.pbtxt`, which has no name: the server takes that of the folder.

    Args:
        version: folder of a model and its card.
        max_batch_size: rows that are run together at most.
    """
    card = cards.read(version)
    text = (version / cards.NAME).read_text()
    tensors = [
        *(_tensor("input", one) for one in card.inputs),
        *(_tensor("output", one) for one in card.outputs),
    ]
    lines = [
        'backend: "onnxruntime"',
        f'default_model_filename: "{card.model.file}"',
        f"max_batch_size: {max_batch_size}",
        *tensors,
        "dynamic_batching { }",
        # The escapes of JSON's strings are those of protobuf's.
        f'parameters {{ key: "card" value {{ string_value: {json.dumps(text)} }} }}',
    ]
    return "".join(f"{line}\n" for line in lines)


def _tensor(kind: str, one: cards.TensorSpec) -> str:
    dims = ", ".join(map(str, one.shape))
    return f'{kind} {{ name: "{one.name}" data_type: {KINDS[one.dtype]} dims: [ {dims} ] }}'
