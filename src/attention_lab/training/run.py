"""Training a run: recorded as it goes, tested from its best checkpoint at the end."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from attention_lab.attention import attention_layers
from attention_lab.config.components import Config
from attention_lab.config.environment_variables import with_environment
from attention_lab.printing import echo
from attention_lab.tracking.run_directory import RunRecord, how_to_go_on
from attention_lab.tracking.wandb_logger import upload_later
from attention_lab.training.build import Run, build, config_errors, from_anywhere
from attention_lab.training.checkpoint.rng_state import seed_rank
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.cluster_environment import ignore_leftovers
from attention_lab.training.distributed.fsdp import is_sharded
from attention_lab.training.evaluation import evaluate, load_weights
from attention_lab.training.fit import fit, stems_from
from attention_lab.training.preemption import Preempted, StopSignals, let_through
from attention_lab.training.tasks.base import Diverged

#: What status.json says of a run for which the disk was too full.
NO_ROOM = "no room left on the disk"


def train(
    config: Config, directory: Path, overrides: Sequence[str], group: str | None = None
) -> dict[str, Any]:
    """Train, test and record one run.

    Where several processes train it together, each calls this. The first one keeps the record,
    and tests alone, as others would evaluate the run later.

    Args:
        config: the resolved config.
        directory: the run's directory; made here. Of several processes the first one's counts.
        overrides: what the user asked for, as ``key=value``.
        group: the sweep that the run belongs to; None means the directory's parent.

    Returns:
        What ``result.json`` holds; nothing where this is not the first process.

    Raises:
        ConfigError: if the config cannot work; then nothing was written.
        RunExists: if the directory holds a run that has finished, another run, or one at which
            another process is at work.
        Diverged: if the loss stopped being a number. This and any other failure is recorded in
            ``status.json`` first.
        Preempted: if a signal has stopped it, between two steps if it was training; not raised
            where this is not the first process, as that may cost the first one its life.
    """
    ignore_leftovers()
    # Of several, none leaves on its own as long as others may be waiting for it.
    with StopSignals(waits=process_group.world_size() > 1) as signals:
        try:
            let_through()
            return _train(config, directory, overrides, group, signals)
        except Preempted as error:
            if not process_group.is_rank_zero():
                return {}
            error.requeue()
            echo(f"{error}; {how_to_go_on(directory)}", error=True)
            raise


def _train(
    config: Config,
    directory: Path,
    overrides: Sequence[str],
    group: str | None,
    signals: StopSignals,
) -> dict[str, Any]:
    accelerator = config["trainer"].get("accelerator", "auto")
    with process_group.initialized(lambda: _prepared(config), accelerator) as (run, threshold):
        if heard := signals.heard():
            raise Preempted(heard)
        directory = process_group.broadcast(directory)
        config = from_anywhere(config)
        record = process_group.on_every_rank(
            lambda: (
                RunRecord(directory, config, overrides) if process_group.is_rank_zero() else None
            )
        )
        if record is not None:
            return _recorded(run, threshold, record, group, config, signals)
        seed_rank(config["seed"], process_group.rank())
        fit(run, directory, None, [], signals)
        return {}


def _prepared(config: Config) -> tuple[Run, float]:
    """A run, and its trivial baseline on validation in the metric that is monitored.

    That is computed before training, which a mistake of a dataset of one's own must not cost.
    """
    run = build(with_environment(config))
    with config_errors(config):
        run.logger_options.mode()
    return run, run.data.trivial_baseline("validation")[run.data.monitor]


def _recorded(
    run: Run,
    threshold: float,
    record: RunRecord,
    group: str | None,
    config: Config,
    signals: StopSignals,
) -> dict[str, Any]:
    """Train and test a run whose end, whatever it is, gets into its record."""
    try:
        # Recorded before W&B, which may take its time to close; W&B's start may end it, too.
        with (
            _end_recorded(record),
            _loggers(run, record, group, config) as loggers,
            _end_recorded(record),
        ):
            result = _fit_and_test(run, config, threshold, record, loggers, signals)
            record.finish(result)
    except (KeyboardInterrupt, SystemExit) as error:
        if not record.has_finished:
            raise
        _warn_of_upload(error, record.directory)  # a logger was still uploading
    finally:
        record.close()
    return result


@contextmanager
def _end_recorded(record: RunRecord) -> Iterator[None]:
    """Records what ends a run without a result; a preempted SLURM job is requeued."""
    try:
        yield
    except Diverged as error:
        record.end("diverged", str(error))
        raise
    except (KeyboardInterrupt, SystemExit) as error:
        record.end("preempted", str(error) if isinstance(error, Preempted) else "interrupted")
        if isinstance(error, Preempted) and not record.has_finished:
            error.requeue()
        raise
    except BaseException as error:
        if stems_from(error, _is_lack_of_room):  # of which the run knows nothing
            record.end("preempted", NO_ROOM)
        else:
            record.end("failed", f"{type(error).__name__}: {error}")
        raise


def _warn_of_upload(error: BaseException, directory: Path) -> None:
    name = error.heard[0].name if isinstance(error, Preempted) else "SIGINT"
    said = f"{name}: the run has finished, but not all of it may have been uploaded"
    echo(f"attention-lab: {said}. {upload_later(directory)}", error=True)


def _fit_and_test(
    run: Run,
    config: Config,
    threshold: float,
    record: RunRecord,
    others: list[Logger],
    signals: StopSignals,
) -> dict[str, Any]:
    data, monitor, mode = run.data, f"validation/{run.data.monitor}", run.data.mode
    trainer, history, maps, checkpoints = fit(run, record.directory, record, others, signals)
    tokens = int(run.task.tokens)
    process_group.destroy()
    signals.stop_waiting()
    if is_sharded(run.task.model):
        run = build(with_environment(config), data)
    load_weights(run, checkpoints.read_best())
    test = evaluate(run, "test")
    for logger in trainer.loggers:
        logged = {f"test/{name}": value for name, value in test.items()}
        logger.log_metrics(logged, step=trainer.global_step)
        logger.save()
    best, last = history.best(monitor, mode), history.validations[-1]
    return {
        "task": data.task,
        "monitor": data.monitor,
        "mode": mode,
        "bounds": {k: list(ends) for k, ends in run.task.bounds().items() if k in test},
        "validation": _short(best.metrics),
        "last": _short(last.metrics),
        "test": test,
        "trivial_baseline": data.trivial_baseline("test"),
        "shortcut_baselines": data.shortcut_baselines("test"),
        "parameters": sum(p.numel() for p in run.task.model.parameters()),
        "tokens_per_second": tokens / history.training_seconds,
        "peak_memory_bytes": history.peak_memory_bytes,
        "steps": trainer.global_step,
        "best_step": best.step,
        "threshold": threshold,
        "steps_to_threshold": history.steps_to(threshold, monitor, mode),
        "area_under_curve": history.area_under_curve(monitor),
        "seconds": {
            "total": history.seconds,
            "training": history.training_seconds,
            "validation": history.validation_seconds,
            "attention_maps": maps.seconds,
        },
        "backends": {
            name: layer.backend.name for name, layer in attention_layers(run.task.model).items()
        },
    }


def _short(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("validation/"): value for name, value in metrics.items()}


def _is_lack_of_room(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _loggers(
    run: Run, record: RunRecord, group: str | None, config: Config
) -> Iterator[list[Logger]]:
    """The run's logger beside ``metrics.csv``; it is closed as finished or failed, like the run."""
    directory = record.directory
    group = directory.resolve().parent.name if group is None else group
    logger = run.logger_options.logger(directory, group, config, record.wandb_id)
    if logger is None:
        yield []
        return
    try:
        yield [logger]
    except BaseException:
        with suppress(KeyboardInterrupt, SystemExit):  # what ended the run is what to raise
            logger.close(exit_code=1)
        raise
    logger.close(exit_code=0)
