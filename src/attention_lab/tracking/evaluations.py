"""Results of `attention-lab evaluate`, saved in ``evaluations/`` of the run directory."""

import errno
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.code_version import code_version
from attention_lab.tracking.record_files import json_text, read_record

#: Longer names of evaluations, in characters, are shortened; file systems allow 255 bytes.
_LONGEST_NAME = 150


def evaluation_file(directory: Path, split: str, name: str = "") -> Path:
    """The file of an evaluation of a run.

    >>> evaluation_file(Path("run"), "test", "num_beams=5").name
    'test,num_beams=5.json'
    """
    return directory / "evaluations" / f"{','.join(filter(None, (split, file_name(name))))}.json"


def evaluation_name(
    checkpoint: str, decoding: Mapping[str, Any], overrides: Sequence[str] = ()
) -> str:
    """The name of an evaluation: how it differs from the run's own test ("last,num_beams=5").

    Args:
        checkpoint: "best", as in the run's own test, or "last".
        decoding: the given decoding options by name.
        overrides: the overrides of the test split, as typed: "data.test=other.tsv".
    """
    terms = [] if checkpoint == "best" else [checkpoint]
    terms += [f"{name}={value:g}" for name, value in decoding.items()]
    return ",".join([*terms, *overrides])


def terms_of(name: str) -> list[str]:
    """The parts of the name of an evaluation.

    >>> terms_of("last,data.test_lengths=[64,128]")
    ['last', 'data.test_lengths=[64,128]']
    """
    return re.findall(r"(?:\[[^]]*\]|[^,])+", name)


def file_name(name: str) -> str:
    """The name of an evaluation as the name of a file or directory.

    >>> file_name("data.test=texts/other.tsv")
    'data.test=texts%2Fother.tsv'
    """
    quoted = quote(name, safe="=,[] ")
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    return f"{quoted[:_LONGEST_NAME]}…{blake2b(name.encode(), digest_size=4).hexdigest()}"


def write_evaluation(file: Path, record: Mapping[str, Any]) -> None:
    """Write an evaluation with its time and the version of the code; it replaces an older one.

    Raises:
        OSError: if the run's directory cannot be written to.
    """
    make_folder(file)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_atomically(file, json_text({**record, "evaluated": now, **code_version()}))


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
