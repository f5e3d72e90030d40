"""Shuffled batches of a source larger than memory, as a function of a position.

The rows of a part are cut into the source's blocks. Epoch e visits the blocks in an order drawn
from (seed, e); each window of `buffer_blocks` of them is held in memory and its rows are permuted
with (seed, e, window). The stream is the endless sequence of epochs, and batch k is its positions
[k B, (k + 1) B): every batch has B rows, every row comes once an epoch (or as often as its weight
says, see `physgen.io.weights`), and the position alone says how to go on. Reading single rows at
random instead would decompress a whole chunk for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physgen.batch import Batch
from physgen.errors import CheckpointError, InputError
from physgen.io.source import Source
from physgen.io.weights import WeightSums, sampled

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class _Epoch:
    """Blocks of each window (ascending, so that they are read in order), and where it begins.

    Attributes:
        number: of the epoch.
        windows: blocks of each.
        starts: position within the epoch of the first row of each window, and of the end.
        offsets: where that position lies on the window's part of the line of weights.
    """

    number: int
    windows: list[tuple[int, ...]]
    starts: Rows
    offsets: NDArray[np.float64] | None = None


class Stream:
    """Endless shuffled batches of constant size, in the order given by the seed.

    Rows come in proportion to their event weights. Batches have weights only if some are negative:
    of mean one over an epoch.

    Args:
        source: of the samples.
        rows: ascending row numbers of the part to read; `None` is all rows.
        batch_size: rows of each batch.
        seed: of the order.
        buffer_blocks: how many blocks of the source are mixed with each other in memory.
        prefetch: read the next window in a background thread; the order is the same, the memory
            twice as much.

    Raises:
        InputError: the part has no rows.

    >>> from physgen.batch import Schema, Variable
    >>> from physgen.io.source import ArraySource
    >>> rows = Batch(torch.arange(6.0)[:, None])
    >>> stream = Stream(ArraySource(rows, Schema((1,), (Variable("x"),))), batch_size=3)
    >>> sorted(float(x) for _ in range(2) for x in next(stream).x)  # every row once an epoch
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """

    def __init__(
        self,
        source: Source,
        rows: Rows | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        buffer_blocks: int = 16,
        prefetch: bool = False,
    ) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.buffer_blocks, self.prefetch = buffer_blocks, prefetch
        self.rows = np.arange(len(source), dtype=np.int64) if rows is None else rows
        if len(self.rows) == 0:
            raise InputError(f"{source.name}: no rows to stream; give a file with samples in it")
        self._blocks, bounds = _by_block(self.rows, source.block)
        self._first, self._last = bounds[:-1], bounds[1:]
        self._capacity = int(np.sort(self._last - self._first)[-buffer_blocks:].sum())
        self.position = 0
        self._epoch: _Epoch | None = None
        self._held: tuple[tuple[int, ...], Batch] | None = None
        self._ahead: tuple[tuple[int, ...], Future[Batch]] | None = None
        self._permuted: tuple[tuple[int, int], Tensor] | None = None
        self._thread = ThreadPoolExecutor(1, "physgen-read") if prefetch else None
        # Windows are read into the same memory again and again: fresh pages cost more than copying.
        self._buffers: list[dict[str, Tensor]] = [{}, {}] if prefetch else [{}]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def epoch(self) -> float:
        """How many times the part has been read so far."""
        return self.position / len(self)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        pieces = []
        wanted = self.batch_size
        while wanted:
            piece = self._piece(wanted)
            pieces.append(piece)
            wanted -= len(piece)
            self.position += len(piece)
        return pieces[0] if len(pieces) == 1 else Batch.concatenate(pieces)

    @cached_property
    def weights(self) -> WeightSums | None:
        """Sums of the weights of the part, `None` if its rows have none; one pass over the file.

        Raises:
            InputError: their sum is not positive.
        """
        first = int(self.rows[0])
        if self.source.read(first, first + 1).weight is None:
            return None
        sums = np.zeros((3, len(self._blocks)))
        for block, batch in enumerate(self._read_blocks(self.rows)):
            if batch.weight is not None:
                w = batch.weight.double().numpy()
                sums[:, block] = np.abs(w).sum(), w.sum(), np.square(w).sum()
        result = WeightSums(len(self), sums[0], float(sums[1].sum()), float(sums[2].sum()))
        result.check(self.source.name)
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor, a JSON-able dictionary: the position, and what gives it a meaning."""
        return {
            "position": self.position,
            "rows": len(self),
            "seed": self.seed,
            "block": self.source.block,
            "buffer_blocks": self.buffer_blocks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the cursor was taken.

        Raises:
            CheckpointError: the cursor belongs to other data, another seed or other blocks.
        """
        for name, value in self.state_dict().items():
            if name != "position" and state.get(name) != value:
                raise CheckpointError(
                    f"cursor of another stream: {name} was {state.get(name)}, here it is {value}; "
                    "resume with the data and the seed of the first run, or start afresh"
                )
        self.position = int(state["position"])

    def sample(self, n: int) -> Batch:
        """Return `n` rows of the part drawn without replacement, in file order (all, if fewer).

        Always the same ones for the same seed: what transforms are fitted on. One pass over the
        file; memory for `n` rows and a block.
        """
        return Batch.concatenate(list(self._drawn(n)))

    def conditions(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return conditions (at most n, C) and weights of the rows that `sample` would return."""
        batches = [
            Batch(batch.condition.clone(), weight=batch.weight)
            for batch in self._drawn(n)
            if batch.condition is not None
        ]
        if not batches:
            return None
        joined = Batch.concatenate(batches)
        return joined.x, joined.weight

    def in_order(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield the rows of the part once, in file order, in batches (the last may be smaller)."""
        size = batch_size or self.batch_size
        rest: Batch | None = None
        for batch in self._read_blocks(self.rows):
            whole = batch if rest is None else Batch.concatenate([rest, batch])
            end = len(whole) - len(whole) % size
            for start in range(0, end, size):
                yield whole[start : start + size]
            rest = whole[end:] if end < len(whole) else None
        if rest is not None:
            yield rest

    def _drawn(self, n: int) -> Iterator[Batch]:
        """Yield `n` rows of the part drawn without replacement (all, if fewer), in file order."""
        rows = self.rows
        if n < len(rows):
            generator = np.random.default_rng([self.seed, 1])
            rows = np.sort(generator.choice(rows, n, replace=False, shuffle=False))
        return self._read_blocks(rows)

    def _piece(self, wanted: int) -> Batch:
        """Return up to `wanted` rows from the window at the current position."""
        number, offset = divmod(self.position, len(self))
        if self._epoch is None or number != self._epoch.number:
            self._epoch = self._plan(number)
        epoch = self._epoch
        window = int(np.searchsorted(epoch.starts, offset, side="right")) - 1
        batch = self._window(epoch, window)
        if self._permuted is None or self._permuted[0] != (number, window):
            # 0 sets the stream of rows apart from those of blocks and samples.
            generator = np.random.default_rng([self.seed, 0, number, window])
            rows = torch.from_numpy(generator.permutation(self._rows_of(epoch, window, batch)))
            self._permuted = (number, window), rows
        start = offset - int(epoch.starts[window])
        piece = _take(batch, self._permuted[1][start : start + wanted])
        if piece.weight is None or self.weights is None:
            return piece
        if not self.weights.negative_share:
            return piece.replace(weight=None)
        size = self.weights.absolute / self.weights.total
        return piece.replace(weight=size * piece.weight.sign())

    def _rows_of(self, epoch: _Epoch, window: int, batch: Batch) -> Rows:
        """Return which rows of a window's batch come in an epoch, each as often as it comes."""
        if epoch.offsets is None or batch.weight is None or self.weights is None:
            return np.arange(len(batch), dtype=np.int64)
        n = int(epoch.starts[window + 1] - epoch.starts[window])
        weight = batch.weight.double().numpy()
        per_weight = len(self) / self.weights.absolute
        return sampled(weight, float(epoch.offsets[window]), n, per_weight)

    def _plan(self, number: int) -> _Epoch:
        order = np.random.default_rng([self.seed, 2, number]).permutation(len(self._blocks))
        windows = [
            tuple(sorted(order[start : start + self.buffer_blocks].tolist()))
            for start in range(0, len(order), self.buffer_blocks)
        ]
        if self.weights is None:
            sizes = self._last - self._first
            lengths = [sizes[list(window)].sum() for window in windows]
            return _Epoch(number, windows, np.cumsum([0, *lengths]))
        share = self.weights.blocks / self.weights.absolute
        lengths = [len(self) * share[list(window)].sum() for window in windows]
        begins = np.cumsum([0.0, *lengths])
        shift = np.random.default_rng([self.seed, 3, number]).random()
        starts = np.clip(np.ceil(begins - shift).astype(np.int64), 0, len(self))
        starts[-1] = len(self)
        return _Epoch(number, windows, starts, starts + shift - begins)

    def _window(self, epoch: _Epoch, index: int) -> Batch:
        chosen = epoch.windows[index]
        if self._held is None or self._held[0] != chosen:
            if self._ahead is None or self._ahead[0] != chosen:
                self._ahead = chosen, self._begin(chosen)
            self._held, self._ahead = (chosen, self._ahead[1].result()), None
            if self.prefetch and (following := self._following(epoch, index)) != chosen:
                self._ahead = following, self._begin(following)
        return self._held[1]

    def _begin(self, chosen: tuple[int, ...]) -> Future[Batch]:
        """Read a window into the buffer whose turn it is: never that of the window in use."""
        buffer = self._buffers.pop(0)
        self._buffers.append(buffer)
        if self._thread is not None:
            return self._thread.submit(self._load, chosen, buffer)
        done: Future[Batch] = Future()
        done.set_result(self._load(chosen, buffer))
        return done

    def _following(self, epoch: _Epoch, index: int) -> tuple[int, ...]:
        if index + 1 < len(epoch.windows):
            return epoch.windows[index + 1]
        return self._plan(epoch.number + 1).windows[0]

    def _load(self, chosen: tuple[int, ...], buffer: dict[str, Tensor]) -> Batch:
        """Read blocks into one batch that lies in `buffer`."""
        rows = np.concatenate([self.rows[self._first[b] : self._last[b]] for b in chosen])
        at = 0
        for batch in self._read_blocks(rows):
            for name, value in batch.fields().items():
                if name not in buffer:
                    buffer[name] = value.new_empty((self._capacity, *value.shape[1:]))
                buffer[name][at : at + len(batch)] = value
            at += len(batch)
        filled: dict[str, Any] = {name: value[:at] for name, value in buffer.items()}
        return Batch(**filled)

    def _read_blocks(self, rows: Rows) -> Iterator[Batch]:
        """Yield the given ascending rows, those of one block at a time."""
        block, n = self.source.block, len(self.source)
        for first, last in pairwise(_by_block(rows, block)[1].tolist()):
            members = rows[first:last]
            start = int(members[0] // block * block)
            stop = min(start + block, n)
            batch = self.source.read(start, stop)
            whole = len(members) == stop - start
            yield batch if whole else _take(batch, torch.from_numpy(members - start))


def _by_block(rows: Rows, block: int) -> tuple[Rows, Rows]:
    """Return the blocks that ascending rows lie in, and where those of each begin, and the end."""
    numbers = np.arange(int(rows[0]) // block, int(rows[-1]) // block + 2)
    bounds = np.searchsorted(rows, numbers * block)
    filled = np.diff(bounds) > 0
    return numbers[:-1][filled], np.append(bounds[:-1][filled], len(rows))


def _take(batch: Batch, rows: Tensor) -> Batch:
    # Three times as fast as indexing with a tensor.
    return batch.replace(**{n: v.index_select(0, rows) for n, v in batch.fields().items()})
