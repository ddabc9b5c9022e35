"""Runs in W&B artifacts: their references, and their download into the cache directory."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from attention_lab.data.files.cache import cache_directory
from attention_lab.tracking.run_artifacts import BEST, CONFIG
from attention_lab.tracking.wandb_settings import set_quiet_defaults

PREFIX = "wandb:"
#: entity/project/name:alias. A path on disk rarely looks so, and without the alias it may.
REFERENCE = re.compile(r"[\w.-]+/[\w.-]+/[\w.-]+:[\w.-]+")
#: Seconds within which the server must find an artifact.
TIMEOUT = 30
#: The files of a run that are downloaded if the artifact has them, besides its config.
OPTIONAL = (BEST, "checkpoints/last.ckpt")


class UnavailableArtifact(ValueError):
    """An artifact cannot be downloaded. The message is one line, for the user."""


def artifact_reference(argument: str) -> str | None:
    """The W&B artifact that an argument names; None if the argument is a path.

    >>> artifact_reference("me/words/model-1a2b3c4d:best")
    'me/words/model-1a2b3c4d:best'
    >>> artifact_reference("wandb:me/words/model-1a2b3c4d")
    'me/words/model-1a2b3c4d:latest'
    >>> artifact_reference("outputs/words/seed=1")
    """
    if argument.startswith(PREFIX):
        name = argument.removeprefix(PREFIX)
        return name if ":" in name else f"{name}:latest"
    if REFERENCE.fullmatch(argument) and not Path(argument).exists():
        return argument
    return None


def run_directory(place: str) -> Path:
    """The directory of a run, given by its path or as an artifact, which is downloaded.

    Raises:
        UnavailableArtifact: as :func:`download_run`.
    """
    reference = artifact_reference(place)
    return Path(place) if reference is None else download_run(reference)


def download_run(reference: str) -> Path:
    """Download the config and the checkpoints of a run, unless the cache directory has them.

    No other file of the artifact is downloaded, as anyone may have made it.

    Args:
        reference: entity/project/name:alias.

    Returns:
        The run's directory.

    Raises:
        UnavailableArtifact: if the reference is malformed, the user is not logged in, the server
            fails, or the artifact holds no run.
    """
    from attention_lab.tracking.wandb_logger import server  # imports Lightning

    if not REFERENCE.fullmatch(reference) or ".." in re.split("[/:]", reference):
        raise UnavailableArtifact(f"{PREFIX}{reference}: use {PREFIX}ENTITY/PROJECT/NAME:ALIAS")
    artifact = _find(reference)
    if not re.fullmatch(r"v\d+", artifact.version):  # it becomes a directory's name
        raise UnavailableArtifact(f"{reference} has the version {artifact.version!r}; not loaded")
    host = urlparse(server()).netloc.replace(":", "_")
    folder = cache_directory() / "wandb" / host / reference.rpartition(":")[0] / artifact.version
    for name in (CONFIG, *OPTIONAL):
        _download(artifact, name, folder, reference)
    return folder


def _find(reference: str) -> Any:
    """W&B's object of an artifact."""
    from attention_lab.tracking.safe_logger import do_within, error_line
    from attention_lab.tracking.wandb_logger import is_logged_in, server, server_problem

    if not is_logged_in(server()):
        raise UnavailableArtifact(
            f"{reference} is a W&B artifact, and you are not logged in to {server()}; run "
            "`wandb login`, or name a run's directory"
        )
    if problem := server_problem(server()):  # W&B's own client would retry for minutes
        raise UnavailableArtifact(f"{reference}: {problem}")
    set_quiet_defaults()
    import wandb

    found: list[Any] = []
    try:
        do_within(TIMEOUT, lambda: found.append(wandb.Api(timeout=TIMEOUT).artifact(reference)))
    except TimeoutError:
        raise UnavailableArtifact(
            f"{reference}: {server()} did not answer within {TIMEOUT} s"
        ) from None
    except Exception as error:  # of W&B, of requests, or of its service
        raise UnavailableArtifact(f"{reference}: {server()}: {error_line(error)}") from error
    return found[0]


def _download(artifact: Any, name: str, folder: Path, reference: str) -> None:
    """Download one file of an artifact; W&B keeps a file that has the right hash."""
    from attention_lab.tracking.safe_logger import error_line

    try:
        entry = artifact.get_entry(name)
        if entry.ref is None:
            entry.download(root=str(folder), skip_cache=True)
            return
    except KeyError:
        if name == CONFIG:
            raise UnavailableArtifact(f"{reference} is not a run: it has no {name}") from None
        return
    except Exception as error:  # of W&B, of requests, or of its service
        raise UnavailableArtifact(f"{reference}: {name}: {error_line(error)}") from error
    raise UnavailableArtifact(
        f"{reference}: its {name} is a reference to another place; not loaded"
    )
