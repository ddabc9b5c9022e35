"""`attention-lab train`: compose a config with Hydra, and train a single run or a sweep."""

import errno
import os
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attention_lab.cli import fail
from attention_lab.cli.metric_lines import metric_lines
from attention_lab.cli.output_directories import OutputDirectories
from attention_lab.cli.sweep_name import sweep_name
from attention_lab.cli.sweep_results import queued_jobs, report_sweep
from attention_lab.config.compose import (
    WrongCommand,
    add_score_mechanisms,
    check_groups,
    config_directory,
    plain_config,
    typed_overrides,
)
from attention_lab.config.hydra_loader import check_flags, use_own_loader
from attention_lab.config.overrides import (
    EXTEND,
    FROM,
    flags_last,
    own_directory,
    with_own_directory,
    without_flag,
)
from attention_lab.config.suggestions import explain
from attention_lab.printing import echo
from attention_lab.training.distributed import cluster_environment
from attention_lab.training.distributed.workers import GRACE, ignore_output_errors

if TYPE_CHECKING:
    from attention_lab.tracking.record_schema import RunResult

CONFIG_NAME = "train"
MULTIRUN = {"-m", "--multirun"}
UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE),
    *(errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP, errno.ESTALE),
}


class Task(ABC):
    """Hydra's task function for a single run; it keeps errors, which Hydra would print itself."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    @abstractmethod
    def __call__(self, config: DictConfig) -> None:
        """Run a composed config; errors are raised within :meth:`keep_errors`."""

    @contextmanager
    def keep_errors(self) -> Iterator[None]:
        """Keep exceptions in :attr:`errors` instead of raising them."""
        try:
            yield
        except Exception as error:  # a run may raise any error
            self.errors.append(error)


class Train(Task):
    """Trains the run in this process, and prints its test metrics."""

    def __call__(self, config: DictConfig) -> None:
        with self.keep_errors():
            check_single_run(config)
            settings = HydraConfig.get()

            from attention_lab.config.resolve import RunSpec
            from attention_lab.tracking.loggers import check_loggers
            from attention_lab.tracking.run_config import resolve
            from attention_lab.training.distributed.launch import launch

            directory = Path(settings.runtime.output_dir)
            spec = RunSpec(
                resolve(plain_config(config, settings)), directory, typed_overrides(settings)
            )
            check_loggers(spec.config)
            of_a_sweep = ("sweep.zip", "sweep.param_grid", "sweep.tune")
            asked = [key for key in of_a_sweep if OmegaConf.select(config, key)]
            if asked or settings.sweeper.get("params"):
                echo("running a single job; add -m to run the sweep", error=True)
            result = launch(spec)
            if result is None:  # on a rank other than 0
                OutputDirectories.discard()
            else:
                _print_result(result, directory)


def run(arguments: Sequence[str], task: Task | None = None) -> int:
    """Run `attention-lab train ARGUMENTS…`; returns the exit code.

    Args:
        arguments: the arguments of the command: overrides and flags.
        task: what to do with a single run; None means to train it.
    """
    if (refusal := _refused_flag(arguments)) is not None:
        return fail(refusal, 2)
    is_sweep = bool(MULTIRUN & set(arguments))
    if task is None:
        task = Train()
        ignore_output_errors()
        if not is_sweep:
            _block_slurm_signals()
    if is_sweep and cluster_environment.world_size() > 1:
        started = cluster_environment.launch_description()
        return fail(f"-m: needs one process, but {started}; a sweep starts the ranks itself", 2)
    repeated, arguments = without_flag(FROM, with_own_directory(arguments))
    extended, arguments = without_flag(EXTEND, arguments)
    try:
        name = _config_name(repeated, extended, arguments)
        check_flags(flags_last(arguments))
    except WrongCommand as error:
        return fail(str(error), 2)
    OutputDirectories.reset()
    main = _hydra_main(name, flags_last(arguments), task)
    with use_own_loader():
        try:
            main()
        except KeyboardInterrupt:
            return _interrupted()
        except (HydraException, OmegaConfBaseException) as error:
            OutputDirectories.discard()
            return fail(explain(error, arguments, name), 2)
        except ValueError as error:  # the command is invalid; errors of a run are in task.errors
            return _refused(error)
        except Exception as error:  # of the launcher or a callback; reported like a run's
            task.errors.append(error)
    if task.errors:
        return _failed(task.errors[0], arguments)
    sweep = OutputDirectories.sweep
    return 0 if sweep is None else report_sweep(sweep)


def _refused_flag(arguments: Sequence[str]) -> str | None:
    """The message for a flag of Hydra that is not supported, possibly abbreviated; else None."""
    flags = [argument.partition("=")[0] for argument in arguments]
    if any(len(it) > 2 and "--experimental-rerun".startswith(it) for it in flags):
        return "--experimental-rerun: would unpickle a file; use --from RUN"
    if any(len(it) > 2 and "--shell-completion".startswith(it) for it in flags) or "-sc" in flags:
        return "--shell-completion: use `attention-lab --shell-completion bash`"
    return None


def _hydra_main(config_name: str, arguments: Sequence[str], task: Task) -> Callable[[], None]:
    """A function in which Hydra composes the config and calls the task or the launcher."""
    sys.argv = ["attention-lab train", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors, so that they are reported in one line
    OmegaConf.register_new_resolver(
        "sweep_name", lambda *, _root_: sweep_name(_root_), replace=True
    )
    add_score_mechanisms(own_directory(arguments))
    directory = str(config_directory())
    main: Callable[[], None] = hydra.main(
        version_base="1.3", config_path=directory, config_name=config_name
    )(task)
    return main


def _config_name(repeated: str | None, extended: str | None, arguments: Sequence[str]) -> str:
    """The name of the primary config: the shipped one, or that of a repeated or extended run."""
    if repeated is not None and extended is not None:
        raise WrongCommand(f"{EXTEND}: cannot be combined with {FROM}; leave one out")
    if extended is not None:
        return _recorded(EXTEND, extended, arguments)
    return CONFIG_NAME if repeated is None else _recorded(FROM, repeated, arguments)


def _recorded(flag: str, run: str, arguments: Sequence[str]) -> str:
    """Register the config of a recorded run with Hydra; returns its name there."""
    from attention_lab.cli.recorded_config import recorded_config

    flags = flags_last(arguments)
    if any(flag.startswith(("--config-n", "-cn", "--config-p", "-cp")) for flag in flags):
        raise WrongCommand(f"{flag} {run}: sets the config; leave --config-name out")
    if not run:
        raise WrongCommand(f"{flag}: needs a run's directory")
    overrides = [argument for argument in flags if not argument.startswith("-")]
    name = "from:run"  # without the path: Hydra reads slashes as config groups
    try:
        ConfigStore.instance().store(name, recorded_config(Path(run), overrides, flag))
    except OmegaConfBaseException as error:  # for example, a key is not text
        raise WrongCommand(f"{flag} {run}: {str(error).partition(chr(10))[0]}") from None
    return name


def _block_slurm_signals() -> None:
    """In a SLURM job, block the signals that tell a run to save, until it can handle them."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # preemption.py takes seconds to import
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        signal.signal(number, lambda *_: None)  # after the run they must not end the process


