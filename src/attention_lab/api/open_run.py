"""Opening a finished run: find its directory, and turn errors of its files into one line."""

import os
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class UnusableRun(Exception):
    """A run cannot be used. The message is one line, for the user."""


def local_run(place: str | Path) -> Path:
    """The directory of a run, given by its path or as a W&B artifact, which is downloaded.

    Raises:
        UnusableRun: if it cannot be downloaded.
    """
    from attention_lab.tracking.artifact_download import UnavailableArtifact, run_directory

    try:
        return run_directory(str(place))
    except UnavailableArtifact as error:
        raise UnusableRun(str(error)) from error


def checkpoint_at(directory: Path, step: int) -> str:
    """The name of a run's checkpoint of a training step; "best" if the run has no checkpoint.

    Raises:
        UnusableRun: if the run has only checkpoints of other steps.
    """
    from attention_lab.training.checkpoint.checkpoint_io import Damaged, read

    names: dict[int, str] = {}
    for file in sorted((directory / "checkpoints").glob("*.ckpt")):
        with suppress(Damaged):
            names.setdefault(int(read(file).get("global_step", -1)), file.stem)
    if names and step not in names:
        kept = ", ".join(map(str, sorted(names)))
        raise UnusableRun(f"{directory} has no checkpoint of step {step}; it has those of: {kept}")
    return names.get(step, "best")


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
    if not os.access(directory, os.R_OK | os.X_OK):
        raise UnusableRun(f"{directory}: permission denied")
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
            message = f"{config} was edited after the run, so it may not match the weights"
            warnings.warn(message, stacklevel=2)
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
