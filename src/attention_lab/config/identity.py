"""The identity of a run: a hash of the config values that can change its result."""

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from attention_lab.config.flatten import flatten

#: Keys that cannot change a result: logging, the sweep, the names of options, the device, the
#: progress bar, the interval of checkpoints, profiling, how gradients are computed, and where an
#: extended run and the checkpoint of ``init_from`` are (these are compared by checksum).
IMMATERIAL = (
    *("logger", "sweep", "choices", "extends.run", "init_from.checkpoint"),
    *("trainer.accelerator", "trainer.enable_progress_bar", "trainer.every_n_train_steps"),
    *("trainer.profiler", "trainer.detect_anomaly", "trainer.inference_mode"),
    *("trainer.compile", "trainer.gradient_checkpointing", "trainer.strategy_options"),
)

#: Callbacks that only watch a run. All others, such as users' own, may change its result.
WATCHING = (
    "lightning.pytorch.callbacks.ModelSummary",
    "lightning.pytorch.callbacks.RichModelSummary",
    "lightning.pytorch.callbacks.LearningRateMonitor",
    "lightning.pytorch.callbacks.DeviceStatsMonitor",
    "attention_lab.training.gradient_norm.GradientNorm",
    "attention_lab.training.lr_monitor.LearningRateMonitorPerStep",
)


def is_immaterial(key: str) -> bool:
    """Whether a key, such as "trainer.enable_progress_bar", cannot change a result."""
    return any(key == name or key.startswith(f"{name}.") for name in IMMATERIAL)


def changes_no_result(key: str) -> bool:
    """Whether an override of a key, such as "hydra.run.dir", cannot change a result."""
    return key.startswith(("hydra.", "hydra/")) or is_immaterial(key)


def material(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The leaves of a config that can change a result, with their paths."""
    chosen = config.get("callbacks")
    callbacks = chosen if isinstance(chosen, Mapping) else {}
    watching = tuple(
        f"callbacks.{name}."
        for name, node in callbacks.items()
        if isinstance(node, Mapping) and node.get("_target_") in WATCHING
    )
    for path, leaf in flatten(config):
        is_empty = path == "callbacks"  # a mapping that is not empty is no leaf
        if not (is_empty or is_immaterial(path) or path.startswith(watching)):
            yield path, leaf


def identity(config: Mapping[str, Any]) -> str:
    """The identity of a run: a hash of its config, as 8 hex digits.

    Keys that cannot change a result are left out, and the order of keys does not matter. Data files
    are compared by their SHA-256 in ``data_files``, where
    :func:`attention_lab.tracking.run_config.resolve` records it, and by path if they are not listed
    there.

    >>> config = {"seed": 0, "trainer": {"max_epochs": 3, "enable_progress_bar": True}}
    >>> quiet = {"trainer": {"enable_progress_bar": False, "max_epochs": 3}, "seed": 0}
    >>> identity(config) == identity(quiet)
    True
    >>> identity(config) == identity(config | {"seed": 1})
    False

    Args:
        config: the resolved config, of plain values.
    """
    text = json.dumps(sorted(_material(config)))
    return blake2b(text.encode(), digest_size=4).hexdigest()


def differences(known: Mapping[str, Any], config: Mapping[str, Any], most: int = 3) -> list[str]:
    """Describe how the configs of two runs differ, one line for each key.

    >>> differences({"seed": 0, "model": {"d_model": 8}}, {"seed": 1, "model": {"d_model": 8}})
    ['seed is 0 there, 1 here']

    Args:
        known: the config of the existing run.
        config: the config of the requested run.
        most: the largest number of keys to name.
    """
    there, here = dict(_material(known)), dict(_material(config))
    names = list(dict.fromkeys([*here, *there]))
    lines = [
        f"the content of {_file_key(key)} has changed"
        if _file_key(key) and key in here and key in there
        else f"{key} is {there.get(key, 'not')} there, {here.get(key, 'not')} here"
        for key in names
        if there.get(key) != here.get(key)
    ]
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]


def _file_key(key: str) -> str | None:
    """The key that names the file whose SHA-256 is recorded under ``key``; None for other keys."""
    if key == "init_from.sha256":
        return "model.init_from"
    return f"data.{key.removeprefix('data_files.')}" if key.startswith("data_files.") else None


def _material(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The leaves of a config that can change a result: paths and values as JSON."""
    files = config.get("data_files")
    hashed = {f"data.{name}" for name in files} if isinstance(files, Mapping) else set()
    return (
        (path, json.dumps(leaf, ensure_ascii=False))
        for path, leaf in material(config)
        if path not in hashed
    )
