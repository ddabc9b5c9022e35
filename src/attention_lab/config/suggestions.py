"""Explain Hydra's errors in one line, and suggest the key or option that was meant."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from attention_lab.config.compose import Group, WrongCommand, group_options, is_of_hydra, unresolved
from attention_lab.config.flatten import walk
from attention_lab.config.option_keys import option_keys
from attention_lab.config.overrides import chosen_options, own_directory, value_of
from attention_lab.config.trainer_arguments import REFUSED
from attention_lab.data.files.paths import shown
from attention_lab.spelling import closest, listed, nearest

#: Why an argument of torch's DataLoader is no key of ``data``.
OF_DATALOADER = {
    "num_workers": "the training process makes the batches, since a run could not resume exactly "
    "from batches that workers prefetched; this takes under 1 % of a step",
    "pin_memory": "batches for a GPU are always pinned",
}
#: Hydra's messages about an override whose key or package the config does not have.
UNKNOWN_KEY = re.compile(r"Could not (?:override|append to|delete from) .*?'([^']+)'", re.DOTALL)
#: Hydra's message about a key that is added with a ``+`` and exists.
KNOWN_KEY = re.compile(r"An item is already at '([^']+)'")
#: Hydra's message about several values without ``-m``.
SEVERAL_VALUES = "Ambiguous value"
#: Messages of Hydra's parser that name its tokens.
OF_PARSER = re.compile(
    r"mismatched input|extraneous input|no viable|NoViableAlt|missing |token recog"
)
#: OmegaConf's message about an interpolation whose resolver raised an exception.
NO_VALUE = re.compile(
    r"(?:Error merging .*: )?\w+ raised while resolving interpolation: ['\"]*(.*?)['\"]*$"
)
#: Parts of messages of OmegaConf that name its classes, and the same in plain words.
PLAIN = {
    "ListConfig, list or tuple": "list",
    "Cannot merge DictConfig with ListConfig": "a list and keys with values cannot be merged",
}
NO_VARIABLE = re.compile(r"Environment variable '(.*)' not found")
#: The value of a key that is the same as another node of the config.
SAME = re.compile(r"\$\{([\w.]+)\}")
#: A value in an option's file that Hydra's own section cannot have.
OF_HYDRA = re.compile(r"In '(.*)': ValidationError raised while composing config:\n(.*)\n.*: (.*)")
NO_SECTION = re.compile(r"Merge error: \w+ is not a subclass of \w+\. value: (.*)")
#: The largest number of options or keys that a message suggests.
MAX_SUGGESTIONS = 3


def explain(error: BaseException, arguments: Sequence[str], primary: str = "train") -> str:
    """Explain an error of Hydra in one line; for a misspelt name, suggest the most similar one.

    Args:
        error: the error.
        arguments: overrides and flags of the command.
        primary: the config that they override: "train", or that of a recorded run.
    """
    first_line = str(error).partition("\n")[0]
    if not first_line and error.__cause__:
        return explain(error.__cause__, arguments, primary)
    if match := NO_VALUE.match(first_line):
        path, problem = getattr(error, "full_key", None), match[1]
        if variable := NO_VARIABLE.fullmatch(problem):
            problem = f"the environment variable {variable[1]} is not set"
            if file := _file_with(f"oc.env:{variable[1]}", own_directory(arguments)):
                problem += f", and {file} needs it"
        return f"{path}: {problem}" if path else problem
    if isinstance(error, OverrideParseException):
        return _unparsed(error)
    group, _, option = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
    if isinstance(error, MissingConfigException) and group:
        # Hydra names no options if several were chosen, as in callbacks=[ema,timer].
        options = error.options or group_options(group, own_directory(arguments))
        known = [name for name in options if not name.startswith("_")]
        return f"{group}={option}: there is no such option{nearest(option, known)}"
    if match := KNOWN_KEY.search(str(error)):
        return f"+{match[1]}: the config has this key already; leave out the +"
    if match := UNKNOWN_KEY.search(str(error)):
        if "@" in match[1]:
            return f"{match[1]}: the config has no such key; put + before it to add it"
        return _unknown_key(match[1], arguments, primary)
    if first_line.startswith(SEVERAL_VALUES):
        override = first_line.partition("'")[2].removesuffix("'")
        return f"{override}: several values; add -m to sweep over them{_quoted(override, ', or ')}"
    if match := OF_HYDRA.match(str(error)):
        option, problem, path = match.groups()
        if no_section := NO_SECTION.fullmatch(problem):
            return f"{option}: hydra and its sections must be mappings, got {no_section[1]}"
        return f"{option}: {path}: {_lower_first(problem)}"
    return _with_key(error, first_line)


def _with_key(error: BaseException, first_line: str) -> str:
    """The message of any other error, with the key that it is about, if it has one."""
    cause = "" if error.__cause__ is None else f": {str(error.__cause__).partition(chr(10))[0]}"
    message = first_line.rstrip(".:") + cause
    for of_python, plain in PLAIN.items():
        message = message.replace(of_python, plain)
    if isinstance(error, MissingMandatoryValue):
        message = "must be set"
    path = getattr(error, "full_key", None)
    return f"{path}: {_lower_first(message)}" if path and path not in message else message


def _lower_first(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _file_with(text: str, directory: Path | None) -> str | None:
    """The first YAML file in the user's directory that contains a text."""
    for file in sorted(directory.rglob("*.yaml")) if directory else ():
        if file.is_file() and text in file.read_text("utf-8", "replace"):
            return shown(file)
    return None


