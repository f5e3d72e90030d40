"""Everything a run must remember to go on as if it had never stopped, and how it is stored."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from physgen.engine.average import MovingAverage
from physgen.engine.checkpoint import CheckpointStore, finite, read_tree, write_tree
from physgen.engine.context import Feed
from physgen.errors import CheckpointError, TrainingError
from physgen.io.documents import read_json
from physgen.io.tensors import read_tensors, write_tensors
from physgen.io.writer import write_bytes
from physgen.surrogates.base import Surrogate
from physgen.surrogates.method import Method


@dataclass(frozen=True)
class Best:
    """The lowest held-out loss so far."""

    loss: float
    step: int


class RunState:
    """What a checkpoint holds: weights, their average and the best ones, the method, the cursors.

    Attributes:
        best: the lowest held-out loss so far.
        last: the last checkpoint saved or resumed from.
        threads: how many a training on a CPU uses, once that is chosen.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        method: Method,
        feeds: Mapping[str, Feed],
        average: MovingAverage | None,
        store: CheckpointStore,
        identity: Mapping[str, str],
    ) -> None:
        self.best: Best | None = None
        self.last: Path | None = None
        self.threads: int | None = None
        self._surrogate, self._method, self._feeds = surrogate, method, feeds
        self._average, self._store, self._world = average, store, store.world
        self._identity = {**identity, "number of processes": str(store.world.size)}
        self._best_weights: dict[str, Tensor] = {}

    def weights(self) -> dict[str, Tensor]:
        """Return the present weights to keep: the moving average, if there is one."""
        return self._average.state() if self._average else dict(self._surrogate.state_dict())

    def best_weights(self) -> dict[str, Tensor]:
        """Return the weights to keep in the end: the best ones, if losses were held against."""
        return self._best_weights or self.weights()

    def update_best(self, loss: float, step: int) -> None:
        """Remember the present weights if their held-out loss is the lowest."""
        if loss == loss and (self.best is None or loss < self.best.loss):
            self.best = Best(loss, step)
            self._best_weights = {name: value.clone() for name, value in self.weights().items()}

    def save(self, step: int) -> None:
        """Write a checkpoint, on every rank.

        Raises:
            TrainingError: the weights are not finite, or differ between ranks.
            CheckpointError: the disk is full or read-only.
        """
        self._world.check_equal(self._surrogate)
        # Buffers may be infinite on purpose ("no bound"), parameters never.
        if not bool(finite(dict(self._surrogate.named_parameters()))):
            steps = self._store.steps()
            raise TrainingError(
                f"the weights are not finite after step {step}; "
                + (f"{self._store.path(steps[-1])} is kept. " if steps else "nothing is saved. ")
                + "Lower the method's learning rate or set engine.clip=1.0"
            )
        self.last = self._store.save(step, lambda part: self._write(part, step))

    def resume(self, *, force: bool) -> int:
        """Take over the newest whole checkpoint; return its step, 0 if there is none.

        Raises:
            CheckpointError: it belongs to another recipe, data set or number of processes.
        """
        result = self._store.newest()
        if result is None:
            return 0
        step, path = result
        cursor = read_json(path / "cursor.json", CheckpointError)
        if not isinstance(cursor, dict) or not isinstance(cursor.get("identity"), dict):
            raise CheckpointError(f"{path / 'cursor.json'} is not the cursor of a checkpoint")
        changed = [
            name
            for name, value in self._identity.items()
            if cursor["identity"].get(name, value) != value
        ]
        if changed and not force:
            was, now = cursor["identity"][changed[0]], self._identity[changed[0]]
            raise CheckpointError(
                f"{path} was made with another {changed[0]} ({was[:16]}, now {now[:16]}); restore "
                "it, train into another directory, or force the resume"
            )
        try:
            self._load(path, cursor, force=force)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{path} does not fit this model: {reason}; the surrogate or the method has "
                "changed since, train into another directory"
            ) from error
        self.last = path
        return step

    def _write(self, part: Path, step: int) -> None:
        rank = self._world.rank
        write_tree(part / f"method-{rank}", self._method.state_dict())
        if not self._world.first:
            return
        write_tensors(part / "weights.safetensors", self._surrogate.state_dict())
        if self._average is not None:
            write_tensors(part / "ema.safetensors", self._average.state())
        if self.best is not None:
            write_tensors(part / "best.safetensors", self._best_weights)
        cursor = {
            "step": step,
            "identity": self._identity,
            "streams": {name: feed.state_dict() for name, feed in self._feeds.items()},
            "ema_updates": self._average.count if self._average else None,
            "best": asdict(self.best) if self.best else None,
            "threads": self.threads,
        }
        write_bytes(part / "cursor.json", json.dumps(cursor, indent=1).encode())

    def _load(self, path: Path, cursor: Mapping[str, Any], *, force: bool) -> None:
        self._surrogate.load_state_dict(read_tensors(path / "weights.safetensors"))
        if self._average is not None and (path / "ema.safetensors").exists():
            self._average.load(read_tensors(path / "ema.safetensors"), cursor["ema_updates"])
        self.threads = cursor["threads"]
        if cursor["best"] is not None:
            self.best = Best(**cursor["best"])
            device = self._surrogate.device
            self._best_weights = read_tensors(path / "best.safetensors", str(device))
        # A forced resume with another number of processes starts the further ones from the first's.
        own = path / f"method-{self._world.rank}"
        if not own.with_name(own.name + ".json").exists():
            own = path / "method-0"
        options = [
            {name: value for name, value in group.items() if name != "params"}
            for optimiser in self._method.optimisers.values()
            for group in optimiser.param_groups
        ]
        self._method.load_state_dict(read_tree(own))
        # The recipe says what learning rates and betas are, also where a forced resume changed it.
        groups = [g for o in self._method.optimisers.values() for g in o.param_groups]
        for group, option in zip(groups, options, strict=True):
            group.update(option)
        streams = cursor["streams"]
        for name, feed in self._feeds.items():
            try:
                feed.stream.load_state_dict(streams[name])
            except CheckpointError as error:
                if not force:
                    raise
                warnings.warn(f"{error}; the data start anew", RuntimeWarning, stacklevel=4)
