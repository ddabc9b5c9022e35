"""Faults in the outcome of a command: its exit code, its messages and the files it has made."""

import re
from collections.abc import Iterator

from tests.fuzz.forked import LONGEST, Outcome, Trial

#: Parts of messages that only mean something to the authors of the code.
INTERNALS = re.compile(
    r"Traceback|NoneType|AttributeError|TypeError|KeyError|IndexError|RecursionError|ValidationError"
    r"|<class |object at 0x|MemoryError|DictConfig|ListConfig|AnyNode|omegaconf|full_key:|pydantic"
    r"|dictionary update sequence|object has no attribute|unhashable|not subscriptable"
)
#: The longest line, in characters, apart from paths.
LONGEST_LINE = 700
#: Lines on standard error that are no errors.
NOTE = re.compile(
    r"running a single job; add -m"
    r"|attention-lab: (\w+=\S* ignored: |.*: scores may be inflated)"
)
#: The line that a sweep prints on standard output before it finds an error.
PROGRESS = re.compile(r"^checking \d+ jobs? …\n")


def faults(trial: Trial, outcome: Outcome) -> Iterator[str]:
    """The faults of a command, one line for each."""
    both = outcome.out + outcome.err
    lines = [line for line in outcome.err.splitlines() if not NOTE.match(line)]
    if found := INTERNALS.search(both):
        yield f"prints {found[0]}"
    if outcome.code not in (0, 1, 2):
        yield f"exit code {outcome.code}"
    elif outcome.code not in trial.expected:
        yield f"exit code {outcome.code}, not {sorted(trial.expected)}"
    if outcome.seconds > LONGEST:
        yield f"took {outcome.seconds:.0f} s"
    if outcome.code == 0 and trial.trains:
        if lines:
            yield "prints an error and ends with 0"
        if not outcome.made:
            yield "makes nothing and ends with 0"
    if outcome.code == 2:
        if outcome.made:
            yield "makes files and ends with 2"
        if PROGRESS.sub("", outcome.out) and not any(
            each.startswith(("--info", "-i")) for each in trial.arguments
        ):
            yield "prints to standard output and ends with 2"
        if len(lines) != 1:
            yield f"{len(lines)} lines on standard error"
    if outcome.code and (not lines or not lines[-1].startswith("attention-lab: ")):
        yield "ends without a message"
    for line in lines:
        if not line.startswith("attention-lab: "):
            yield "a line on standard error that is not ours"
            break
    if any(len(line) > LONGEST_LINE for line in lines):
        yield "a long line"
