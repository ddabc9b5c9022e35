"""`attention-lab list`: list the options of config groups, or show options in full."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from attention_lab.cli import fail
from attention_lab.cli.parser import Parser
from attention_lab.config.compose import (
    WrongCommand,
    check_own_directory,
    config_directory,
    group_options,
    option_description,
    option_package,
    subgroups,
)
from attention_lab.config.option_keys import option_keys
from attention_lab.config.overrides import with_own_directory
from attention_lab.printing import echo, hanging
from attention_lab.spelling import nearest

GROUPS = (
    "attention",
    "data",
    "model",
    "optimizer",
    "scheduler",
    "callbacks",
    "logger",
    "experiment",
    "debug",
)


def run(arguments: Sequence[str]) -> int:
    """List the options of groups, or show named options of one group in full."""
    parser = Parser("list", __doc__)
    parser.add_argument("group", nargs="?", help=f"{', '.join(GROUPS)}; default: all of them")
    parser.add_argument("option", nargs="*", help="show these options of the group in full")
    own = "your own config groups, listed too"
    parser.add_argument("--config-dir", type=Path, help=own)
    chosen = parser.parse_args(with_own_directory(arguments))
    group, extra = chosen.group, chosen.config_dir
    if extra:
        try:
            check_own_directory(str(extra), "--config-dir ")
        except WrongCommand as error:
            return fail(str(error), 2)
    groups = [*GROUPS, *(f"{it}/{part}" for it in GROUPS for part in subgroups(it, extra))]
    if group and group not in groups:
        return fail(f"list: there is no config group {group!r}{nearest(group, groups)}", 2)
    options = group_options(group, extra) if group else {}
    for name in chosen.option:
        if name not in options:
            return fail(f"{group}={name}: there is no such option{nearest(name, options)}", 2)
    for name in chosen.option:
        try:
            _show(group, name, options[name], extra)
        except ValueError as error:
            return fail(str(error), 2)
    if chosen.option:
        return 0
    inside = [it for it in groups if it == group or it.startswith(f"{group}/")]
    for shown in inside if group else GROUPS:
        echo(f"{shown}=")
        described = group_options(shown, extra).items()
        _columns((name, option_description(file)) for name, file in described)
    return 0


def _show(group: str, name: str, file: Path, extra: Path | None) -> None:
    """Print an option in full: its description, its keys, and the facts that only code knows."""
    echo(f"{group}={name}")
    echo(*hanging(option_description(file), "  "))
    keys = option_keys(group, file)
    if group == "model":
        keys |= option_keys(group, config_directory() / "model" / "_init_from.yaml")
    package = option_package(group, file)
    path = f"{package}." if package else ""
    _columns(
        (f"{group}/{key}={it.value}" if it.is_group else f"{path}{key}={it.value}", it.comment)
        for key, it in keys.items()
    )
    if group == "attention":
        from attention_lab.cli.list_attention import facts  # imports torch, which takes seconds

        _columns([("", ""), *facts(name, extra)])
    elif group == "data":
        from attention_lab.cli.list_data import facts as facts_of_data

        _columns([("", ""), *facts_of_data(name, extra)])


def _columns(rows: Iterable[tuple[str, str]]) -> None:
    """Print rows of two columns; the second is wrapped at the terminal's width."""
    rows = list(rows)
    width = max((len(first) for first, _ in rows), default=0)
    for first, second in rows:
        echo(*hanging(second, f"  {first:<{width}}  "))
