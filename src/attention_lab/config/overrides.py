"""Overrides and flags of `attention-lab train`."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OWN_DIRECTORY = ("--config-dir", "-cd")
#: The environment variable that names the user's config directory for commands without the flag.
DIRECTORY_VARIABLE = "ATTENTION_LAB_CONFIG_DIR"
#: Hydra's flags that take the next argument as their value.
WITH_VALUE = (
    *OWN_DIRECTORY,
    *("--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c", "--package", "-p"),
    "--experimental-rerun",
)
WITH_OPTIONAL_VALUE = ("--info", "-i")  # the value has no "=", unlike an override
#: Our own flags, which Hydra does not know; the last one is for --dry-run only.
FROM, EXTEND, TOKENS_PER_SECOND = "--from", "--extend", "--tokens-per-second"
CHOICE = re.compile(r"\+?\w+(/\w+)*(@[\w.]+)?=(\w+|\[[\w,]+\])")


def flags_last(arguments: Sequence[str]) -> list[str]:
    """Move flags behind the overrides: Hydra's parser rejects a flag between overrides.

    >>> flags_last(["attention=local", "-m", "--config-dir", "a=b", "seed=1,2"])
    ['attention=local', 'seed=1,2', '-m', '--config-dir', 'a=b']
    """
    overrides: list[str] = []
    flags: list[str] = []
    for argument in arguments:
        before = flags[-1] if flags else ""
        is_value = before in WITH_VALUE or (before in WITH_OPTIONAL_VALUE and "=" not in argument)
        (flags if is_value or argument.startswith("-") else overrides).append(argument)
    return [*overrides, *flags]


def without_flag(flag: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of a flag, or None without it ("" without a value), and the other arguments.

    >>> without_flag("--from", ["--from", "outputs/one", "seed=1", "-m"])
    ('outputs/one', ['seed=1', '-m'])
    """
    value, rest, is_value = None, [], False
    for argument in arguments:
        name, is_joined, joined = argument.partition("=")
        if is_value or (name == flag and is_joined):
            value, is_value = joined if name == flag else argument, False
        elif name == flag:
            value, is_value = "", True
        else:
            rest.append(argument)
    return value, rest


def with_own_directory(arguments: Sequence[str]) -> list[str]:
    """Add ``--config-dir`` with the directory that the environment names, unless there is one.

    A home directory, ``~``, is expanded: shells do not expand it in ``--config-dir=~/own``.
    """
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory or own_directory(arguments) is not None:
        return [_with_home(argument) for argument in arguments]
    return [*arguments, OWN_DIRECTORY[0], os.path.expanduser(directory)]


def _with_home(argument: str) -> str:
    flag, is_joined, directory = argument.partition("=")
    is_own = is_joined and flag in OWN_DIRECTORY
    return f"{flag}={os.path.expanduser(directory)}" if is_own else argument


def own_directory(arguments: Sequence[str]) -> Path | None:
    """The user's own config directory, which ``--config-dir`` names; None without that flag."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, is_joined, joined = argument.partition("=")
        if flag in OWN_DIRECTORY:
            return Path(joined if is_joined else following)
    return None


def chosen_options(arguments: Sequence[str], without: str) -> list[str]:
    """The overrides that choose an option of a group, such as "model=decoder".

    Args:
        arguments: overrides and flags.
        without: a key whose overrides are left out.
    """
    chosen = (argument for argument in arguments if CHOICE.fullmatch(argument))
    return [argument for argument in chosen if not argument.lstrip("+").startswith(f"{without}=")]


def key_of(override: str) -> str:
    """The key of an override: "attention" of "+attention=additive"."""
    return override.lstrip("+~").partition("=")[0]


def override_value(value: Any) -> str:
    """A value as in an override; text is in the grammar of overrides already.

    >>> override_value({"a": [None, True, 0.1, "text"]})
    '{a:[null,true,0.1,text]}'
    """
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{override_value(it)}' for key, it in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(override_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def value_of(key: str, arguments: Sequence[str]) -> str:
    """The value of a key on the command line; empty if it has none."""
    pairs = (argument.lstrip("+~").partition("=") for argument in arguments)
    return next((value for name, _, value in pairs if name == key), "")
