"""Stopping a run at a signal, as a cluster sends it, so that it goes on later as if it had not."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from lightning import Callback, LightningModule, Trainer

from attention_lab.data.splits import TrainingLoader
from attention_lab.training import ranks
from attention_lab.training.checkpointing import Checkpoints

#: Before a time limit or a preemption (whichever a job asks for), and at ``scancel`` or shutdown.
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


class Preempted(SystemExit):
    """A signal has stopped the run; the process ends with exit code 1."""

    def __init__(self, message: str, is_requeued: bool = False) -> None:
        super().__init__(1)
        self.message = message
        #: Whether a SLURM job has been put back into the queue for it.
        self.is_requeued = is_requeued

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[Self], tuple[str, bool]]:
        return type(self), (self.message, self.is_requeued)


class StopSignals:
    """Hears ``SIGNALS`` while it is entered, in the main thread; elsewhere they do what they did.

    Raises:
        Preempted: wherever the process is, unless it ``waits``.
    """

    def __init__(self) -> None:
        #: The first one that came.
        self.heard: signal.Signals | None = None
        #: Whether somebody looks at ``heard`` from time to time.
        self.waits = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def listen(self) -> None:
        """Hear them, also where somebody else has begun to since."""
        for number in self._before:
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard is not None:  # it stops already
            return
        self.heard = signal.Signals(number)
        if not self.waits:
            raise Preempted(self.heard.name)


class Preemption(Callback):
    """Saves and stops between two batches when any process of the run has heard a signal.

    The batches may be those of a validation, which then begins anew when the run goes on. It stands
    before the checkpoints among the callbacks.

    Args:
        signals: what hears them.
        checkpoints: what saves.
        requeue: called by the first process once it has saved, at SIGUSR1 and SIGUSR2. At SIGTERM
            it is not: whoever sends that wants the job gone, or starts it again himself.
    """

    def __init__(
        self,
        signals: StopSignals,
        checkpoints: Checkpoints,
        requeue: Callable[[], None] | None = None,
    ) -> None:
        self.signals, self.checkpoints, self.requeue = signals, checkpoints, requeue

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()  # Lightning has put a handler of its own before ours
        loader = trainer.train_dataloader
        if isinstance(loader, TrainingLoader):  # another gives no place to stop at
            self.signals.waits = True
            loader.before_each.append(lambda: self._stop_if_asked(trainer))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.waits = False  # first: what comes from here on stops it at once
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if not ranks.any_of_all(self.signals.heard is not None):
            return
        self.checkpoints.save_between(trainer)
        heard = [each for each in ranks.of_all(self.signals.heard) if each is not None]
        is_requeued = self.requeue is not None and signal.SIGTERM not in heard
        if self.requeue is not None and is_requeued and ranks.rank() == 0:
            self.requeue()
        ranks.of_first(None)  # a process that ends sooner may cost the first one its life
        step = self.checkpoints.saved_step
        said = f"saved at step {step}" if step else "not saved"
        raise Preempted(f"{heard[0].name}: {said}", is_requeued)


def requeue_in_slurm() -> Callable[[], None] | None:
    """What puts this SLURM job back into the queue; None if it is none."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"

    def requeue() -> None:
        problem = _run("scontrol", "requeue", job)
        said = f"not requeued: {problem}" if problem else f"SLURM job {job} is requeued"
        print(said, file=sys.stderr, flush=True)

    return requeue


def _run(*command: str) -> str | None:
    """Run a command; what went wrong, in a line, None if nothing."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = " ".join((answer.stderr or answer.stdout).split())
    return None if answer.returncode == 0 else said or f"exit code {answer.returncode}"
