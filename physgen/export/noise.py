r"""Standard normal noise drawn inside an ONNX graph from a seed a sample.

Philox4x32-10 (Salmon et al., SC 2011): a bijection of a counter of four words of 32 bits, keyed by
the seed's two words. Word j of block b of a sample with seed s is that of the counter (b, 0, 0, 0)
under the key (s mod 2^32, s div 2^32), so that a sample depends on its own seed alone, not on the
batch it is in. Two words w, v make two normal numbers (Box & Muller, 1958),

    r = sqrt(-2 ln((w + 1/2) / 2^32)),    r cos(2 pi v / 2^32),  r sin(2 pi v / 2^32),

none of which is larger than 6.8. The numbers are not those of torch's generators.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
INCREMENTS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 2**32

Words = tuple[Any, Any, Any, Any]


def normal(seed: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Return (n, size) normal numbers of (n,) seeds: what the graph computes, in NumPy.

    >>> normal(np.array([7, 8]), 5).shape
    (2, 5)
    """
    key = seed.astype(np.uint64)[:, None]
    words = [np.arange(-(-size // 4), dtype=np.uint64)[None], *[np.zeros((1, 1), np.uint64)] * 3]
    w = np.stack(np.broadcast_arrays(*philox(words, [key % WORD, key // WORD])), 2)
    radius = np.sqrt(-2 * np.log((w[..., 0::2] + 0.5) / WORD))
    angle = w[..., 1::2] * (2 * math.pi / WORD)
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 3)
    numbers: NDArray[np.float64] = both.reshape(len(seed), -1)[:, :size]
    return numbers


def philox(counter: list[Any], key: list[Any]) -> Words:
    """Return the four words of a counter of four under a key of two, as arrays of uint64."""
    a, b, c, d = counter
    for number in range(ROUNDS):
        first, second = (
            (key[i] + np.uint64(number * INCREMENTS[i] % WORD)) % np.uint64(WORD) for i in (0, 1)
        )
        left, right = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        mask, half = np.uint64(WORD - 1), np.uint64(32)
        a, b, c, d = (
            (right >> half) ^ b ^ first,
            right & mask,
            (left >> half) ^ d ^ second,
            (left & mask),
        )
    return a, b, c, d


def draw_inside(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    """Replace the input `noise` of a model by an input `seed`, (batch, 1) int64, in place.

    Args:
        model: whose input `noise` has the shape (batch, *shape).
        shape: of the noise behind one sample.
    """
    from onnx import TensorProto, helper

    noise = next(one for one in model.graph.input if one.name == "noise")
    build = _Graph(noise.type.tensor_type.elem_type)
    build.noise(shape)
    others = [one for one in model.graph.input if one.name != "noise"]
    batch = noise.type.tensor_type.shape.dim[0].dim_param
    seed = helper.make_tensor_value_info("seed", TensorProto.INT64, [batch, 1])
    body = list(model.graph.node)
    del model.graph.input[:], model.graph.node[:]
    model.graph.input.extend([seed, *others])
    model.graph.node.extend([*build.nodes, *body])
    model.graph.initializer.extend(build.constants.values())


class _Graph:
    """Nodes that draw noise, with their constants."""

    def __init__(self, kind: int) -> None:
        self.kind, self.nodes = kind, list[Any]()
        self.constants = dict[tuple[str, bytes], Any]()

    def noise(self, shape: tuple[int, ...]) -> None:
        """Add nodes from `seed` to `noise`."""
        size = math.prod(shape)
        n_blocks = -(-size // 4)
        key = self._node("Cast", "seed", to=self._uint64)
        low = self._node("BitwiseAnd", key, self._word(WORD - 1))
        high = self._shifted(key)
        w = self._philox(self._constant(np.arange(n_blocks, dtype=np.uint64)[None]), low, high)
        pairs = []
        for radial, angular in ((w[0], w[1]), (w[2], w[3])):
            level = self._node("Mul", self._real(radial, 0.5), self._number(1 / WORD))
            r = self._node("Sqrt", self._node("Mul", self._node("Log", level), self._number(-2)))
            angle = self._node("Mul", self._real(angular, 0), self._number(2 * math.pi / WORD))
            pairs += [self._node("Mul", r, self._node(way, angle)) for way in ("Cos", "Sin")]
        ends = self._constant(np.array([-1], np.int64))
        parts = [self._node("Unsqueeze", part, ends) for part in pairs]
        flat = self._node("Concat", *parts, axis=2)
        flat = self._node("Reshape", flat, self._constant(np.array([0, 4 * n_blocks], np.int64)))
        part = self._node("Slice", flat, *(self._constant(np.array([i])) for i in (0, size, 1)))
        self._node("Reshape", part, self._constant(np.array([0, *shape], np.int64)), name="noise")

    def _philox(self, counter: str, low: str, high: str) -> list[str]:
        zero = self._word(0)
        a, b, c, d = counter, zero, zero, zero
        for number in range(ROUNDS):
            keys = []
            for key, step in zip((low, high), INCREMENTS, strict=True):
                moved = self._node("Add", key, self._word(number * step % WORD))
                keys.append(self._node("BitwiseAnd", moved, self._word(WORD - 1)))
            left = self._node("Mul", a, self._word(MULTIPLIERS[0]))
            right = self._node("Mul", c, self._word(MULTIPLIERS[1]))
            mixed = [
                self._node(
                    "BitwiseXor", self._node("BitwiseXor", self._shifted(product), word), key
                )
                for product, word, key in ((right, b, keys[0]), (left, d, keys[1]))
            ]
            rest = [self._node("BitwiseAnd", x, self._word(WORD - 1)) for x in (right, left)]
            a, b, c, d = mixed[0], rest[0], mixed[1], rest[1]
        return [a, b, c, d]

    def _shifted(self, word: str) -> str:
        return self._node("BitShift", word, self._word(32), direction="RIGHT")

    def _real(self, word: str, plus: float) -> str:
        real = self._node("Cast", word, to=self.kind)
        return self._node("Add", real, self._number(plus)) if plus else real

    @property
    def _uint64(self) -> int:
        from onnx import TensorProto

        return int(TensorProto.UINT64)

    def _word(self, value: int) -> str:
        return self._constant(np.array([[value]], np.uint64))

    def _number(self, value: float) -> str:
        from onnx import helper

        return self._constant(np.array(value, helper.tensor_dtype_to_np_dtype(self.kind)))

    def _constant(self, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        key = f"{value.dtype} {value.shape}", value.tobytes()
        if key not in self.constants:
            name = f"seed_constant_{len(self.constants)}"
            self.constants[key] = numpy_helper.from_array(value, name)
        return str(self.constants[key].name)

    def _node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = name or f"seed_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name
