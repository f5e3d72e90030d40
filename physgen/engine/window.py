"""Metrics between two lines of the journal: kept on the device, read in one transfer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from physgen.engine.checkpoint import CheckpointStore
from physgen.engine.context import Context
from physgen.engine.distributed import World
from physgen.errors import TrainingError


class Window:
    """Collects what steps return, and guards against losses that are not finite."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._values: dict[str, list[Tensor]] = {}
        self._losses: list[tuple[int, Tensor]] = []

    def add(self, step: int, metrics: Mapping[str, Tensor], context: Context) -> None:
        """Take in a step's metrics, and the losses the context saw."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value.detach())
        if "loss" in metrics:
            self._losses.append((step, metrics["loss"].detach()))
        self._losses.extend(context.losses)
        if context.gradient_norms:
            self._values.setdefault("gradient_norm", []).extend(context.gradient_norms)
        context.losses.clear()
        context.gradient_norms.clear()

    def close(self, store: CheckpointStore) -> dict[str, float]:
        """Return the mean of each metric, over steps and ranks, and start again.

        Raises:
            TrainingError: a loss was not finite; names the step and the last checkpoint.
        """
        if not self._values and not self._losses:
            return {}
        names = list(self._values)
        means = [torch.stack([v.float() for v in self._values[n]]).mean() for n in names]
        losses = [torch.stack([loss.float() for _, loss in self._losses])] if self._losses else []
        numbers = torch.stack([*means, *(values.isfinite().all().float() for values in losses)])
        self._world.sum_([numbers])
        *read, good = (numbers / self._world.size).tolist() if losses else [*numbers.tolist(), 1.0]
        if good < 1:
            finite = losses[0].isfinite().tolist()
            bad = [step for (step, _), fine in zip(self._losses, finite, strict=True) if not fine]
            saved = store.steps()
            raise TrainingError(
                f"the loss is not finite in step {(bad or [self._losses[0][0]])[0] + 1}; "
                + (
                    f"the last good checkpoint, {store.path(saved[-1])}, is kept. "
                    if saved
                    else "there is no checkpoint yet. "
                )
                + "Lower the method's learning rate, set engine.clip=1.0, or use "
                "engine.precision=float32; look for extreme values in the data with "
                "`physgen inspect`"
            )
        self._values, self._losses = {}, []
        return dict(zip(names, read, strict=True))
