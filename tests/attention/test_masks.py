"""Masks: predicates, their composition, and the tensors that they make."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from attention_lab.attention import (
    Both,
    Causal,
    Either,
    Everything,
    GlobalTokens,
    Mask,
    Padding,
    SlidingWindow,
    picture,
)

CPU = torch.device("cpu")
VALID = torch.tensor([[True, True, True, False], [False, True, False, True]])


@dataclass(frozen=True)
class HeadSeesOwnKey(Mask):
    """A mask of a user's own: head h may look at key h alone."""

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return head == key


def dense(mask: Mask, queries: int = 3, keys: int = 4) -> Tensor:
    """(2, 2, queries, keys), broadcast."""
    return mask.dense(2, 2, queries, keys, CPU).expand(2, 2, queries, keys)


@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (3, 5), (5, 3), (1, 4), (4, 1)])
def test_causal_compares_positions_from_the_start(queries: int, keys: int) -> None:
    mask = dense(Causal(), queries, keys)
    for i in range(queries):
        for j in range(keys):
            assert (mask[:, :, i, j] == (j <= i)).all()


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


def test_and() -> None:
    mask = Causal() & Padding(VALID)
    assert isinstance(mask, Both)
    assert torch.equal(dense(mask), dense(Causal()) & dense(Padding(VALID)))


def test_or() -> None:
    mask = Causal() | Padding(VALID)
    assert isinstance(mask, Either)
    assert torch.equal(dense(mask), dense(Causal()) | dense(Padding(VALID)))


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
    assert picture(SlidingWindow(2) | GlobalTokens(1), 4, 3) == "\n".join(
        ("■ ■ ■", "■ ■ ·", "■ ■ ■", "■ · ■")
    )
    assert picture(Everything(), 1, 2) == "■ ■"
