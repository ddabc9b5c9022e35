r"""`attention-lab predict`: predict a line of output for each line of input, with a finished run.

Sequence to sequence: from source to target. Language model: from a prompt to the prompt and its
continuation. Classification: from a text to its class. A line break in a prediction is shown as \n.
Predictions are made in batches, when a batch is full or the input ends. Use --batch 1 to get each
prediction at once, which is the default in a terminal.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attention_lab.api.open_run import UnusableRun, local_run, open_run
from attention_lab.cli import fail
from attention_lab.cli.parser import Parser
from attention_lab.cli.run_argument import (
    DECODING,
    add_decoding,
    add_run,
    given,
    number,
    whole,
)
from attention_lab.printing import echo

if TYPE_CHECKING:
    from attention_lab.training.prediction import Predictor

SAMPLING = ("length", "temperature", "top_k", "top_p", "seed")
#: The options that apply to one task only.
OPTIONS = {"sequence_to_sequence": (*DECODING, "n_best"), "language_model": SAMPLING}


def run(arguments: Sequence[str]) -> int:
    """Predict for the lines of standard input."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.run = local_run(chosen.run)
        with open_run(chosen.run, chosen.checkpoint):
            from attention_lab.training.evaluation import task_name

            if problem := _option_error(chosen, task_name(chosen.run)):
                return fail(problem, 2)
            predictor = _predictor(chosen)
            if problem := _n_best_error(predictor, chosen.n_best):
                return fail(problem, 2)
    except UnusableRun as error:
        return fail(str(error), 1)
    batch = chosen.batch or (1 if sys.stdin.isatty() else 64)
    return _predict(predictor, sys.stdin.buffer, batch, chosen.n_best)


def _parser() -> Parser:
    usage = "attention-lab predict RUN [options] < INPUTS > OUTPUTS"
    parser = Parser("predict", __doc__, usage)
    add_run(parser)
    parser.add_argument("--batch", type=whole(1), help="lines in a batch (64; 1 in a terminal)")
    decoding = parser.add_argument_group("sequence to sequence; default: as in the config")
    add_decoding(decoding)
    decoding.add_argument(
        "--n-best", type=whole(1), help="print N hypotheses: line's number, score and prediction"
    )
    sampling = parser.add_argument_group("language model")
    sampling.add_argument(
        "--length", type=whole(1), help="tokens to generate (100, or as many as fit)"
    )
    sampling.add_argument(
        "--temperature", type=number(0), help="sampling temperature; 0: greedy (1.0)"
    )
    sampling.add_argument(
        "--top-k", type=whole(1), help="sample from the K most probable tokens (all)"
    )
    sampling.add_argument(
        "--top-p", type=number(0, 1), help="sample from the nucleus of this probability (all)"
    )
    sampling.add_argument("--seed", type=whole(0), help="seed of the samples (0)")
    return parser


def _option_error(chosen: argparse.Namespace, task: str) -> str | None:
    """The error for options that do not apply to a task; None if all apply."""
    for other, options in OPTIONS.items():
        for option in options:
            if other != task and getattr(chosen, option) is not None:
                return f"--{option.replace('_', '-')} is for {other}; {chosen.run} is for {task}"
    return None


def _n_best_error(predictor: "Predictor", n_best: int | None) -> str | None:
    """The error for more hypotheses than beam search has; None if there is none."""
    from attention_lab.training.prediction import TargetPredictor

    if n_best is None or not isinstance(predictor, TargetPredictor):
        return None
    has = predictor.task.num_beams
    return f"--n-best {n_best}: add --num-beams {n_best}; it is {has}" if n_best > has else None


def _predictor(chosen: argparse.Namespace) -> "Predictor":
    from attention_lab.training.evaluation import restored
    from attention_lab.training.prediction import CannotPredict, Sampling, predictor

    run = restored(chosen.run, chosen.checkpoint, given(chosen, DECODING), with_data=False)
    try:
        return predictor(run.task, Sampling(**given(chosen, SAMPLING)))
    except CannotPredict as error:
        raise UnusableRun(f"{chosen.run}: {error}") from error


def _write(lines: Sequence[str]) -> None:
    """Write and flush lines: unchanged to a file or a pipe, without controls to a terminal."""
    if sys.stdout.isatty():
        echo(*lines)
        return
    sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode())
    sys.stdout.buffer.flush()


def _predict(predictor: "Predictor", lines: Iterable[bytes], batch: int, n_best: int | None) -> int:
    """Write a prediction for each line, batch by batch; returns the exit code."""
    from attention_lab.training.prediction import BadLine, predict_lines

    code = 0
    try:
        for some in predict_lines(predictor, lines, batch, n_best):
            _write(some)
    except BadLine as error:
        code = fail(str(error), 1)
    except KeyboardInterrupt:
        code = fail("interrupted", 1)
    if predictor.unknown:
        what = "tokens not in the vocabulary, read as <unk>"
        echo(f"attention-lab: {what}: {predictor.unknown}", error=True)
    return code
