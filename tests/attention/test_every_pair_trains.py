"""Every pair of axis members trains together: no NaN, and the loss falls."""

from itertools import combinations, product

import pytest
import torch

from attention_lab.attention import AttentionLayer
from attention_lab.cli.configuration import group_options
from attention_lab.contract.cases import compose_attention
from attention_lab.training.nodes import create

AXES = ("score", "normalizer", "positions", "mask")
WIDTH, STEPS = 16, 20

PAIRS = [
    (f"attention/{one}={first}", f"attention/{other}={second}")
    for one, other in combinations(AXES, 2)
    for first, second in product(
        group_options(f"attention/{one}"), group_options(f"attention/{other}")
    )
]

#: Never above 0, and only what is above 0 gets weight: refused.
DEAD = [(f"attention/score={score}", "attention/normalizer=relu") for score in ("l2", "uniform")]


def test_the_axes_are_as_wide_as_promised() -> None:
    sizes = {axis: len(group_options(f"attention/{axis}")) for axis in AXES}
    assert sizes["score"] >= 8
    assert sizes["normalizer"] >= 8
    assert sizes["positions"] >= 7
    assert sizes["mask"] >= 7  # and padding and packed documents, which come with the data


@pytest.mark.parametrize("pair", DEAD, ids="-".join)
def test_a_pair_that_could_not_see_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="ReLU weighs logits above 0 only"):
        create(compose_attention(None, "scaled_dot_product", *pair))(WIDTH)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair not in DEAD], ids="-".join)
def test_a_pair_trains(pair: tuple[str, str]) -> None:
    node = compose_attention(None, "scaled_dot_product", *pair)
    layer: AttentionLayer = create({**node, "heads": 2})(WIDTH)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    x = torch.randn(8, 12, WIDTH)
    wanted = x.cumsum(1) / torch.arange(1, 13).view(1, 12, 1)  # the mean of what was so far
    losses = []
    for _ in range(STEPS):
        loss = (layer(x).output - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
