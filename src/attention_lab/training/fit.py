"""Training a run, up to its last step: by the first of its processes, and by those beside it."""

import signal
import sys
from pathlib import Path
from typing import NamedTuple

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger

from attention_lab.printing import echo
from attention_lab.tracking.attention_callback import AttentionMapCallback
from attention_lab.tracking.metrics_csv import MetricsCSVLogger
from attention_lab.tracking.progress import Heartbeat, ProgressLines
from attention_lab.tracking.run_directory import RunRecord, caused_by
from attention_lab.training.build import Run
from attention_lab.training.checkpoint.callback import Checkpoints, newest
from attention_lab.training.distributed import process_group
from attention_lab.training.evaluation import quiet
from attention_lab.training.history import History
from attention_lab.training.preemption import Preemption, StopSignals
from attention_lab.training.trainer import TrainerOptions

#: How many validation examples the attention maps show.
PROBE_SIZE = 3


class Fitted(NamedTuple):
    """What has watched a training that is over."""

    trainer: Trainer
    history: History
    maps: AttentionMapCallback
    checkpoints: Checkpoints
    #: Trained on, by all ranks.
    tokens: int


def fit(
    run: Run,
    directory: Path,
    record: RunRecord | None,
    others: list[Logger],
    signals: StopSignals,
) -> Fitted:
    """Train a run, from its newest checkpoint if it has been begun before.

    Args:
        run: what is trained.
        directory: the run's.
        record: the run's record; None in processes other than the first.
        others: loggers beside the run's ``metrics.csv``.
        signals: at which to stop.

    Raises:
        Diverged: if the loss stopped being a number.
        Preempted: if a signal has stopped it.
        KeyboardInterrupt: at Ctrl-C.
    """
    data, options, history = run.data, run.trainer_options, History()
    monitor, mode = f"validation/{data.monitor}", data.mode
    maps = AttentionMapCallback(directory / "attention", PROBE_SIZE)
    metrics = MetricsCSVLogger(directory / "metrics.csv")
    kept = directory / "checkpoints"
    checkpoints = Checkpoints(kept, monitor, mode, history, metrics, options.every_n_train_steps)
    preemption = Preemption(signals, checkpoints)
    shown = [Heartbeat(record, monitor), _display(options)] if record else []
    if record:
        echo(f"training for {options.budget(len(data.train_dataloader()))}")
    with quiet():
        trainer = options.trainer(
            directory,
            monitor,
            mode,
            [maps, history, *shown, preemption, checkpoints],
            [metrics, *others],
        )
        # Its handler of SIGTERM waits for the other processes, which may be anywhere; not so ours.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        checkpoint = process_group.broadcast(
            _to_go_on_from(kept) if record and record.goes_on else None
        )
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(run.task, datamodule=data, ckpt_path=checkpoint and str(checkpoint))
        except BaseException as error:
            if caused_by(error, _is_ctrl_c):  # Lightning turns it into an exit
                signal.signal(signal.SIGINT, on_ctrl_c)  # Lightning leaves it ignored
                raise KeyboardInterrupt from error
            raise
    return Fitted(trainer, history, maps, checkpoints, int(run.task.tokens))


def _to_go_on_from(directory: Path) -> Path | None:
    checkpoint = newest(directory)
    said = f"goes on from {checkpoint}" if checkpoint else "begins again: no checkpoint is whole"
    echo(said)
    return checkpoint


def _is_ctrl_c(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt)


def _display(options: TrainerOptions) -> Callback:
    in_terminal = options.enable_progress_bar and sys.stdout.isatty()
    return RichProgressBar(leave=True) if in_terminal else ProgressLines()
