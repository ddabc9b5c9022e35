"""Stopping a run: at a signal, so that it can be resumed exactly, or because it is pruned."""

import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from lightning import Callback, LightningModule, Trainer

from attention_lab.data.core.dataloader import TrainingDataLoader
from attention_lab.external_programs import run_program
from attention_lab.printing import echo
from attention_lab.tracking.prune_request import pruning_reason
from attention_lab.training.checkpoint.callback import Checkpoints
from attention_lab.training.distributed import process_group
from attention_lab.training.lightning_loops import is_accumulating

#: Sent by SLURM before a time limit or a preemption, if the job asked for it with ``--signal``.
SLURM_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
#: These, and the signals sent by ``scancel``, at shutdown, and when a terminal is closed.
SIGNALS = (*SLURM_SIGNALS, signal.SIGTERM, signal.SIGHUP)

#: Seconds between two reads of the request to stop, which may be on a slow file system.
REQUEST_INTERVAL = 1.0

T = TypeVar("T")


def block_signals() -> None:
    """Block ``SIGNALS``; those that arrive stay pending until :func:`unblock_signals`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def unblock_signals() -> None:
    """Unblock ``SIGNALS``; those that arrived meanwhile are delivered."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def not_ignored(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """The signals that this process does not ignore."""
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


class Preempted(SystemExit):
    """Signals stopped the run; the process exits with code 1.

    Args:
        received: the signals.
        saved: the saved step, for the message.
    """

    run_status = "preempted"

    def __init__(self, received: Sequence[signal.Signals], saved: str = "") -> None:
        super().__init__(1)
        self.received, self.saved = tuple(received), saved
        # SIGTERM comes from scancel, or from a preemption after which SLURM requeues by itself.
        self._requeues = set(self.received) <= set(SLURM_SIGNALS)

    def __str__(self) -> str:
        return f"{self.received[0].name}{self.saved and ': '}{self.saved}"

    def __reduce__(self) -> tuple[type[Self], tuple[Sequence[signal.Signals], str]]:
        return type(self), (self.received, self.saved)

    def requeue(self) -> None:
        """Requeue the SLURM job of this process, if any, at most once.

        It is requeued only if all received signals are ``SLURM_SIGNALS``.
        """
        if self._requeues:
            self._requeues = False
            _requeue()


class Pruned(SystemExit):
    """The search that the run belongs to has stopped it; the process exits with code 0.

    Args:
        reason: for the run's record.
    """

    run_status = "pruned"

    def __init__(self, reason: str) -> None:
        super().__init__(0)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.reason,)


class StopSignals:
    """A context that handles ``SIGNALS``, in the main thread only.

    Ignored signals stay ignored, as ``nohup`` needs.

    Args:
        waits: True if the caller polls :meth:`received`; otherwise a signal raises Preempted at
            once.

    Raises:
        Preempted: at a signal, unless ``waits``.
    """

    def __init__(self, waits: bool = False) -> None:
        self.waits = waits
        #: The first signal that this process received.
        self.first: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in not_ignored(SIGNALS)}
        for number in self._before:
            signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def received(self) -> list[signal.Signals]:
        """The first signal of each rank that received one. Collective: all ranks must call it."""
        return _all_gather_not_none(self.first)

    def stop_waiting(self) -> None:
        """Raise at a signal from now on, and at once if one was already received.

        Raises:
            Preempted: if a signal was already received.
        """
        self.waits = False
        if self.first is not None:
            raise Preempted([self.first])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.first is not None:  # already stopping
            return
        self.first = signal.Signals(number)
        if not self.waits:
            raise Preempted([self.first])


def _all_gather_not_none(value: T | None) -> list[T]:
    """The values of the ranks that have one. Collective: all ranks must call it."""
    if not process_group.any_rank(value is not None):
        return []
    return [each for each in process_group.all_gather(value) if each is not None]


class Preemption(Callback):
    """Stops a run between two steps, on all ranks.

    When any rank has received a signal, a checkpoint is saved first. A validation that is
    interrupted starts over when the run is resumed. A run that its search has pruned stops without
    saving. This callback must come before ``checkpoints``.

    Args:
        signals: the received signals.
        checkpoints: the callback that saves.
        directory: the run's directory, which may hold a search's request to stop.
    """

    def __init__(self, signals: StopSignals, checkpoints: Checkpoints, directory: Path) -> None:
        self.signals, self.checkpoints, self.directory = signals, checkpoints, directory
        self._request_read = float("-inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)
        loader = trainer.train_dataloader
        # Only this loader can stop between batches and resume there.
        self.signals.waits = isinstance(loader, TrainingDataLoader)
        if isinstance(loader, TrainingDataLoader):
            loader.before_each.append(lambda: self._stop_between_steps(trainer))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)

    def _stop_between_steps(self, trainer: Trainer) -> None:
        if not is_accumulating(trainer):  # a checkpoint has no gradients
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if not (causes := _all_gather_not_none(self.signals.first or self._pruning_reason())):
            return
        received = [cause for cause in causes if isinstance(cause, signal.Signals)]
        if not received:
            raise Pruned(str(causes[0]))
        self.checkpoints.save_between(trainer)
        step = self.checkpoints.saved_step
        raise Preempted(received, f"saved at step {step}" if step else "not saved")

    def _pruning_reason(self) -> str | None:
        """Why the search wants the run to stop; rank 0 reads it at intervals."""
        now = time.monotonic()
        if now - self._request_read < REQUEST_INTERVAL or not process_group.is_rank_zero():
            return None
        self._request_read = now
        return pruning_reason(self.directory)


def _requeue() -> None:
    """Requeue the SLURM job of this process, if any, and report it on stderr."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    problem = run_program("scontrol", "requeue", job).error
    message = f"not requeued: {problem}" if problem else f"SLURM job {job} is requeued"
    echo(message, error=True)
