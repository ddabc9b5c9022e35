"""The Triton kernels compile for a GPU, here without one."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.attention.backends.triton import additive
from tests.attention.additive_cases import Case, with_gradients


class FakeGPU:
    """What Triton asks of the driver when it compiles for an H100."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """A kernel that is compiled instead of launched."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.assembly = kernel, ""

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def compile_(*arguments: Any, **constants: Any) -> None:
            constants["HARDWARE"] = "nvidia"
            self.assembly = self.kernel.warmup(*arguments, **constants, grid=grid).asm["ptx"]

        return compile_


def assembly(cases: list[Case]) -> list[str]:
    """The code of each kernel for an H100, compiled without one."""
    from triton.runtime import driver

    from attention_lab.attention.backends.triton import additive_kernels

    driver.set_active(FakeGPU())
    kernels = [Compiled(getattr(additive_kernels, name)) for name in additive.TILES]
    for name, kernel in zip(additive.TILES, kernels, strict=True):
        setattr(additive_kernels, name, kernel)
    os.environ["TRITON_INTERPRET"] = "1"  # too late for Triton: this only selects the kernels
    code = []
    for case in cases:
        with_gradients(case)
        code += [kernel.assembly for kernel in kernels]
    return code


def test_the_kernels_compile_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter accepts code that the compiler does not."""
    if find_spec("triton") is None:
        pytest.skip("no Triton here; `pip install triton` on Linux")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    cases = [Case(mask="causal"), Case(mask="padding", dtype=torch.bfloat16, dropout=0.1)]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        code = pool.submit(assembly, cases).result()
    assert len(code) == 6
    assert all("rcp.approx.ftz.f32" in each for each in code)
