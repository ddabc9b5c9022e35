"""`attention-lab evaluate`: the metrics of a finished run, from its checkpoint, and its floor."""

from collections.abc import Sequence

from attention_lab.cli import fail
from attention_lab.cli.finished_run import (
    DECODING,
    UnusableRun,
    add_decoding,
    add_run,
    given,
    usable,
)
from attention_lab.cli.metrics import lines
from attention_lab.cli.parser import Parser
from attention_lab.printing import echo


def run(arguments: Sequence[str]) -> int:
    """Evaluate one run on one split; print its metrics beside those of trivial baselines."""
    parser = Parser("evaluate", __doc__)
    add_run(parser)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    add_decoding(parser.add_argument_group("sequence to sequence; default: as in the config"))
    chosen = parser.parse_args(arguments)
    decoding = given(chosen, DECODING)
    try:
        with usable(chosen.run, chosen.checkpoint):
            from attention_lab.training.finished import evaluate, restored, solves

            if decoding and (task := solves(chosen.run)) != "sequence_to_sequence":
                return fail(f"{chosen.run} is for {task}; it writes nothing with a beam", 2)
            trained = restored(chosen.run, chosen.checkpoint, decoding)
            metrics = evaluate(trained, chosen.split)
            marks = {
                "floor": trained.data.floor(chosen.split),
                **trained.data.shortcuts(chosen.split),
            }
    except UnusableRun as error:
        return fail(str(error), 1)
    for line in lines(metrics, chosen.split, marks):
        echo(line)
    return 0
