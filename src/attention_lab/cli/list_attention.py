"""The table of `attention-lab list attention`, made from each mechanism's `info`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attention_lab.attention import AttentionLayer, MechanismInfo
from attention_lab.config.components import check_node, create
from attention_lab.config.compose import composed, group_options, option_description, subgroups

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
#: Any width that common numbers of heads divide: layers are made only to read their `info`.
WIDTH = 64
NOTES = """
causal        can be causal, and then decodes step by step with a cache of the size `state`
weights       can return its attention weights
num_kv_heads  fewer key than query heads are possible: attention.num_kv_heads=2
cross         attends to another sequence, too, as a decoder does to the source
Costs grow with L queries, S keys, the size d of a head, and a mechanism's own arguments:
{symbols}. Every mechanism takes padding."""


def table(extra: Path | None) -> Iterator[str]:
    """Yield the lines of the table: all mechanisms, then the options of each part.

    Args:
        extra: the user's own config directory.
    """
    infos = {
        name: _info(name, file, extra) for name, file in group_options("attention", extra).items()
    }
    rows = [(*HEADER, "state"), *(_row(name, info) for name, info in infos.items())]
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    yield "attention="
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        yield "  " + "  ".join(cells).rstrip()
    yield NOTES.format(symbols=_symbols(infos.values()))
    for axis in subgroups("attention", extra):
        parts = group_options(f"attention/{axis}", extra)
        width = max(map(len, parts), default=0)
        yield f"\nattention/{axis}="
        yield from (
            f"  {name:<{width}}  {option_description(file)}" for name, file in parts.items()
        )


def _info(name: str, file: Path, extra: Path | None) -> MechanismInfo | str:
    """The data on a mechanism, or why there are none."""
    node: dict[str, Any] = composed([], extra, f"attention/{name}").get("attention", {})
    if "_target_" not in node:
        return option_description(file)
    try:
        check_node(name, node, AttentionLayer)
        layer: AttentionLayer = create(node)(WIDTH)
    except ValueError as error:  # of a user's mechanism: the others are still listed
        return f"cannot be used: {error}"
    return layer.info


def _row(name: str, info: MechanismInfo | str) -> tuple[str, ...]:
    if isinstance(info, str):
        return name, info
    flags = (info.causal, info.weights, info.grouped_heads, info.cross_attention)
    return (
        name,
        info.formula,
        info.paper,
        *("yes" if flag else "-" for flag in flags),
        " ".join(info.backends),
        info.time,
        info.memory,
        info.state or "-",
    )


def _symbols(infos: Iterable[MechanismInfo | str]) -> str:
    """The letters in the costs with the arguments that they stand for: "a = hidden_dim, …"."""
    symbols = {
        f"{letter} = {argument}"
        for info in infos
        if isinstance(info, MechanismInfo)
        for letter, argument in info.symbols.items()
    }
    return ", ".join(sorted(symbols))
