"""The Hydra sweepers: which jobs a sweep has."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from attention_lab.config.compose import WrongCommand
from attention_lab.config.hydra_section import check_size

if TYPE_CHECKING:
    from attention_lab.sweeps.watchers import Watch


class _OwnSweeper(Sweeper):
    """The base class of the sweepers.

    Args:
        options: of the sweeper, ``hydra.sweeper.…``.
    """

    config: DictConfig
    hydra_context: HydraContext
    launcher: Any

    def __init__(self, **options: Any) -> None:
        self.options = {name: _plain(value) for name, value in options.items()}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        self._launched = 0

    def _overrides(self, params: dict[str, Any] | None, arguments: list[str]) -> list[Override]:
        """The overrides of the command, behind ``hydra.sweeper.params``, which they replace."""
        given = [f"{key}={value}" for key, value in (params or {}).items()]
        return self._parse(given + arguments)

    def _parse(self, overrides: list[str]) -> list[Override]:
        for override in overrides:
            check_size(override)
        return self.parser.parse_overrides(overrides)

    def _save_config(self) -> Path:
        """Make the sweep's directory, with the config of the command."""
        directory = Path(self.config.hydra.sweep.dir)
        directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, directory / "multirun.yaml")
        return directory

    def _launch(self, jobs: list[list[str]]) -> list[JobReturn]:
        assert self.launcher is not None
        returns = self.launcher.launch(jobs, initial_job_idx=self._launched)
        self._launched += len(jobs)
        for returned in returns:
            _ = returned.return_value  # raises the error of a job of Hydra's basic launcher
        return list(returns)


class GridSweeper(_OwnSweeper):
    """Launches every combination of the swept values, with zipped keys together.

    Hydra's basic sweeper, with the options ``sweep.zip`` and ``sweep.param_grid``.
    """

    def sweep(self, arguments: list[str]) -> None:
        """Launch the jobs of the overrides ``arguments``.

        Raises:
            ConfigError: if an option is invalid; nothing is written then.
        """
        from attention_lab.sweeps.grid import GridOptions, expand
        from attention_lab.sweeps.plugin_options import plugin_options

        options = plugin_options(GridOptions, self.options, "hydra.sweeper")
        section = cast("dict[str, Any]", OmegaConf.to_container(self.config.sweep, resolve=True))
        overrides = self._overrides(options.params, arguments)
        jobs = expand(overrides, section, self._parse)
        self._save_config()
        self.validate_batch_is_legal(jobs)
        size = options.max_batch_size or len(jobs)
        for first in range(0, len(jobs), size):
            self._launch(jobs[first : first + size])


class SearchSweeper(_OwnSweeper):
    """Launches trials that Optuna draws, batch by batch; a pruner may stop them while they run."""

    def sweep(self, arguments: list[str]) -> None:
        """Launch trials with the overrides ``arguments``, and write the best to a file.

        Raises:
            ConfigError: if an option is invalid; nothing is written then.
        """
        if importlib.util.find_spec("optuna") is None:
            chosen = self.config.hydra.runtime.choices["hydra/sweeper"]
            raise WrongCommand(f"hydra/sweeper={chosen}: needs pip install 'attention-lab[search]'")
        from attention_lab.sweeps.plugin_options import plugin_options
        from attention_lab.sweeps.search import Search, SearchOptions

        options = plugin_options(SearchOptions, self.options, "hydra.sweeper")
        place = self.config.hydra.sweep
        directory = Path(place.get("planned", place.dir)).absolute()
        search = Search(options, self._overrides(options.params, arguments), directory)
        self._save_config()
        search.run(self._launch_watched)

    def _launch_watched(self, jobs: list[list[str]], watch: "Watch | None") -> list[JobReturn]:
        self.launcher.watch = watch  # Hydra's interface of a launcher has no argument for it
        return self._launch(jobs)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
