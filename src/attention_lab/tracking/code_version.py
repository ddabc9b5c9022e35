"""The version of the running code: the git revision and the versions of the packages."""

import functools
import platform
import shutil
from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attention_lab.external_programs import run_program

#: The packages whose major versions may change results.
RESULT_PACKAGES = ("attention-lab", "torch", "lightning")
PACKAGES = (*RESULT_PACKAGES, "hydra-core", "torchmetrics", "wandb")


@functools.cache
def code_version() -> dict[str, Any]:
    """The ``git_revision`` and ``versions`` of this process for records; do not change the dict."""
    return {
        "git_revision": _git_revision(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
    }


def code_changes(record: Mapping[str, Any]) -> list[str]:
    """The differences between a run's code and this process's code that may change results.

    Args:
        record: the run's ``status.json``; keys that it lacks are not compared.

    Returns:
        A phrase for the git revision, and for each package of another major version.
    """
    now = code_version()
    changes = []
    revision = record.get("git_revision")
    if revision and now["git_revision"] and revision != now["git_revision"]:
        short = (short_revision(str(each)) for each in (revision, now["git_revision"]))
        changes.append(_change("git revision", *short))
    versions = record.get("versions")
    for package in RESULT_PACKAGES:
        known = versions.get(package) if isinstance(versions, Mapping) else None
        if known and major_version(known) != major_version(now["versions"][package]):
            changes.append(_change(package, known, now["versions"][package]))
    return changes


def _change(name: str, then: object, now: object) -> str:
    # A record may come from a stranger: control characters must not reach the terminal.
    printable = "".join(c for c in str(then)[:60] if c.isprintable())
    return f"{name} {printable} then, {now} now"


def short_revision(revision: str) -> str:
    """A git revision with its commit shortened to 10 digits; "-dirty-…" stays."""
    commit, dash, changes = revision.partition("-")
    return commit[:10] + dash + changes


def major_version(version: object) -> str:
    """The part of a version that incompatible releases change: "2", or "0.3" before 1.0."""
    parts = str(version).split(".")
    return ".".join(parts[: 2 if parts[0] == "0" else 1])


def _git_revision() -> str | None:
    """The commit of the source tree that this package runs from; None if it is installed.

    If files differ from the commit, "-dirty" and a hash of the changes to the code follow.
    """
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        return run_program("git", "-C", str(source), *arguments).stdout

    revision = git("describe", "--always", "--abbrev=40").strip()
    # Not `git describe --dirty`: it locks the index, and the user's own git commands would fail.
    if git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no"):
        # Different edits of one commit are different code.
        changes = git("-c", "diff.autoRefreshIndex=false", "diff", "HEAD", "--", "src", "conf")
        revision += "-dirty"
        revision += f"-{blake2b(changes.encode(), digest_size=4).hexdigest()}" if changes else ""
    return revision or None
