"""Masks: predicates, their composition, and the tensors that they make.

Those that are from papers are compared with the papers' words on single queries and keys.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attention_lab.attention import (
    BlockSparse,
    Causal,
    Dense,
    Dilated,
    Documents,
    GlobalTokens,
    Mask,
    NoMask,
    Padding,
    PrefixLM,
    SlidingWindow,
    render,
)

CPU = torch.device("cpu")
quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
VALID = torch.tensor([[True, True, True, False], [False, True, False, True]])


@dataclass(frozen=True)
class HeadSeesOwnKey(Mask):
    """A mask of a user's own: head h may attend to key h alone."""

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return head == key


def dense(mask: Mask, queries: int = 3, keys: int = 4) -> Tensor:
    """(2, 2, queries, keys), broadcast."""
    return mask.dense(2, 2, queries, keys, CPU).expand(2, 2, queries, keys)


def test_padding_shows_real_keys() -> None:
    mask = dense(Padding(VALID))
    for b in range(2):
        assert (mask[b] == VALID[b]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_padding_must_be_bool(dtype: torch.dtype) -> None:
    """A tensor of lengths or of 0.0 and −inf would be misunderstood in silence."""
    with pytest.raises((TypeError, ValueError), match=str(dtype)):
        Padding(torch.ones(2, 4, dtype=dtype))


@pytest.mark.parametrize("shape", [(4,), (2, 1, 4)])
def test_padding_must_be_batch_by_keys(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(.*4.*\)"):
        Padding(torch.ones(shape, dtype=torch.bool))


def test_a_mask_of_ones_own() -> None:
    mask = dense(HeadSeesOwnKey())
    for h in range(2):
        assert (mask[:, h] == (torch.arange(4) == h)).all()


def test_nested_composition() -> None:
    a, b, c = Causal(), Padding(VALID), HeadSeesOwnKey()
    expected = (dense(a) | dense(b)) & (dense(c) | dense(a) & dense(b))
    assert torch.equal(dense((a | b) & (c | a & b)), expected)


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        (Causal(), (1, 1, 3, 4)),
        (Padding(VALID), (2, 1, 1, 4)),
        (HeadSeesOwnKey(), (1, 2, 1, 4)),
        (Causal() & Padding(VALID), (2, 1, 3, 4)),
        (Causal() | HeadSeesOwnKey(), (1, 2, 3, 4)),
    ],
    ids=["causal", "padding", "own", "and", "or"],
)
def test_dense_spends_nothing_on_what_the_mask_ignores(mask: Mask, shape: tuple[int, ...]) -> None:
    made = mask.dense(2, 2, 3, 4, CPU)
    assert made.shape == shape
    assert made.dtype == torch.bool


def test_dense_is_made_where_it_is_needed() -> None:
    assert Causal().dense(2, 2, 3, 4, torch.device("meta")).device.type == "meta"


def test_masks_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Padding(VALID).valid = ~VALID  # type: ignore[misc]


def test_a_picture_shows_who_sees_whom() -> None:
    assert render(SlidingWindow(2) | GlobalTokens(1), 4, 3) == "\n".join(
        ("■ ■ ■", "■ ■ ·", "■ ■ ■", "■ · ■")
    )
    assert render(NoMask(), 1, 2) == "■ ■"


def check_mask(
    mask: Mask, is_visible: Callable[[int, int], bool], queries: int, keys: int, start: int
) -> None:
    """A mask equals the predicate, and its rows from ``start`` on equal those of the whole mask."""
    whole = mask.dense(2, 3, queries, keys, CPU).expand(2, 3, queries, keys)
    wanted = torch.tensor([[is_visible(i, j) for j in range(keys)] for i in range(queries)])
    assert whole.dtype == torch.bool
    assert (whole == wanted).all()
    rows = mask.dense(2, 3, queries - start, keys, CPU, start=start)
    assert (rows == whole[:, :, start:]).all()


