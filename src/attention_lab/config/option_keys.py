"""The keys of a config group's option, as its YAML file defines them."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from attention_lab.config.flatten import flatten

#: The comment at the end of a line ``key: value # comment``.
_COMMENT = re.compile(r"^\s*(?:- )?([\w.]+):.*?\s#\s(.+)$", re.MULTILINE)


class OptionKey(NamedTuple):
    """The default value of a key, as in YAML, and the comment on its line."""

    value: str
    comment: str


def option_keys(file: Path) -> dict[str, OptionKey]:
    """The keys of an option and of the files in its defaults list, without ``_target_``.

    Args:
        file: the option's file.
    """
    text = file.read_text("utf-8")
    content = yaml.safe_load(text) or {}
    keys: dict[str, OptionKey] = {}
    for prefix, part in _defaults(file, content.pop("defaults", [])):
        keys |= {prefix + name: key for name, key in option_keys(part).items()}
    comments = dict(_COMMENT.findall(text))
    for path, value in flatten(content):
        name = path.rpartition(".")[2]
        if path and not name.startswith("_"):
            keys[path] = OptionKey(_as_yaml(value), comments.get(name, ""))
    return keys


def mechanism_keys(file: Path) -> dict[str, OptionKey]:
    """The keys of a mechanism; that of a score has the keys of the layer and of the score."""
    if file.parent.name != "score":
        return option_keys(file)
    score = {f"score.{name}": key for name, key in option_keys(file).items()}
    return option_keys(file.parents[1] / "_layer.yaml") | score


def _defaults(file: Path, defaults: list[Any]) -> Iterator[tuple[str, Path]]:
    """The files in a defaults list that lie in the option's own group, with their packages."""
    for default in defaults:
        named = default.items() if isinstance(default, Mapping) else [("", default)]
        for group, option in named:
            part = file.parent / str(group) / f"{option}.yaml"
            if part.is_file():
                yield f"{group}." if group else "", part


def _as_yaml(value: Any) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return str(dumped).split("\n")[0]  # PyYAML ends a plain value with a line "..."
