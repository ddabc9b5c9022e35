"""The table of `attention-lab list attention`, made from each mechanism's `info`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attention_lab.attention import AttentionLayer, MechanismInfo
from attention_lab.config.components import check_node, create
from attention_lab.config.compose import composed, group_options, option_description

#: The parts of a mechanism, each a config group: ``attention/score=cosine`` replaces one.
AXES = ("score", "normalizer", "positions", "mask", "feature_map")
HEADER = (
    "",
    "formula",
    "paper",
    "causal",
    "weights",
    "num_kv_heads",
    "cross",
    "backends",
    "time",
    "memory",
)
WIDTH = 64
NOTES = """
causal     can be causal, and then decodes step by step with a cache of the size `state`
weights    can return its attention weights
num_kv_heads   fewer key than query heads are possible: attention.num_kv_heads=2
cross      attends to another sequence, too, as a decoder does to the source
Costs grow with L queries, S keys, their width d, and a mechanism's own sizes: a hidden units, f
features, K slots, m landmarks, r of a latent. Every mechanism takes padding."""


def table(extra: Path | None) -> Iterator[str]:
    """Yield the lines of the table: all mechanisms, then the options of each part.

    Args:
        extra: the user's own config directory.
    """
    options = group_options("attention", extra)
    rows = [(*HEADER, "state"), *(_row(name, file, extra) for name, file in options.items())]
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    yield "attention="
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        yield "  " + "  ".join(cells).rstrip()
    yield NOTES
    for axis in AXES:
        parts = group_options(f"attention/{axis}", extra)
        width = max(map(len, parts))
        yield f"\nattention/{axis}="
        yield from (
            f"  {name:<{width}}  {option_description(file)}" for name, file in parts.items()
        )


def _row(name: str, file: Path, extra: Path | None) -> tuple[str, ...]:
    node: dict[str, Any] = composed([], extra, f"attention/{name}").get("attention", {})
    if "_target_" not in node:
        return name, option_description(file)
    try:
        check_node(name, node, AttentionLayer)
        layer: AttentionLayer = create(node)(WIDTH)
    except ValueError as error:  # of a user's mechanism: the others are still listed
        return name, f"cannot be used: {error}"
    can: MechanismInfo = layer.info
    flags = (can.causal, can.weights, can.grouped_heads, can.cross_attention)
    return (
        name,
        can.formula,
        can.paper,
        *("yes" if flag else "-" for flag in flags),
        " ".join(can.backends),
        can.time,
        can.memory,
        can.state or "-",
    )