def _unparsed(error: OverrideParseException) -> str:
    """The message for an override that is not in Hydra's grammar."""
    override = str(error.override)
    if "=" not in override and not override.startswith("~"):
        return f"{override}: not an override; use KEY=VALUE, or ~KEY to remove a key"
    problem = str(error).partition("\n")[2].partition("\n")[0].strip(" ^")
    if not problem or OF_PARSER.search(str(error)):
        problem = "cannot be parsed"
    problem = re.sub(r"\w+Error while evaluating", "an error in", problem)
    return f"{override}: {problem}{_quoted(override, '; ')}"


def _quoted(override: str, before: str) -> str:
    """The end of a message: the override as typed in a shell with its value quoted."""
    key, _, value = override.partition("=")
    escaped = value.strip("'\"").replace("\\", "\\\\").replace('"', '\\"')
    quoted = f'{key}="{escaped}"'
    if re.fullmatch(r"\[.*\]", escaped, re.DOTALL):
        quoted = (
            f"{key}=[" + ",".join(f'"{each.strip()}"' for each in escaped[1:-1].split(",")) + "]"
        )
    try:
        OverridesParser.create().parse_override(quoted)
    except HydraException:
        return ""
    return f"{before}quote the value, if it is one: {shlex.quote(quoted)}" if escaped else ""


def _unknown_key(key: str, arguments: Sequence[str], primary: str) -> str:
    """The message for an unknown key as typed, such as "attention.head" or "attention/mask"."""
    if (argument := key.removeprefix("trainer.")) in REFUSED and argument != key:
        return f"{key}: {REFUSED[argument]}"
    if (argument := key.removeprefix("data.")) in OF_DATALOADER and argument != key:
        return f"{key}: {OF_DATALOADER[argument]}"
    extra, value = own_directory(arguments), value_of(key, arguments)
    path, message = key.replace("/", "."), f"{key}: there is no such key"
    try:
        config, groups = unresolved(chosen_options(arguments, without=key), extra, primary)
    except (HydraException, OmegaConfBaseException, WrongCommand):
        return message  # the command has a second error, which is reported after this one is fixed
    if is_of_hydra(key):  # Hydra knows the others; these are parts of some sweepers
        return f"{key}: needs hydra/sweeper=search or hydra/sweeper=optuna"
    return (
        _group_named(key, value, groups, extra)
        or _attention_of_model(key, value, config, extra)
        or _option_with_key(key, groups, extra)
        or message + (_key_of_callback(path, config, extra) or _suggestion(path, config))
    )


