"""`attention-lab list`: list the options of config groups, one line each."""

from collections.abc import Sequence
from pathlib import Path

from attention_lab.cli import fail
from attention_lab.cli.parser import Parser
from attention_lab.config.compose import group_options, option_description
from attention_lab.printing import echo

GROUPS = ("attention", "data", "model", "optimizer", "scheduler", "experiment")


def run(arguments: Sequence[str]) -> int:
    """List the options of one config group or, by default, of all in :data:`GROUPS`."""
    parser = Parser("list", __doc__)
    parser.add_argument("group", nargs="?", choices=GROUPS, help="default: all of them")
    parser.add_argument("--config-dir", type=Path, help="your own config groups, listed too")
    chosen = parser.parse_args(arguments)
    if chosen.config_dir and not chosen.config_dir.is_dir():
        return fail(f"--config-dir {chosen.config_dir}: no such directory", 2)
    if chosen.group == "attention":
        from attention_lab.cli.list_attention import table  # imports torch, which takes seconds

        echo(*"\n".join(table(chosen.config_dir)).split("\n"))
        return 0
    if chosen.group == "data":
        from attention_lab.cli.list_data import table as datasets

        for line in datasets(chosen.config_dir):
            echo(*line.split("\n"))
        return 0
    for group in [chosen.group] if chosen.group else GROUPS:
        options = group_options(group, chosen.config_dir)
        width = max(map(len, options), default=0)
        echo(f"{group}=")
        for name, file in options.items():
            echo(f"  {name:<{width}}  {option_description(file)}")
    return 0
