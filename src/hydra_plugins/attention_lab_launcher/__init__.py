"""The Hydra launcher `isolated`: every job of a sweep is a process of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from attention_lab.cli.configuration import check_groups, plain_config

if TYPE_CHECKING:
    from attention_lab.sweeps.sweep import Sweep


class IsolatedLauncher(Launcher):
    """Composes every job, checks them all, then runs each in a fresh process.

    Args:
        resources: what the jobs may use (see :class:`attention_lab.sweeps.scheduler.Resources`).
    """

    def __init__(self, **resources: float | None) -> None:
        self.resources = resources
        self._sweep: Sweep | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; one that fails neither stops the others nor raises.

        What became of each is in its run directory. The return value is the validation metric
        that its data set names, for sweepers that search; NaN if it did not finish.
        """
        if self._sweep is None:
            # Hydra imports every plugin at start-up, so what is heavy waits until it is needed.
            from attention_lab.sweeps.sweep import Sweep

            directory = Path(self.config.hydra.sweep.dir).absolute()
            options = cast(
                "dict[str, Any]", OmegaConf.to_container(self.config.sweep, resolve=True)
            )
            self._sweep = Sweep(directory, self._compose, options, self.resources)
        shared = set(self.config.hydra.overrides.task)
        values = self._sweep.run([list(overrides) for overrides in job_overrides], shared)
        return [
            JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=value)
            for overrides, value in zip(job_overrides, values, strict=True)
        ]

    def _compose(self, overrides: Sequence[str]) -> dict[str, object]:
        """A job's config, complete now: editing conf/ later does not change a waiting job."""
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        check_groups(config, config.hydra.runtime.choices)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = 0  # nothing of ours depends on it
        return plain_config(config)
