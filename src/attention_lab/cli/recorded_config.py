"""`attention-lab train --from RUN` and `--extend RUN`: read the config of a recorded run as data.

A run may come from a stranger, so its config must not control Hydra: its defaults list, its section
``hydra`` and its interpolations are not used.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from attention_lab.config.compose import WrongCommand
from attention_lab.config.overrides import EXTEND, FROM

#: An override that chooses another option of a group, for groups in which --from allows it.
REPLACEABLE_GROUP = re.compile(
    r"((?:attention|optimizer|scheduler|parameter_groups|trainer|callbacks|logger)(?:/\w+)*)="
)
#: The same for groups in which --from refuses it: their options fit certain other options only.
FIXED_GROUP = re.compile(r"((?:data|model|task|experiment)(?:/\w+)*)=")
MISSING = "???"
REFERENCES = ("${attention}", "${seed}")


def recorded_config(run: Path, overrides: Sequence[str], flag: str = FROM) -> dict[str, Any]:
    """The primary config with which Hydra repeats or extends a run.

    Args:
        run: the run's directory.
        overrides: the overrides on the command line.
        flag: --from, or --extend, which also records the checkpoint that training continues from.

    Raises:
        WrongCommand: if the config cannot be read, or an override cannot be combined with it.
    """
    from attention_lab.tracking.run_directory import read_config

    try:
        config = read_config(run)
    except (OSError, ValueError) as error:
        raise WrongCommand(f"{flag} {run}: {error}") from None
    if fixed := next(filter(FIXED_GROUP.match, overrides), None):
        reason = f"as its options depend on other groups; name all options in place of {flag}"
        if flag == EXTEND:
            reason = "which keeps the run's data and model; leave it out"
        raise WrongCommand(f"{fixed}: cannot be combined with {flag}, {reason}")
    config = _with_references(config)
    groups = _replaced_groups(overrides)
    for group in groups:
        _remove(config, group.split("/"))
        config["choices"] = _without(config.get("choices"), group.replace("/", "."))
    if any(re.match(r"[+~]*data\.", override) for override in overrides):
        config.pop("data_files", None)  # the overrides may name other files
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    config = _without_interpolations(f"{flag} {run}", config, given)
    if "model.init_from" in given and isinstance(config.get("model"), dict):
        config["model"] = {**config["model"], "init_from": None}  # Hydra overrides known keys only
    if flag == EXTEND:
        config["extends"] = _extended(run)
    return {"defaults": ["settings", *({group: None} for group in groups), "_self_"], **config}


def _extended(run: Path) -> dict[str, str]:
    """The section ``extends``: the run whose training continues, and its checkpoint.

    Raises:
        WrongCommand: if the run has no checkpoint ``last``.
    """
    from attention_lab.tracking.untrusted_files import UnreadableRecord
    from attention_lab.training.checkpoint.checkpoint_io import checksum_of
    from attention_lab.training.extension import last_checkpoint

    file = last_checkpoint(run)
    try:
        return {"run": str(run.resolve()), "sha256": checksum_of(file)}
    except (FileNotFoundError, UnreadableRecord) as error:
        raise WrongCommand(f"{EXTEND} {run}: {error}") from None


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


def _without_interpolations(source: str, value: Any, given: Collection[str], path: str = "") -> Any:
    """A value in which overridden interpolations are replaced by ``???``, a missing value.

    Raises:
        WrongCommand: if no override replaces an interpolation; it names ``source``.
    """
    if isinstance(value, dict):
        return {
            key: _without_interpolations(
                source, inner, given, f"{path}.{key}" if path else str(key)
            )
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_interpolations(source, inner, given, path) for inner in value]
    if not isinstance(value, str) or "${" not in value or value in REFERENCES:
        return value
    if path not in given:
        raise WrongCommand(
            f"{source}: {path} is {value!r}, and variables of a recorded config are not "
            f"resolved; give its value, as {path}=…"
        )
    return MISSING
