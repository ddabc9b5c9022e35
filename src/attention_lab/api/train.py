"""Train a run in Python."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from attention_lab.api.compose import CONFIG_DIR, OVERRIDES, composition
from attention_lab.api.run import Run
from attention_lab.config.compose import plain_values
from attention_lab.config.flatten import flatten
from attention_lab.config.overrides import override_value
from attention_lab.config.resolve import RunSpec
from attention_lab.tracking.loggers import check_loggers
from attention_lab.tracking.run_config import resolve
from attention_lab.training.distributed.launch import launch


def train(
    config: DictConfig | Mapping[str, Any], directory: str | Path | None = None
) -> Run | None:
    """Train, test and record one run in this process, as ``attention-lab train`` does.

    A run that was interrupted is resumed if it is trained again in its directory.

    With ``trainer.devices`` above 1 the ranks are processes that are started here; a script then
    needs ``if __name__ == "__main__":``, as for every use of :mod:`multiprocessing`.

    Args:
        config: from :func:`attention_lab.compose`, with any values changed.
        directory: the run's directory; None means a new one below ``outputs/``, named by the time.

    Returns:
        The run; None for a ``trainer.fast_dev_run``, which records nothing, and on ranks other
        than 0.

    Raises:
        ConfigError: if the config is invalid; nothing is written then.
        RunExists: if the directory holds a finished run or another one, or is in use.
        Diverged: if the loss became NaN or infinite.
        KeyboardInterrupt: if it was interrupted; the run can be resumed.
    """
    given = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    whole = plain_values(given)
    overrides = [str(each) for each in whole.pop(OVERRIDES, [])]
    before, default_directory = composition(overrides, whole.pop(CONFIG_DIR, None))
    changed = _changes(before, given)
    choices = OmegaConf.to_container(given.get("choices") or before.choices)
    spec = RunSpec(
        resolve({**whole, "choices": choices}),
        Path(directory or default_directory),
        [*overrides, *changed],
    )
    check_loggers(spec.config)
    return None if launch(spec) is None else Run(spec.directory)


def _changes(before: DictConfig, now: DictConfig) -> list[str]:
    """The values that were changed after composing, as overrides.

    An interpolation such as ``${seed}`` is unchanged if another value was changed that it reads.
    """
    raw, resolved = (
        dict(flatten(OmegaConf.to_container(before, resolve=resolve))) for resolve in (False, True)
    )
    return [
        f"{key}={override_value(value)}"
        for key, value in flatten(OmegaConf.to_container(now))
        if key not in (CONFIG_DIR, OVERRIDES) and value not in (raw.get(key), resolved.get(key))
    ]
