"""The summary of a W&B run: the results that its table of runs shows."""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from attention_lab.config.flatten import flatten
from attention_lab.tracking.safe_logger import SafeLogger

#: Keys of ``result.json`` that have another name in the summary.
RENAMED = {
    "validation": "best",
    "tokens_per_second": "cost/tokens_per_second",
    "peak_memory_bytes": "cost/peak_memory_bytes",
    "seconds": "cost/seconds",
}


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with flat keys: its keys joined by ``/``, some of them renamed.

    >>> summary({"validation": {"per": 0.2}, "test": {"per": 0.3}, "steps": 100})
    {'best/per': 0.2, 'test/per': 0.3, 'steps': 100}

    Args:
        result: the content of ``result.json``, or a part of it.
    """
    flat: dict[str, Any] = {}
    for key, value in result.items():
        for path, leaf in flatten({RENAMED.get(key, key): value}):
            if leaf != {}:
                flat[path.replace(".", "/")] = leaf
    return flat


def log_summary(loggers: Iterable[Logger], result: Mapping[str, Any]) -> None:
    """Set the summary of the W&B run among loggers, if there is one."""
    for logger in loggers:
        if isinstance(logger, SafeLogger):
            logger.attempt(lambda inner: log_summary([inner], result))
        elif isinstance(logger, WandbLogger):
            logger.experiment.summary.update(summary(result))
