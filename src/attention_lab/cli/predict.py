r"""`attention-lab predict`: a line of text in, a line of text out, with a finished run.

Sequence to sequence: the source in, the target out. Language model: a prompt in, the prompt and its
continuation out. Classification: a text in, its class out. A line break in an answer is written \n.
Lines are answered in batches, each as soon as it is full or the input ends: use --batch 1 where
somebody waits for each answer, which is the default in a terminal.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attention_lab.cli import fail
from attention_lab.cli.parser import Parser
from attention_lab.cli.run_argument import (
    DECODING,
    UnusableRun,
    add_decoding,
    add_run,
    given,
    number,
    usable,
    whole,
)
from attention_lab.printing import echo

if TYPE_CHECKING:
    from attention_lab.training.prediction import Predictor

SAMPLING = {name: name for name in ("length", "temperature", "top_k", "top_p", "seed")}
#: The options that only one task has, and the names that they go by further down.
OPTIONS = {"sequence_to_sequence": DECODING, "language_model": SAMPLING}


def run(arguments: Sequence[str]) -> int:
    """Answer the lines of standard input."""
    chosen = _parser().parse_args(arguments)
    try:
        with usable(chosen.run, chosen.checkpoint):
            from attention_lab.training.evaluation import solves

            if problem := _unfit(chosen, solves(chosen.run)):
                return fail(problem, 2)
            predictor = _predictor(chosen)
    except UnusableRun as error:
        return fail(str(error), 1)
    batch = chosen.batch or (1 if sys.stdin.isatty() else 64)
    return _answer(predictor, sys.stdin.buffer, batch)


def _parser() -> Parser:
    usage = "attention-lab predict RUN [options] < INPUTS > OUTPUTS"
    parser = Parser("predict", __doc__, usage)
    add_run(parser)
    parser.add_argument("--batch", type=whole(1), help="lines to wait for and answer at once (64)")
    add_decoding(parser.add_argument_group("sequence to sequence; default: as in the config"))
    sampling = parser.add_argument_group("language model")
    sampling.add_argument("--length", type=whole(1), help="tokens to write (100, or what fits)")
    sampling.add_argument("--temperature", type=number(0), help="0: the most probable (1.0)")
    sampling.add_argument("--top-k", type=whole(1), help="draw among so many (all)")
    sampling.add_argument("--top-p", type=number(0, 1), help="draw among the nucleus (all)")
    sampling.add_argument("--seed", type=whole(0), help="of what is drawn (0)")
    return parser


def _unfit(chosen: argparse.Namespace, task: str) -> str | None:
    """What is wrong with the options for a task."""
    for other, options in OPTIONS.items():
        for option in options:
            if other != task and getattr(chosen, option) is not None:
                return f"--{option.replace('_', '-')} is for {other}; {chosen.run} is for {task}"
    return None


def _predictor(chosen: argparse.Namespace) -> "Predictor":
    from attention_lab.training.evaluation import restored
    from attention_lab.training.prediction import CannotPredict, Sampling, predictor

    run = restored(chosen.run, chosen.checkpoint, given(chosen, DECODING), with_data=False)
    try:
        return predictor(run.task, Sampling(**given(chosen, SAMPLING)))
    except CannotPredict as error:
        raise UnusableRun(f"{chosen.run}: {error}") from error


def _write(lines: Sequence[str]) -> None:
    """Write lines at once: to a file or a pipe as they are, to a terminal printable."""
    if sys.stdout.isatty():
        echo(*lines)
        return
    sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode())
    sys.stdout.buffer.flush()


def _answer(predictor: "Predictor", lines: Iterable[bytes], batch: int) -> int:
    """Write the answers to lines, each batch at once; the result is the exit code."""
    from attention_lab.training.prediction import BadLine, answers

    code = 0
    try:
        for some in answers(predictor, lines, batch):
            _write(some)
    except BadLine as error:
        code = fail(str(error), 1)
    except KeyboardInterrupt:
        code = fail("interrupted", 1)
    if predictor.unknown:
        what = "tokens that the run does not know, read as <unk>"
        echo(f"attention-lab: {what}: {predictor.unknown}", error=True)
    return code
