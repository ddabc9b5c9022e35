"""`attention-lab doctor`: check versions, devices, SLURM, disk and W&B."""

from collections.abc import Sequence

from attention_lab.cli import fail
from attention_lab.cli.parser import Parser
from attention_lab.printing import echo

HELP = """\
Checks versions, processors, SLURM, disk and W&B, one line each. ! marks a limitation, and ✗ a
problem that prevents runs; the exit code is then 1.
`attention-lab train … --dry-run` shows what a command would launch."""


def run(arguments: Sequence[str]) -> int:
    """Run the checks and print a line for each; the exit code is 1 if a check has failed."""
    if arguments[:1] == ["train"]:
        return fail("doctor: checks the environment only; use attention-lab train … --dry-run", 2)
    Parser("doctor", HELP).parse_args(arguments)

    from attention_lab.cli.doctor_checks import FAILED, findings

    marks = set()
    for finding in findings():
        echo(finding)
        marks.add(finding.mark)
    return 1 if FAILED in marks else 0
