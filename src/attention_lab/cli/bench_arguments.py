"""Arguments that the benchmarks share: names, sizes and the output directory."""

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from attention_lab.spelling import nearest


def names(text: str) -> list[str]:
    """Names separated by commas, each once."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return list(dict.fromkeys(found))


def seconds(text: str) -> float:
    """A time in seconds above 0."""
    with suppress(ValueError):
        if (value := float(text)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds above 0")


def size(text: str) -> int:
    """A whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def sizes(text: str) -> list[int]:
    """Sizes separated by commas, sorted, each once."""
    return sorted({size(part.strip()) for part in text.split(",")})


def check_names(option: str, chosen: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raise ValueError, with the nearest known name, if an option has an unknown one."""
    for name in chosen or ():
        if name not in known:
            raise ValueError(f"{option}: there is no {name!r}{nearest(name, known)}")


def unwritable(directory: Path) -> str | None:
    """Why files cannot be written into a directory, which may not exist yet; None if they can."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir():
        return f"{existing} is not a directory"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} cannot be written"
