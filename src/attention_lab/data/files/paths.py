"""Paths of the user's files: in options and messages, and their formats by ending."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

#: The endings of compressed files.
COMPRESSED = (".gz", ".zst")
#: The endings of tables that are text, and so may be compressed, and of all tables.
TEXT_TABLES = (".csv", ".jsonl")
TABLES = (*TEXT_TABLES, ".parquet", ".arrow")

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


def is_table(path: Path) -> bool:
    """Whether a path is a table with named columns, by its ending, or a directory of tables."""
    # Unlike Path.is_dir, os.path.isdir raises no error for a name that is too long.
    return os.path.isdir(path) or _table_ending(path) is not None


def table_ending(path: Path) -> str:
    """The ending that says the format of a table: that of ``rows.csv.gz`` is ``.csv``."""
    ending = _table_ending(path)
    assert ending, path
    return ending


def table_files(path: Path) -> list[Path]:
    """The tables in a directory, sorted by name; subdirectories and other files are left out.

    Raises:
        OSError: if the directory cannot be read.
    """
    return sorted(each for each in path.iterdir() if _table_ending(each) and each.is_file())


def _table_ending(path: Path) -> str | None:
    plain = Path(path.stem) if path.suffix in COMPRESSED else path
    tables = TEXT_TABLES if path.suffix in COMPRESSED else TABLES
    return plain.suffix if plain.suffix in tables else None
