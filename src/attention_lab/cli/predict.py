r"""`attention-lab predict`: predict a line of output for each line of input, with finished runs.

Sequence to sequence: from source to target. Language model: from a prompt to the prompt and its
continuation. Classification: from a text to its class. A line break in a prediction is shown as \n.
Several runs predict together, as an ensemble: their probabilities are averaged at each step.
Predictions are made in batches, when a batch is full or the input ends. Use --batch 1 to get each
prediction at once, which is the default in a terminal.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attention_lab.api.open_run import UnusableRun, local_run, open_run
from attention_lab.cli import fail
from attention_lab.cli.parser import Parser
from attention_lab.cli.run_argument import (
    DECODING,
    RUN_HELP,
    add_checkpoint,
    add_decoding,
    given,
    number,
    run_path,
    whole,
)
from attention_lab.config.compose import WrongCommand
from attention_lab.printing import echo

if TYPE_CHECKING:
    from attention_lab.training.prediction import Predictor
    from attention_lab.training.tasks.base import AttentionTask

SAMPLING = ("length", "temperature", "top_k", "top_p", "seed")
#: The options that apply to one task only.
OPTIONS = {"sequence_to_sequence": (*DECODING, "n_best"), "language_model": SAMPLING}


def run(arguments: Sequence[str]) -> int:
    """Predict for the lines of standard input."""
    chosen = _parser().parse_intermixed_args(arguments)  # options may stand between runs
    try:
        predictor = _predictor(chosen)
    except UnusableRun as error:
        return fail(str(error), 1)
    except WrongCommand as error:
        return fail(str(error), 2)
    batch = chosen.batch or (1 if sys.stdin.isatty() else 64)
    return _predict(predictor, sys.stdin.buffer, batch, chosen.n_best)


def _parser() -> Parser:
    usage = "attention-lab predict RUN… [options] < INPUTS > OUTPUTS"
    parser = Parser("predict", __doc__, usage)
    parser.add_argument("runs", type=run_path, nargs="+", metavar="RUN", help=RUN_HELP)
    add_checkpoint(parser)
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


def _check_options(chosen: argparse.Namespace, run: Path, task: str) -> None:
    """Raise WrongCommand if an option does not apply to the task of a run."""
    for other, options in OPTIONS.items():
        for option in options:
            if other != task and getattr(chosen, option) is not None:
                flag = f"--{option.replace('_', '-')}"
                raise WrongCommand(f"{flag} is for {other}; {run} is for {task}")


def _check_n_best(predictor: "Predictor", n_best: int | None) -> None:
    """Raise WrongCommand if there are more hypotheses than beam search has."""
    from attention_lab.training.prediction import TargetPredictor

    if n_best is None or not isinstance(predictor, TargetPredictor):
        return
    if n_best > (has := predictor.task.num_beams):
        raise WrongCommand(f"--n-best {n_best}: add --num-beams {n_best}; it is {has}")


def _predictor(chosen: argparse.Namespace) -> "Predictor":
    """The predictor of the run, or of the ensemble of the runs.

    Raises:
        UnusableRun: if a run cannot predict, or not together with the others.
        WrongCommand: if an option does not apply.
    """
    runs = [local_run(each) for each in chosen.runs]
    tasks, predictors = zip(*(_opened(run, chosen) for run in runs), strict=True)
    from attention_lab.training.ensemble import CannotCombine, make_ensemble

    try:
        make_ensemble(runs, tasks)
    except CannotCombine as error:
        raise UnusableRun(str(error)) from error
    _check_n_best(predictors[0], chosen.n_best)
    return predictors[0]  # of the first task, which now has the networks of all


def _opened(run: Path, chosen: argparse.Namespace) -> "tuple[AttentionTask, Predictor]":
    """The trained task of a run, and its predictor."""
    with open_run(run, chosen.checkpoint):
        from attention_lab.training.evaluation import restored, task_name
        from attention_lab.training.prediction import CannotPredict, Sampling, predictor

        _check_options(chosen, run, task_name(run))
        task = restored(run, chosen.checkpoint, given(chosen, DECODING), with_data=False).task
        try:
            return task, predictor(task, Sampling(**given(chosen, SAMPLING)))
        except CannotPredict as error:
            raise UnusableRun(f"{run}: {error}") from error


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