@st.composite
def lengths(draw: st.DrawFn) -> tuple[int, int, int]:
    """(queries, keys, start)."""
    queries = draw(st.integers(1, 12))
    return queries, draw(st.integers(1, 12)), draw(st.integers(0, queries - 1))


SIZE = st.integers(1, 7)


@quick
@given(sizes=lengths(), window=SIZE)
def test_sliding_window(sizes: tuple[int, int, int], window: int) -> None:
    """Beltagy et al. 2020, §3.1: w keys up to one's own, or w/2 on each side of it."""
    check_mask(SlidingWindow(window), lambda i, j: j in range(i - window + 1, i + 1), *sizes)
    odd = 2 * window - 1
    check_mask(SlidingWindow(odd, centred=True), lambda i, j: abs(i - j) < window, *sizes)


@quick
@given(sizes=lengths(), window=SIZE, dilation=SIZE)
def test_dilated(sizes: tuple[int, int, int], window: int, dilation: int) -> None:
    check_mask(
        Dilated(window, dilation),
        lambda i, j: any(j == i - n * dilation for n in range(window)),
        *sizes,
    )


@quick
@given(sizes=lengths(), prefix=SIZE)
def test_prefix(sizes: tuple[int, int, int], prefix: int) -> None:
    """Raffel et al. 2020, fig. 4."""
    check_mask(PrefixLM(prefix), lambda i, j: j < prefix or j <= i, *sizes)


@quick
@given(sizes=lengths(), block=SIZE, data=st.data())
def test_block_sparse(sizes: tuple[int, int, int], block: int, data: st.DataObject) -> None:
    """Child et al. 2019, §4.3: ⌊j/l⌋ = ⌊i/l⌋, or j mod l ∈ {l − c, …, l − 1}."""
    summary = data.draw(st.integers(1, block))
    check_mask(
        BlockSparse(block, summary),
        lambda i, j: i // block == j // block or j % block in range(block - summary, block),
        *sizes,
    )


@quick
@given(sizes=lengths(), count=SIZE, window=SIZE)
def test_composition(sizes: tuple[int, int, int], count: int, window: int) -> None:
    tokens, near = GlobalTokens(count), SlidingWindow(window)
    check_mask(Causal(), lambda i, j: j <= i, *sizes)
    check_mask(tokens, lambda i, j: i < count or j < count, *sizes)
    check_mask(tokens | near, lambda i, j: i < count or j < count or i - window < j <= i, *sizes)
    check_mask(
        tokens & Causal() & near,
        lambda i, j: (i < count or j < count) and i - window < j <= i,
        *sizes,
    )
    check_mask(NoMask(), lambda i, j: True, *sizes)
    check_mask(NoMask() & near, lambda i, j: i - window < j <= i, *sizes)
    check_mask(NoMask() | near, lambda i, j: True, *sizes)


@quick
@given(sizes=lengths(), seed=st.integers(0, 1000))
def test_documents(sizes: tuple[int, int, int], seed: int) -> None:
    length, _, start = sizes
    ids = torch.randint(0, 3, (2, length), generator=torch.Generator().manual_seed(seed))
    mask = Documents(ids)
    mask.check(2, 3, length, length)
    whole = mask.dense(2, 3, length, length, CPU).expand(2, 3, length, length)
    for b, h, i, j in np.ndindex(2, 3, length, length):
        assert whole[b, h, i, j].item() == (ids[b, i] == ids[b, j]).item()
    rows = mask.dense(2, 3, length - start, length, CPU, start=start)
    assert (rows == whole[:, :, start:]).all()


@quick
@given(sizes=lengths(), seed=st.integers(0, 1000))
def test_documents_in_cross_attention(sizes: tuple[int, int, int], seed: int) -> None:
    queries, keys, _ = sizes
    generator = torch.Generator().manual_seed(seed)
    of_queries, of_keys = (
        torch.randint(0, 3, (2, n), generator=generator) for n in (queries, keys)
    )
    mask = Documents(of_keys, of_queries)
    mask.check(2, 3, queries, keys)
    whole = mask.dense(2, 3, queries, keys, CPU).expand(2, 3, queries, keys)
    assert torch.equal(whole[:, 0], of_queries[:, :, None] == of_keys[:, None])
    with pytest.raises(ValueError, match="document ids"):
        mask.check(2, 3, queries + 1, keys)
    with pytest.raises(ValueError, match="document ids"):
        mask.check(2, 3, queries, keys + 1)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (1, 1, 4, 5)])
