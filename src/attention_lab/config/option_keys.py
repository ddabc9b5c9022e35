"""The keys of a config group's option, as its YAML file defines them."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from attention_lab.config.compose import config_directory
from attention_lab.config.flatten import flatten

#: The comment at the end of a line ``key: value # comment``.
_COMMENT = re.compile(r"^\s*(?:- )?([\w.]+):.*?\s#\s(.+)$", re.MULTILINE)


class OptionKey(NamedTuple):
    """The default value of a key, as in YAML, and the comment on its line."""

    value: str
    comment: str
    #: Whether the key is a config group inside the option's own, and the value its option.
    is_group: bool = False


def option_keys(group: str, file: Path) -> dict[str, OptionKey]:
    """The keys and inner groups of an option and of the files in its defaults list.

    Keys such as ``_target_`` are left out. A score that is chosen as a mechanism has the keys of
    the layer and those of the score.

    Args:
        group: the config group, such as "attention"; "" for a primary config.
        file: the option's file.

    Raises:
        ValueError: in one line, if a file is not YAML that holds keys and values.
    """
    if group == "attention" and file.parent.name == "score":
        score = {f"score.{name}": key for name, key in option_keys("attention/score", file).items()}
        return option_keys(group, config_directory() / "attention" / "_layer.yaml") | score
    text, content = _read(file)
    keys: dict[str, OptionKey] = {}
    for inner, part in _defaults(group, file, content.pop("defaults", None) or []):
        prefix = f"{inner}." if inner else ""
        if inner:
            keys[inner] = OptionKey(part.stem, "", is_group=True)
        found = option_keys(f"{group}/{inner}" if inner else group, part)
        keys |= {prefix + name: key for name, key in found.items()}
    comments = dict(_COMMENT.findall(text))
    for path, value in flatten(content):
        name = path.rpartition(".")[2]
        if path and not name.startswith("_"):
            keys[path] = OptionKey(_as_yaml(value), comments.get(name, ""))
    return keys


def _read(file: Path) -> tuple[str, dict[Any, Any]]:
    try:
        text = file.read_text("utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read: {' '.join(str(error).split())}") from None
    content = {} if content is None else content
    if not isinstance(content, dict) or not isinstance(content.get("defaults") or [], list):
        raise ValueError(f"{file}: must hold keys and values, and defaults must be a list")
    return text, content


def _defaults(group: str, file: Path, defaults: list[Any]) -> Iterator[tuple[str, Path]]:
    """The files in a defaults list that lie in the option's group, with the groups inside it."""
    for default in defaults:
        for inner, option in default.items() if isinstance(default, Mapping) else [("", default)]:
            name = Path(str(inner), f"{option}.yaml")
            for folder in (file.parent, config_directory() / group):
                if (part := folder / name) != file and part.is_file():
                    yield str(inner), part
                    break


def _as_yaml(value: Any) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return str(dumped).split("\n")[0]  # PyYAML ends a plain value with a line "..."
