"""Environment variables in a config: recorded by name, and resolved when a run is built.

Their values may be secrets or paths of this machine. They are not in the run's records, not in the
files of SLURM jobs, and not in W&B.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from attention_lab.config.components import Config, ConfigError

#: The interpolation that :func:`attention_lab.config.compose.plain_config` keeps.
VARIABLE = re.compile(r"\$\{oc\.env:([^,{}]+)\}")


def with_environment(config: Config) -> Config:
    """The config with the values of environment variables in place of their names.

    Call it only for a config that the user has composed. A recorded config may come from a stranger
    and must not read the environment.

    Raises:
        ConfigError: if a variable is not set here.
    """
    return {
        key: _substituted(key, value) if VARIABLE.search(repr(value)) else value
        for key, value in config.items()
    }


def _substituted(path: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _substituted(f"{path}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_substituted(path, inner) for inner in value]
    if not isinstance(value, str):
        return value
    for name in VARIABLE.findall(value):
        if name not in os.environ:
            raise ConfigError(f"{path}: the environment variable {name} is not set here")
    return VARIABLE.sub(lambda match: os.environ[match[1]], value)


def check_without_environment(config: Config) -> None:
    """Raise ConfigError if the data of a recorded config needs an environment variable."""
    for key, value in config["data"].items():
        if VARIABLE.search(str(value)):
            raise ConfigError(
                f"data.{key}={value}: environment variables in a recorded config are not resolved; "
                "write the value into the config"
            )
