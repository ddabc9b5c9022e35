"""`attention-lab train --from RUN`: the config of a recorded run, read as data.

A run may come from a stranger, so nothing in its config controls Hydra: the composed config has no
defaults list, no ``hydra`` section and no interpolation of the recorded one.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from attention_lab.config.compose import WrongCommand

#: Config groups in which an override can choose another option than the recorded one.
SWITCHED = re.compile(r"((?:attention|optimizer|trainer|logger)(?:/\w+)*)=")
#: Config groups in which it cannot: their options only fit certain options of other groups.
FIXED = re.compile(r"((?:data|model|task|experiment)(?:/\w+)*)=")
MISSING = "???"
REFERENCES = ("${attention}", "${seed}")


def recorded_config(run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The config for Hydra to compose; without overrides the result equals the recorded config.

    Args:
        run: the run's directory.
        overrides: of the command line.

    Raises:
        WrongCommand: if there is no config that can be read, or if an override cannot work with it.
    """
    from attention_lab.tracking.run_directory import read_config

    try:
        config = read_config(run)
    except (OSError, ValueError) as error:
        raise WrongCommand(f"--from {run}: {error}") from None
    if fixed := next(filter(FIXED.match, overrides), None):
        raise WrongCommand(
            f"{fixed}: cannot be combined with --from, as its options depend on other groups; "
            "name all options in place of --from"
        )
    config = _with_references(config)
    groups = _switched(overrides)
    for group in groups:
        _remove(config, group.split("/"))
    if any(re.match(r"[+~]*data\.", override) for override in overrides):
        config.pop("data_files", None)  # hashes of the files, which may be others now
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    config = _without_interpolations(run, config, given)
    return {"defaults": ["settings", *({group: None} for group in groups), "_self_"], **config}


def _switched(overrides: Sequence[str]) -> list[str]:
    """The groups in which overrides choose an option, without subgroups of one another."""
    groups = [match[1] for match in map(SWITCHED.match, overrides) if match]
    return [each for each in groups if not any(each.startswith(f"{other}/") for other in groups)]


def _remove(config: dict[str, Any], path: Sequence[str]) -> None:
    """Remove a value deep inside, if it is there."""
    *around, last = path
    for key in around:
        config = config[key] if isinstance(config.get(key), dict) else {}
    config.pop(last, None)


def _with_references(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the references that the shipped ones have, so that overrides reach all of it.

    Models take the section ``attention``, and datasets the ``seed``; a record repeats both.
    """
    model, data, attention = config.get("model"), config.get("data"), config.get("attention")
    if isinstance(model, dict) and isinstance(attention, dict):
        same = {key: "${attention}" for key, value in model.items() if value == attention}
        config = {**config, "model": {**model, **same}}
    if isinstance(data, dict) and "seed" in config and data.get("seed") == config["seed"]:
        config = {**config, "data": {**data, "seed": "${seed}"}}
    return config


def _without_interpolations(run: Path, value: Any, given: Collection[str], path: str = "") -> Any:
    """A value without what OmegaConf would look up: an override has to give a value for it.

    Raises:
        WrongCommand: if none does.
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
            f"--from {run}: {path} is {value!r}, and no variable of a recorded config is looked "
            f"up; give its value, as {path}=…"
        )
    return MISSING
