"""`attention-lab train`: compose a config with Hydra and run it, once or as a sweep."""

import errno
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from attention_lab.cli import fail
from attention_lab.cli.metric_lines import lines
from attention_lab.cli.sweep_name import sweep_name
from attention_lab.config.compose import (
    WrongCommand,
    check_groups,
    config_directory,
    plain_config,
    typed_overrides,
)
from attention_lab.config.hydra_section import checked
from attention_lab.config.overrides import FROM, flags_last, recorded_run
from attention_lab.config.suggestions import missing_key
from attention_lab.printing import echo
from attention_lab.spelling import nearest
from attention_lab.training.distributed import cluster_environment
from attention_lab.training.distributed.workers import outlive_readers

CONFIG_NAME = "train"
MULTIRUN = {"-m", "--multirun"}
UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT),
}


class Directories(Callback):
    """Remembers what Hydra is about to make, before it is clear that anything will go in."""

    run: ClassVar[Path | None] = None
    sweep: ClassVar[Path | None] = None
    made: ClassVar[list[Path]] = []

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        directory = Path(config.hydra.run.dir)
        if not _is_named_by_time(config.hydra):
            Directories.run = directory
            self._remember(directory)
        elif cluster_environment.rank() > 0:  # the run's directory is rank 0's
            self._remember(directory.parent)
            self._set(config.hydra.run, directory.parent)
        else:
            self._remember(directory.parent)
            Directories.run = _new_directory(directory)
            Directories.made.insert(0, Directories.run)
            self._set(config.hydra.run, Directories.run)

    @staticmethod
    def _set(node: DictConfig, directory: Path) -> None:
        with read_write(node), open_dict(node):
            node.dir = str(directory)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        Directories.sweep = Path(config.hydra.sweep.dir)
        self._remember(Directories.sweep)

    @staticmethod
    def _remember(directory: Path) -> None:
        branch = [directory, *directory.parents]
        Directories.made = [path for path in branch if not path.exists()]

    @staticmethod
    def discard() -> None:
        """Remove what was made for a command that turned out wrong, unless it holds anything."""
        if Directories.sweep is not None:
            found = list(Directories.sweep.glob("*"))
            if {path.name for path in found} <= {"multirun.yaml", ".lock"}:
                for path in found:
                    path.unlink()
        for directory in Directories.made:
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()


def _is_named_by_time(settings: DictConfig) -> bool:
    """Whether a run's directory is named by the time of its start, so each run needs its own."""
    is_typed = any("hydra.run.dir" in override for override in settings.overrides.hydra)
    as_written = OmegaConf.to_container(settings.run, resolve=False)
    assert isinstance(as_written, dict)
    return not is_typed and "${now:" in str(as_written["dir"])


def _new_directory(path: Path) -> Path:
    """Make the directory ``path``, or ``path-2``, ``path-3`` … where others have made it."""
    number, directory = 1, path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                directory.mkdir()  # of two processes, one succeeds
                return directory
            except FileExistsError:
                number += 1
                directory = path.with_name(f"{path.name}-{number}")
    except OSError:  # Hydra will try again, and report it
        return directory


class Task:
    """What Hydra does with the config of one run; it keeps the error, which Hydra would announce.

    Args:
        one: is given the config.
        plan: takes what a sweep would run, in place of running it.
    """

    def __init__(
        self, one: Callable[[DictConfig], None], plan: Callable[..., None] | None = None
    ) -> None:
        self.one, self.plan = one, plan
        self.errors: list[Exception] = []

    def __call__(self, config: DictConfig) -> None:
        try:
            self.one(config)
        except Exception as error:
            self.errors.append(error)


