"""The argument parser of the subcommands that Hydra does not parse."""

import argparse
import os
from pathlib import Path
from typing import NoReturn

from attention_lab.cli import fail
from attention_lab.spelling import nearest_flag


def directory_path(text: str) -> Path:
    """A directory's path as an argument; an empty one would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("needs the path of a directory")
    return Path(text)


def existing_directory(text: str) -> Path:
    """A directory that exists, as an argument."""
    path = directory_path(text)
    if not os.path.isdir(path):  # unlike Path.is_dir, it raises no error
        raise argparse.ArgumentTypeError(f"{path} is not a directory")
    return path


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line with the nearest valid option.

    Args:
        command: the subcommand, such as "evaluate".
        description: shown by ``--help``.
        usage: replaces the usage line that argparse makes.
    """

    def __init__(self, command: str, description: str | None, usage: str | None = None) -> None:
        super().__init__(
            f"attention-lab {command}",
            usage,
            description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        raise SystemExit(fail(f"{command}: {message}{self._hint(message)}", 2))

    def _hint(self, message: str) -> str:
        if message.startswith("argument "):
            return ""  # argparse lists the valid choices
        _, _, unknown = message.partition("unrecognized arguments: ")
        return nearest_flag(unknown, self._option_string_actions, self.prog)
