"""`attention-lab doctor`: what there is here, or what a train command would launch."""

from collections.abc import Sequence

from attention_lab.cli import VERBS, fail
from attention_lab.cli.parser import Parser
from attention_lab.printing import echo

USAGE = """\
attention-lab doctor
       attention-lab doctor [train] ARGUMENTS OF train…"""
HELP = """\
Without arguments: versions, processors, SLURM, disk and W&B, each in a line; ! marks what works
less well than it could, ✗ what keeps a run from working, and the exit code is 1 then.

With the arguments of `attention-lab train`: what it would launch. Nothing is launched or written,
and what is wrong with the command is said as train would say it, with exit code 2."""


def run(arguments: Sequence[str]) -> int:
    """Look around, or at what a command would do."""
    if not arguments:
        return _look_around()
    first, *rest = arguments
    if {"-h", "--help"} & set(arguments):
        Parser("doctor", HELP, USAGE).parse_args(["--help"])
    if first in VERBS and first != "train":
        return fail(f"doctor: {first} launches nothing; only train does", 2)

    from attention_lab.cli.dry_run import rehearse

    return rehearse(rest if first == "train" else arguments)


def _look_around() -> int:
    from attention_lab.cli.doctor_checks import NOTHING, findings

    marks = set()
    for finding in findings():
        echo(finding)
        marks.add(finding.mark)
    return 1 if NOTHING in marks else 0
