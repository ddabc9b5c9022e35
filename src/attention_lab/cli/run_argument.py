"""The RUN argument of `evaluate`, `predict` and `view`: a finished run, checked."""

import argparse
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attention_lab.cli import warn
from attention_lab.cli.parser import directory_path, existing_directory

#: Decoding options; each replaces the task's argument of that name.
DECODING = ("num_beams", "length_penalty")

RUN_HELP = "a run's directory, or a W&B artifact: ENTITY/PROJECT/NAME:ALIAS"

#: The largest whole number of an option.
LARGEST = 2**31 - 1


class UnusableRun(Exception):
    """A run cannot be used. The message is one line, for the user."""


def run_path(text: str) -> Path:
    """A RUN argument: a directory that exists, or a W&B artifact."""
    from attention_lab.tracking.artifact_download import artifact_reference

    return directory_path(text) if artifact_reference(text) else existing_directory(text)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments RUN and --checkpoint."""
    parser.add_argument("run", type=run_path, metavar="RUN", help=RUN_HELP)
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


def local_run(argument: Path) -> Path:
    """The directory of a RUN argument; a W&B artifact is downloaded.

    Raises:
        UnusableRun: if it cannot be downloaded.
    """
    from attention_lab.tracking.artifact_download import (
        UnavailableArtifact,
        artifact_reference,
        download_run,
    )

    reference = artifact_reference(str(argument))
    if reference is None:
        return argument
    try:
        return download_run(reference)
    except UnavailableArtifact as error:
        raise UnusableRun(str(error)) from error


def _why_missing(directory: Path) -> str:
    """Why a run has no checkpoint."""
    from attention_lab.tracking.run_status import read_status

    if read_status(directory).state in ("finished", "pruned"):
        return (
            "it was deleted because of sweep.keep=best or none; to train the run again: "
            f"attention-lab train --from {shlex.quote(str(directory))}"
        )
    return "no validation has finished"


@contextmanager
def open_run(directory: Path, checkpoint: str) -> Iterator[None]:
    """A context for reading a run, in which errors of its files become :class:`UnusableRun`."""
    file = directory / "checkpoints" / f"{checkpoint}.ckpt"
    if not (directory / "config.yaml").is_file():
        raise UnusableRun(f"{directory} is not a run's directory: it has no config.yaml")
    if not file.is_file():
        raise UnusableRun(f"{directory} has no checkpoint {file.name}; {_why_missing(directory)}")

    from attention_lab.config.components import ConfigError
    from attention_lab.tracking.record_files import read_record
    from attention_lab.tracking.run_directory import is_edited, read_config
    from attention_lab.tracking.untrusted_files import UnreadableRecord
    from attention_lab.training.checkpoint.checkpoint_io import Damaged

    config = directory / "config.yaml"
    try:
        if is_edited(read_record(directory / "status.json"), read_config(directory)):
            warn(f"{config} was edited after the run, so it may not match the weights")
    except FileNotFoundError:
        pass  # the run may have been copied without its status
    except UnreadableRecord as error:
        raise UnusableRun(str(error)) from error
    try:
        yield
    except ConfigError as error:
        raise UnusableRun(f"{config}: {error}") from error
    except KeyError as error:
        if error.args == ("state_dict",):
            raise UnusableRun(f"{file} cannot be used: it holds no 'state_dict'") from error
        raise UnusableRun(f"{config} is not a run's config: it has no {error}") from error
    except (Damaged, UnreadableRecord) as error:
        raise UnusableRun(str(error)) from error
    except RuntimeError as error:
        raise UnusableRun(f"{file} cannot be used: {error}") from error
