"""``model.init_from``: the run or checkpoint with whose weights a model starts.

In a composed config it is a key of the model. In a run's config it is the section ``init_from``, as
no model has this argument: the path of the checkpoint, and the SHA-256 of its content.
"""

import functools
import os
from pathlib import Path

from attention_lab.config.components import Config, ConfigError
from attention_lab.config.environment_variables import VARIABLE, with_environment
from attention_lab.data.files.file_hashes import sha256
from attention_lab.data.files.paths import expanded, shown
from attention_lab.tracking.artifact_download import run_directory

# The jobs of a sweep need one download, and must have the same version.
_run_directory = functools.cache(run_directory)


def with_checksum(config: Config) -> Config:
    """The config with the checkpoint of ``init_from`` as an absolute path, and its SHA-256.

    A SHA-256 that the config already has is kept.

    Raises:
        ConfigError: if the checkpoint cannot be found or read.
    """
    section = config.get("init_from")
    if not section or "sha256" in section:
        return config
    given = section["checkpoint"]
    file = checkpoint_file(with_environment({"model.init_from": given})["model.init_from"])
    path = given if VARIABLE.search(given) else str(file)
    return {**config, "init_from": {"checkpoint": path, "sha256": _checksum(file)}}


def checkpoint_file(place: str) -> Path:
    """The checkpoint at a place: a file, or the best checkpoint of a run or a W&B artifact.

    Raises:
        ConfigError: if an artifact cannot be downloaded.
    """
    try:
        directory = expanded(_run_directory(place))
    except ValueError as error:
        raise ConfigError(f"model.init_from: {error}") from error
    # Unlike Path.is_dir, os.path.isdir raises no error for a name that is too long.
    file = directory / "checkpoints" / "best.ckpt" if os.path.isdir(directory) else directory
    return file.resolve()


def check_checkpoint(file: Path, known: str) -> None:
    """Raise ConfigError if a checkpoint has changed since its SHA-256 was recorded."""
    if (now := _checksum(file)) != known:
        raise ConfigError(
            f"model.init_from: {shown(file)} has changed since this run's config was recorded "
            f"(SHA-256 {known[:8]}…, now {now[:8]}…): restore it, or train a new run"
        )


def recorded_checksum(config: Config) -> dict[str, str]:
    """The SHA-256 of the checkpoint that a config records, by its path; empty if there is none."""
    section = config.get("init_from")
    return {section["checkpoint"]: section["sha256"]} if section else {}


def _checksum(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        reason = error.strerror or "it is not a regular file"
        raise ConfigError(f"model.init_from: no checkpoint {shown(file)}: {reason}") from None
