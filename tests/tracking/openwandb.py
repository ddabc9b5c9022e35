"""A real W&B server on this machine: the open-source openwandb."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from attention_lab.data.files.cache import cache_directory
from tests.cli.conftest import fresh

VERSION = "0.5.25"
_PIP = ("-m", "pip", "install", "--quiet", "--retries=0", "--timeout=10", "--only-binary=:all:")


def packages() -> Path:
    """The directory with openwandb and the packages that it needs.

    It is in the cache directory, so that it is installed once, for all processes and test runs.
    """
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    directory = cache_directory() / f"openwandb-{VERSION}-{python}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if directory.exists():
            return directory
        with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
            new = Path(temporary) / "packages"
            target = ("--target", str(new), f"openwandb=={VERSION}")
            answer = fresh(*_PIP, *target, cwd=directory.parent)
            if answer.code:
                pytest.skip(f"openwandb cannot be installed: {answer.err.strip().splitlines()[-1]}")
            new.rename(directory)
    return directory


class Server:
    """A server that can be stopped and started again; it keeps what it has stored.

    Args:
        packages: from :func:`packages`.
        data: the directory where it stores data.
    """

    def __init__(self, packages: Path, data: Path) -> None:
        self.packages, self.data = packages, data
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        # Without site packages, only its own packages are imported.
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.data)]
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-m", "openwandb", "serve", *options],
            env={**os.environ, "PYTHONPATH": str(self.packages)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < deadline
                assert self.process.poll() is None
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table of its database."""
        (file,) = self.data.glob("**/*.db")
        with sqlite3.connect(file) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]

    def runs(self) -> dict[str, dict[str, Any]]:
        """What it has stored of each run, by id."""
        return {row["run_id"]: row for row in self.rows("runs")}

    def config(self, identifier: str) -> dict[str, Any]:
        """The config of a run."""
        config = json.loads(self.runs()[identifier]["config_json"])
        return {key: item["value"] for key, item in config.items()}

    def curve(self, identifier: str, name: str) -> dict[int, float]:
        """The values of a metric by step, without those that the client sent again."""
        (file,) = self.data.glob(f"**/{identifier}/wandb-history.jsonl")
        rows = map(json.loads, filter(None, file.read_text().splitlines()))
        return {row["trainer/global_step"]: row[name] for row in rows if name in row}
