"""Results of `attention-lab evaluate`, saved in ``evaluations/`` of the run directory."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.code_version import code_version
from attention_lab.tracking.record_files import json_text, read_record


def evaluation_file(directory: Path, split: str, name: str = "") -> Path:
    """The file of an evaluation of a run.

    >>> evaluation_file(Path("run"), "test", "num_beams=5").name
    'test,num_beams=5.json'
    """
    return directory / "evaluations" / f"{','.join(filter(None, (split, name)))}.json"


def evaluation_name(checkpoint: str, decoding: Mapping[str, Any]) -> str:
    """The name of an evaluation: how it differs from the run's own test ("last,num_beams=5").

    Args:
        checkpoint: "best", as in the run's own test, or "last".
        decoding: the given decoding options by name.
    """
    terms = [] if checkpoint == "best" else [checkpoint]
    return ",".join(terms + [f"{name}={value:g}" for name, value in decoding.items()])


def write_evaluation(file: Path, record: Mapping[str, Any]) -> None:
    """Write an evaluation with the version of the code; it replaces an older one.

    Raises:
        OSError: if the run's directory cannot be written to.
    """
    make_folder(file)
    write_atomically(file, json_text({**record, **code_version()}))


def make_folder(file: Path) -> None:
    """Make the folder of an evaluation.

    Raises:
        OSError: if the run's directory cannot be written to.
    """
    if file.parent.is_symlink():
        raise OSError(errno.ELOOP, "evaluations/ is a symbolic link")
    file.parent.mkdir(exist_ok=True)


def read_evaluation(file: Path) -> dict[str, Any]:
    """Read an evaluation.

    Raises:
        FileNotFoundError: if there is none.
        UnreadableRecord: if this release cannot read it.
    """
    return read_record(file, root=file.parent.parent)
