"""The Hydra launcher `isolated`: every job of a sweep is a process of its own."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from attention_lab.cli.configuration import WrongCommand, check_groups, plain_config


class IsolatedLauncher(Launcher):
    """Composes every job, checks them all, then runs each in a fresh process.

    Args:
        parallel: jobs at a time; None means one for each CPU core, or one where there is a GPU.
        threads: CPU threads of each job.
    """

    def __init__(self, parallel: int | None, threads: int) -> None:
        self.parallel = parallel
        self.threads = threads

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what the jobs are composed of.

        Raises:
            WrongCommand: for a search that would look for the worst.
        """
        direction = config.hydra.sweeper.get("direction")
        if getattr(direction, "name", direction) not in (None, "minimize"):
            raise WrongCommand(
                f"hydra.sweeper.direction={direction}: must be minimize; "
                "a metric of which more is better reaches the search negated"
            )
        self.hydra_context = hydra_context
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; one that fails neither stops the others nor raises.

        What became of each is in its run directory. The return value is the objective of a
        search, or None: a search takes that for a trial that failed, and stops at a nan.
        """
        configs = [
            self._compose(overrides, initial_job_idx + index)
            for index, overrides in enumerate(job_overrides)
        ]
        # Hydra imports every plugin at start-up, so what is heavy waits until it is needed.
        from attention_lab.sweeps.jobs import Job, check_jobs, job_names, run_jobs
        from attention_lab.sweeps.search import objective

        sweep = Path(self.config.hydra.sweep.dir).absolute()
        names = job_names(job_overrides, initial_job_idx)
        jobs = [
            Job(sweep / name, config, list(overrides))
            for name, config, overrides in zip(names, configs, job_overrides, strict=True)
        ]
        check_jobs(jobs)
        run_jobs(jobs, self.parallel, self.threads)
        return [
            JobReturn(
                overrides=job.overrides,
                status=JobStatus.COMPLETED,
                _return_value=objective(job.directory),
            )
            for job in jobs
        ]

    def _compose(self, overrides: Sequence[str], number: int) -> dict[str, object]:
        """A job's config, complete now: editing conf/ later does not change a waiting job."""
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        check_groups(config, config.hydra.runtime.choices)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return plain_config(config)
