"""Training, testing and recording a run."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import isfinite
from pathlib import Path

from lightning.pytorch.loggers import Logger

from attention_lab.attention import attention_layers
from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.data.core.metric_info import metric_info
from attention_lab.printing import echo
from attention_lab.tracking.loggers import (
    destinations,
    identifiers,
    start_loggers,
    wandb_options,
)
from attention_lab.tracking.record_schema import RunResult
from attention_lab.tracking.run_directory import RunRecord, how_to_resume
from attention_lab.tracking.wandb_summary import log_summary
from attention_lab.training.build import BuiltRun, build
from attention_lab.training.checkpoint.rng_state import seed_rank
from attention_lab.training.dev_run import dev_run
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.cluster_environment import ignore_leftovers
from attention_lab.training.distributed.fsdp import is_sharded
from attention_lab.training.evaluation import evaluate, load_weights
from attention_lab.training.extension import begin_extension
from attention_lab.training.fit import Fitted, fit
from attention_lab.training.history import without_prefix
from attention_lab.training.preemption import Preempted, Pruned, StopSignals, unblock_signals


def train(spec: RunSpec) -> RunResult | None:
    """Train, test and record one run; resume it if it has not finished.

    Each rank of a distributed run calls this. Only rank 0 records and tests the run, so its test
    metrics equal those of a later evaluation.

    Args:
        spec: the run. The directory of rank 0 is used on all ranks.

    Returns:
        The content of ``result.json``; None on ranks other than 0, and for a ``fast_dev_run``.

    Raises:
        ConfigError: if the config is invalid; nothing is written then.
        RunExists: if the directory holds a finished run or a different one, or is locked.
        Diverged: if the loss became NaN or infinite.
        Preempted: if a signal stopped the run; on rank 0 only, because torchrun and srun kill
            all ranks if one exits with an error.
        Pruned: if its search stopped the run; on rank 0 only.
    """
    ignore_leftovers()
    accelerator = spec.config.values["trainer"].get("accelerator", "auto")
    with (
        _receive_signals(spec.directory) as signals,
        process_group.initialized(lambda: _prepare(spec.config), accelerator) as (run, threshold),
    ):
        if received := signals.received():
            raise Preempted(received)
        _check_is_the_same_on_all_ranks(spec.config)
        if run.trainer_options.fast_dev_run:
            dev_run(run, spec.directory, signals)
            return None
        spec = replace(spec, directory=process_group.broadcast(spec.directory))
        record = process_group.on_every_rank(
            lambda: RunRecord(spec) if process_group.is_rank_zero() else None
        )
        if record is None:
            seed_rank(spec.config.seed, process_group.rank())
            fit(run, spec.directory, None, [], signals)
            return None
        with record, _loggers(record, spec) as loggers:
            record.is_resumed |= begin_extension(spec)
            fitted = fit(run, spec.directory, record, loggers, signals)
            run = _with_best_weights(run, fitted, spec, signals)
            result = _result(run, fitted, threshold)
            log_summary(loggers, result)
            record.finish(result)
        return record.result
    return None  # preempted or pruned, on a rank other than 0


@contextmanager
def _receive_signals(directory: Path) -> Iterator[StopSignals]:
    """Receive signals; if one stops the run, requeue its SLURM job and print how to resume it."""
    # Ranks must stop together: one that exits alone leaves the others waiting.
    with StopSignals(waits=process_group.world_size() > 1) as signals:
        try:
            unblock_signals()
            yield signals
        except Preempted as error:
            if process_group.is_rank_zero():
                error.requeue()
                echo(f"{error}; {how_to_resume(directory)}", error=True)
                raise
        except Pruned as error:
            if process_group.is_rank_zero():
                echo(f"pruned: {error}", error=True)
                raise


def _prepare(config: RunConfig) -> tuple[BuiltRun, float]:
    """The parts of a run, and the monitored metric of its trivial baseline on validation.

    The baseline is computed before training, so that an error in a user's dataset is raised early.
    """
    run = build(config)
    if (options := wandb_options(config)) is not None:
        with config.errors():
            options.chosen_mode()
    return run, run.data.trivial_baseline("validation")[run.data.monitor]


def _check_is_the_same_on_all_ranks(config: RunConfig) -> None:
    """Raise ConfigError unless the ranks, which torchrun or srun starts one by one, agree."""
    if len(set(process_group.all_gather(config.identity))) > 1:
        raise ConfigError(
            "the ranks have different configs: data files differ between nodes, or a dataset of "
            "the hub has changed just now; copy the files, or set data.revision to a commit"
        )


@contextmanager
def _loggers(record: RunRecord, spec: RunSpec) -> Iterator[list[Logger]]:
    """Yield the loggers besides that of ``metrics.csv``; close them as finished or failed."""
    loggers = start_loggers(spec, record.logger_ids)
    record.keep_logger_ids(identifiers(loggers))
    echo(destinations(loggers))
    try:
        yield list(loggers.values())
    except BaseException as error:
        record.end(error)  # first: a logger may take minutes to close
        if isinstance(error, Preempted) and not record.has_finished:
            error.requeue()
        with suppress(KeyboardInterrupt, SystemExit):  # raise the first error instead
            for logger in loggers.values():
                logger.close(exit_code=0 if isinstance(error, Pruned) else 1)
        raise
    for logger in loggers.values():
        logger.close(exit_code=0)


def _with_best_weights(
    run: BuiltRun, fitted: Fitted, spec: RunSpec, signals: StopSignals
) -> BuiltRun:
    """The run with the weights of its best checkpoint, on rank 0, without the process group."""
    process_group.destroy()
    signals.stop_waiting()
    if is_sharded(run.task.model):
        run = build(spec.config, run.data)
    load_weights(run, fitted.checkpoints.read_best())
    return run


def _result(run: BuiltRun, fitted: Fitted, threshold: float) -> RunResult:
    """Test a trained run; return the content of its ``result.json``."""
    data, trainer, history = run.data, fitted.trainer, fitted.history
    monitor, mode = f"validation/{data.monitor}", data.mode
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
        "bounds": _bounds(test, run.task.metric_bounds()),
        "validation": without_prefix(best.metrics),
        "last": without_prefix(last.metrics),
        "test": test,
        "trivial_baseline": data.trivial_baseline("test"),
        "shortcut_baselines": data.shortcut_baselines("test"),
        "parameters": sum(p.numel() for p in run.task.model.parameters()),
        "tokens_per_second": fitted.tokens / history.training_seconds,
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
            "attention_maps": fitted.maps.seconds,
            "predictions": fitted.predictions.seconds,
        },
        "backends": {
            name: layer.backend.name for name, layer in attention_layers(run.task.model).items()
        },
        "attention_mismatches": fitted.maps.mismatches,
        "compiled": run.task.compiled_loss is not None,
    }


def _bounds(
    metrics: Iterable[str], declared: Mapping[str, tuple[float, float | None]]
) -> dict[str, list[float | None]]:
    """The smallest and largest possible value of each metric, as declared or by its name."""
    names = [name for name in metrics if "/" not in name]  # a slice has the bounds of its metric
    known = {name: declared.get(name, metric_info(name).bounds) for name in names}
    return {
        name: [end if end is not None and isfinite(end) else None for end in ends]
        for name, ends in known.items()
    }
