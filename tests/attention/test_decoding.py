"""Step by step: the weights of the whole pass, the cache's bytes counted by hand, and refusals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_lab.attention import (
    Additive,
    ALiBi,
    AttentionLayer,
    Cache,
    Causal,
    Concat,
    DifferentialAttention,
    EluPlusOne,
    FeatureMap,
    KernelAttention,
    LocalAttention,
    Location,
    Mask,
    Padding,
    PositiveRandomFeatures,
    Rotary,
    ScaledDotProduct,
    ScoredAttention,
    Shaw,
    SlidingWindow,
    Softmax,
    TopK,
    record_attention,
)
from tests.attention.loops import H_KV, E, H


def scored(**options: Any) -> Callable[[], AttentionLayer]:
    defaults = {"score": ScaledDotProduct, "normalizer": Softmax, "num_kv_heads": H_KV}
    return lambda: ScoredAttention(H * E, num_heads=H, **(defaults | options))


def kernel(
    feature_map: Callable[[int], FeatureMap], chunk: int = 3
) -> Callable[[], AttentionLayer]:
    return lambda: KernelAttention(
        H * E, feature_map=feature_map, num_heads=H, num_kv_heads=H_KV, chunk_size=chunk
    )


T, WIDE = 10, 8  # positions, and the bytes of a float64
KEYS_AND_VALUES = 2 * H_KV * T * (E + E) * WIDE
LAYERS: dict[str, tuple[Callable[[], AttentionLayer], int]] = {
    "softmax": (scored(), KEYS_AND_VALUES),
    "rotary": (scored(positions=Rotary), KEYS_AND_VALUES),
    "shaw": (scored(positions=Shaw), KEYS_AND_VALUES),
    "top-k-talking": (
        scored(normalizer=partial(TopK, 2), talking_heads=True, gate=True),
        KEYS_AND_VALUES,
    ),
    "own-window": (scored(mask=SlidingWindow(3), positions=Rotary), KEYS_AND_VALUES),
    "latent": (scored(latent_dim=5, positions=Rotary), 2 * T * 5 * WIDE),
    "additive": (
        scored(score=partial(Additive, hidden_dim=3), num_kv_heads=H, positions=ALiBi),
        2 * H * T * (3 + E) * WIDE,
    ),
    "grouped-additive": (
        scored(score=partial(Additive, hidden_dim=3), projections="all"),
        KEYS_AND_VALUES,
    ),
    "local-concat": (
        lambda: LocalAttention(H * E, score=partial(Concat, hidden_dim=3), num_heads=H, radius=2),
        2 * H * T * (3 + E) * WIDE,
    ),
    "differential": (
        lambda: DifferentialAttention(H * E, num_heads=H, num_kv_heads=H_KV),
        KEYS_AND_VALUES,
    ),
    "local": (
        lambda: LocalAttention(
            H * E, score=ScaledDotProduct, num_heads=H, num_kv_heads=H_KV, radius=2
        ),
        KEYS_AND_VALUES,
    ),
    # Katharopoulos et al. 2020, eq. 18–19: Σ φ(k) vᵀ and Σ φ(k), however long the past; and the
    # largest scale, where features have scales
    "linear": (kernel(EluPlusOne), 2 * H_KV * E * (E + 1) * WIDE),
    "performer": (
        kernel(partial(PositiveRandomFeatures, num_features=11)),
        2 * H_KV * (11 * (E + 1) + 1) * WIDE,
    ),
}
SUMS = ("linear", "performer")  # keep no keys, so step by step they have no weights


@pytest.mark.parametrize("name", [n for n in LAYERS if n not in SUMS])
@pytest.mark.parametrize("window", [False, True])
def test_steps_are_the_whole(name: str, window: bool) -> None:
    """Weights, too, and under a window; the rest is the contract's ``check_decoding``."""
    layer = LAYERS[name][0]().double().eval()
    x, need = torch.randn(2, T, H * E).double(), layer.info.weights
    mask = Causal() & SlidingWindow(4) if window else Causal()
    whole = layer(x, mask=mask, need_weights=need)
    cache, seen = Cache(), 0
    for n in (2, 5, 3):
        part = layer(x[:, seen : seen + n], mask=mask, need_weights=need, cache=cache)
        seen += n
        assert_close(part.output, whole.output[:, seen - n : seen])
        if need:
            assert_close(part.weights, whole.weights[:, :, seen - n : seen, :seen])