def _group_named(key: str, value: str, groups: Sequence[Group], extra: Path | None) -> str | None:
    """The message for the last part of a group's path, as in "score" of "attention/score"."""
    for group in groups:
        if group.choice.endswith(f"/{key}"):
            is_option = set(value.split(",")) <= set(group_options(group.name, extra))
            meant = f"{group.choice}={value}" if is_option else group.choice
            return f"there is no group {key}; did you mean {meant}?"
    return None


def _attention_of_model(
    key: str, value: str, config: Mapping[str, Any], extra: Path | None
) -> str | None:
    """The message for a mechanism that is chosen for a part of a model as if it were a key."""
    outer, _, place = key.replace("/", ".").rpartition(".")[0].rpartition(".")
    options = set(group_options("attention", extra))
    if place in (_at(config, outer) or {}) and set(value.split(",")) <= options:
        return f"{key}: there is no such key; did you mean +attention@{key}={value}?"
    return None


def _option_with_key(key: str, groups: Sequence[Group], extra: Path | None) -> str | None:
    """The message for a key that another option of its group has, or one similar to it."""
    path = key.replace("/", ".")
    inside = [group for group in groups if path.startswith(f"{group.path}.")]
    for group in sorted(inside, key=lambda group: -len(group.path)):
        options, inner = group_options(group.name, extra), path.removeprefix(f"{group.path}.")
        if owners := [
            option for option in options if inner in _keys_of_option(group.name, options[option])
        ]:
            has = " or ".join(owners[:MAX_SUGGESTIONS])
            return f"{key}: {group} has no such key; {group.choice}={has} has it"
        if is_of_hydra(group.name) and group.option in options:
            hint = nearest(inner, _keys_of_option(group.name, options[group.option]))
            return f"{key}: {group} has no such key{hint}"
    return None


def _key_of_callback(path: str, config: Mapping[str, Any], extra: Path | None) -> str:
    """The end of a message: the key of a callback that was meant by a key of ``trainer``."""
    section, _, name = path.partition(".")
    if section == "trainer" and closest(name, _keys(config.get(section))) is None:
        for option, file in group_options("callbacks", extra).items():
            if (key := f"{option}.{name}") in _keys_of_option("callbacks", file):
                return f"; did you mean callbacks={option} callbacks.{key}?"
    return ""


def _keys_of_option(group: str, file: Path) -> set[str]:
    """The dotted keys of an option at every level; none if its file is damaged."""
    try:
        keys = option_keys(group, file)
    except ValueError:
        return set()  # the command may not use this file
    parts = (key.split(".") for key in keys)
    return {".".join(each[:length]) for each in parts for length in range(1, len(each) + 1)}


def _keys(config: Any) -> Iterator[str]:
    """The dotted keys of a config at every level, without keys such as ``_target_``."""
    return (path for path, _ in walk(config) if path and "._" not in f".{path}")


def _at(config: Any, path: str) -> Any:
    """The value at a dotted path; None if there is none."""
    for part in path.split(".") if path else ():
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _suggestion(path: str, config: Mapping[str, Any]) -> str:
    """The end of a message: the key that was probably meant, else the keys that exist there."""
    known = list(_keys(config))
    if path in known:
        return ""  # only some jobs of a sweep lack the key
    if inner := [name for name in known if name.endswith(f".{path}")]:
        return f"; did you mean {' or '.join(inner[:MAX_SUGGESTIONS])}?"
    meant = ""
    for place, part in enumerate(path.split(".")):
        if isinstance(value := _at(config, meant), str) and (same := SAME.fullmatch(value)):
            rest = ".".join(path.split(".")[place:])
            return f"; {meant} is {value}, did you mean {same[1]}.{rest}?"
        here = [key for key in _keys(_at(config, meant)) if "." not in key]
        close = part if part in here else closest(part, here)
        if close is None:
            return listed(f"{meant}.{name}".lstrip(".") for name in here)
        meant = f"{meant}.{close}".lstrip(".")
    return f"; did you mean {meant}?"
