"""What to say about a key that a config does not have: the option that has it, or how it is spelt.

Only configs are composed here; nothing heavy is imported.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from attention_lab.config.compose import Group, group_options, unresolved
from attention_lab.config.flatten import walk
from attention_lab.config.overrides import chosen_options, own_directory, value_of
from attention_lab.spelling import closest, listed, nearest

#: Where the keys of a launcher are.
LAUNCHER = "hydra.launcher."
#: How many options or keys a hint names at most.
NAMED = 3


def missing_key(key: str, arguments: Sequence[str]) -> str:
    """What to say about a key that is not there.

    Args:
        key: as it was written, without its value: "attention.head", or "attention/mask".
        arguments: those of the command.
    """
    extra, nothing = own_directory(arguments), f"{key}: there is no such key"
    if key.startswith(LAUNCHER):
        return _of_a_launcher(key, value_of("hydra/launcher", arguments) or "isolated", extra)
    try:
        config, groups = unresolved(chosen_options(arguments, without=key), extra)
    except (HydraException, OmegaConfBaseException):
        return nothing  # something else is wrong, too
    return (
        _group_without_its_path(key, value_of(key, arguments), groups, extra)
        or _mechanism_for_a_place(key, value_of(key, arguments), config, extra)
        or _of_another_option(key, groups, extra)
        or nothing + _spelling(key.replace("/", "."), config)
    )


def _of_a_launcher(key: str, chosen: str, extra: Path | None) -> str:
    """What to say about a key that the launcher of the command does not have."""
    name = key.removeprefix(LAUNCHER)
    files = group_options("hydra/launcher", extra)
    known = {option: list(_keys_of_option(option, files)) for option in files}
    own = known.get(chosen, [])
    others = [f"hydra/launcher={option}" for option, keys in known.items() if name in keys]
    hint = f"; {' or '.join(others)} has it" if others else nearest(name, own)
    return f"{key}: hydra/launcher={chosen} has no such key{hint}"


def _keys_of_option(option: str, files: Mapping[str, Path]) -> Iterator[str]:
    """The keys in an option's file, and in those of the same group that it builds on."""
    content = yaml.safe_load(files[option].read_text("utf-8"))
    for other in content.pop("defaults", []):
        if other in files:
            yield from _keys_of_option(other, files)
    yield from (key for key in content if not key.startswith("_"))


def _group_without_its_path(
    key: str, value: str, groups: Sequence[Group], extra: Path | None
) -> str:
    for group in groups:
        if group.choice.endswith(f"/{key}"):
            is_option = set(value.split(",")) <= set(group_options(group.name, extra))
            meant = f"{group.choice}={value}" if is_option else group.choice
            return f"there is no group {key}; did you mean {meant}?"
    return ""


def _mechanism_for_a_place(
    key: str, value: str, config: Mapping[str, Any], extra: Path | None
) -> str:
    """Says how a mechanism gets into a hybrid stack, which has none before one is added."""
    *around, _ = key.split(".")
    place = _at(config, around[:-1])
    if not around or not isinstance(place, Mapping) or around[-1] not in place:
        return ""
    if set(value.split(",")) <= set(group_options("attention", extra)):
        return f"{key}: there is no such key; did you mean +attention@{key}={value}?"
    return ""


def _of_another_option(key: str, groups: Sequence[Group], extra: Path | None) -> str:
    """Names the options that have the key, of the innermost group around it that has any."""
    path = key.replace("/", ".")
    around = [group for group in groups if path.startswith(f"{group.path}.")]
    for group in sorted(around, key=lambda group: len(group.path), reverse=True):
        rest = path.removeprefix(f"{group.path}.")
        if owners := list(_owners(group.name, rest, extra)):
            has = " or ".join(owners[:NAMED])
            return f"{key}: {group} has no such key; {group.choice}={has} has it"
    return ""


def _owners(group: str, path: str, extra: Path | None) -> Iterator[str]:
    """The options of a group that have a key."""
    options, last = group_options(group, extra), f"{path.rpartition('.')[2]}:"
    directories = {file.parent for file in options.values()}
    files = (file for directory in directories for file in directory.rglob("*.yaml"))
    if not any(last in file.read_text("utf-8") for file in files):
        return  # composing each option would be slow, and for nothing
    for option in options:
        try:
            with warnings.catch_warnings(action="ignore"):  # of how an option would do on its own
                config, _ = unresolved([], extra, f"{group}/{option}")
        except (HydraException, OmegaConfBaseException):
            continue
        if any(known == path for known in _keys(_at(config, group.split("/")))):
            yield option


def _at(config: Any, path: Sequence[str]) -> Any:
    for part in path:
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _keys(config: Any) -> Iterator[str]:
    """The keys of a config at every level, without those like ``_target_``."""
    return (path for path, _ in walk(config) if path and "._" not in f".{path}")


def _spelling(key: str, config: Mapping[str, Any]) -> str:
    """The key that was meant, part by part; else what there is where the first part is unknown."""
    known = list(_keys(config))
    if key in known:
        return ""  # in some jobs of a sweep, perhaps, and not in others
    if inner := [name for name in known if name.endswith(f".{key}")]:
        return f"; did you mean {' or '.join(inner[:NAMED])}?"
    meant: list[str] = []
    for part in key.split("."):
        section = list(_keys_at(config, meant))
        close = part if part in section else closest(part, section)
        if close is None:
            return listed(".".join([*meant, name]) for name in section)
        meant.append(close)
    return f"; did you mean {'.'.join(meant)}?"


def _keys_at(config: Mapping[str, Any], path: Sequence[str]) -> Iterator[str]:
    return (key for key in _keys(_at(config, path)) if "." not in key)