def _interrupted() -> int:
    """Report Ctrl-C and how to resume; returns the exit code."""
    sweep = OutputDirectories.sweep
    if sweep is not None and (queued := queued_jobs(sweep)):
        echo(*queued.split("\n"))
        return fail("interrupted; the jobs continue, and the same command follows them", 1)
    OutputDirectories.discard()
    remedy = _how_to_resume() if sweep is None else "; the same command resumes it"
    return fail(f"interrupted{remedy}", 1)


def _how_to_resume() -> str:
    """The end of a message: how to resume the run, if it has started."""
    from attention_lab.tracking.run_directory import how_to_resume

    run = OutputDirectories.run
    return f"; {how_to_resume(run)}" if run and os.path.exists(run / "status.json") else ""


def check_single_run(config: DictConfig) -> None:
    """Raise WrongCommand if a config does not describe a single run of this command."""
    settings = HydraConfig.get()
    check_groups(config, settings.runtime.choices)
    if settings.launcher._target_.endswith(".SlurmLauncher"):
        chosen = settings.runtime.choices["hydra/launcher"]
        raise WrongCommand(f"hydra/launcher={chosen}: add -m, also for one run, to submit it")
    _check_unused(config)


def _check_unused(config: DictConfig) -> None:
    """Raise ConfigError if options are invalid that only a sweep uses: they may be mistyped."""
    from attention_lab.config.components import ConfigError
    from attention_lab.config.flatten import flatten
    from attention_lab.spelling import nearest
    from attention_lab.sweeps.local_executor import Resources
    from attention_lab.sweeps.plugin_options import plugin_options
    from attention_lab.sweeps.sweep_options import SweepOptions

    launcher, sweep = (
        dict(cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True)))
        for node in (HydraConfig.get().launcher, config.sweep)
    )
    if launcher.pop("_target_").endswith(".IsolatedLauncher"):
        plugin_options(Resources, launcher)
    tuned = SweepOptions.of(sweep).tune
    keys = dict(flatten(OmegaConf.to_container(config, resolve=False)))
    if tuned is not None and tuned not in keys:
        raise ConfigError(f"sweep.tune={tuned}: there is no such key{nearest(tuned, keys)}")


