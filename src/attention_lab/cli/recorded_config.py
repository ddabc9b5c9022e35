"""`attention-lab train --from RUN`: read the config of a recorded run as data.

A run may come from a stranger, so its config must not control Hydra: its defaults list, its section
``hydra`` and its interpolations are not used.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from attention_lab.config.compose import WrongCommand

#: An override that chooses another option of a group, for groups in which --from allows it.
REPLACEABLE_GROUP = re.compile(
    r"((?:attention|optimizer|scheduler|parameter_groups|trainer|callbacks|logger)(?:/\w+)*)="
)
#: The same for groups in which --from refuses it: their options fit certain other options only.
FIXED_GROUP = re.compile(r"((?:data|model|task|experiment)(?:/\w+)*)=")
MISSING = "???"
REFERENCES = ("${attention}", "${seed}")


def recorded_config(run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The primary config with which Hydra repeats a run; without overrides, nothing changes.

    Args:
        run: the run's directory.
        overrides: the overrides on the command line.

    Raises:
        WrongCommand: if the config cannot be read, or an override cannot be combined with it.
    """
    from attention_lab.tracking.run_directory import read_config

    try:
        config = read_config(run)
    except (OSError, ValueError) as error:
        raise WrongCommand(f"--from {run}: {error}") from None
    if fixed := next(filter(FIXED_GROUP.match, overrides), None):
        raise WrongCommand(
            f"{fixed}: cannot be combined with --from, as its options depend on other groups; "
            "name all options in place of --from"
        )
    config = _with_references(config)
    groups = _replaced_groups(overrides)
    for group in groups:
        _remove(config, group.split("/"))
        config["choices"] = _without(config.get("choices"), group.replace("/", "."))
    if any(re.match(r"[+~]*data\.", override) for override in overrides):
        config.pop("data_files", None)  # the overrides may name other files
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    config = _without_interpolations(run, config, given)
    return {"defaults": ["settings", *({group: None} for group in groups), "_self_"], **config}


def _replaced_groups(overrides: Sequence[str]) -> list[str]:
    """The groups whose options the overrides replace, without subgroups of these groups."""
    groups = [match[1] for match in map(REPLACEABLE_GROUP.match, overrides) if match]
    return [each for each in groups if not any(each.startswith(f"{other}/") for other in groups)]


def _without(names: Any, path: str) -> dict[str, Any]:
    """The names of options without those at a path and inside it."""
    known = names if isinstance(names, dict) else {}
    return {key: it for key, it in known.items() if not f"{key}.".startswith(f"{path}.")}


def _remove(config: dict[str, Any], path: Sequence[str]) -> None:
    """Remove the value at a path of keys, if it exists."""
    *around, last = path
    for key in around:
        config = config[key] if isinstance(config.get(key), dict) else {}
    config.pop(last, None)


def _with_references(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the references ``${attention}`` and ``${seed}`` restored.

    Shipped models refer to the section ``attention`` and datasets to ``seed``. A recorded config
    has copies in place of these references, so an override would not change the copies.
    """
    model, data, attention = config.get("model"), config.get("data"), config.get("attention")
    if isinstance(model, dict) and isinstance(attention, dict):
        same = {key: "${attention}" for key, value in model.items() if value == attention}
        config = {**config, "model": {**model, **same}}
    if isinstance(data, dict) and "seed" in config and data.get("seed") == config["seed"]:
        config = {**config, "data": {**data, "seed": "${seed}"}}
    return config


def _without_interpolations(run: Path, value: Any, given: Collection[str], path: str = "") -> Any:
    """A value in which overridden interpolations are replaced by ``???``, a missing value.

    Raises:
        WrongCommand: if no override replaces an interpolation.
    """
    if isinstance(value, dict):
        return {
            key: _without_interpolations(run, inner, given, f"{path}.{key}" if path else str(key))
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_interpolations(run, inner, given, path) for inner in value]
    if not isinstance(value, str) or "${" not in value or value in REFERENCES:
        return value
    if path not in given:
        raise WrongCommand(
            f"--from {run}: {path} is {value!r}, and variables of a recorded config are not "
            f"resolved; give its value, as {path}=…"
        )
    return MISSING
