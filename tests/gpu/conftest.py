"""Tests that need a GPU: skipped without one; `scripts/gpu-check` runs them."""

import os
from pathlib import Path

import pytest
import torch

# cuBLAS reads it once, at its first call; a run with trainer.deterministic=true needs it.
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
