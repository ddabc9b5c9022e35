"""The command `attention-lab`: each subcommand is a module, imported when it is called."""

import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from attention_lab.cli.streams import prepare_streams
from attention_lab.config.imports import forget_working_directory
from attention_lab.printing import echo, shortened, warning_line
from attention_lab.spelling import nearest

#: Errors of writing to a file whose disk is full or damaged.
OF_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
#: The module and the help line of each subcommand.
COMMANDS = {
    "train": ("train", "train one run, or with -m a sweep; --dry-run shows what that launches"),
    "evaluate": ("evaluate", "metrics of a finished run, from its checkpoint"),
    "predict": ("predict", "predict for lines of text with a finished run or several"),
    "view": ("view", "attention maps of an input, of one run or of two side by side"),
    "report": ("report", "compare the runs of sweeps: table, report.html, report.csv"),
    "dashboard": ("dashboard", "create a W&B workspace and report for sweeps"),
    "bench": ("bench", "speed and memory of attention and training, beside other libraries"),
    "sync": ("sync", "upload W&B runs that were logged offline or cut off"),
    "doctor": ("doctor", "check versions, devices, SLURM, disk and W&B"),
    "list": ("list_options", "list the options of attention, data, model and experiment"),
}

#: Subcommands that import Lightning, which reads a rank from the environment on import.
WITH_LIGHTNING = {"train", "evaluate", "predict", "view", "doctor"}

#: The flag of `train`, which Hydra does not know.
DRY_RUN = "--dry-run"

HELP = """\
Train models with different attention mechanisms, and compare them.

usage: attention-lab COMMAND …

{commands}

for example
  attention-lab train attention=additive data=g2p model=encoder_decoder trainer=cpu
  attention-lab train -m attention=scaled_dot_product,additive seed=0,1,2
  attention-lab COMMAND --help

tab completion for bash, zsh or fish
  eval "$(attention-lab --shell-completion bash)"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 success, 1 failure, 2 invalid command."""
    if arguments is None:
        prepare_streams()
        try:
            os.getcwd()
        except FileNotFoundError:
            return fail("the working directory has been removed; change to another one", 2)
        forget_working_directory()
        arguments = sys.argv[1:]
    command, *rest = list(arguments) or ["--help"]
    warnings.formatwarning = warning_line
    try:
        return _action(command, rest)()
    except KeyboardInterrupt:
        return fail("interrupted", 1)
    except BrokenPipeError:  # the program that reads the output has ended, as `head` does
        _discard_output()
        return 0
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        if not where and error.errno in OF_FULL_DISK:  # standard output is a file
            _discard_output()
            where = "cannot write the output: "
        reason = error.strerror.lower() if error.strerror else str(error)
        return fail(f"{command}: {where}{reason}", 1)


def _action(command: str, rest: Sequence[str]) -> Callable[[], int]:
    """What a subcommand or a flag with its arguments does; it returns the exit code.

    The caller runs it, so that a traceback has one frame less.
    """
    if command in ("-h", "--help", "help"):
        commands = (f"  {name:<10}{does}" for name, (_, does) in COMMANDS.items())
        return partial(_answer, *HELP.format(commands="\n".join(commands)).split("\n"))
    if command == "--version":
        from importlib.metadata import version

        return partial(_answer, version("attention-lab"))
    if command in ("--shell-completion", "--complete"):
        completion = importlib.import_module("attention_lab.cli.completion")
        return partial(completion.query if command == "--complete" else completion.run, rest)
    if command not in COMMANDS:
        return partial(fail, f"no such command: {command!r}{nearest(command, COMMANDS)}", 2)
    module, _ = COMMANDS[command]
    if command in WITH_LIGHTNING:
        from attention_lab.training.distributed.cluster_environment import ignore_leftovers

        ignore_leftovers()
    if command == "train" and DRY_RUN in rest:
        module, rest = "dry_run", [argument for argument in rest if argument != DRY_RUN]
    return partial(importlib.import_module(f"attention_lab.cli.{module}").run, rest)


def _answer(*lines: str) -> int:
    echo(*lines)
    return 0


def _discard_output() -> None:
    """Send the rest of the output nowhere: the interpreter flushes it when it exits."""
    with suppress(io.UnsupportedOperation):  # a stream without a descriptor, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(message: str) -> None:
    """Print a warning of one line on standard error; the command continues."""
    echo(f"attention-lab: {shortened(' '.join(message.split()))}", error=True)


def fail(message: str, code: int) -> int:
    """Print an error of one line on standard error; returns the exit code ``code``."""
    warn(message)
    return code
