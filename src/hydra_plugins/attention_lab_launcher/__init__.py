"""The Hydra launchers: each job of a sweep is a process on this machine, or a SLURM job."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from attention_lab.config.compose import (
    WrongCommand,
    check_groups,
    plain_config,
    typed_overrides,
)
from attention_lab.config.hydra_section import is_search
from attention_lab.printing import counted, echo

if TYPE_CHECKING:
    from attention_lab.config.resolve import JobType, RunSpec
    from attention_lab.sweeps.local_executor import Resources
    from attention_lab.sweeps.slurm_executor import Slurm
    from attention_lab.sweeps.sweep import Sweep
    from attention_lab.sweeps.watchers import Watch, Watcher


class SweepLauncher(Launcher):
    """Composes and checks all jobs of a sweep, then runs them.

    Args:
        options: the options ``hydra.launcher.…``.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._sweep: Sweep | None = None
        #: Makes a watcher of the next jobs; a search sets it.
        self.watch: Watch | None = None
        #: The options in their class, once the first jobs are launched.
        self.place: Resources | Slurm

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store the config and the loader that compose the jobs; Hydra calls this first.

        Raises:
            WrongCommand: if a search would maximize, or has options of a grid.
        """
        _check_is_grid(config)
        direction = config.hydra.sweeper.get("direction")
        if getattr(direction, "name", direction) not in (None, "minimize"):
            raise WrongCommand(
                f"hydra.sweeper.direction={direction}: must be minimize; "
                "a metric that is better if higher is negated for the search"
            )
        self.hydra_context = hydra_context
        self.config = config
        #: For a dry run, the function that takes the jobs instead of running them.
        self._plan: Callable[..., None] | None = getattr(task_function, "plan", None)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs. A job that fails does not stop the others and raises nothing.

        Results are in the run directories. The return value of a job is the metric of a search, or
        None for a failed trial: NaN would end the search.
        """
        if self._sweep is None:  # a search launches several times
            # At once: checking imports PyTorch and Lightning, which takes seconds.
            echo(f"checking {counted(len(job_overrides), 'job')} …")
        # Hydra imports every plugin at start-up: heavy modules are imported when needed.
        from attention_lab.sweeps.search_metric import search_metric

        if self._sweep is None:
            place = self.config.hydra.sweep
            self._sweep = self._make_sweep(
                Path(place.get("planned", place.dir)).absolute(),
                cast("dict[str, Any]", OmegaConf.to_container(self.config.sweep, resolve=True)),
            )
        task = OverridesParser.create().parse_overrides(typed_overrides(self.config.hydra))
        shared = {
            each.get_key_element().lstrip("+~") for each in task if not each.is_sweep_override()
        }
        jobs = [list(overrides) for overrides in job_overrides]
        if self._plan is not None:
            self._plan(self._sweep.plan(jobs, shared), self.place, self.config)
            return [JobReturn(overrides=job, status=JobStatus.COMPLETED) for job in jobs]
        runs = self._sweep.run(jobs, shared, self.watch)
        return [
            JobReturn(
                overrides=overrides, status=JobStatus.COMPLETED, _return_value=search_metric(run)
            )
            for overrides, run in zip(job_overrides, runs, strict=True)
        ]

    @abstractmethod
    def _make_sweep(self, directory: Path, options: dict[str, Any]) -> "Sweep":
        """The sweep in a directory, with the options of the section ``sweep``."""

    def _job_type(self) -> "JobType":
        return "search" if is_search(self.config.hydra) else "train"

    def _compose(self, overrides: Sequence[str]) -> dict[str, object]:
        """A job's complete config: editing conf/ later does not change a waiting job."""
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        check_groups(config, config.hydra.runtime.choices)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = 0  # no config depends on it
        return plain_config(config, config.hydra)


class IsolatedLauncher(SweepLauncher):
    """Runs each job in a separate process, with :class:`~.local_executor.Resources`."""

    def _make_sweep(self, directory: Path, options: dict[str, Any]) -> "Sweep":
        from attention_lab.sweeps.local_executor import Resources, check_here, run_jobs
        from attention_lab.sweeps.plugin_options import plugin_options
        from attention_lab.sweeps.sweep import Sweep

        self.place = resources = plugin_options(Resources, self.options)

        def run(jobs: Sequence["RunSpec"], watcher: "Watcher") -> None:
            run_jobs(jobs, resources, watcher)

        def check(jobs: Sequence["RunSpec"]) -> None:
            check_here(jobs, resources)

        return Sweep(directory, self._compose, options, run, check, self._job_type())


class SlurmLauncher(SweepLauncher):
    """Submits each job to SLURM, with the options :class:`~.slurm_executor.Slurm`."""

    def _make_sweep(self, directory: Path, options: dict[str, Any]) -> "Sweep":
        from attention_lab.sweeps.plugin_options import plugin_options
        from attention_lab.sweeps.slurm_executor import Slurm, check_installed
        from attention_lab.sweeps.sweep import Sweep

        check_installed()
        plain = {name: _plain(value) for name, value in self.options.items()}
        self.place = slurm = plugin_options(Slurm, plain)
        if not slurm.wait:
            named = (name for name in ("tune", "max_failures") if options.get(name) is not None)
            needs = next((f"sweep.{name}" for name in named), "")
            if is_search(self.config.hydra):
                needs = "a search"
            if needs:
                raise WrongCommand(
                    f"hydra.launcher.wait=false: {needs} needs results; leave it out"
                )
        return Sweep(directory, self._compose, options, slurm.run, slurm.check, self._job_type())


def _check_is_grid(config: DictConfig) -> None:
    """Raise WrongCommand if there are options of a grid for another sweeper."""
    sweeper = config.hydra.sweeper._target_.rpartition(".")[2]
    for name in ("zip", "param_grid"):
        if config.sweep.get(name) is not None and sweeper != "GridSweeper":
            chosen = config.hydra.runtime.choices["hydra/sweeper"]
            raise WrongCommand(f"sweep.{name}: not supported by hydra/sweeper={chosen}")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
