"""Paths of the user's files in options and messages."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

PathsT = TypeVar("PathsT", bound=str | Sequence[str])


def required(option: str, paths: PathsT | None, what: str) -> PathsT:
    """The value of a required option for paths.

    Args:
        option: the option's name.
        paths: its value.
        what: a description of the file, for the message.

    Raises:
        ValueError: if there is no path.
    """
    if not paths:
        raise ValueError(f"data.{option} is not set; use data.{option}=FILE, {what}")
    return paths


def expanded(path: str | Path) -> Path:
    """A path with its ``~`` expanded; unchanged if there is no such user."""
    return Path(os.path.expanduser(path))


def shown(path: str | Path) -> str:
    """A path for messages: relative inside the working directory, else absolute."""
    full, here = expanded(path).absolute(), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else full)
