"""The mechanisms that the contract tests: all options of ``conf/attention/`` and its groups."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attention_lab.attention import BACKENDS, AttentionLayer
from attention_lab.config.components import create
from attention_lab.config.compose import composed, group_options, subgroups

HEADS, KV_HEADS, HEAD_DIM, DROPOUT = 4, 2, 4, 0.25
#: Values for arguments that many mechanisms share: grouped heads, which need all projections, and
#: dropout, which must have no effect in eval. A mechanism sets its own in ``contract_arguments``.
SIZES = {
    "num_heads": HEADS,
    "num_kv_heads": KV_HEADS,
    "projections": "all",
    "dropout": DROPOUT,
}
WIDTH = HEADS * HEAD_DIM
#: The mechanism whose parts are varied one at a time, where it has such a part.
BASE = "scaled_dot_product"

Node = Mapping[str, Any]


class Case(NamedTuple):
    """A configured mechanism on one backend and one device."""

    name: str
    node: Node
    device: str = "cpu"

    def layer(self, kdim: int | None = None) -> AttentionLayer:
        layer: AttentionLayer = create(self.node)(WIDTH, kdim)
        return layer.to(self.device, torch.float64).eval()


@cache
def compose_attention(extra: Path | None, option: str, *overrides: str) -> Node:
    """The composed config node of a mechanism."""
    attention: Node = composed(overrides, extra, f"attention/{option}")["attention"]
    return attention


def nodes(extra: Path | None, only: str | None) -> Iterator[tuple[str, Node]]:
    """Every mechanism, and every part of one, by name."""
    mechanisms = group_options("attention", extra)
    for option in [only] if only else mechanisms:
        yield option, compose_attention(extra, option)
    for axis in subgroups("attention", extra) if only is None else ():
        has_axis = (it for it in (BASE, *mechanisms) if axis in compose_attention(extra, it))
        base = next(has_axis, None)
        for option in group_options(f"attention/{axis}", extra) if base else ():
            yield f"{axis}={option}", compose_attention(extra, base, f"attention/{axis}={option}")


@cache
def cases(extra: Path | None, only: str | None, device: str = "cpu") -> list[Case]:
    """Every mechanism in the suite's sizes, on each backend that trains it on the device."""
    found: dict[str, Case] = {}
    for name, node in nodes(extra, only):
        node = {**node, **{key: size for key, size in SIZES.items() if key in node}}
        node.pop("mask", None)  # applied by the layer, not by the mechanism: has its own test
        node.update(create(node)(WIDTH).info.contract_arguments)
        layer = create(node)(WIDTH)
        for backend in _backends(node, layer, device):
            variant = node if backend is None else {**node, "backend": backend}
            label = name if backend is None else f"{name}-{backend}"
            found.setdefault(json.dumps(variant, sort_keys=True), Case(label, variant, device))
    return list(found.values())


def _backends(node: Node, layer: AttentionLayer, device: str) -> Iterable[str | None]:
    """The values of ``backend`` that train on the device; None if the mechanism has no backends."""
    if "backend" not in node:
        return [None]
    trainable = [backend.name for backend in BACKENDS if device in backend.trains_on]
    return [name for name in layer.info.backends if name in trainable]
