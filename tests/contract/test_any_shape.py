"""Every mechanism on whatever Hypothesis draws: shapes, strides, masks with empty rows, dtypes."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from attention_lab.attention import AttentionInputs, Dense, Padding
from attention_lab.contract.cases import HEAD_DIM, HEADS, KV_HEADS, Case, cases


class Drawn(NamedTuple):
    """Sizes of a problem, and where its tensors come from."""

    batch: int
    queries: int
    keys: int
    dtype: torch.dtype
    transposed: bool
    by_head: bool
    seed: int


DRAWN = st.builds(
    Drawn,
    batch=st.integers(1, 3),
    queries=st.integers(1, 9),
    keys=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    transposed=st.booleans(),
    by_head=st.booleans(),
    seed=st.integers(0, 2**16),
)


def strided(drawn: Drawn, num_heads: int, length: int) -> Tensor:
    """(B, heads, length, E), as projections leave it or laid out at random."""
    if drawn.transposed:  # heads innermost but one, as after splitting a projection
        flat = torch.randn(drawn.batch, length, num_heads, HEAD_DIM, dtype=drawn.dtype)
        return flat.transpose(1, 2)
    wide = torch.randn(drawn.batch, num_heads, 2 * length, HEAD_DIM + 1, dtype=drawn.dtype)
    return wide[:, :, ::2, 1:]


@pytest.mark.parametrize("case", cases(None, None), ids=lambda case: case.name)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(drawn=DRAWN)
def test_any_problem(case: Case, drawn: Drawn) -> None:
    """Layout means nothing, examples are alone, and a row that sees nothing is zero."""
    torch.manual_seed(drawn.seed)
    layer = case.layer().to(drawn.dtype)
    if not layer.info.cross_attention:
        drawn = drawn._replace(queries=drawn.keys)
    query = strided(drawn, HEADS, drawn.queries)
    key, value = (strided(drawn, layer.num_kv_heads, drawn.keys) for _ in range(2))
    if layer.info.causal:
        num_heads = HEADS if drawn.by_head else 1
        visible = torch.rand(drawn.batch, num_heads, drawn.queries, drawn.keys) < 0.6
        mask = Dense(visible)
        alone = [Dense(row.unsqueeze(0)) for row in visible]
    else:
        valid = torch.rand(drawn.batch, drawn.keys) < 0.6
        visible = valid[:, None, None].expand(-1, 1, drawn.queries, -1)
        mask = Padding(valid)
        alone = [Padding(row.unsqueeze(0)) for row in valid]
    output, _ = layer.attend(AttentionInputs(query, key, value, mask, False))
    assert output.dtype == drawn.dtype
    assert not output.masked_select(~visible.any(-1, keepdim=True)).any()
    for number, its_mask in enumerate(alone):
        one = slice(number, number + 1)
        inputs = (x[one].contiguous() for x in (query, key, value))
        assert_close(layer.attend(AttentionInputs(*inputs, its_mask, False))[0], output[one])


def test_grouped_heads_are_among_them() -> None:
    assert any(case.layer().num_kv_heads == KV_HEADS < HEADS for case in cases(None, None))
