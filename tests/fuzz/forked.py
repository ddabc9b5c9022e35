"""Running commands in forks of this process, which has imported everything: milliseconds each."""

import faulthandler
import gc
import os
import resource
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import lightning
import torch

import attention_lab.cli.dry_run
import attention_lab.cli.evaluate
import attention_lab.cli.launch_summary
import attention_lab.cli.predict
import attention_lab.cli.report
import attention_lab.cli.sync
import attention_lab.cli.train  # noqa: F401  # imported before the forks
from attention_lab.cli import main
from attention_lab.sweeps import local_executor
from attention_lab.training.distributed import launch

#: Seconds of processor time that a command may take, and seconds after which it hangs.
LONGEST, HANGING = 10, 60
#: Bytes that a command may allocate beyond what this process has.
MEMORY = 6 << 30


@dataclass(frozen=True)
class Trial:
    """A command, and the files and environment variables that it finds."""

    arguments: Sequence[str]
    #: The content of files in the working directory; None is a directory.
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    #: The exit codes that are right.
    expected: frozenset[int] = frozenset({0, 1, 2})
    #: Whether it trains if it is valid.
    trains: bool = False


class Outcome(NamedTuple):
    """The outcome of a command. Negative exit codes are signals."""

    code: int
    out: str
    err: str
    seconds: float  #: of processor time
    #: Paths in the working directory that it made.
    made: list[str]


class TrainingStarts(BaseException):
    """Raised where training would start: everything up to there has worked."""


def run_forked(trial: Trial, place: Path) -> Outcome:
    """Run a command in a fork of this process, in a new directory.

    Training does not start: a command that gets so far exits with 0.

    Args:
        trial: the command.
        place: an empty directory.
    """
    directory = prepare(trial, place)
    before = _paths(directory)
    child = os.fork()
    if child == 0:
        _run(trial, place, directory)
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    out, err = ((place / name).read_text(errors="replace") for name in ("out", "err"))
    made = sorted(_paths(directory) - before)
    return Outcome(os.waitstatus_to_exitcode(status), out, err, seconds, made)


def prepare(trial: Trial, place: Path) -> Path:
    """Make a working directory in an empty directory, with the files of a command."""
    directory = place / "here"
    directory.mkdir()
    for name, content in trial.files.items():
        path = directory / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return directory


def _paths(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def _run(trial: Trial, place: Path, directory: Path) -> NoReturn:
    """The main function of a fork."""
    code = 70
    gc.disable()  # collecting would copy the memory that the fork shares with its parent
    try:
        for number, name in ((0, "in"), (1, "out"), (2, "err")):
            os.dup2(os.open(place / name, os.O_RDWR | os.O_CREAT), number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115  # until exit
        faulthandler.dump_traceback_later(HANGING, exit=True, file=sys.stderr)
        os.chdir(directory)
        os.environ |= {"WANDB_MODE": "disabled", "HOME": str(place), **trial.environment}
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        _replace_training()
        code = main(trial.arguments)
    except TrainingStarts:
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 71
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _replace_training() -> None:
    """Raise TrainingStarts in place of training and of starting processes."""

    def start(*_: Any, **__: Any) -> NoReturn:
        raise TrainingStarts

    lightning.Trainer.fit = start  # type: ignore[method-assign]
    vars(launch)["_train_on_ranks"] = start
    vars(local_executor)["run_jobs"] = start
    torch.set_num_threads(1)
