"""A subclass of Hydra's config loader that checks each config that it composes.

Hydra has no setting for its loader. This module is the only one that imports Hydra's private
modules; tests/config/test_hydra_loader.py fails if they change.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal import hydra as hydra_internals
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig

from attention_lab.config.hydra_section import check


@contextmanager
def use_own_loader() -> Iterator[None]:
    """In this context, Hydra composes configs with :class:`OwnLoader`."""
    vars(hydra_internals)["ConfigLoaderImpl"] = OwnLoader
    try:
        yield
    finally:
        vars(hydra_internals)["ConfigLoaderImpl"] = ConfigLoaderImpl


class OwnLoader(ConfigLoaderImpl):
    """Checks each composed config, the command's and each job's, before Hydra uses it.

    Jobs of a sweep that differ only in their seed share one config: composing takes a good part of
    a second, and Hydra composes each job twice.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._jobs: dict[tuple[bool, tuple[str, ...]], DictConfig] = {}

    def load_configuration(self, *args: Any, **named: Any) -> DictConfig:
        config = super().load_configuration(*args, **named)
        check(config)
        return config

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """The unresolved config of a job. The next call may change it."""
        if master_config.hydra.launcher._target_.endswith(".BasicLauncher"):
            # It reads the job's overrides from the config, and makes the config read-only.
            return super().load_sweep_config(master_config, sweep_overrides)
        seeds = [
            override for override in sweep_overrides if re.fullmatch(r"seed=(0|[1-9]\d*)", override)
        ]
        others = tuple(override for override in sweep_overrides if override not in seeds)
        key = (bool(seeds), others)
        if key not in self._jobs:
            self._jobs[key] = super().load_sweep_config(master_config, sweep_overrides)
        if seeds:
            self._jobs[key].seed = int(seeds[-1].removeprefix("seed="))
        return self._jobs[key]
