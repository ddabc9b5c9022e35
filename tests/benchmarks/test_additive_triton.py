"""benchmarks/additive_triton.py runs, here in Triton's interpreter."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here; `pip install triton`")
def test_figures(tmp_path: Path) -> None:
    small = ("--device", "cpu", "--shape", "1", "1", "4", "2", "--lengths", "4", "--repeat", "1")
    done = subprocess.run(
        [sys.executable, "benchmarks/additive_triton.py", *small, "--json", tmp_path / "a.json"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "a.json").read_text())
    assert list(figures) == ["torch.bfloat16", "torch.float32"]
    for each in figures.values():
        assert each["forward_times_eager"] > 0
        assert each["both_times_eager"] > 0
        assert each["peak_bytes"]["4"] > 0
