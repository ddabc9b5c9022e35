"""Files of the user's own, as options and messages name them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

PathsT = TypeVar("PathsT", bound=str | Sequence[str])


def required(option: str, paths: PathsT | None, what: str) -> PathsT:
    """The file or files that an option names.

    Args:
        option: its name.
        paths: what it was given.
        what: what such a file is, for the message.

    Raises:
        ValueError: if it names none.
    """
    if not paths:
        raise ValueError(f"no {option}: data.{option}=FILE names {what}")
    return paths


def shown(path: str | Path) -> str:
    """How messages call a file: from the working directory where it lies in it, else in full."""
    full, here = Path(path).expanduser().absolute(), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else full)
