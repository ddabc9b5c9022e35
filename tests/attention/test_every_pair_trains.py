"""Every pair of axis members trains together: no NaN, the loss falls, and all of it learns."""

from itertools import combinations, product
from typing import Any

import pytest
import torch

from attention_lab.attention import AttentionLayer, Location, Uniform
from attention_lab.config.components import create
from attention_lab.config.compose import group_options
from attention_lab.contract.cases import compose_attention

AXES = ("score", "normalizer", "positions", "mask")
WIDTH, STEPS = 16, 20

PAIRS = [
    (f"attention/{one}={first}", f"attention/{other}={second}")
    for one, other in combinations(AXES, 2)
    for first, second in product(
        group_options(f"attention/{one}"), group_options(f"attention/{other}")
    )
]

#: Refused, with a reason: one of the two would do nothing.
DEAD = {
    ("attention/score=l2", "attention/normalizer=relu"): "positive logits only",
    (
        "attention/score=none",
        "attention/normalizer=relu",
    ): "positive logits only",
    **{
        ("attention/score=none", f"attention/positions={positions}"): "would change nothing"
        for positions in ("learned", "rotary", "sinusoidal")
    },
}


def composed_pair(pair: tuple[str, str]) -> dict[str, Any]:
    """The config of a pair, of which each member is composed once for all its pairs."""
    node = dict(compose_attention(None, "scaled_dot_product"))
    for option in pair:
        axis = option.removeprefix("attention/").partition("=")[0]
        node[axis] = compose_attention(None, "scaled_dot_product", option)[axis]
    return node


def test_a_pair_is_composed_from_its_members() -> None:
    pair = ("attention/score=general", "attention/mask=sliding_window")
    assert composed_pair(pair) == compose_attention(None, "scaled_dot_product", *pair)


def test_the_axes_are_as_wide_as_promised() -> None:
    sizes = {axis: len(group_options(f"attention/{axis}")) for axis in AXES}
    assert sizes["score"] >= 8
    assert sizes["normalizer"] >= 8
    assert sizes["positions"] >= 7
    assert sizes["mask"] >= 7  # and padding and packed documents, which come with the data


@pytest.mark.parametrize("pair", DEAD, ids="-".join)
def test_a_pair_that_could_not_see_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=DEAD[pair]):
        create(composed_pair(pair))(WIDTH)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair not in DEAD], ids="-".join)
def test_a_pair_trains(pair: tuple[str, str]) -> None:
    layer: AttentionLayer = create({**composed_pair(pair), "num_heads": 2})(WIDTH)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    x = torch.randn(8, 12, WIDTH)
    wanted = x.cumsum(1) / torch.arange(1, 13).view(1, 12, 1)  # the mean of what was so far
    losses, moved = [], set()
    for _ in range(STEPS):
        loss = (layer(x).output - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in layer.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), name
                moved |= {name} if parameter.grad.any() else set()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
    # Whatever an axis learns, it learns: an axis that nothing listens to would not.
    assert moved >= {name for name, _ in layer.named_parameters()} - idle(layer)


def idle(layer: AttentionLayer) -> set[str]:
    """The parameters that may have nothing to say, by what the score is."""
    queries, keys = "query_projection.weight", "key_projection.weight"
    if isinstance(layer.score, Uniform):
        return {queries, keys, "normalizer.log_temperature"}
    return {keys} if isinstance(layer.score, Location) else set()
