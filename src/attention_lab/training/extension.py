"""Extending a finished run: `attention-lab train --extend RUN` continues it in a new directory."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attention_lab.atomic_write import replacing
from attention_lab.config.components import Config, ConfigError
from attention_lab.config.identity import differences
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.config.validate import components
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.printing import counted
from attention_lab.tracking.attention_callback import SUMMARIES_FILE
from attention_lab.tracking.record_files import read_result
from attention_lab.tracking.run_directory import read_config
from attention_lab.tracking.run_status import read_status
from attention_lab.tracking.untrusted_files import UnreadableRecord, open_file
from attention_lab.training.checkpoint.callback import BEST, EXTENDS, LAST, PREVIOUS, STATE_KEY
from attention_lab.training.checkpoint.checkpoint_io import Damaged, checksum_of, read, write
from attention_lab.training.trainer import TrainerOptions
from attention_lab.training.weight_averaging import AveragedWeights

#: The sections of the config that an extension may change.
CHANGEABLE = ("trainer", "scheduler", "callbacks", "extends")


def last_checkpoint(run: Path) -> Path:
    """The checkpoint from which a run is extended."""
    return run / "checkpoints" / LAST


def check_extension(config: RunConfig) -> None:
    """Check that the run that a config extends, if any, has finished and is otherwise the same.

    Raises:
        ConfigError: if it has not, its files cannot be read, or the model, data or seed differ.
    """
    if not (section := config.values.get("extends")):
        return
    run = Path(section["run"])
    status = read_status(run)
    if status.state != "finished":
        reason = f" ({status.error})" if status.error else ""
        remedy = "wait for its end" if status.state == "running" else "resume it first"
        raise ConfigError(
            f"--extend {run}: only a finished run can be extended, and it is {status.state}"
            f"{reason}; {remedy}"
        )
    try:
        known, checksum = read_config(run), checksum_of(last_checkpoint(run))
    except (FileNotFoundError, UnreadableRecord) as error:
        raise ConfigError(f"--extend {run}: {error}") from None
    if checksum != section["sha256"]:
        raise ConfigError(
            f"--extend {run}: its checkpoint {LAST} has changed since this run's config was "
            "recorded; extend it as a new run"
        )
    processes, now = (_processes(it) for it in (known, config.record))
    if processes != now:
        raise ConfigError(
            f"--extend {run}: it was trained by {counted(processes, 'process')}, and this training "
            f"would have {now}; set trainer.devices={known['trainer'].get('devices', 1)}"
        )
    if changed := differences(_fixed(known), _fixed(config.record)):
        raise ConfigError(
            f"--extend {run}: can only change trainer, scheduler, callbacks and logger, but "
            f"{'; '.join(changed)}; leave these overrides out"
        )


def _processes(config: Config) -> int:
    """The number of processes of a training; a checkpoint holds the random states of each."""
    return int(config["trainer"].get("devices", 1) * config["trainer"].get("num_nodes", 1))


def _fixed(config: Any) -> dict[str, Any]:
    """The part of a config that an extension must not change."""
    return {key: value for key, value in config.items() if key not in CHANGEABLE}


def check_longer(config: RunConfig, data: SplitDataModule[Any], options: TrainerOptions) -> None:
    """Raise ConfigError if a training is not longer than that of the run that it extends."""
    if not (section := config.values.get("extends")):
        return
    run = Path(section["run"])
    trained = read_result(run).get("steps", 0)
    processes = options.devices * options.num_nodes
    batches = data.batches_per_epoch(processes, options.accumulate_grad_batches)
    if options.length(batches)[0] <= trained:
        raise ConfigError(
            f"--extend {run}: it has trained {trained} steps, and this training ends after "
            f"{options.budget(batches)}; set a larger trainer.max_epochs or trainer.max_steps"
        )


def begin_extension(spec: RunSpec) -> bool:
    """Copy the checkpoints and tables of the extended run, unless the extension has checkpoints.

    The run is then resumed from the copy, as if it had been interrupted at its last step. The
    checkpoint ``last`` is copied at the end: without it, a killed process copies again.

    Returns:
        Whether files were copied.

    Raises:
        Damaged: if a checkpoint of the extended run is damaged or unsafe to load.
        OSError: if a file cannot be read or written.
    """
    section = spec.config.values.get("extends")
    folder = spec.directory / "checkpoints"
    if not section or (folder / LAST).exists() or (folder / PREVIOUS).exists():
        return False
    run = Path(section["run"])
    last = read(last_checkpoint(run))
    if STATE_KEY not in last or checksum_of(last_checkpoint(run)) != section["sha256"]:
        raise Damaged(f"{last_checkpoint(run)} cannot be extended: it is not that of the config")
    for name in _tables(run):
        (spec.directory / name).parent.mkdir(parents=True, exist_ok=True)
        with open_file(run / name, run) as old, replacing(spec.directory / name) as new:
            shutil.copyfileobj(old, new)
    write(read(run / "checkpoints" / BEST), folder / BEST)
    callbacks = components(spec.config.record, "callbacks").values()
    if not any(issubclass(it, AveragedWeights) for it in callbacks):
        # If the extended run saved an average, training continues with its latest weights.
        last["state_dict"] |= last.get("latest_weights", {})
    last[STATE_KEY] |= {"ended": False, EXTENDS: str(run)}
    write(last, folder / LAST)
    return True


def _tables(run: Path) -> Iterator[str]:
    """The files of a run that it extends while it trains, as paths within it."""
    maps = sorted((run / "attention").glob("step-*/maps.json"))
    named = ("metrics.csv", "predictions.csv", f"attention/{SUMMARIES_FILE}")
    for path in (*(run / name for name in named), *maps):
        if path.is_file():
            yield str(path.relative_to(run))