def _print_result(result: "RunResult", directory: Path) -> None:
    """Print a run's test metrics beside those of its baselines."""
    echo("", directory)
    baselines = {"trivial baseline": result["trivial_baseline"], **result["shortcut_baselines"]}
    echo(*metric_lines(result["test"], "test", baselines, indent="  "))
    echo(f"  attention maps        {directory / 'attention' / 'attention.html'}")


def _refused(error: Exception) -> int:
    """Report an invalid command or config: nothing was trained. Returns the exit code."""
    from attention_lab.tracking.run_directory import RunExists

    if not isinstance(error, RunExists):  # an existing run's directory must stay
        OutputDirectories.discard()
    return fail(str(error).partition("\n")[0], 2)


def _is_of_output(error: OSError) -> bool:
    """Whether a file or directory could not be found where this command writes."""
    output = OutputDirectories.run or OutputDirectories.sweep
    name = error.filename if isinstance(error.filename, str | os.PathLike) else ""
    return output is not None and Path(name).absolute().is_relative_to(output.absolute())


def _failed(error: Exception, arguments: Sequence[str]) -> int:
    """Report why a single run failed or was not started; returns the exit code."""
    if isinstance(error, WrongCommand):
        return _refused(error)

    from attention_lab.config.components import ConfigError
    from attention_lab.sweeps.watchers import SweepStopped
    from attention_lab.tracking.run_directory import RunExists
    from attention_lab.training.finite import Diverged

    if isinstance(error, SweepStopped):
        return fail(str(error), 1)
    is_on_all_ranks = isinstance(error, RunExists | ConfigError | Diverged)
    if is_on_all_ranks and cluster_environment.rank() > 0:
        time.sleep(GRACE)  # rank 0 reports the error; the launcher then ends this process
    if isinstance(error, OmegaConfBaseException):
        return _refused(ValueError(explain(error, arguments)))
    if isinstance(error, RunExists | ConfigError):
        return _refused(error)
    if isinstance(error, Diverged):
        return fail(f"diverged: {error}", 1)
    if isinstance(error, OSError) and (error.errno in UNWRITABLE or _is_of_output(error)):
        OutputDirectories.discard()
        return fail(f"cannot write the run: {error}{_how_to_resume()}", 1)
    echo(*"".join(traceback.format_exception(error)).split("\n"), error=True)
    return fail(f"the run failed: {type(error).__name__}: {error}", 1)
