"""The hyperparameters of a run, as loggers get them: flat, readable, and named by options."""

from collections.abc import Mapping
from typing import Any

from attention_lab.config.flatten import walk


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config with one short key for each value.

    Each key is the path in the config with ``_`` in place of dots, and a component is named by its
    option or, if it was not chosen as an option, by its class. Left out are the loggers, and the
    copies of ``attention`` in the model.

    >>> hyperparameters({
    ...     "attention": {"_target_": "attention_lab.Layer", "num_heads": 8},
    ...     "data": {"_target_": "attention_lab.Digits"},
    ...     "choices": {"attention": "multi_head"},
    ... })
    {'attention': 'multi_head', 'attention_num_heads': 8, 'data': 'Digits'}

    Args:
        config: the resolved config, of plain values.
    """
    names: Mapping[str, str] = config.get("choices", {})
    sections = {key: it for key, it in config.items() if key not in ("logger", "choices")}
    if "model" in sections:
        sections["model"] = _without(sections["model"], config["attention"])
    flat: dict[str, Any] = {path: names[path] for path in ("experiment", "debug") if path in names}
    for path, value in walk(sections):
        if path in names:
            value = names[path]
        elif isinstance(value, Mapping):
            if "_target_" not in value:
                continue
            value = str(value["_target_"]).rpartition(".")[2]
        if path.rpartition(".")[2] not in ("_target_", "_partial_"):
            flat[_free(path.replace(".", "_"), flat)] = value
    return flat


def _without(node: Any, copied: Any) -> Any:
    """A config node without the nodes in it that are equal to another."""
    if not isinstance(node, Mapping):
        return node
    return {key: _without(it, copied) for key, it in node.items() if it != copied}


def _free(key: str, taken: Mapping[str, Any]) -> str:
    """A key that is not taken, with further underscores if necessary."""
    while key in taken:
        key += "_"
    return key
