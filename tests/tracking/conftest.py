"""Fixtures of the tests of run directories."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from attention_lab.tracking import code_version
from attention_lab.tracking.run_directory import RunRecord
from tests.runs import unchecked
from tests.tracking.openwandb import Server, packages
from tests.tracking.run_files import CONFIG
from tests.tracking.wandb_files import forget_login


@pytest.fixture
def fresh_code_version() -> Iterator[None]:
    """Clears the cached code version before and after a test."""
    code_version.code_version.cache_clear()
    yield
    code_version.code_version.cache_clear()


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The directory of a run that was cut off after three steps."""
    record = RunRecord(unchecked(CONFIG, tmp_path, ["first"]))
    record.progress(3, 10, {}, "min")
    record.close()
    return tmp_path


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A W&B server, which the tests of one process share."""
    server = Server(packages(), tmp_path_factory.mktemp("openwandb"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A W&B server; the user of this process is logged in to it."""
    with pytest.MonkeyPatch.context() as patch:
        forget_login(patch, tmp_path_factory.mktemp("home"))
        patch.setenv("WANDB_BASE_URL", _server.url)
        patch.setenv("WANDB_API_KEY", "0" * 40)
        wandb.teardown()  # which has read the variables already
        yield _server
        wandb.teardown()
