"""Lightning's ``fast_dev_run``: run a few batches of each split, and record nothing."""

from pathlib import Path

from attention_lab.printing import echo
from attention_lab.training.build import BuiltRun
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.fsdp import is_sharded
from attention_lab.training.evaluation import evaluate, quiet
from attention_lab.training.preemption import StopSignals


def dev_run(run: BuiltRun, directory: Path, signals: StopSignals) -> None:
    """Train, validate and test on a few batches, without checkpoints, loggers and a record.

    Args:
        run: the parts of the run; its ``trainer.fast_dev_run`` is the number of batches.
        directory: the run directory; nothing is written there.
        signals: the signals that end the run at once.
    """
    signals.stop_waiting()
    options = run.trainer_options
    with quiet():
        trainer = options.trainer(directory, [], [])
        trainer.fit(run.task, datamodule=run.data)
    process_group.destroy()
    if not process_group.is_rank_zero():
        return
    if not is_sharded(run.task.model):  # else no rank has all weights
        evaluate(run, "test")
    number = int(options.fast_dev_run)
    batches = "1 batch" if number == 1 else f"{number} batches"
    echo(f"fast_dev_run: {batches} of training, validation and test ran; nothing was recorded")
