"""Normalizers against their papers.

Expected values are computed here from the papers' formulas, in float64 NumPy over the visible
logits of one query; the ``entmax`` package is a further witness.
"""

import math
from collections.abc import Callable

import entmax  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logsumexp
from torch import Tensor
from torch.testing import assert_close

from attention_lab.attention import (
    Entmax15,
    Normalizer,
    ReLU,
    Sigmoid,
    Softmax,
    SoftmaxPlusOne,
    Sparsemax,
    TemperedSoftmax,
    TopK,
)

Array = NDArray[np.float64]
Normalize = Callable[[Array], Array]  # visible logits → weights


def softmax(x: Array) -> Array:
    return np.exp(x - logsumexp(x))


def top3(x: Array) -> Array:
    """Gupta et al. 2021: softmax of the k largest, of equal ones the first (a stable sort)."""
    best = np.argsort(-x, kind="stable")[:3]
    weights = np.zeros_like(x)
    for place, weight in zip(best, softmax(x[best]), strict=True):
        weights[place] = weight
    return weights


def martins(x: Array) -> Array:
    """Martins & Astudillo 2016, algorithm 1, by search for k(z)."""
    z = np.sort(x)[::-1]
    k = max(k for k in range(1, len(z) + 1) if 1 + k * z[k - 1] > z[:k].sum())
    return np.maximum(x - (z[:k].sum() - 1) / k, 0)


def peters(x: Array) -> Array:
    """Peters et al. 2019, eq. 12 with α = 1.5: [x/2 − τ]₊², τ by bisection (algorithm 1)."""
    low, high = x.max() / 2 - 1, x.max() / 2
    for _ in range(200):
        middle = (low + high) / 2
        if (np.maximum(x / 2 - middle, 0) ** 2).sum() < 1:
            high = middle
        else:
            low = middle
    return np.maximum(x / 2 - low, 0) ** 2


NORMALIZERS: dict[str, tuple[Callable[[], Normalizer], Normalize]] = {
    "softmax": (Softmax, softmax),
    "tempered": (lambda: TemperedSoftmax(0.5), lambda x: softmax(x / 0.5)),
    "learned-temperature": (lambda: TemperedSoftmax(3.0, learned=True), lambda x: softmax(x / 3)),
    # Miller 2023: exp(x_i) / (1 + Σ exp(x_j)), a further logit of 0
    "plus-one": (SoftmaxPlusOne, lambda x: np.exp(x - logsumexp(np.append(x, 0)))),
    # Ramapuram et al. 2025, §3: σ(x + b), b = −log n
    "sigmoid": (Sigmoid, lambda x: expit(x - math.log(len(x)))),
    # Wortsman et al. 2023, §3: L⁻¹ relu
    "relu": (ReLU, lambda x: np.maximum(x, 0) / len(x)),
    "sparsemax": (Sparsemax, martins),
    "entmax": (Entmax15, peters),
    "top-3": (lambda: TopK(3), top3),
}
EACH = pytest.mark.parametrize("name", NORMALIZERS)


@EACH
def test_normalizers(name: str) -> None:
    make, formula = NORMALIZERS[name]
    logits = 2 * torch.randn(2, 3, 7, 9).double()
    weights = make().double()(logits)
    expected = np.apply_along_axis(formula, -1, logits.numpy())
    tolerance = 1e-7 if "temp" in name else 1e-12  # 1 / 3.0 may have been rounded to float32
    assert_close(weights, torch.from_numpy(expected), rtol=0, atol=tolerance)


@EACH
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_hidden_keys_do_not_count(name: str, data: st.DataObject) -> None:
    """The weights over the visible keys are those of the visible keys alone."""
    make, formula = NORMALIZERS[name]
    keys = data.draw(st.integers(1, 8))
    seen = data.draw(st.lists(st.booleans(), min_size=keys, max_size=keys))
    different = name == "top-3"  # for equals see test_top_k_takes_the_first_of_equals
    values = data.draw(
        st.lists(st.floats(-8, 8, width=16), min_size=keys, max_size=keys, unique=different)
    )
    logits = torch.tensor(values, dtype=torch.float64).view(1, 1, 1, keys)
    visible = torch.tensor(seen).view(1, 1, 1, keys)
    hidden = logits.masked_fill(~visible, torch.finfo(logits.dtype).min).requires_grad_()
    weights = make().double()(hidden, visible).masked_fill(~visible, 0)
    (gradient,) = torch.autograd.grad(weights.square().sum(), hidden)
    assert weights.isfinite().all()
    assert gradient.isfinite().all()
    if any(seen):
        expected = torch.from_numpy(formula(logits[visible].numpy()))
        assert_close(weights[visible], expected, rtol=0, atol=1e-7 if "temp" in name else 1e-12)


