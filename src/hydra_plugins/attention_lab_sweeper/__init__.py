"""The Hydra sweeper: which jobs a sweep has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GridSweeper(Sweeper):
    """Launches every combination of the swept values, with zipped keys together.

    Hydra's basic sweeper, with the options ``sweep.zip`` and ``sweep.param_grid``.

    Args:
        max_batch_size: the most jobs that are launched at a time; None means all.
        params: overrides by key, which those of the command line replace.
    """

    def __init__(
        self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None
    ) -> None:
        self.max_batch_size = max_batch_size
        self.params = params or {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Launch the jobs of the overrides ``arguments``.

        Raises:
            ConfigError: if a combination is not possible; nothing is written then.
        """
        from attention_lab.sweeps.grid import expand

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        base = parser.parse_overrides([f"{k}={v}" for k, v in self.params.items()] + arguments)
        section = cast("dict[str, Any]", OmegaConf.to_container(self.config.sweep, resolve=True))
        jobs = expand(base, section, parser.parse_overrides)
        directory = Path(self.config.hydra.sweep.dir)
        directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, directory / "multirun.yaml")
        size = self.max_batch_size or len(jobs)
        for first in range(0, len(jobs), size):
            batch = jobs[first : first + size]
            self.validate_batch_is_legal(batch)
            for returned in self.launcher.launch(batch, initial_job_idx=first):
                _ = returned.return_value  # raises the error of a job of Hydra's basic launcher
