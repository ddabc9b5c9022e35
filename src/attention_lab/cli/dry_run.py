"""What a train command would launch, found out by letting Hydra and the launcher do all but that.

So jobs are composed, checked and counted here by the very code that runs them.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from attention_lab.cli import fail, train
from attention_lab.cli.doctor_checks import NOTHING, Finding, disk
from attention_lab.config.compose import plain_config
from attention_lab.printing import echo

if TYPE_CHECKING:
    from attention_lab.sweeps.local_executor import Resources
    from attention_lab.sweeps.slurm_executor import Slurm
    from attention_lab.sweeps.sweep import Stage


class Unknown(BaseException):
    """It cannot be told what would be launched; as no mere Exception, Hydra lets it through."""


class Enough(BaseException):
    """There is no more to see of a sweep, which without results does not go on."""


class Elsewhere(Callback):
    """Lets Hydra make its own directory and files in another place than the command's."""

    #: That place.
    place: ClassVar[Path]
    #: The directory of the run or sweep, which Hydra would have made.
    meant: ClassVar[Path | None] = None

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self._divert(config.hydra.run)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from hydra_plugins.attention_lab_launcher import SweepLauncher

        launcher = config.hydra.launcher._target_
        if not issubclass(get_class(launcher), SweepLauncher):
            chosen = config.hydra.runtime.choices["hydra/launcher"]
            raise Unknown(
                f"hydra/launcher={chosen}: doctor knows isolated, slurm and what builds on them"
            )
        self._divert(config.hydra.sweep)
        if "storage" in config.hydra.sweeper:  # a search would enter its trials there
            with read_write(config.hydra):
                config.hydra.sweeper.storage = None

    @staticmethod
    def _divert(node: DictConfig) -> None:
        Elsewhere.meant = Path(node.dir).absolute()
        with read_write(node), open_dict(node):
            node.dir = str(Elsewhere.place)


class Rehearsal:
    """Takes in what a command would launch, and says it."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._stages: list[Stage] = []
        self._place: Resources | Slurm | None = None
        self._config: DictConfig | None = None

    @property
    def directory(self) -> Path:
        """Of the run or the sweep."""
        assert Elsewhere.meant is not None, "Hydra has not called back"
        return Elsewhere.meant

    def one(self, config: DictConfig) -> None:
        """In place of training a run: take in what it would be.

        Raises:
            WrongCommand, ConfigError, RunExists: if it would not be trained.
        """
        train.check_one(config)

        from attention_lab.cli.launch_summary import one_run
        from attention_lab.config.environment_variables import with_environment
        from attention_lab.config.validate import check
        from attention_lab.tracking.run_directory import goes_on
        from attention_lab.training.build import build, check_logger, from_anywhere
        from attention_lab.training.distributed import process_group
        from attention_lab.training.distributed.launch import check_devices

        plain = plain_config(config)
        given = with_environment(plain)
        check(given)
        check_logger(given)
        check_devices(given)
        run = build(given)
        is_begun = goes_on(self.directory, from_anywhere(plain))
        if process_group.is_rank_zero():
            self._found = list(one_run(plain, run, self.directory, is_begun))

    def see(
        self, stages: "Sequence[Stage]", place: "Resources | Slurm", config: DictConfig
    ) -> None:
        """In place of running jobs of a sweep: take in what they are.

        Args:
            stages: the jobs; a sweep may be cut into several lots.
            place: where they run.
            config: the command's, with Hydra's own settings.
        """
        self._stages += stages
        self._place, self._config = place, config
        if _is_search(config.hydra):
            raise Enough

    def findings(self) -> Iterator[Finding]:
        """What was seen, a line each."""
        if self._config is not None and self._place is not None:
            from attention_lab.cli.launch_summary import search, sweep

            settings = self._config.hydra
            if is_search := _is_search(settings):
                yield from search(OmegaConf.to_container(settings.sweeper))  # type: ignore[arg-type]
            launcher = settings.runtime.choices["hydra/launcher"]
            yield from sweep(self._stages, self._place, launcher, self.directory, is_search)
            yield disk(self.directory)
        if self._found:
            yield from self._found
            yield disk(self.directory)


def _is_search(settings: DictConfig) -> bool:
    """Whether the jobs of a sweep depend on what came out of those before."""
    return "BasicSweeper" not in settings.sweeper._target_


def rehearse(arguments: Sequence[str]) -> int:
    """Say what `attention-lab train ARGUMENTS…` would launch, or what is wrong with it."""
    rehearsal = Rehearsal()
    Elsewhere.meant = None
    callback = f"++hydra.callbacks.directories._target_={__name__}.{Elsewhere.__name__}"
    logging.disable(logging.INFO)  # a search would announce itself
    with TemporaryDirectory() as place:
        Elsewhere.place = Path(place)
        try:
            code = train.run([callback, *arguments], train.Task(rehearsal.one, rehearsal))
        except Enough:
            code = 0
        except Unknown as error:
            return fail(str(error), 2)
        finally:
            logging.disable(logging.NOTSET)
    if code:
        return code
    try:
        found = list(rehearsal.findings())
    except ValueError as error:  # as where SLURM does not answer
        return fail(str(error), 2)
    for finding in found:
        echo(finding)
    return 1 if any(finding.mark == NOTHING for finding in found) else 0
