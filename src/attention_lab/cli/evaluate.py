"""`attention-lab evaluate`: compute the metrics of a finished run from its checkpoint.

The metrics are printed beside those of the trivial and shortcut baselines, and saved in the run's
evaluations/ directory. --ablate-heads prints the monitored metric with each attention head switched
off instead, and saves it as a table and a chart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attention_lab.api.open_run import UnusableRun, local_run, open_run
from attention_lab.cli import fail
from attention_lab.cli.metric_lines import metric_lines
from attention_lab.cli.parser import Parser
from attention_lab.cli.run_argument import (
    DECODING,
    add_decoding,
    add_run,
    given,
)
from attention_lab.printing import echo


def run(arguments: Sequence[str]) -> int:
    """Evaluate a run on one split, print and save its metrics; returns the exit code."""
    chosen = _parser().parse_args(arguments)

    from attention_lab.tracking.evaluations import evaluation_file, evaluation_name

    decoding = given(chosen, DECODING)
    try:
        chosen.run = local_run(chosen.run)
        with open_run(chosen.run, chosen.checkpoint):
            from attention_lab.training.checkpoint.checkpoint_io import checksum_of
            from attention_lab.training.evaluation import evaluate, restored, task_name

            if decoding and (task := task_name(chosen.run)) != "sequence_to_sequence":
                return fail(f"{chosen.run} is for {task}, which has no beam search", 2)
            trained = restored(chosen.run, chosen.checkpoint, decoding)
            name = evaluation_name(chosen.checkpoint, decoding)
            if chosen.ablate_heads:
                from attention_lab.cli.ablate_heads import print_ablation

                return print_ablation(trained, chosen.split, chosen.run, name)
            metrics = evaluate(trained, chosen.split)
            baselines = trained.data.baselines(chosen.split)
            checksum = checksum_of(chosen.run / "checkpoints" / f"{chosen.checkpoint}.ckpt")
    except UnusableRun as error:
        return fail(str(error), 1)
    echo(*metric_lines(metrics, chosen.split, baselines))
    record = {
        "split": chosen.split,
        "checkpoint": chosen.checkpoint,
        "checkpoint_sha256": checksum,
        "decoding": decoding,
        "metrics": metrics,
    }
    _save(evaluation_file(chosen.run, chosen.split, name), record)
    return 0


def _save(file: Path, record: Mapping[str, Any]) -> None:
    """Save an evaluation, and print where it is."""
    from attention_lab.tracking.evaluations import write_evaluation

    try:
        write_evaluation(file, record)
    except OSError as error:  # the directory may belong to another user
        echo(f"attention-lab: {file} cannot be written: {error.strerror}", error=True)
    else:
        echo(f"saved to {file}")


def _parser() -> Parser:
    parser = Parser("evaluate", __doc__)
    add_run(parser)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument(
        "--ablate-heads",
        action="store_true",
        help="evaluate with each attention head switched off, one at a time",
    )
    add_decoding(parser.add_argument_group("sequence to sequence; default: as in the config"))
    return parser
