"""How to train: what a recipe's `engine` section may say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from physgen.engine.device import DeviceName, PrecisionName
from physgen.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How to train, the same for all methods (the `engine` section of a recipe).

    Attributes:
        steps: number of steps in all, those before a resume counted.
        batch_size: samples a step, over all processes.
        seed: of all random numbers of the training.
        device: "auto" takes a CUDA device where there is one.
        precision: "bf16" computes losses in bfloat16 and keeps parameters in float32.
        compile: compile the losses with `torch.compile`.
        ema: decay of the moving average of the weights, which is then what is kept.
        clip: largest global norm of a gradient.
        accumulate: number of micro-batches a batch is cut into, to save memory.
        schedule: factor on the methods' learning rates; "cosine" falls to 0 at the last step.
        warmup: steps over which the factor rises linearly.
        deterministic: let torch use deterministic kernels only.
        log_every: steps between two lines of the journal.
        evaluate_every: steps between two held-out losses, where the caller gives one.
        checkpoint_every: steps between two checkpoints.
        keep: number of checkpoints to keep.
        threads: of a training on a CPU; `None` chooses by the size of the work.

    >>> options = Engine(steps=1000, schedule="cosine", warmup=9)
    >>> [round(options.learning_rate_factor(step), 2) for step in (0, 9, 504, 999)]
    [0.1, 1.0, 0.5, 0.0]
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    steps: int = 1000
    batch_size: int = 256
    seed: int = 0
    device: DeviceName = "auto"
    precision: PrecisionName = "float32"
    compile: bool = False
    ema: float | None = None
    clip: float | None = None
    accumulate: int = 1
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    deterministic: bool = False
    log_every: int = 50
    evaluate_every: int = 200
    checkpoint_every: int = 500
    keep: int = 2
    threads: int | None = None

    def __post_init__(self) -> None:
        counts = ("batch_size", "accumulate", "log_every", "evaluate_every", "checkpoint_every")
        for name in (*counts, "keep", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"engine.{name} is {value}: it must be at least 1")
        if self.steps < 0 or self.warmup < 0:
            raise InputError("engine.steps and engine.warmup cannot be negative")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise InputError(f"engine.ema is {self.ema}: a decay lies in [0, 1)")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"engine.clip is {self.clip}: it must be positive (or absent)")

    def learning_rate_factor(self, step: int) -> float:
        """Return what multiplies the base learning rates in the step after `step` others."""
        factor = min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "cosine" and step >= self.warmup:
            progress = (step - self.warmup) / max(1, self.steps - self.warmup)
            factor *= 0.5 * (1 + math.cos(math.pi * progress))
        return factor
