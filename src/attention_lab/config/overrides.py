"""The arguments of `attention-lab train`, as they stand on the command line."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

OWN_DIRECTORY = ("--config-dir", "-cd")
#: Hydra's flags whose value is an argument of its own.
WITH_VALUE = (
    *OWN_DIRECTORY,
    *("--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c", "--package", "-p"),
    "--experimental-rerun",
)
WITH_OPTIONAL_VALUE = ("--info", "-i")  # a word, which no override is
#: The flag of ours, which Hydra does not know.
FROM = "--from"
CHOICE = re.compile(r"\+?\w+(/\w+)*(@[\w.]+)?=\w+")


def flags_last(arguments: Sequence[str]) -> list[str]:
    """Overrides first: Hydra's parser takes no more of them once a flag has come in between.

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


def recorded_run(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The run that ``--from`` names, if it does, and the other arguments.

    >>> recorded_run(["--from", "outputs/one", "seed=1", "-m"])
    ('outputs/one', ['seed=1', '-m'])
    """
    run, rest, is_value = None, [], False
    for argument in arguments:
        flag, is_joined, joined = argument.partition("=")
        if is_value or (flag == FROM and is_joined):
            run, is_value = joined if flag == FROM else argument, False
        elif flag == FROM:
            run, is_value = "", True
        else:
            rest.append(argument)
    return run, rest


def own_directory(arguments: Sequence[str]) -> Path | None:
    """The user's own config directory, if the command names one."""
    for argument, following in itertools.pairwise([*arguments, ""]):
        flag, is_joined, joined = argument.partition("=")
        if flag in OWN_DIRECTORY:
            return Path(joined if is_joined else following)
    return None


def chosen_options(arguments: Sequence[str], without: str) -> list[str]:
    """The overrides that choose one option of a group, but for that of one key."""
    chosen = (argument for argument in arguments if CHOICE.fullmatch(argument))
    return [argument for argument in chosen if not argument.lstrip("+").startswith(f"{without}=")]


def value_of(key: str, arguments: Sequence[str]) -> str:
    """The value that the command gives a key; empty if it gives none."""
    pairs = (argument.lstrip("+~").partition("=") for argument in arguments)
    return next((value for name, _, value in pairs if name == key), "")
