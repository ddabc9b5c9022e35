"""Fitting a run: the Trainer, its callbacks, and resuming from the newest checkpoint."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger

from attention_lab.config.trainer_arguments import debug_settings
from attention_lab.printing import echo, is_in_notebook
from attention_lab.tracking.attention_callback import AttentionMapCallback
from attention_lab.tracking.metrics_csv import MetricsCSVLogger
from attention_lab.tracking.progress import Heartbeat, ProgressLines, StepBar
from attention_lab.tracking.run_directory import RunRecord, caused_by
from attention_lab.training.build import BuiltRun
from attention_lab.training.callbacks import may_stop_early
from attention_lab.training.checkpoint.callback import Checkpoints, newest
from attention_lab.training.distributed import process_group
from attention_lab.training.evaluation import quiet
from attention_lab.training.history import History
from attention_lab.training.lightning_loops import disable_signal_handlers, skip_empty_hooks
from attention_lab.training.predictions_table import PredictionsTable
from attention_lab.training.preemption import Preemption, StopSignals
from attention_lab.training.trainer import TrainerOptions

#: How many validation examples the attention maps and the table of predictions show.
MAPPED_EXAMPLES, PREDICTED_EXAMPLES = 3, 16


class Fitted(NamedTuple):
    """The Trainer of a finished training, and the callbacks that are needed after it."""

    trainer: Trainer
    history: History
    maps: AttentionMapCallback
    predictions: PredictionsTable
    checkpoints: Checkpoints
    #: Tokens trained on, by all ranks.
    tokens: int


def fit(
    run: BuiltRun,
    directory: Path,
    record: RunRecord | None,
    others: list[Logger],
    signals: StopSignals,
) -> Fitted:
    """Train a run to its last step; resume it from its newest checkpoint if it was interrupted.

    Each rank of a distributed run calls this.

    Args:
        run: the parts of the run.
        directory: the run directory.
        record: the run's record; None on ranks other than 0.
        others: the loggers besides that of ``metrics.csv``.
        signals: the signals that stop the run.

    Raises:
        Diverged: if the loss became NaN or infinite.
        Preempted: if a signal stopped the run.
        Pruned: if its search stopped it.
        KeyboardInterrupt: at Ctrl-C.
    """
    data, options, history = run.data, run.trainer_options, History()
    monitor, mode = f"validation/{data.monitor}", data.mode
    maps = AttentionMapCallback(directory / "attention", MAPPED_EXAMPLES)
    predictions = PredictionsTable(directory / "predictions.csv", PREDICTED_EXAMPLES)
    metrics = MetricsCSVLogger(directory / "metrics.csv")
    folder = directory / "checkpoints"
    checkpoints = Checkpoints(folder, monitor, mode, history, metrics, options.every_n_train_steps)
    preemption = Preemption(signals, checkpoints, directory)
    data.repeats_epoch = options.overfit_batches > 0
    shown = [Heartbeat(record, monitor, mode), _display(options)] if record else []
    with quiet():
        trainer = options.trainer(
            directory,
            # Maps and predictions come first, as they show the weights that were validated, which a
            # callback may replace after the validation. Preemption comes after all that it saves.
            [maps, predictions, history, *run.callbacks, *shown, preemption, checkpoints],
            [metrics, *others],
        )
        disable_signal_handlers(trainer)
        skip_empty_hooks(trainer, run.task)
        if record:
            echo(*_start(run, trainer))
        checkpoint = process_group.broadcast(
            _checkpoint_to_resume(folder) if record and record.is_resumed else None
        )
        if record and checkpoint is None and run.initial_weights:
            echo(run.initial_weights)
        sigint_handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(run.task, datamodule=data, ckpt_path=checkpoint and str(checkpoint))
        except BaseException as error:
            if caused_by(error, _is_ctrl_c):  # Lightning turned it into SystemExit
                signal.signal(signal.SIGINT, sigint_handler)  # Lightning has set it to be ignored
                raise KeyboardInterrupt from error
            raise
    return Fitted(trainer, history, maps, predictions, checkpoints, int(run.task.tokens))


def _start(run: BuiltRun, trainer: Trainer) -> Iterator[str]:
    """Yield the first lines of a training: its length, parameters, devices and batch size."""
    data, processes, accumulated = run.data, trainer.world_size, trainer.accumulate_grad_batches
    batches = data.batches_per_epoch(processes, accumulated)
    stops_early = may_stop_early(map(type, run.callbacks))
    yield f"training for {run.trainer_options.budget(batches, stops_early)}"
    parameters = sum(parameter.numel() for parameter in run.task.model.parameters())
    device = trainer.strategy.root_device.type
    where = device if processes == 1 else f"{processes} processes ({device})"
    batch = data.batch_size * processes * accumulated
    if debugged := debug_settings({"trainer": vars(run.trainer_options)}):
        yield f"a debug run, which reports leave out: {', '.join(debugged)}"
    yield f"{parameters:,} parameters on {where}, up to {batch} examples in a step"


def _checkpoint_to_resume(directory: Path) -> Path | None:
    checkpoint = newest(directory)
    found = f"resuming from {checkpoint}" if checkpoint else None
    echo(found or "no valid checkpoint found: starting over")
    return checkpoint


def _is_ctrl_c(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt)


def _display(options: TrainerOptions) -> Callback:
    shows_bar = options.enable_progress_bar and (sys.stdout.isatty() or is_in_notebook())
    return StepBar() if shows_bar else ProgressLines()
