"""Running external programs (git, squeue, sbatch, wandb) and reading what they print."""

import subprocess
from collections.abc import Mapping
from typing import NamedTuple


class CompletedProgram(NamedTuple):
    """The output of a program, and whether it succeeded."""

    stdout: str
    stderr: str
    #: None if it could not be started or took too long.
    returncode: int | None
    #: Why it failed, in one line; None if it succeeded.
    error: str | None


def run_program(
    *command: str, timeout: float | None = 60, environment: Mapping[str, str] | None = None
) -> CompletedProgram:
    """Run a program to its end, without input.

    Args:
        command: the program and its arguments.
        timeout: seconds after which it is killed; None means no limit.
        environment: its environment variables; None means those of this process.
    """
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return CompletedProgram("", "", None, f"{command[0]} did not exit within {timeout:g} s")
    except OSError as error:
        return CompletedProgram("", "", None, str(error))
    message = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
    error_line = message if done.returncode else None
    return CompletedProgram(done.stdout, done.stderr, done.returncode, error_line)
