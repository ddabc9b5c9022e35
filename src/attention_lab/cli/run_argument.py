"""The RUN argument of `evaluate`, `predict` and `view`, and options that they share."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from attention_lab.cli.parser import directory_path, existing_directory

#: Decoding options; each replaces the task's argument of that name.
DECODING = ("num_beams", "length_penalty")

RUN_HELP = "a run's directory, or a W&B artifact: ENTITY/PROJECT/NAME:ALIAS"

#: The largest whole number of an option.
LARGEST = 2**31 - 1


def run_path(text: str) -> Path:
    """A RUN argument: a directory that exists, or a W&B artifact."""
    from attention_lab.tracking.artifact_download import artifact_reference

    return directory_path(text) if artifact_reference(text) else existing_directory(text)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the option --checkpoint."""
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")


def add_decoding(parser: argparse._ActionsContainer) -> None:
    """Add the options for decoding target sequences."""
    parser.add_argument("--num-beams", type=whole(1), help="hypotheses of beam search; 1: greedy")
    parser.add_argument(
        "--length-penalty", type=number(0), help="length penalty α of beam search, at least 0"
    )


def whole(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``least`` to :data:`LARGEST`."""

    def read(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        if int(text) > LARGEST:
            raise argparse.ArgumentTypeError(f"must be at most {LARGEST}, got {text}")
        return int(text)

    read.__name__ = "whole number"  # for argparse's messages
    return read


def number(least: float, most: float = float("inf")) -> Callable[[str], float]:
    """A parser of numbers in a range."""

    def read(text: str) -> float:
        if not least <= float(text) <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, got {text}")
        return float(text)

    read.__name__ = "number"
    return read


def given(chosen: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The values of those of the named options that were given."""
    values = {name: getattr(chosen, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
