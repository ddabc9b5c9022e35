"""Fixtures of the tests of run directories."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from attention_lab.tracking import code_version
from attention_lab.tracking.run_directory import RunRecord
from tests.runs import unchecked
from tests.tracking.run_files import CONFIG


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
