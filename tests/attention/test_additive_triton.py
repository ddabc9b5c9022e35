"""The Triton kernels of additive attention against the eager formula in double precision.

Triton's interpreter runs them on the CPU, in a process of its own: it must be chosen before Triton
is imported. Sizes are small, since it is slow.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.testing import assert_close

from attention_lab.attention import (
    ALiBi,
    AttentionSpec,
    Causal,
    Padding,
    Rotary,
    Sigmoid,
    SlidingWindow,
    Softmax,
)
from attention_lab.attention.backends.api import EAGER, FUSED
from attention_lab.attention.backends.triton import additive
from attention_lab.attention.backends.triton.dropout import _philox
from attention_lab.attention.backends.triton.mask_bands import UNBOUNDED, band, beside_band
from attention_lab.attention.backends.validation import triton_computes
from attention_lab.attention.head_mixing import HeadMixing
from tests.attention.additive_cases import (
    Case,
    attend,
    distance,
    with_dropout,
    with_gradients,
)

Run = Callable[..., Any]


# The process


def prepare() -> None:
    """Run in the process: small tiles, so that small inputs have several."""
    torch.set_num_threads(1)
    additive.TILES = dict.fromkeys(additive.TILES, (32, 32, 4))


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Calls a function in a process in which Triton is interpreted."""
    if find_spec("triton") is None:
        pytest.skip("no Triton here; `pip install triton` on Linux")
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("PYTHONWARNINGS", "ignore")  # NumPy's, of infinite exponentials
        pool.submit(prepare).result()
        patch.undo()
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def kernel_calls(function: Callable[[], object]) -> list[str]:
    """The kernels that a function launches, with the numbers of queries and keys."""
    launch, calls = additive._launch, []

    def recorded(name: str, tensors: tuple[Tensor, ...], *arguments: Any) -> None:
        calls.append(f"{name} {tensors[0].shape[2]} {tensors[1].shape[2]}")
        launch(name, tensors, *arguments)

    additive._launch = recorded
    try:
        function()
    finally:
        additive._launch = launch
    return calls


# Outputs and gradients


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0, 1e4])
def test_outputs_and_gradients_equal_the_formula_at_every_scale(run: Run, scale: float) -> None:
    """Beyond scale 10, projections in single precision are too inexact for it in any backend."""
    case = Case(scale=scale)
    limit = 1e-5 if scale <= 10 else 2 * distance(case, with_gradients(case))
    assert distance(case, run(with_gradients, case)) < limit


@pytest.mark.parametrize(
    "mask", ["padding", "causal", "window", "centred", "composed", "documents"]
)
def test_masks(run: Run, mask: str) -> None:
    case = Case(mask=mask, batch=2, heads=1, kv_heads=1, hidden_dim=3)
    assert distance(case, run(with_gradients, case)) < 1e-5


