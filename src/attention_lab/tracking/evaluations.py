"""Results of `attention-lab evaluate`, kept in ``evaluations/`` beside those of the run."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.code_version import code_version
from attention_lab.tracking.record_files import json_text, read_record


def evaluation_file(directory: Path, split: str, terms: str = "") -> Path:
    """Where an evaluation of a run is kept.

    >>> evaluation_file(Path("run"), "test", "beam=5").name
    'test,beam=5.json'
    """
    return directory / "evaluations" / f"{','.join(filter(None, (split, terms)))}.json"


def terms_of(checkpoint: str, decoding: Mapping[str, Any]) -> str:
    """What an evaluation did otherwise than the run's own test, as "last,beam=5".

    Args:
        checkpoint: "best", as in the run's own test, or "last".
        decoding: the options that were given, by name.
    """
    terms = [] if checkpoint == "best" else [checkpoint]
    return ",".join(terms + [f"{name}={value:g}" for name, value in decoding.items()])


def write_evaluation(file: Path, record: Mapping[str, Any]) -> None:
    """Write an evaluation, with the code that made it; it replaces an older one.

    Raises:
        OSError: if the run's directory cannot be written to.
    """
    if file.parent.is_symlink():
        raise OSError(errno.ELOOP, "it would be written through a symbolic link")
    file.parent.mkdir(exist_ok=True)
    write_atomically(file, json_text({**record, **code_version()}))


def read_evaluation(file: Path) -> dict[str, Any]:
    """An evaluation.

    Raises:
        FileNotFoundError: if there is none.
        UnreadableRecord: if it is no record of an evaluation that this release reads.
    """
    return read_record(file, root=file.parent.parent)
