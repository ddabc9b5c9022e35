"""The RUN argument of `evaluate` and `predict`: a finished run, checked."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attention_lab.cli import warn

#: The task's settings that options may replace.
DECODING = {"beam": "beams", "length_penalty": "length_penalty"}


class UnusableRun(Exception):
    """A run cannot be used. The message is one line, for the user."""


def add_run(parser: argparse.ArgumentParser) -> None:
    """Let a command name a run and one of its checkpoints."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")


def add_decoding(parser: argparse._ActionsContainer) -> None:
    """Let a command choose how target sequences are written."""
    parser.add_argument("--beam", type=whole(1), help="hypotheses of beam search; 1: greedy")
    parser.add_argument("--length-penalty", type=number(0), help="of beam search: α, from 0")


def whole(least: int) -> Callable[[str], int]:
    """Reads a whole number that must not be smaller."""

    def read(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    read.__name__ = "whole number"  # argparse names it
    return read


def number(least: float, most: float = float("inf")) -> Callable[[str], float]:
    """Reads a number that must not be smaller or greater."""

    def read(text: str) -> float:
        if not least <= float(text) <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, got {text}")
        return float(text)

    read.__name__ = "number"
    return read


def given(chosen: argparse.Namespace, names: dict[str, str]) -> dict[str, Any]:
    """The values of the options that were given, under other names."""
    values = {name: getattr(chosen, option) for option, name in names.items()}
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def usable(directory: Path, checkpoint: str) -> Iterator[None]:
    """Around whatever reads a run: what is wrong with the run becomes an UnusableRun."""
    file = directory / "checkpoints" / f"{checkpoint}.ckpt"
    if not (directory / "config.yaml").is_file():
        raise UnusableRun(f"{directory} is not a run's directory: it has no config.yaml")
    if not file.is_file():
        raise UnusableRun(f"{directory} has no checkpoint {file.name}; was it ever validated?")

    from attention_lab.config.components import ConfigError
    from attention_lab.tracking.record_files import UnreadableRecord, read_record
    from attention_lab.tracking.run_directory import is_edited, read_config
    from attention_lab.training.checkpoint.checkpoint_io import Damaged

    config = directory / "config.yaml"
    try:
        if is_edited(read_record(directory / "status.json"), read_config(directory)):
            warn(f"{config} was edited after the run, so its weights may not belong to it")
    except FileNotFoundError:
        pass  # as of a run that was copied without its status
    except UnreadableRecord as error:
        raise UnusableRun(str(error)) from error
    try:
        yield
    except ConfigError as error:
        raise UnusableRun(f"{config}: {error}") from error
    except KeyError as error:
        if error.args == ("state_dict",):
            raise UnusableRun(f"{file} cannot be used: it holds no 'state_dict'") from error
        raise UnusableRun(f"{config} is not a run's config: {error!r}") from error
    except (Damaged, UnreadableRecord) as error:
        raise UnusableRun(str(error)) from error
    except RuntimeError as error:
        raise UnusableRun(f"{file} cannot be used: {error}") from error
