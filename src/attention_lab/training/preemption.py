"""Stopping a run at a signal, as a cluster sends it, so that it goes on later as if it had not."""

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

#: Before a time limit or a preemption, whichever of them a job asks for.
OF_SLURM = (signal.SIGUSR1, signal.SIGUSR2)
#: At ``scancel`` or shutdown, and when a terminal is closed, too.
SIGNALS = (*OF_SLURM, signal.SIGTERM, signal.SIGHUP)


def hold() -> None:
    """Keep ``SIGNALS`` that come until :func:`let_through`, instead of dying of them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def let_through() -> None:
    """Hear ``SIGNALS``, and what has been kept of them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Those signals that this process does not ignore."""
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


class Preempted(SystemExit):
    """Signals have stopped the run; the process ends with exit code 1.

    Args:
        heard: the signals.
        saved: what has been.
    """

    run_status = "preempted"

    def __init__(self, heard: Sequence[signal.Signals], saved: str = "") -> None:
        super().__init__(1)
        self.heard, self.saved = tuple(heard), saved
        # Whoever sends SIGTERM wants the job gone, or starts it again himself.
        self._requeues = set(self.heard) <= set(OF_SLURM)

    def __str__(self) -> str:
        return f"{self.heard[0].name}{self.saved and ': '}{self.saved}"

    def __reduce__(self) -> tuple[type[Self], tuple[Sequence[signal.Signals], str]]:
        return type(self), (self.heard, self.saved)

    def requeue(self) -> None:
        """Put the SLURM job that this is, if any, back into the queue, once; say so on stderr.

        It is only where all that was heard is ``OF_SLURM``.
        """
        if self._requeues:
            self._requeues = False
            _requeue()


class StopSignals:
    """Hears ``SIGNALS`` while it is entered, in the main thread; elsewhere they do what they did.

    What was ignored, as ``nohup`` has it, stays so.

    Args:
        waits: whether somebody looks, from time to time, at what was heard.

    Raises:
        Preempted: wherever the process is, unless it waits.
    """

    def __init__(self, waits: bool = False) -> None:
        self.waits = waits
        self._heard: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in heeded(SIGNALS)}
        for number in self._before:
            signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def heard(self) -> list[signal.Signals]:
        """The first signal of each process of the run that has heard any; all have to ask."""
        if not process_group.any_rank(self._heard is not None):
            return []
        return [each for each in process_group.all_gather(self._heard) if each is not None]

    def stop_waiting(self) -> None:
        """From now on, stop wherever the process is; at once if any was heard since the last look.

        Raises:
            Preempted: if so.
        """
        self.waits = False
        if self._heard is not None:
            raise Preempted([self._heard])

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard is not None:  # it stops already
            return
        self._heard = signal.Signals(number)
        if not self.waits:
            raise Preempted([self._heard])


class Preemption(Callback):
    """Saves and stops between two batches when any process of the run has heard a signal.

    The batches may be those of a validation, which then begins anew when the run goes on. It stands
    before the checkpoints among the callbacks.

    Args:
        signals: what hears them.
        checkpoints: what saves.
    """

    def __init__(self, signals: StopSignals, checkpoints: Checkpoints) -> None:
        self.signals, self.checkpoints = signals, checkpoints

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)
        loader = trainer.train_dataloader
        self.signals.waits = isinstance(
            loader, TrainingDataLoader
        )  # another has no place to stop at
        if isinstance(loader, TrainingDataLoader):
            loader.before_each.append(lambda: self._stop_if_asked(trainer))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if not (heard := self.signals.heard()):
            return
        self.checkpoints.save_between(trainer)
        step = self.checkpoints.saved_step
        raise Preempted(heard, f"saved at step {step}" if step else "not saved")


def _requeue() -> None:
    """Put this SLURM job back into the queue, if it is one, and say so."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    problem = run_program("scontrol", "requeue", job).error
    said = f"not requeued: {problem}" if problem else f"SLURM job {job} is requeued"
    echo(said, error=True)
