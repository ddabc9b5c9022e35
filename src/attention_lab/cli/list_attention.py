"""The facts about a mechanism in `attention-lab list attention NAME`, from its `info`."""

from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from attention_lab.attention import AttentionLayer, MechanismInfo
from attention_lab.config.components import check_node, create
from attention_lab.config.compose import composed

#: The embed_dim of a layer that is made to read its `info`; common numbers of heads divide it.
WIDTH = 64


def facts(name: str, extra: Path | None) -> list[tuple[str, str]]:
    """Labelled facts about a mechanism, or the reason why it cannot be used.

    Args:
        name: the mechanism, an option of ``attention``.
        extra: the user's own config directory.
    """
    try:
        node: dict[str, Any] = composed([], extra, f"attention/{name}").get("attention", {})
        check_node(name, node, AttentionLayer)
        layer: AttentionLayer = create(node)(WIDTH)
    except (ValueError, HydraException, OmegaConfBaseException) as error:  # a user's mechanism
        return [("cannot be used", " ".join(str(error).split()))]
    return _facts(layer.info)


def _facts(info: MechanismInfo) -> list[tuple[str, str]]:
    symbols = "".join(f", {letter} {argument}" for letter, argument in info.symbols.items())
    return [
        ("formula", info.formula),
        ("paper", info.paper),
        ("causal", "yes, and decodes step by step with a cache" if info.causal else "no"),
        ("cross-attention", _yes_or_no(info.cross_attention)),
        ("attention weights", _yes_or_no(info.weights)),
        ("fewer key heads", "yes: num_kv_heads" if info.grouped_heads else "no"),
        ("backends", ", ".join(info.backends)),
        ("time", f"{info.time}, with L queries, S keys, d head_dim{symbols}"),
        ("memory", info.memory),
        ("cache", info.state if info.causal else "none"),
    ]


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"