@pytest.mark.parametrize("name", LAYERS)
def test_cache_size(name: str) -> None:
    """What key heads need, which grouped query heads share; sums as large after 4 as after 10."""
    layer, size = LAYERS[name][0]().double(), LAYERS[name][1]
    cache, x = Cache(), torch.randn(2, T, H * E).double()
    assert cache.size == 0
    layer(x[:, :4], mask=Causal(), cache=cache)
    assert cache.size == (size if name in SUMS else size * 4 // T)
    layer(x[:, 4:], mask=Causal(), cache=cache)
    assert cache.size == size


class Counting(Additive):
    """Counts the keys that it maps."""

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__(num_heads, head_dim)
        self.counts: list[int] = []

    @property
    def cached_key_map(self) -> Callable[[Tensor], Tensor]:
        mapped = super().cached_key_map

        def counted(key: Tensor) -> Tensor:
            self.counts.append(key.shape[2])
            return mapped(key)

        return counted


@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_each_key_is_mapped_once(backend: str) -> None:
    layer = scored(score=Counting, num_kv_heads=H, backend=backend)()
    assert isinstance(layer.score, Counting)
    x, cache = torch.randn(2, T, H * E), Cache()
    for step in x.split((2, 5, 3), dim=1):
        layer(step, mask=Causal(), cache=cache)
    memory = layer.remember(x)
    for step in x.split(1, dim=1):
        layer(step, cache=memory)
    assert layer.score.counts == [2, 5, 3, T]


@pytest.mark.parametrize(
    "options", [{"num_kv_heads": 1, "projections": "all"}, {"positions": Rotary}], ids=str
)
def test_keys_that_heads_share_or_that_positions_change_are_cached_as_they_are(
    options: dict[str, Any],
) -> None:
    layer = scored(score=Counting, **({"num_kv_heads": H} | options))()
    x, cache = torch.randn(2, T, H * E), Cache()
    steps = [layer(step, mask=Causal(), cache=cache).output for step in x.split((2, 8), dim=1)]
    assert_close(torch.cat(steps, dim=1), layer(x, mask=Causal()).output)
    assert isinstance(layer.score, Counting)
    assert layer.score.counts == [2, T, T]


@pytest.mark.parametrize("name", SUMS)
def test_under_other_masks_than_causal_keys_are_kept(name: str) -> None:
    layer, x = LAYERS[name][0]().double(), torch.randn(2, T, H * E).double()
    cache, window = Cache(), Causal() & SlidingWindow(2)
    steps = [layer(step, mask=window, cache=cache).output for step in x.split((3, 1, 6), dim=1)]
    assert_close(torch.cat(steps, dim=1), layer(x, mask=window).output)
    assert cache.size == KEYS_AND_VALUES


@pytest.mark.parametrize("name", SUMS)
def test_sums_cannot_forget(name: str) -> None:
    """A window would need the keys that the sums have swallowed: refused rather than wrong."""
    layer, x = LAYERS[name][0]().double(), torch.randn(2, T, H * E).double()
    cache = Cache()
    layer(x[:, :3], mask=Causal(), cache=cache)
    with pytest.raises(ValueError, match="cannot hide any"):
        layer(x[:, 3:], mask=Causal() & SlidingWindow(2), cache=cache)


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_never_in_half_precision(name: str) -> None:
    """Sums stay in double or single precision, whatever the layer computes in."""
    layer = LAYERS[name][0]().bfloat16()
    cache = Cache()
    layer(torch.randn(2, 4, H * E).bfloat16(), mask=Causal(), cache=cache)
    assert all(tensor.dtype == torch.float32 for tensor in cache.tensors.values())


def test_observing_does_not_disturb_linear_attention_step_by_step() -> None:
    layer = KernelAttention(8, feature_map=EluPlusOne)
    with record_attention(layer) as calls:
        layer(torch.randn(1, 2, 8), mask=Causal(), cache=Cache())
    assert calls == {"": []}
    with pytest.raises(ValueError, match="KernelAttention has no weights to return"):
        layer(torch.randn(1, 2, 8), mask=Causal(), cache=Cache(), need_weights=True)


def test_a_step_that_fails_leaves_the_cache_as_it_was() -> None:
    layer = ScoredAttention(8, score=partial(Location, max_length=4), normalizer=Softmax)
    cache, steps = Cache(), torch.randn(1, 3, 8)
    layer(steps, mask=Causal(), cache=cache)
    kept = cache.size
    with pytest.raises(ValueError, match="6 keys are more than max_length=4"):
        layer(steps, mask=Causal(), cache=cache)
    assert (cache.length, cache.size) == (3, kept)


@pytest.mark.parametrize("mask", [None, Padding(torch.ones(1, 2, dtype=torch.bool))])
def test_a_cache_is_for_those_who_do_not_look_ahead(mask: Mask | None) -> None:
    layer = ScoredAttention(8, score=ScaledDotProduct, normalizer=Softmax)
    with pytest.raises(ValueError, match="shows later keys"):
        layer(torch.randn(1, 2, 8), mask=mask, cache=Cache())


def test_a_step_of_no_positions_changes_nothing() -> None:
    layer, cache = KernelAttention(8, feature_map=EluPlusOne), Cache()
    padding = [Padding(torch.ones(1, seen, dtype=torch.bool)) for seen in (3, 3)]
    layer(torch.randn(1, 3, 8), mask=Causal() & padding[0], cache=cache)
    output = layer(torch.randn(1, 0, 8), mask=Causal() & padding[1], cache=cache).output
    assert output.shape == (1, 0, 8)
    assert cache.length == 3


def test_steps_write_into_spare_capacity() -> None:
    """Growing by a step copies what is there only when the capacity is used up, which doubles."""
    cache, steps = Cache(), torch.randn(2, 3, 40, 5)
    places = []
    with torch.no_grad():
        for n, step in enumerate(steps.split(1, dim=2), start=1):
            (key,) = cache.extend(key=step)
            assert torch.equal(key, steps[:, :, :n])
            assert cache.size == key.numel() * 4
            places.append(key.data_ptr())
    assert len(set(places)) <= 6


def test_reordered_rows_keep_their_spare_capacity() -> None:
    """Beam search reorders the rows before each step."""
    cache, steps = Cache(), torch.randn(2, 3, 9, 5)
    rows, expected = torch.tensor([1, 1, 0]), steps
    with torch.no_grad():
        cache.extend(key=steps[:, :, :4])
        cache.extend(key=steps[:, :, 4:5])
        for _ in range(2):
            cache.select(rows)
            expected = expected[rows]
        (key,) = cache.extend(key=expected[:, :, 5:6])
    assert torch.equal(key, expected[:, :, :6])
    assert key.stride(1) > key.shape[2] * key.shape[3]


def test_a_cache_from_inference_mode_can_be_continued() -> None:
    layer, x = LAYERS["rotary"][0]().double(), torch.randn(2, T, H * E).double()
    whole, cache = layer(x, mask=Causal()).output, Cache()
    with torch.inference_mode():
        for step in x[:, :6].split(2, dim=1):
            layer(step, mask=Causal(), cache=cache)
    with torch.no_grad():
        rest = layer(x[:, 6:8], mask=Causal(), cache=cache).output
    assert_close(rest, whole[:, 6:8])


def test_steps_after_a_failed_one_overwrite_it() -> None:
    """Also if the failed step wrote into spare capacity."""
    layer = ScoredAttention(8, score=partial(Location, max_length=9), normalizer=Softmax).double()
    x, cache = torch.randn(1, 9, 8).double(), Cache()
    with torch.no_grad():
        for step in x[:, :4].split(2, dim=1):
            layer(step, mask=Causal(), cache=cache)
        with pytest.raises(ValueError, match="more than max_length"):
            layer(torch.randn(1, 6, 8).double(), mask=Causal(), cache=cache)
        rest = layer(x[:, 4:], mask=Causal(), cache=cache).output
    assert_close(rest, layer(x, mask=Causal()).output[:, 4:])


def test_gradients_flow_through_a_cache() -> None:
    """Steps with gradients leave the content of the cache as earlier steps saved it."""
    layer, x = LAYERS["softmax"][0]().double(), torch.randn(2, T, H * E).double()
    cache = Cache()
    steps = [layer(step, mask=Causal(), cache=cache).output for step in x.split(2, dim=1)]
    torch.cat(steps, dim=1).square().sum().backward()
    grads = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    layer(x, mask=Causal()).output.square().sum().backward()
    assert_close(grads, [parameter.grad for parameter in layer.parameters()])