def test_dense(shape: tuple[int, ...]) -> None:
    visible = torch.rand(shape) < 0.5
    mask = Dense(visible)
    mask.check(2, 3, 4, 5)
    assert (mask.dense(2, 3, 4, 5, CPU) == visible.expand(2, 3, 4, 5)).all()
    assert (mask.dense(2, 3, 2, 5, CPU, start=2) == visible.expand(2, 3, 4, 5)[:, :, 2:]).all()


@pytest.mark.parametrize("mask", [Dense(torch.ones(2, 1, 4, 5) > 0), Padding(torch.ones(2, 5) > 0)])
@pytest.mark.parametrize("compose", [lambda m: m, lambda m: Causal() & m, lambda m: m | Causal()])
@pytest.mark.parametrize("sizes", [(3, 1, 4, 5), (2, 1, 4, 6)])
def test_masks_must_fit(
    mask: Mask, compose: Callable[[Mask], Mask], sizes: tuple[int, int, int, int]
) -> None:
    compose(mask).check(2, 1, 4, 5)
    with pytest.raises(ValueError, match=str(sizes[0] if sizes[0] != 2 else sizes[3])):
        compose(mask).check(*sizes)


@pytest.mark.parametrize("heads", [2, 4, 9])
def test_a_mask_for_other_heads_is_refused(heads: int) -> None:
    mask = Dense(torch.ones(1, 3, 4, 5, dtype=torch.bool))
    mask.check(2, 3, 4, 5)
    with pytest.raises(ValueError, match=rf"{heads} heads.*\(1, 3, 4, 5\)"):
        mask.check(2, heads, 4, 5)


PADDING = Padding(torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("mask", "is_causal", "name"),
    [
        (Causal(), True, None),
        (SlidingWindow(3), True, None),
        (SlidingWindow(3, centred=True), False, None),
        (Dilated(3), True, None),
        (PrefixLM(2), False, None),
        (NoMask(), False, None),
        (PADDING, False, "Padding((1, 2))"),
        (Causal() & PADDING, True, "And(left=Causal(), right=Padding((1, 2)))"),
        (Causal() | GlobalTokens(), False, "Or(left=Causal(), right=GlobalTokens(count=1))"),
    ],
)
def test_a_mask_knows_whether_it_is_causal(mask: Mask, is_causal: bool, name: str | None) -> None:
    """Its repr fits into one short line."""
    assert mask.is_causal == is_causal
    assert name is None or repr(mask) == name


def test_documents_must_fit() -> None:
    for sizes in [(3, 1, 5, 5), (2, 1, 5, 6), (2, 1, 6, 5)]:
        with pytest.raises(ValueError, match="document ids"):
            Documents(torch.zeros(2, 5, dtype=torch.long)).check(*sizes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(torch.zeros(1, 1, 4, 5)), "float32"),
        (lambda: Dense(torch.zeros(4, 5) > 0), r"\(4, 5\)"),
        (lambda: Documents(torch.zeros(2, 5)), "float32"),
        (lambda: Documents(torch.zeros(5).long()), r"\(5,\)"),
        (lambda: SlidingWindow(0), "window"),
        (lambda: SlidingWindow(4, centred=True), "odd"),
        (lambda: Dilated(0, 1), "window"),
        (lambda: Dilated(1, 0), "dilation"),
        (lambda: PrefixLM(0), "prefix"),
        (lambda: BlockSparse(0, 1), "block_size"),
        (lambda: BlockSparse(4, 0), "summary"),
        (lambda: BlockSparse(4, 5), "summary"),
        (lambda: GlobalTokens(0), "count"),
    ],
)
def test_bad_masks(make: Callable[[], Mask], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
