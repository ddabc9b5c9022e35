"""Stopping a run at a signal from the cluster, so that it can be resumed exactly."""

import os
import signal
import threading
from collections.abc import Iterable, Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from lightning import Callback, LightningModule, Trainer

from attention_lab.data.core.dataloader import TrainingDataLoader
from attention_lab.external_programs import run_program
from attention_lab.printing import echo
from attention_lab.training.checkpoint.callback import Checkpoints
from attention_lab.training.distributed import process_group
from attention_lab.training.lightning_loops import is_accumulating

#: Sent by SLURM before a time limit or a preemption, if the job asked for it with ``--signal``.
SLURM_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
#: These, and the signals sent by ``scancel``, at shutdown, and when a terminal is closed.
SIGNALS = (*SLURM_SIGNALS, signal.SIGTERM, signal.SIGHUP)


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
        self._received: signal.Signals | None = None
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
        if not process_group.any_rank(self._received is not None):
            return []
        return [each for each in process_group.all_gather(self._received) if each is not None]

    def stop_waiting(self) -> None:
        """Raise at a signal from now on, and at once if one was already received.

        Raises:
            Preempted: if a signal was already received.
        """
        self.waits = False
        if self._received is not None:
            raise Preempted([self._received])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:  # already stopping
            return
        self._received = signal.Signals(number)
        if not self.waits:
            raise Preempted([self._received])


class Preemption(Callback):
    """Saves a checkpoint and stops, between two steps, when any rank has received a signal.

    A validation that is interrupted starts over when the run is resumed. This callback must come
    before ``checkpoints``.

    Args:
        signals: the received signals.
        checkpoints: the callback that saves.
    """

    def __init__(self, signals: StopSignals, checkpoints: Checkpoints) -> None:
        self.signals, self.checkpoints = signals, checkpoints

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_signaled(trainer)
        loader = trainer.train_dataloader
        # Only this loader can stop between batches and resume there.
        self.signals.waits = isinstance(loader, TrainingDataLoader)
        if isinstance(loader, TrainingDataLoader):
            loader.before_each.append(lambda: self._stop_between_steps(trainer))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._stop_if_signaled(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_signaled(trainer)

    def _stop_between_steps(self, trainer: Trainer) -> None:
        if not is_accumulating(trainer):  # a checkpoint has no gradients
            self._stop_if_signaled(trainer)

    def _stop_if_signaled(self, trainer: Trainer) -> None:
        if not (received := self.signals.received()):
            return
        self.checkpoints.save_between(trainer)
        step = self.checkpoints.saved_step
        raise Preempted(received, f"saved at step {step}" if step else "not saved")


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
