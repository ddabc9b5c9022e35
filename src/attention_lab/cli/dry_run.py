"""`attention-lab train … --dry-run`: show what the command would launch.

Hydra and the launcher compose and check the runs as usual, and stop before they start them. No
directory of a run or sweep is created.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from attention_lab.cli import fail, train
from attention_lab.cli.doctor_checks import FAILED, Finding, disk
from attention_lab.cli.throughput import Throughput, throughput_of
from attention_lab.config.compose import plain_config
from attention_lab.config.hydra_section import is_search
from attention_lab.printing import echo

if TYPE_CHECKING:
    from attention_lab.sweeps.local_executor import Resources
    from attention_lab.sweeps.slurm_executor import Slurm
    from attention_lab.sweeps.sweep import Stage


class RedirectOutput(Callback):
    """A Hydra callback that makes Hydra write into another directory.

    The config keeps the path of the replaced directory as ``planned``.

    Args:
        to: the existing directory that Hydra uses instead.
    """

    def __init__(self, to: str) -> None:
        self.to = to

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self._redirect(config.hydra.run)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.launcher._target_.endswith(".BasicLauncher"):
            chosen = config.hydra.runtime.choices["hydra/launcher"]
            message = f"hydra/launcher={chosen}: not supported by --dry-run; leave it out"
            raise SystemExit(fail(message, 2))  # Hydra catches other exceptions
        self._redirect(config.hydra.sweep)
        if "storage" in config.hydra.sweeper:  # the database of trials must not change
            with read_write(config.hydra):
                config.hydra.sweeper.storage = None

    def _redirect(self, node: DictConfig) -> None:
        with read_write(node), open_dict(node):
            node.planned, node.dir = str(Path(node.dir).absolute()), self.to


class DryRun(train.Task):
    """Collects what a command would launch.

    Args:
        throughput: from which the time of training is estimated.
    """

    def __init__(self, throughput: Throughput | None) -> None:
        super().__init__()
        self._throughput = throughput
        self._run: list[Finding] = []
        self._stages: list[Stage] = []
        self._launcher: tuple[Resources | Slurm, DictConfig] | None = None

    def __call__(self, config: DictConfig) -> None:
        """Check and describe a single run in place of training it."""
        with self.keep_errors():
            train.check_single_run(config)

            from attention_lab.cli.launch_summary import single_run
            from attention_lab.config.resolve import RunSpec
            from attention_lab.tracking.loggers import check_loggers
            from attention_lab.tracking.run_config import resolve
            from attention_lab.tracking.run_directory import will_resume
            from attention_lab.training.build import build
            from attention_lab.training.distributed import process_group
            from attention_lab.training.distributed.launch import check_devices

            settings: Any = HydraConfig.get()
            directory = Path(settings.run.planned)
            checked = resolve(plain_config(config, settings))
            check_loggers(checked)
            check_devices(checked)
            run = build(checked)
            is_resumed = will_resume(RunSpec(checked, directory))
            if process_group.is_rank_zero():
                lines = single_run(checked, run, directory, is_resumed, self._throughput)
                self._run = [*lines, disk(directory)]

    def plan(
        self, stages: "Sequence[Stage]", place: "Resources | Slurm", config: DictConfig
    ) -> None:
        """Collect the jobs of a sweep; the launcher calls this in place of running them.

        Args:
            stages: the jobs of this batch; Hydra may launch a sweep in several batches.
            place: where they would run.
            config: the command's config, with the section ``hydra``.

        Raises:
            SystemExit: after the first batch of a search, since the next depends on its results.
        """
        self._stages += stages
        self._launcher = place, config
        if is_search(config.hydra):
            raise SystemExit(0)

    def findings(self) -> Iterator[Finding]:
        """What the command would launch, one line each."""
        yield from self._run
        if self._launcher is not None:
            from attention_lab.cli.launch_summary import search, sweep

            place, config = self._launcher
            if is_search(config.hydra):
                yield from search(config.hydra.sweeper)
            launcher = config.hydra.runtime.choices["hydra/launcher"]
            directory = Path(config.hydra.sweep.planned)
            is_searched = is_search(config.hydra)
            yield from sweep(
                self._stages, place, launcher, directory, self._throughput, is_searched
            )
            yield disk(directory)


def run(arguments: Sequence[str]) -> int:
    """Print what `attention-lab train ARGUMENTS…` would launch, or the error in its arguments."""
    try:
        throughput, arguments = throughput_of(arguments)
    except ValueError as error:
        return fail(str(error), 2)
    dry_run = DryRun(throughput)
    logging.disable(logging.INFO)  # a search logs each trial
    with TemporaryDirectory() as place:
        callback = [f"_target_={__name__}.{RedirectOutput.__name__}", f"to={place}"]
        redirect = [f"++hydra.callbacks.directories.{each}" for each in callback]
        try:
            code = train.run([*redirect, *arguments], dry_run)
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            logging.disable(logging.NOTSET)
    if code:
        return code
    try:
        found = list(dry_run.findings())
    except ValueError as error:  # SLURM does not answer
        return fail(str(error), 2)
    for finding in found:
        echo(finding)
    return 1 if any(finding.mark == FAILED for finding in found) else 0