def run(arguments: Sequence[str], task: Task | None = None) -> int:
    """Train as the arguments say; Hydra reads them.

    Args:
        arguments: of the command.
        task: what to do instead of training.
    """
    if any(argument.startswith("--e") for argument in arguments):
        return fail("--experimental-rerun: would unpickle a file; use --from RUN", 2)
    if task is None:
        task = Task(_train_one)
        outlive_readers()
        if not MULTIRUN & set(arguments):
            _expect_signals()
    run, arguments = recorded_run(arguments)
    config_name = CONFIG_NAME
    if run is not None:
        try:
            config_name = _recorded(run, arguments)
        except WrongCommand as error:
            return fail(str(error), 2)
    sys.argv = ["attention-lab train", *flags_last(arguments)]
    OmegaConf.register_new_resolver(
        "sweep_name", lambda *, _root_: sweep_name(_root_), replace=True
    )
    if MULTIRUN & set(arguments) and cluster_environment.world_size() > 1:
        message = "each would run the whole sweep, which starts the processes of its jobs by itself"
        return fail(f"-m: of this command {cluster_environment.started()}, and {message}", 2)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to us, who say them in one line
    Directories.run, Directories.sweep, Directories.made = None, None, []
    main = hydra.main(
        version_base="1.3", config_path=str(config_directory()), config_name=config_name
    )(task)
    try:
        with checked():
            main()
    except KeyboardInterrupt:
        return _interrupted()
    except (HydraException, OmegaConfBaseException) as error:
        Directories.discard()
        return fail(explain(error, arguments), 2)
    except ValueError as error:  # of the command: what a run raises, train_one keeps
        from attention_lab.tracking.run_directory import RunExists

        if not isinstance(error, RunExists):  # what is there then is another's
            Directories.discard()
        return fail(str(error).partition("\n")[0], 2)
    except Exception as error:
        task.errors.append(error)
    if task.errors:
        return _failed(task.errors[0])
    return 0 if Directories.sweep is None else _report_sweep(Directories.sweep)


def _recorded(run: str, arguments: Sequence[str]) -> str:
    """The name by which Hydra finds the config of a recorded run."""
    from attention_lab.cli.recorded_config import recorded_config

    flags = flags_last(arguments)
    if any(flag.startswith(("--config-n", "-cn", "--config-p", "-cp")) for flag in flags):
        raise WrongCommand(f"{FROM} {run}: is the config; leave --config-name out")
    if not run:
        raise WrongCommand(f"{FROM}: needs a run's directory")
    overrides = [argument for argument in flags if not argument.startswith("-")]
    name = "from:run"  # without the path: Hydra would take its slashes for groups
    try:
        ConfigStore.instance().store(name, recorded_config(Path(run), overrides))
    except OmegaConfBaseException as error:  # as of a key that is no text
        raise WrongCommand(f"{FROM} {run}: {str(error).partition(chr(10))[0]}") from None
    return name


def _expect_signals() -> None:
    """In a SLURM job, keep those at which a run saves and requeues until it hears them."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # what knows them takes seconds to import
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        signal.signal(number, lambda *_: None)  # once it has ended, they come too late


def _interrupted() -> int:
    """What to say after Ctrl-C, and the exit code."""
    if Directories.sweep is None:
        Directories.discard()
        return fail(f"interrupted{_how_to_go_on()}", 1)
    if queued := _queued(Directories.sweep):
        echo(*queued.split("\n"))
        return fail("interrupted; the jobs go on, and the same command follows them", 1)
    Directories.discard()
    return fail("interrupted; the same command goes on with it", 1)


def _how_to_go_on() -> str:
    """How the run goes on, if it has begun."""
    from attention_lab.tracking.run_directory import how_to_go_on

    run = Directories.run
    return f"; {how_to_go_on(run)}" if run and (run / "status.json").exists() else ""


def _queued(sweep: Path) -> str | None:
    """What to do about the runs of a sweep that are in SLURM's queue; None if none is."""
    from attention_lab.sweeps.slurm_queue import NoQueue, how_to_follow, in_queue
    from attention_lab.tracking.run_directory import IN_QUEUE

    files = [path for depth in ("*", "*/*") for path in sweep.glob(f"{depth}/{IN_QUEUE}")]
    try:
        jobs = in_queue([path.parent for path in files])
    except NoQueue as error:
        return f"SLURM does not answer ({error}); what it has of this sweep goes on"
    return how_to_follow(sweep, jobs.values()) if jobs else None


def check_one(config: DictConfig) -> None:
    """Raise WrongCommand if a config cannot be that of one run by this command."""
    settings = HydraConfig.get()
    check_groups(config, settings.runtime.choices)
    if settings.launcher._target_.endswith(".SlurmLauncher"):
        chosen = settings.runtime.choices["hydra/launcher"]
        raise WrongCommand(f"hydra/launcher={chosen}: add -m, also for one run, to submit it")