@pytest.mark.parametrize(
    "case",
    [
        Case(queries=1, keys=1),
        Case(queries=1),
        Case(keys=1),
        Case(queries=0, keys=3),
        Case(queries=3, keys=0),
        Case(hidden_dim=20, heads=1, kv_heads=1),
        Case(hidden_dim=1),
        Case(heads=4, kv_heads=2, hidden_dim=2),
        Case(heads=3, kv_heads=1, hidden_dim=2),
        Case(head_dim=70, hidden_dim=2, mask="causal"),
        Case(queries=5, start=48, mask="causal"),
        Case(queries=5, start=70, mask="window"),
    ],
    ids=lambda case: f"L={case.queries},S={case.keys},{case.heads}/{case.kv_heads},{case.head_dim}",
)
def test_sizes_heads_and_positions(run: Run, case: Case) -> None:
    assert distance(case, run(with_gradients, case)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", ["none", "causal"])
def test_half_precision(run: Run, dtype: torch.dtype, mask: str) -> None:
    case = Case(dtype=dtype, mask=mask)
    ours = run(with_gradients, case)
    assert {x.dtype for x in ours} == {dtype}
    assert distance(case, ours) < 3 * torch.finfo(dtype).eps


def rows_without_keys(case: Case) -> list[Tensor]:
    output, *gradients = with_gradients(case)
    return [output[1], *(x[1] for x in gradients[:3])]


def test_a_query_without_keys_gives_exact_zeros(run: Run) -> None:
    case = Case(mask="padding", batch=2)
    assert not any(x.count_nonzero() for x in run(rows_without_keys, case))


def test_tensors_need_not_be_contiguous(run: Run) -> None:
    case = Case(queries=9, keys=11)
    turned = [x.mT.contiguous().mT for x in case.tensors()]
    ours = run(with_gradients, case, False, turned)
    assert_close(ours, run(with_gradients, case), rtol=0, atol=0)


# NaN and infinity


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mask", ["padding", "causal"])
def test_hidden_keys_and_values_may_be_anything(run: Run, odd: float, mask: str) -> None:
    """Also in a tile in which other queries see them, but then the gradients of those are NaN."""
    case = Case(mask=mask, heads=1, kv_heads=1, hidden_dim=2)
    tensors = case.tensors()
    expected = run(with_gradients, case, False, tensors)
    seen = 26 if mask == "padding" else 20
    for x in tensors[1:]:
        x[:, :, seen:] = odd
    rows = slice(None) if mask == "padding" else slice(0, seen)
    output, grad_query, *_ = run(with_gradients, case, False, tensors)
    assert_close(output[:, :, rows], expected[0][:, :, rows])
    assert_close(grad_query[:, :, rows], expected[1][:, :, rows])


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("which", [1, 2], ids=["key", "value"])
def test_a_visible_nan_or_infinity_reaches_the_output(run: Run, odd: float, which: int) -> None:
    case = Case(queries=3, keys=4)
    tensors = case.tensors()
    tensors[which][:, :, 2] = odd
    output = run(with_gradients, case, False, tensors)[0]
    expected = with_gradients(case, True, tensors)[0]
    assert torch.equal(output.isfinite(), expected.isfinite())


# Around the kernels


def weights_and_outputs(case: Case) -> list[Tensor]:
    spec = AttentionSpec(case.score(), Softmax())
    asked, weights = FUSED.attend(case.inputs(case.tensors(), need_weights=True), spec)
    assert weights is not None
    unasked = FUSED.attend(case.inputs(case.tensors()), spec)[0]
    return [x.detach() for x in (weights, asked, unasked)]


def test_weights_are_computed_if_asked_for_and_change_no_output(run: Run) -> None:
    case = Case(mask="causal", hidden_dim=2)
    weights, asked, output = run(weights_and_outputs, case)
    spec = AttentionSpec(case.score(), Softmax())
    assert_close(weights, EAGER.compute(case.inputs(case.tensors()), spec)[1])
    assert torch.equal(asked, output)


def saved_bytes(case: Case) -> tuple[int, list[str]]:
    """The bytes that are kept for the backward pass, and the kernels that ran."""
    kept: list[int] = []
    tensors, score = [x.requires_grad_() for x in case.tensors()], case.score()

    def keep(x: Tensor) -> Tensor:
        kept.append(x.untyped_storage().nbytes())
        return x

    def step() -> None:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            output = attend(case, tensors, score)
        output.sum().backward()

    calls = kernel_calls(step)
    return sum(kept), calls


def test_memory_is_linear_in_the_lengths(run: Run) -> None:
    case = Case(queries=40, keys=40, mask="causal", hidden_dim=2)
    (short, calls), (long, _) = (
        run(saved_bytes, replace(case, queries=n, keys=n)) for n in (40, 80)
    )
    assert long < 2 * short
    assert calls == [f"{name} 40 40" for name in additive.TILES]


def compiled(case: Case) -> list[list[Tensor]]:
    score, tensors = case.score(), [x.requires_grad_() for x in case.tensors()]
    attention = partial(attend, case, score=score)
    results = []
    for call in (attention, torch.compile(attention, fullgraph=True, backend="aot_eager")):
        output = call(tensors)
        with torch.no_grad():
            inferred = call(tensors)
        grads = grad(output.sum(), [*tensors, *score.parameters()])
        results.append([output.detach(), inferred, *grads])
    return results


def test_compiled_attention_gives_the_same(run: Run) -> None:
    ours, plain = run(compiled, Case(queries=5, keys=7, mask="composed", hidden_dim=2))
    assert_close(ours, plain)


def mapped(case: Case) -> tuple[list[Tensor], list[str]]:
    """Outputs by vmap and one by one, and the kernels that vmap launches."""
    tensors, score = case.tensors(), case.score()
    several = [torch.stack([x, 2 * x, -x]) for x in tensors]
    ours: list[Tensor] = []
    attention = torch.vmap(lambda *x: attend(case, list(x), score))
    calls = kernel_calls(lambda: ours.append(attention(*several)))
    singly = [attend(case, list(x), score) for x in zip(*several, strict=True)]
    return [ours[0].detach(), torch.stack(singly).detach()], calls


def test_vmap_launches_one_kernel(run: Run) -> None:
    case = Case(queries=5, keys=7, mask="padding", batch=2, hidden_dim=2)
    outputs, calls = run(mapped, case)
    assert_close(*outputs)
    assert calls == ["forward 5 7"]


def mapped_gradients(case: Case) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """Gradients by torch.func.vmap and grad, and one by one, and the kernels that vmap launches."""
    tensors, score = case.tensors(), case.score()
    several = [torch.stack([x, 2 * x, -x]) for x in tensors]

    def loss(*x: Tensor) -> Tensor:
        return attend(case, list(x), score).square().sum()

    ours: list[Tensor] = []
    gradients = torch.vmap(torch.func.grad(loss, (0, 1, 2)))
    calls = kernel_calls(lambda: ours.extend(gradients(*several)))
    inputs = [x.requires_grad_() for x in several]
    singly = grad(sum(loss(*x) for x in zip(*inputs, strict=True)), inputs)
    return [x.detach() for x in ours], list(singly), calls


def test_gradients_of_torch_func_are_those_of_the_kernels(run: Run) -> None:
    case = Case(queries=5, keys=7, mask="padding", batch=2, hidden_dim=2)
    ours, singly, calls = run(mapped_gradients, case)
    assert_close(ours, singly)
    assert calls == [f"{name} 5 7" for name in additive.TILES]


def second_derivatives(case: Case, exact: bool) -> list[Tensor]:
    dtype = torch.float64 if exact else torch.float32
    tensors = [x.to(dtype).requires_grad_() for x in case.tensors()]
    score = case.score().to(dtype)
    sources = [*tensors, *score.parameters()]
    output = attend(case, tensors, score, exact)
    first = grad(output.square().sum(), sources, create_graph=True)
    return list(grad(sum(x.square().sum() for x in first), sources))


def test_second_derivatives(run: Run) -> None:
    case = Case(queries=5, keys=7, mask="causal", heads=4, hidden_dim=2)
    ours = run(second_derivatives, case, False)
    for x, y in zip(ours, second_derivatives(case, True), strict=True):
        assert (x - y).norm() < 2e-6 * y.norm()


def windowed(case: Case) -> tuple[Tensor, list[str]]:
    """The output of a layer's backend, and the kernels that it launches."""
    outputs: list[Tensor] = []
    spec, inputs = AttentionSpec(case.score(), Softmax()), case.inputs(case.tensors())
    calls = kernel_calls(lambda: outputs.append(FUSED.attend(inputs, spec)[0]))
    return outputs[0].detach(), calls


def test_the_kernel_gets_whole_sequences_under_a_window(run: Run) -> None:
    """It skips hidden keys by itself, so that copies of them in blocks only cost time."""
    case = Case(queries=200, keys=200, mask="window", heads=1, kv_heads=1, hidden_dim=1)
    output, calls = run(windowed, case)
    assert calls == ["forward 200 200"]
    exact = EAGER.compute(case.inputs(case.tensors()), AttentionSpec(case.score(), Softmax()))[0]
    assert_close(output, exact)


def with_mapped_keys(case: Case) -> list[Tensor]:
    """The outputs for keys, and for keys that the score has mapped before."""
    score, inputs = case.score(), case.inputs(case.tensors())
    mapped = replace(inputs, key=score.cached_key_map(inputs.key), keys_are_mapped=True)
    spec = AttentionSpec(score, Softmax())
    return [FUSED.compute(each, spec)[0].detach() for each in (inputs, mapped)]


def test_cached_keys_are_not_mapped_again(run: Run) -> None:
    plain, mapped = run(with_mapped_keys, Case(queries=1, keys=7))
    assert torch.equal(plain, mapped)


# Dropout


def test_all_passes_drop_the_same_weights(run: Run) -> None:
    """The formula gets its mask from PyTorch's operations, by the same random numbers."""
    for ours, right in zip(run(with_dropout), with_dropout(exact=True), strict=True):
        assert (ours - right).norm() < 1e-5 * right.norm()


def dropped_weights(case: Case, seed: int) -> Tensor:
    """The weights that values get: the outputs for values that are unit vectors."""
    (query, key, _), score = case.tensors(), case.score()
    value = torch.eye(case.keys).expand(case.batch, case.heads, -1, -1)
    torch.manual_seed(seed)
    return attend(case, [query, key, value], score).detach()


def test_dropout_keeps_its_share_of_the_weights(run: Run) -> None:
    case = Case(batch=2, heads=3, kv_heads=3, mask="causal", dropout=0.4)
    dropped = run(dropped_weights, case, 0)
    weights = run(dropped_weights, replace(case, dropout=0.0), 0)
    kept = dropped > 0
    assert_close(dropped, weights * kept / 0.6)
    visible = weights > 0
    assert abs(float(kept[visible].float().mean()) - 0.6) < 0.03
    assert abs(float(dropped.sum() / weights.sum()) - 1) < 0.05
    assert torch.equal(run(dropped_weights, case, 0), dropped)
    others = [*kept.flatten(0, 1), (run(dropped_weights, case, 1) > 0)[0, 0]]
    assert len({tuple(each.flatten().tolist()) for each in others}) == 7


def test_random_numbers_are_those_of_philox() -> None:
    """The known answers of Random123 (Salmon et al. 2011)."""
    for word, answer in ((0, 0x6627E8D5), (0xFFFFFFFF, 0x408F276D)):
        x = torch.tensor(word)
        assert int(_philox((x, x, x, x), (x, x))) == answer


def test_what_the_kernels_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    inputs, score = case.inputs(case.tensors()), case.score()
    spec = AttentionSpec(score, Softmax())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not triton_computes(inputs, spec)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_computes(inputs, spec)
    assert not triton_computes(inputs, AttentionSpec(score, Sigmoid()))
    assert not triton_computes(inputs, replace(spec, mixing=HeadMixing(2)))
    assert triton_computes(inputs, replace(spec, dropout=0.1))
    assert not triton_computes(replace(inputs, bias=torch.zeros(1)), spec)
    assert not triton_computes(inputs, replace(spec, positions=ALiBi(2, 20)))
    assert triton_computes(inputs, replace(spec, positions=Rotary(2, 20)))
    assert not triton_computes(replace(inputs, value=inputs.value.double()), spec)
    assert not triton_computes(replace(inputs, value=torch.zeros(1, 2, 53, 129)), spec)


def test_the_band_of_a_mask() -> None:
    valid = Padding(torch.ones(1, 9, dtype=torch.bool))
    assert band(Causal(), 3) == (-UNBOUNDED, 3)
    assert band(SlidingWindow(4) & valid, 2) == (-1, 2)
    assert band(SlidingWindow(5, centred=True), 0) == (-2, 2)
    assert beside_band(Causal() & SlidingWindow(4)) is None
    assert beside_band(Causal() & valid) is valid
    either = Causal() | valid
    assert beside_band(either & Causal()) is either
