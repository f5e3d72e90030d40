"""The one training loop: fit any surrogate with any method.

    for step in range(start, steps):
        learning rates <- base rates * schedule(step)
        batches        <- next global batches, prepared, sliced by rank
        method.step(batches, context)
        moving average, journal, held-out loss, checkpoint

Nothing in a step waits for the device: losses and metrics stay there until the journal is due.
To resume, call `fit` again on the same directory.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from physgen.engine.average import MovingAverage, holding
from physgen.engine.checkpoint import CheckpointStore, exclusive
from physgen.engine.context import Context, Feed, Stream
from physgen.engine.device import choose_device, deterministic, floating_type
from physgen.engine.distributed import connect
from physgen.engine.journal import Journal
from physgen.engine.options import Engine
from physgen.engine.state import RunState
from physgen.engine.threads import Work, restored_threads, threads_for
from physgen.engine.window import Window
from physgen.errors import InputError, TrainingError
from physgen.isolation import global_generators
from physgen.surrogates.base import Surrogate
from physgen.surrogates.method import Method


@dataclass(frozen=True)
class FitResult:
    """What a call of `fit` did.

    Attributes:
        step: number of steps done in all.
        finished: whether these are all; false after a signal.
        resumed_at: the step this call continued from; 0 for a new run.
        checkpoint: the last one saved.
        best: lowest held-out loss and its step, where one was evaluated.
        message: how it ended, and how to go on.
        signal: what stopped it, where that reached this process.
    """

    step: int
    finished: bool
    resumed_at: int
    checkpoint: Path | None
    best: tuple[float, int] | None
    message: str
    signal: int | None = None


def fit(
    surrogate: Surrogate,
    method: Method,
    streams: Mapping[str, Stream],
    directory: Path,
    options: Engine,
    *,
    identity: Mapping[str, str] | None = None,
    force: bool = False,
    evaluate: Callable[[], float] | None = None,
    on_evaluate: Callable[[int], None] | None = None,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> FitResult:
    """Train, or go on training; afterwards the surrogate holds the weights to keep.

    Those are the moving average if there is one, at the step of the lowest held-out loss if that
    is evaluated, on the device of the training, in evaluation mode.

    Args:
        streams: the global batches of each of `method.inputs`, on the CPU.
        directory: of the run; made if absent. A checkpoint in it is continued exactly.
        identity: what a resume must not change, by name (hashes of the recipe and of the data).
        force: resume though it did.
        evaluate: returns a held-out loss of the surrogate, which holds the weights to keep then.
        look: called with the step whenever held-out losses are due, under the same weights.
        progress: called with the step and the means of the metrics since the last call.

    Raises:
        CheckpointError: the directory is in use, or its checkpoints are damaged or of another run.
        TrainingError: the loss is not finite, or memory ran out.
    """
    missing = [name for name in method.inputs if name not in streams]
    if missing:
        raise InputError(
            f"{type(method).__name__} needs the input {missing[0]!r} and got "
            f"{sorted(streams) or 'none'}; give the recipe a data section"
        )
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        cuda = choose_device(options.device).type == "cuda"
        world = stack.enter_context(connect(cuda))
        if world.first:
            stack.enter_context(exclusive(directory))
        stack.enter_context(deterministic(options.deterministic))
        stop = stack.enter_context(_signals())
        device = choose_device(options.device, world.local_rank)
        stack.enter_context(global_generators(options.seed, device))
        dtype = floating_type(options.precision)
        _place(surrogate, method, device, dtype)
        for module in (surrogate, *method.modules.values()):
            world.equalise(module)

        average = MovingAverage(surrogate, options.ema) if options.ema is not None else None
        feeds = {name: Feed(streams[name], device) for name in method.inputs}
        for optimiser in method.optimisers.values():
            for group in optimiser.param_groups:
                group.setdefault("initial_lr", float(group["lr"]))
        store = CheckpointStore(directory / "checkpoints", keep=options.keep, world=world)
        state = RunState(surrogate, method, feeds, average, store, dict(identity or {}))
        journal = Journal(directory)
        available = stack.enter_context(restored_threads())
        start = state.resume(force=force)
        if options.threads is not None:
            state.threads = options.threads
        elif device.type != "cpu" or options.compile:
            state.threads = available
        # Until the work is known, one; what a checkpoint says may be more than this machine has.
        torch.set_num_threads(min(state.threads or 1, options.threads or available))
        _place(surrogate, method, device, dtype)
        groups = [group for o in method.optimisers.values() for group in o.param_groups]
        if world.first:
            journal.truncate(start)
            journal.note("resume" if start else "start", start)
        context = Context(method, feeds, options, device=device, world=world)
        if world.first:
            stack.enter_context(_failures_noted(journal, context))
        window = Window(world)
        surrogate.train()
        step = start
        while step < options.steps:
            rate = options.learning_rate_factor(step)
            for group in groups:
                group["lr"] = group["initial_lr"] * rate
            context.begin(step)
            counting = Work() if state.threads is None else nullcontext()
            with _memory_named(options), counting as work:
                metrics = method.step({name: context.next(name) for name in method.inputs}, context)
            if work is not None:
                state.threads = threads_for(work.size, available)
                torch.set_num_threads(state.threads)
            window.add(step, metrics, context)
            if average is not None:
                average.update()
            step += 1

            last = step == options.steps
            due = step % options.log_every == 0 or last
            # Ranks get a signal at different steps; they agree where they meet anyway.
            stopping = stop.came if world.size == 1 else due and world.any(stop.came, device)
            saving = step % options.checkpoint_every == 0 or last or stopping
            evaluating = (evaluate is not None or on_evaluate is not None) and (
                step % options.evaluate_every == 0 or last
            )
            if not (due or saving or evaluating):
                continue
            report = window.close(store) if due or saving else {}
            if due:
                report["learning_rate"] = max((group["lr"] for group in groups), default=0.0)
            if evaluating:
                with holding(surrogate, average.state() if average else None):
                    if on_evaluate is not None:
                        on_evaluate(step)
                    loss = None if evaluate is None else float(world.share(float(evaluate())))
                if loss is not None:
                    report["held_out_loss"] = loss
                    state.update_best(loss, step)
            if world.first and report:
                journal.measure(step, report)
            if progress is not None and world.first and report:
                progress(step, report)
            if saving:
                if world.first:
                    journal.sync()
                state.save(step)
            if stopping and not last:
                break
        surrogate.eval()
        surrogate.load_state_dict(state.best_weights())
        finished = step >= options.steps
        if world.first:
            journal.note("finish" if finished else "stop", step)
        best = None if state.best is None else (state.best.loss, state.best.step)
        message = _message(step, options, finished)
        return FitResult(step, finished, start, state.last, best, message, stop.number)


def _place(surrogate: Surrogate, method: Method, device: torch.device, dtype: torch.dtype) -> None:
    surrogate.to(device=device, dtype=dtype)
    for module in method.modules.values():
        module.to(device=device, dtype=dtype)
    for name, tensor in method.tensors.items():
        kind = dtype if tensor.is_floating_point() else None
        method.tensors[name] = tensor.to(device=device, dtype=kind)


def _message(step: int, options: Engine, finished: bool) -> str:
    if finished:
        return f"finished {step} steps"
    return (
        f"stopped by a signal after step {step} of {options.steps}, and saved it; "
        "run the same command again to go on"
    )


class _Signal:
    """The first signal that came, looked at between steps."""

    number: int | None = None

    @property
    def came(self) -> bool:
        return self.number is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number


@contextmanager
def _signals() -> Iterator[_Signal]:
    """Keep SIGTERM and SIGINT until a step has ended; the host's handlers come back.

    Only the main thread may set handlers. A host that ignores a signal goes on ignoring it, and a
    handler that was not set from Python could not be put back.
    """
    stop = _Signal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = {kind: signal.getsignal(kind) for kind in kinds}
    handlers = {kind: old for kind, old in before.items() if old not in (None, signal.SIG_IGN)}
    for kind in handlers:
        signal.signal(kind, stop.handle)
    try:
        yield stop
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)


@contextmanager
def _failures_noted(journal: Journal, context: Context) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # A full disk may be the failure itself.
        with suppress(OSError):
            journal.note("fail", context.step, reason=str(error))
        raise


@contextmanager
def _memory_named(options: Engine) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            raise TrainingError(
                f"out of memory at engine.batch_size={options.batch_size} with "
                f"engine.accumulate={options.accumulate}: double engine.accumulate (same result, "
                f"less memory) or halve engine.batch_size ({text.splitlines()[0]})"
            ) from error
        raise
