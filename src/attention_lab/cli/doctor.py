"""`attention-lab doctor`: what there is here for runs to use, and what is in their way.

Each thing in a line; ! marks what works less well than it could, ✗ what keeps a run from working,
and the exit code is 1 then.
"""

from collections.abc import Sequence

from attention_lab.cli.parser import Parser


def run(arguments: Sequence[str]) -> int:
    """Look around; the exit code is 1 if a run could not work."""
    Parser("doctor", __doc__).parse_args(arguments)

    from attention_lab.cli.surroundings import NOTHING, findings

    marks = set()
    for finding in findings():
        print(finding, flush=True)
        marks.add(finding.mark)
    return 1 if NOTHING in marks else 0