def _train_one(config: DictConfig) -> None:
    """Hydra's task function: one run in this process."""
    check_one(config)
    settings = HydraConfig.get()

    from attention_lab.config.resolve import RunSpec, check_logger, resolve
    from attention_lab.training.distributed.launch import launch

    directory = Path(settings.runtime.output_dir)
    spec = RunSpec(resolve(plain_config(config)), directory, typed_overrides(settings))
    check_logger(spec.config)
    if settings.sweeper.get("params"):
        echo("one run only; with -m this experiment is a sweep", error=True)
    result = launch(spec)
    if result is None:  # on a rank other than 0
        Directories.discard()
        return
    echo("", directory)
    for line in lines(
        result["test"],
        "test",
        {"trivial baseline": result["trivial_baseline"], **result["shortcut_baselines"]},
    ):
        echo(f"  {line}")
    echo(f"  attention maps        {directory / 'attention' / 'attention.html'}")


def _report_sweep(sweep: Path) -> int:
    """Compare the runs of a sweep; the exit code says whether all of them finished."""
    from attention_lab.cli.report import report
    from attention_lab.reports.runs import read_runs

    if queued := _queued(sweep):
        echo(*queued.split("\n"))
        return 0
    code = report([sweep])
    if code:
        return code
    if (best := sweep / "optimization_results.yaml").exists():
        echo(f"search          {best}: the best by validation; these test metrics choose nothing")
    if (kept := _not_uploaded(sweep)) is not None:
        echo(f"W&B             {kept}")
    unfinished = [run.name for run in read_runs([sweep]) if run.status != "finished"]
    return fail(f"{len(unfinished)} runs did not finish", 1) if unfinished else 0


def _not_uploaded(sweep: Path) -> str | None:
    """How to upload what runs of a user who is logged in have logged offline, if any has."""
    from attention_lab.cli.sync import unsent

    runs = len({part.parent for part in unsent(sweep)})
    if not runs:
        return None

    from attention_lab.tracking.wandb_logger import is_logged_in, server, upload_later

    return f"{runs} runs logged offline. {upload_later(sweep)}" if is_logged_in(server()) else None


def _failed(error: Exception) -> int:
    """The exit code for an error that is not Hydra's, after saying what it was."""
    if isinstance(error, WrongCommand):
        Directories.discard()
        return fail(str(error), 2)

    from attention_lab.config.components import ConfigError
    from attention_lab.tracking.run_directory import RunExists
    from attention_lab.training.distributed import process_group
    from attention_lab.training.distributed.workers import GRACE
    from attention_lab.training.tasks.base import Diverged

    if not process_group.is_rank_zero() and isinstance(error, (RunExists, ConfigError, Diverged)):
        # Most likely the first one says it, and whoever has started us then ends us.
        time.sleep(GRACE)
    if isinstance(error, RunExists):  # what is there is another's
        return fail(str(error), 2)
    if isinstance(error, ConfigError | OmegaConfBaseException):
        Directories.discard()
        return fail(str(error).partition("\n")[0], 2)
    if isinstance(error, Diverged):
        return fail(f"diverged: {error}", 1)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return fail(f"cannot write the run: {error}{_how_to_go_on()}", 1)
    echo(*"".join(traceback.format_exception(error)).split("\n"), error=True)
    return fail(f"the run failed: {type(error).__name__}: {error}", 1)


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """What was wrong with the command, with the nearest real name for a misspelt one."""
    message = str(error)
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        known = [name for name in error.options if not name.startswith("_")]
        hint = nearest(option, known)
        if option == "optuna":
            hint = "; pip install 'attention-lab[search]' brings it"
        return f"{group}={option}: there is no such option{hint}"
    if match := re.search(r"Could not (?:override|append to|delete from) .*?'([^']+)'", message):
        key, is_placed, _ = match[1].partition("@")
        if is_placed:
            return f"{match[1]}: the config has none yet; put a + before it to add one"
        return missing_key(key, arguments)
    if message.startswith("Ambiguous value"):
        return message.partition("\n")[0] + "; add -m to sweep over them"
    return message.partition("\n")[0].rstrip(".:") + _cause(error)


def _cause(error: Exception) -> str:
    cause = error.__cause__
    return "" if cause is None else f": {str(cause).partition(chr(10))[0]}"
