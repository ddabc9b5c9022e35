"""`attention-lab --shell-completion SHELL`: tab completion for bash, zsh and fish.

Hydra's own completion composes the config at each key press, and cannot complete a program with
subcommands. This reads the YAML files of the chosen options only.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from attention_lab.cli import COMMANDS, DRY_RUN, fail
from attention_lab.config.compose import config_directory, group_options
from attention_lab.config.option_keys import option_keys
from attention_lab.config.overrides import (
    EXTEND,
    FROM,
    OWN_DIRECTORY,
    TOKENS_PER_SECOND,
    own_directory,
    value_of,
    with_own_directory,
)
from attention_lab.printing import echo

#: What each shell evaluates; it asks `attention-lab --complete WORDS…`. Where it has nothing,
#: the shell completes paths.
SCRIPTS = {
    "bash": """\
_attention_lab() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" words word
    IFS=' ' read -ra words <<<"$line"
    [[ $line == *' ' ]] && words+=('')
    word="${words[-1]}"
    COMPREPLY=($("${words[0]}" --complete "${words[@]:1}" 2>/dev/null))
    if [[ $word == [\\'\\"]* ]]; then
        # bash closes the quote behind a single proposal.
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]] && COMPREPLY+=("${COMPREPLY[0]} ")
    elif [[ $word == *[=:]* && $COMP_WORDBREAKS == *=* ]]; then
        # bash itself replaces only what follows the last = or :, unless they are no word breaks.
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[=:]}"}"}")
    fi
    (( ${#COMPREPLY[@]} )) && [[ ${#COMPREPLY[@]} != 1 || ${COMPREPLY[0]} == *[=./] ]] &&
        compopt -o nospace
}
complete -o default -F _attention_lab attention-lab""",
    "zsh": """\
_attention_lab() {
    local -a before found
    before=("${(@Q)words[2,CURRENT-1]}")
    found=(${(f)"$("${words[1]}" --complete "${before[@]}" "${(Q)PREFIX}" 2>/dev/null)"})
    (( ${#found} )) || { _files; return }
    compadd -S '' -- ${(M)found:#*[=./]}
    compadd -- ${found:#*[=./]}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _attention_lab attention-lab""",
    "fish": """\
complete -c attention-lab -a '(set -l words (commandline -opc); \
$words[1] --complete $words[2..] (commandline -ct) 2>/dev/null)'""",
}
FLAGS = (
    *("--multirun", "--cfg", "--info", "--help", "--hydra-help", "--package", "--resolve"),
    *(OWN_DIRECTORY[0], FROM, EXTEND, DRY_RUN, TOKENS_PER_SECOND),
)

#: Words without characters that a shell would expand or that need quotes. Other words are not
#: proposed here: for other file names, the shell's own completion adds the quotes.
_PLAIN = re.compile(r"[\w~./,:=@+\[\]-]+")


def run(arguments: Sequence[str]) -> int:
    """Print the script of a shell; returns the exit code."""
    shell = arguments[0] if len(arguments) == 1 else ""
    if shell not in SCRIPTS:
        return fail(f"--shell-completion {shell}: must be {', '.join(SCRIPTS)}", 2)
    echo(*SCRIPTS[shell].split("\n"))
    return 0


def query(words: Sequence[str]) -> int:
    """Print the completions of the last word, one on each line; returns the exit code.

    The words may have quotes, as typed; the last one need not be closed.
    """
    found = sorted(set(completions([word.strip("\"'") for word in words])))
    if found:
        echo(*found)
    return 0


def completions(words: Sequence[str]) -> Iterator[str]:
    """The completions of the last of the words behind `attention-lab`; none for a path."""
    *before, word = words or [""]
    if not before:
        known: Sequence[str] = [*COMMANDS, "--help", "--version", "--shell-completion"]
    elif before[0] == "--shell-completion":
        known = list(SCRIPTS)
    elif before[0] == "list":
        from attention_lab.cli.list_options import GROUPS

        known = list(group_options(before[1])) if len(before) > 1 else GROUPS
    elif before == ["bench"]:
        from attention_lab.cli.bench import BENCHMARKS

        known = list(BENCHMARKS)
    elif before[0] == "evaluate":
        yield from filter(_PLAIN.fullmatch, _test_overrides(before[1:], word))
        return
    elif before[0] != "train" or before[-1] in (*OWN_DIRECTORY, FROM, EXTEND, TOKENS_PER_SECOND):
        known = []
    elif before[-1] in ("--cfg", "-c"):
        known = ("job", "hydra", "all")
    elif before[-1] in ("--info", "-i"):
        known = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    elif word.startswith("-"):
        known = FLAGS
    else:
        yield from _overrides(before[1:], word)
        return
    yield from (name for name in known if name.startswith(word))


def _overrides(before: Sequence[str], word: str) -> Iterator[str]:
    """The completions of an override."""
    extra = own_directory(with_own_directory(before))
    groups = _groups(extra)
    mark = "+" if word.startswith("+") else ""
    key, is_value, value = word.removeprefix(mark).partition("=")
    if is_value:
        last = re.split(r"[\[,]", value)[-1]
        earlier = value.removesuffix(last)
        group = key.partition("@")[0]
        options = group_options(group, extra) if group in groups else {}
        yield from (f"{mark}{key}={earlier}{name}" for name in options if name.startswith(last))
        return
    for name in (*groups, *_keys(before, extra)):
        if name.startswith(key) and not name.endswith("."):
            rest = name[len(key) :]
            ends = [place for each in "./" if (place := rest.find(each)) >= 0]
            yield mark + key + (rest[: min(ends) + 1] if ends else f"{rest}=")


def _test_overrides(before: Sequence[str], word: str) -> Iterator[str]:
    """The completions of an argument of `evaluate` behind a run: its keys of the test split.

    A value of ``data.test`` is completed to paths, another to the value that the run has.
    """
    known = {
        f"data.{name}": value
        for place in before
        for name, value in _data_of(Path(place)).items()
        if name.startswith("test")
    }
    key, is_value, value = word.partition("=")
    if key == "data.test" and key in known and is_value:
        last = re.split(r"[\[,]", value)[-1]
        yield from (word.removesuffix(last) + path for path in _paths(last))
    elif key in known and is_value:
        own = json.dumps(known[key], separators=(",", ":"))
        yield from [f"{key}={own}"] * own.startswith(value)
    elif found := [f"{name}=" for name in known if name.startswith(word)]:
        yield from (*found, *_paths(word))


def _data_of(directory: Path) -> Mapping[str, Any]:
    """The section ``data`` of the config of a run, or of a run of a sweep; empty without one."""
    from attention_lab.tracking.record_files import read_record

    with suppress(OSError, ValueError):
        file = min(directory.glob("*/config.yaml"), default=directory / "config.yaml")
        return read_record(file).get("data", {})
    return {}


def _paths(start: str) -> Iterator[str]:
    """The paths that begin with some text; those of directories end with a slash."""
    name = start.rpartition("/")[2]
    directory = start.removesuffix(name)
    with suppress(OSError, RuntimeError):  # RuntimeError: no such user behind ~
        for path in Path(directory).expanduser().iterdir():
            if path.name.startswith(name) and (name or not path.name.startswith(".")):
                yield f"{directory}{path.name}{'/' if path.is_dir() else ''}"


def _groups(extra: Path | None) -> list[str]:
    """All config groups, such as "attention" and "attention/mask"."""
    roots = [config_directory(), *([extra] if extra else [])]
    files = (file.relative_to(root) for root in roots for file in root.rglob("*.yaml"))
    return sorted({str(file.parent) for file in files if len(file.parts) > 1})


def _keys(before: Sequence[str], extra: Path | None) -> Iterator[str]:
    """The dotted keys of the config that the overrides so far choose."""
    home = config_directory()
    chosen: dict[str, str | None] = {}
    for name in ("settings", "train"):
        yield from option_keys("", home / f"{name}.yaml")
        for default in yaml.safe_load((home / f"{name}.yaml").read_text("utf-8"))["defaults"]:
            if isinstance(default, Mapping):
                chosen |= {key.removeprefix("override "): it for key, it in default.items()}
    for group, default in chosen.items():
        options = group_options(group, extra) if group != "experiment" else {}
        for option in (value_of(group, before) or str(default)).strip("[]").split(","):
            if (file := options.get(option)) is not None:
                with suppress(ValueError):  # the command will report a damaged file
                    for key, it in option_keys(group, file).items():
                        if not it.is_group:  # groups are completed from their directories
                            yield f"{group.replace('/', '.')}.{key}"