@EACH
@pytest.mark.parametrize("scale", [1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits(name: str, scale: float, dtype: torch.dtype) -> None:
    """Finite weights and gradients; where only one key is near the top, it has the weight."""
    logits = torch.tensor([[-1.0, 0.5, 1.0, -0.25], [-1.0, -1.0, -1.0, -1.0]]).view(1, 1, 2, 4)
    logits = (logits * scale).to(dtype).requires_grad_()
    weights = NORMALIZERS[name][0]()(logits)
    (gradient,) = torch.autograd.grad(weights.sum() + weights[..., 0].sum(), logits)
    assert weights.isfinite().all()
    assert gradient.isfinite().all()
    if name not in ("sigmoid", "relu"):
        assert_close(weights[0, 0, 0].float(), torch.tensor([0.0, 0, 1, 0]))
        largest = {"plus-one": 0, "top-3": 1 / 3}.get(name, 1 / 4)
        assert weights[0, 0, 1].max().item() == pytest.approx(largest, abs=2e-3)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Sparsemax, entmax.sparsemax), (Entmax15, entmax.entmax15)]
)
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_entmax_package_agrees(
    ours: type[Normalizer], theirs: Callable[..., Tensor], scale: float
) -> None:
    logits = (scale * torch.randn(2, 3, 8, 11).double()).requires_grad_()
    wanted = theirs(logits, dim=-1)
    weights = ours()(logits)
    assert_close(weights, wanted)
    assert ((weights == 0) == (wanted == 0)).all()
    seed = torch.randn_like(logits)
    assert_close(
        torch.autograd.grad(weights, logits, seed), torch.autograd.grad(wanted, logits, seed)
    )


@EACH
def test_only_differences_count(name: str) -> None:
    """A distribution does not change with a constant in the logits (here exact in float32)."""
    normalizer = NORMALIZERS[name][0]()
    logits = torch.randint(-200, 200, (1, 2, 5, 50)) / 64
    same = torch.allclose(normalizer(logits + 4096), normalizer(logits), rtol=0, atol=1e-5)
    assert same == normalizer.sums_to_one


@pytest.mark.parametrize("keys", [4, 40])
def test_top_k_takes_the_first_of_equals(keys: int) -> None:
    weights = TopK(3)(torch.zeros(1, 1, 2, keys))
    assert_close(weights, torch.tensor([1 / 3] * 3 + [0.0] * (keys - 3)).expand(1, 1, 2, keys))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_learned_temperature_has_a_gradient_beside_hidden_keys(dtype: torch.dtype) -> None:
    """The lowest number minus a large one would be −∞, and the temperature's gradient 0 · ∞."""
    normalizer = TemperedSoftmax(learned=True).to(dtype)
    lowest = torch.finfo(dtype).min
    logits = torch.tensor([[1000.0, 3.0, lowest]], dtype=dtype, requires_grad=True)
    normalizer(logits)[0, 1].backward()
    assert normalizer.log_temperature.grad is not None
    assert normalizer.log_temperature.grad.isfinite()


LOGITS = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (2, 2)])
def test_second_derivatives_of_entmax(first: int, second: int) -> None:
    """Against differences of the entmax package's gradient; 0.0422 at the first logit."""

    def gradient(logits: Tensor, of: Callable[..., Tensor]) -> Tensor:
        x = logits.clone().requires_grad_()
        return torch.autograd.grad(of(x)[0], x, create_graph=True)[0]

    hessian = torch.autograd.functional.hessian(lambda x: Entmax15()(x)[0], LOGITS)
    assert hessian[0, 0].item() == pytest.approx(0.0422, abs=1e-4)
    step = torch.zeros_like(LOGITS)
    step[second] = 1e-5
    up, down = (
        gradient(LOGITS + sign * step, lambda x: entmax.entmax15(x, dim=-1)).detach()
        for sign in (1, -1)
    )
    assert_close(hessian[first, second], ((up - down) / 2e-5)[first], rtol=1e-4, atol=1e-7)


def test_second_derivatives_of_a_temperature_are_finite_beside_hidden_keys() -> None:
    normalizer = TemperedSoftmax(1.3, learned=True).double()
    visible = torch.tensor([True, True, True, False])
    logits = torch.tensor([0.3, -0.2, 0.1, torch.finfo(torch.float64).min], dtype=torch.float64)

    def second(logits: Tensor, visible: Tensor | None) -> Tensor:
        x = logits.clone().requires_grad_()
        weight = 10 * normalizer(x, visible)[0]
        temperature = normalizer.log_temperature
        (slope,) = torch.autograd.grad(weight, temperature, create_graph=True)
        return torch.autograd.grad(slope, x)[0]

    assert_close(second(logits, visible)[:3], second(logits[:3], None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entmax_of_many_keys(dtype: torch.dtype) -> None:
    """Long rows, in which every key has weight: the threshold is a difference of near numbers."""
    logits = 1e-3 * torch.randn(2, 20_000, dtype=dtype)
    weights = Entmax15()(logits)
    assert_close(weights.sum(-1), torch.ones(2, dtype=dtype), rtol=1e-3, atol=0)
    assert_close(weights, entmax.entmax15(logits.double(), dim=-1).to(dtype), rtol=1e-2, atol=1e-7)


def test_bad_normalizers() -> None:
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="temperature"):
            TemperedSoftmax(temperature)
    with pytest.raises(ValueError, match="k must"):
        TopK(0)
