"""FlexAttention trains on a GPU: outputs, gradients and runs equal those of the eager backend."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from attention_lab.attention import (
    ALiBi,
    Causal,
    GlobalTokens,
    Mask,
    NoPositions,
    Padding,
    Positions,
    Rotary,
    ScaledDotProduct,
    ScoredAttention,
    Shaw,
    SlidingWindow,
    Softmax,
    T5Bias,
)
from tests.conftest import Compose
from tests.gpu.test_gpu_training import composed, losses
from tests.runs import train

LENGTH = 40


def make(
    backend: str, positions: type[Positions], width: int = 64, num_kv_heads: int = 2
) -> ScoredAttention:
    return ScoredAttention(
        width,
        score=ScaledDotProduct,
        normalizer=Softmax,
        positions=positions,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        backend=backend,
    ).cuda()


def padding(*real: int, length: int = LENGTH) -> Padding:
    """A mask of padding for sequences with ``real`` tokens each."""
    return Padding(torch.arange(length, device="cuda") < torch.tensor(real, device="cuda")[:, None])


def masks() -> dict[str, Mask | None]:
    return {
        "none": None,
        "causal": Causal(),
        "padding": Causal() & padding(LENGTH, 7, 0),
        "composed": (SlidingWindow(3) | GlobalTokens(2)) & padding(LENGTH, 7, 0),
    }


@pytest.mark.parametrize("mask", ["none", "causal", "padding", "composed"])
@pytest.mark.parametrize("positions", [NoPositions, Rotary, ALiBi, T5Bias, Shaw])
def test_outputs_and_gradients_equal_those_of_eager(mask: str, positions: type[Positions]) -> None:
    flex, eager = make("flex", positions), make("eager", positions)
    eager.load_state_dict(flex.state_dict())
    results = []
    sequence = torch.randn(3, LENGTH, 64, device="cuda")
    for layer in (flex, eager):
        x = sequence.clone().requires_grad_()
        output = layer(x, mask=masks()[mask]).output
        output.square().sum().backward()
        results.append((output, x.grad, *(p.grad for p in layer.parameters())))
    assert_close(*results, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("head_dim", [4, 8, 16, 20, 24, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_head_sizes(head_dim: int, dtype: torch.dtype) -> None:
    layer = make("flex", NoPositions, 4 * head_dim).to(dtype)
    x = torch.randn(2, LENGTH, 4 * head_dim, device="cuda", dtype=dtype, requires_grad=True)
    layer(x, mask=Causal()).output.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_float64_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot compute float64 on cuda; sdpa or eager can"):
        make("flex", NoPositions).double()(torch.randn(2, 9, 64, device="cuda").double())


def test_changing_lengths_and_padding_recompile_only_a_few_times() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    layer, eager = make("flex", NoPositions), make("eager", NoPositions)
    eager.load_state_dict(layer.state_dict())
    for step in range(12):
        length = 20 + 9 * step
        mask = Causal() & padding(length, length - 3, 1 + step, length=length)
        x = torch.randn(3, length, 64, device="cuda")
        output = layer(x, mask=mask).output
        output.sum().backward()
        assert_close(output, eager(x, mask=mask).output, rtol=2e-3, atol=2e-3)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs <= 3, f"compiled {graphs} times in 12 steps"


def test_a_run_with_flex_equals_one_with_sdpa(compose: Compose, tmp_path: Path) -> None:
    for backend in ("flex", "sdpa"):
        config = composed(
            compose,
            "encoder_decoder",
            *("trainer=gpu", "trainer.precision=32-true", "attention=multi_head"),
            *("attention.num_heads=2", f"attention.backend={backend}"),
        )
        train(config, tmp_path / backend, [])
    assert losses(tmp_path / "flex") == pytest.approx(losses(tmp_path / "sdpa"), rel=2e-3)
