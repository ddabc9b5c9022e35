"""The kernel of additive attention against its formula in double precision."""

import ctypes
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.testing import assert_close

from attention_lab.attention.backends import additive_logits as operators
from attention_lab.attention.backends.additive_logits import additive_logits, plain_additive_logits
from attention_lab.attention.backends.cpu import additive
from attention_lab.attention.backends.cpu.c_library import load_c

#: N, L, S and A: no multiple of any block, a single query, and sizes beyond one block.
SIZES = [(2, 37, 53, 9), (3, 21, 300, 33), (3, 1, 400, 3), (2, 64, 128, 16), (2, 5, 19, 150)]


@pytest.fixture(params=["compiled", "tiled"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute it; the second is that of a machine without a compiler."""
    if request.param == "tiled":
        monkeypatch.setattr(additive, "compiled_kernels", lambda: None)
        monkeypatch.setattr(operators, "TILE", {"cpu": 1000})
    elif additive.compiled_kernels() is None:
        pytest.skip("no C compiler here")
    return str(request.param)


def inputs(sizes: tuple[int, int, int, int], scale: float = 1.0) -> list[Tensor]:
    """Queries, keys and vectors that need a gradient."""
    torch.manual_seed(0)
    n, queries, keys, dims = sizes
    shapes = (n, queries, dims), (n, keys, dims), (n, dims)
    scales = scale, scale, 1.0
    return [
        (torch.randn(*shape) * factor).requires_grad_()
        for shape, factor in zip(shapes, scales, strict=True)
    ]


def with_gradients(
    compute: Callable[..., Tensor], tensors: list[Tensor], dtype: torch.dtype
) -> list[Tensor]:
    tensors = [x.detach().to(dtype).requires_grad_() for x in tensors]
    logits = compute(*tensors)
    torch.manual_seed(1)
    upstream = torch.randn(logits.shape, dtype=torch.double).to(dtype)
    return [logits.detach(), *grad(logits, tensors, upstream)]


def distance(ours: Tensor, right: Tensor) -> float:
    """The error relative to the norm."""
    return float((ours - right).norm() / right.norm())


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_logits_and_gradients_equal_the_formula_in_double_precision(
    kernel: str, sizes: tuple[int, int, int, int], scale: float
) -> None:
    tensors = inputs(sizes, scale)
    ours = with_gradients(additive_logits, tensors, torch.float32)
    right = with_gradients(plain_additive_logits, tensors, torch.double)
    assert all(distance(one, other) < 1e-5 for one, other in zip(ours, right, strict=True))


def test_the_compiled_kernel_runs_up_to_its_largest_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries and keys of opposite signs cancel there, which an overflow would not survive."""
    if additive.compiled_kernels() is None:
        pytest.skip("no C compiler here")
    monkeypatch.setattr(operators, "_tiles", None)
    edge = torch.tensor([43.0, -43.0, 42.9, -42.9, 0.0]).repeat(5, 1)
    query, key, vector = edge[None], -edge.T[None].contiguous(), torch.ones(1, 5)
    assert_close(additive_logits(query, key, vector), plain_additive_logits(query, key, vector))


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_infinite_inputs_give_what_the_formula_gives(odd: float) -> None:
    query, key, vector = (x.detach() for x in inputs((1, 4, 5, 3)))
    query[0, 1, 2] = odd
    ours, right = (f(query, key, vector) for f in (additive_logits, plain_additive_logits))
    assert_close(ours, right, equal_nan=True)


def test_empty_sequences_have_gradients(kernel: str) -> None:
    for sizes in [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4)]:
        logits, *gradients = with_gradients(additive_logits, inputs(sizes), torch.float32)
        assert logits.shape == sizes[:3]
        assert not any(each.count_nonzero() for each in gradients)


def test_inputs_need_not_be_contiguous(kernel: str) -> None:
    query, key, vector = inputs((2, 7, 6, 5))
    turned = [x.mT.contiguous().mT for x in (query, key)]
    expected = additive_logits(query, key, vector)
    assert_close(additive_logits(*turned, vector.expand(2, 5)), expected)
    (ours,) = grad(additive_logits(*turned, vector).sum(), [query])  # its gradient is expanded
    (right,) = grad(plain_additive_logits(query, key, vector).sum(), [query])
    assert_close(ours, right)


def test_first_and_second_derivatives() -> None:
    tensors = [x.detach().double().requires_grad_() for x in inputs((2, 3, 4, 5))]
    assert gradcheck(additive_logits, tensors)
    assert gradgradcheck(additive_logits, tensors)


def test_only_inputs_are_kept_for_the_backward_pass() -> None:
    sizes = n, queries, keys, dims = 2, 50, 60, 8
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        additive_logits(*inputs(sizes))
    assert sum(kept) == n * dims * (queries + keys + 1)


def test_compiled_training_uses_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled graph must call the kernels, too, and not the plain formula."""
    tensors = inputs((2, 7, 6, 5))
    right = with_gradients(additive_logits, tensors, torch.float32)
    monkeypatch.setattr(operators, "plain_gradients", None)
    compiled = torch.compile(additive_logits, fullgraph=True, backend="aot_eager")
    ours = with_gradients(compiled, tensors, torch.float32)
    assert_close(ours, right, rtol=0, atol=0)


def test_gradients_of_torch_func_are_those_of_the_operators(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = operators._gradients

    def recorded(*inputs: Tensor) -> Any:
        calls.append(len(inputs))
        return original(*inputs)

    monkeypatch.setattr(operators, "_gradients", recorded)
    several = [torch.stack([x, 2 * x, -x]).detach() for x in inputs((2, 7, 6, 5))]

    def gradients(logits: Callable[..., Tensor]) -> Any:
        each = torch.func.grad(lambda *x: logits(*x).square().sum(), (0, 1, 2))
        return torch.func.vmap(each, in_dims=(0, 0, None))(*several[:2], several[2][0])

    ours = gradients(additive_logits)
    assert calls == [4]
    assert_close(ours, gradients(plain_additive_logits))


def test_second_derivatives_of_torch_func() -> None:
    tensors = [x.detach().double() for x in inputs((1, 2, 3, 4))]
    ours, right = (
        torch.func.jacrev(torch.func.jacrev(f))(*tensors)
        for f in (additive_logits, plain_additive_logits)
    )
    assert_close(ours, right)


# Compiling


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTENTION_LAB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }\n")
    return path


def answer(library: Any) -> int:
    assert isinstance(library, ctypes.CDLL)
    return int(library.answer())


def test_a_library_is_compiled_once(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if additive.compiled_kernels() is None:
        pytest.skip("no C compiler here")
    assert answer(load_c(source)) == 42
    (kept,) = cache.iterdir()
    made_at = kept.stat().st_mtime_ns
    assert answer(load_c(source)) == 42
    assert kept.stat().st_mtime_ns == made_at
    source.write_text("int answer(void) { return 43; }\n")
    assert answer(load_c(source)) == 43


@pytest.mark.parametrize("compiler", ["/no/such/cc", "false"])
def test_without_a_compiler_there_is_no_library(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    assert load_c(source) is None


def test_the_compiler_may_have_arguments(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if additive.compiled_kernels() is None:
        pytest.skip("no C compiler here")
    source.write_text("int answer(void) { return ANSWER; }\n")
    monkeypatch.setenv("CC", "cc -DANSWER=42")
    assert answer(load_c(source)) == 42


def test_a_damaged_library_or_unusable_cache_is_no_error(cache: Path, source: Path) -> None:
    if additive.compiled_kernels() is None:
        pytest.skip("no C compiler here")
    load_c(source)
    (kept,) = cache.iterdir()
    os.replace(source, kept)  # no library
    source.write_text("int answer(void) { return 42; }\n")
    assert answer(load_c(source)) == 42
    kept.unlink()
    cache.rmdir()
    cache.write_text("")  # no directory
    assert load_c(source) is None


def test_a_user_without_a_home_directory_gets_no_library(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs with any user id."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ATTENTION_LAB_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert load_c(source) is None
