"""`attention-lab evaluate`: compute the metrics of finished runs from their checkpoints.

The metrics are printed beside those of the trivial and shortcut baselines, and saved in each run's
evaluations/ directory. A sweep's directory means its finished runs. data.test=FILE and other keys
of the data that begin with "test" evaluate on other data or lengths:

  attention-lab evaluate outputs/mine data.test=other.tsv
  attention-lab evaluate outputs/parity 'data.test_lengths=[64,128]'

--ensemble prints the metrics of all runs together: their probabilities are averaged at each step.

--ablate-heads prints the monitored metric with each attention head switched off instead, and saves
it as a table and a chart.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_lab.api.open_run import UnusableRun, local_run, open_run
from attention_lab.cli import fail, warn
from attention_lab.cli.metric_lines import metric_lines
from attention_lab.cli.parser import Parser
from attention_lab.cli.run_argument import (
    DECODING,
    add_checkpoint,
    add_decoding,
    given,
    run_path,
)
from attention_lab.config.compose import WrongCommand
from attention_lab.printing import echo

if TYPE_CHECKING:
    from attention_lab.training.build import BuiltRun

#: An override: the key of a section, and a value. An existing directory may have such a name.
_OVERRIDE = re.compile(r"[+~]?\w+\.[\w.]+=.*", re.DOTALL)


def run(arguments: Sequence[str]) -> int:
    """Evaluate runs on one split, print and save their metrics; returns the exit code."""
    parser = _parser()
    chosen = parser.parse_intermixed_args(arguments)  # options may stand between runs
    chosen.overrides = [each for each in chosen.run if isinstance(each, str)]
    places = [each for each in chosen.run if isinstance(each, Path)]
    if not places:
        parser.error("the following arguments are required: RUN")
    if chosen.overrides and (chosen.split != "test" or chosen.ablate_heads):
        flag = "--ablate-heads" if chosen.ablate_heads else "--split validation"
        return fail(f"{chosen.overrides[0]}: cannot be combined with {flag}", 2)
    if chosen.ensemble and (chosen.overrides or chosen.ablate_heads):
        other = chosen.overrides[0] if chosen.overrides else "--ablate-heads"
        return fail(f"--ensemble: cannot be combined with {other}", 2)
    try:
        runs = [run for place in places for run in _runs(local_run(place))]
        if chosen.ensemble:
            return _evaluate_together(runs, chosen)
    except UnusableRun as error:
        return fail(str(error), 1)
    except WrongCommand as error:
        return fail(str(error), 2)
    return max(_evaluate(run, chosen, is_only=len(runs) == 1) for run in runs)


def _runs(place: Path) -> Iterator[Path]:
    """The finished runs of a sweep; or the directory itself, if it is not a sweep's.

    Raises:
        UnusableRun: if the sweep has no finished run.
    """
    from attention_lab.reports.runs import NotARun, read_runs

    if (place / "config.yaml").exists() or (place / "status.json").exists():
        yield place
        return
    try:
        runs = read_runs([place])
    except (NotARun, OSError):  # reported when the run is opened
        yield place
        return
    finished = [run.directory for run in runs if run.status == "finished"]
    if not finished:
        raise UnusableRun(f"{place} has no finished run")
    yield from finished


def _evaluate(run: Path, chosen: argparse.Namespace, is_only: bool) -> int:
    """Evaluate one run; returns the exit code."""
    from attention_lab.tracking.evaluations import evaluation_file, evaluation_name

    if not is_only:
        echo(str(run))
    decoding = given(chosen, DECODING)
    name = evaluation_name(chosen.checkpoint, decoding, chosen.overrides)
    try:
        with open_run(run, chosen.checkpoint):
            from attention_lab.training.checkpoint.checkpoint_io import checksum_of
            from attention_lab.training.evaluation import restored

            _check_decoding(run, decoding)
            if chosen.ablate_heads:
                from attention_lab.cli.ablate_heads import print_ablation

                trained = restored(run, chosen.checkpoint, decoding)
                return print_ablation(trained, chosen.split, run, name)
            record = _other_test(run, chosen) if chosen.overrides else _own_split(run, chosen)
            checksum = checksum_of(run / "checkpoints" / f"{chosen.checkpoint}.ckpt")
    except UnusableRun as error:
        return fail(str(error), 1)
    except WrongCommand as error:
        return fail(str(error), 2)
    about = {
        "split": chosen.split,
        "checkpoint": chosen.checkpoint,
        "checkpoint_sha256": checksum,
        "decoding": decoding,
    }
    _save(evaluation_file(run, chosen.split, name), {**about, **record})
    return 0


def _evaluate_together(runs: Sequence[Path], chosen: argparse.Namespace) -> int:
    """Print the metrics of the ensemble of runs; they are of no run, so they are not saved.

    Raises:
        UnusableRun: if a run cannot be used, or not together with the others.
        WrongCommand: if an option does not apply.
    """
    decoding = given(chosen, DECODING)
    built: list[BuiltRun] = []
    for run in runs:
        with open_run(run, chosen.checkpoint):
            from attention_lab.training.evaluation import evaluate, restored

            _check_decoding(run, decoding)
            built.append(restored(run, chosen.checkpoint, decoding, with_data=not built))
    from attention_lab.training.ensemble import CannotCombine, check_evaluation, make_ensemble

    tasks = [each.task for each in built]
    try:
        make_ensemble(runs, tasks)
        check_evaluation(runs, tasks)
        metrics = evaluate(built[0], chosen.split)
    except CannotCombine as error:
        raise UnusableRun(str(error)) from error
    except RuntimeError as error:
        raise UnusableRun(f"the ensemble cannot be evaluated: {error}") from error
    echo(*metric_lines(metrics, chosen.split, built[0].data.baselines(chosen.split)))
    return 0


def _check_decoding(run: Path, decoding: Mapping[str, Any]) -> None:
    """Raise WrongCommand if there are options of decoding for a run without beam search."""
    from attention_lab.training.evaluation import task_name

    if decoding and (task := task_name(run)) != "sequence_to_sequence":
        raise WrongCommand(f"{run} is for {task}, which has no beam search")


def _own_split(run: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Print the metrics of a run on one of its splits; returns the record of them."""
    from attention_lab.training.evaluation import evaluate, restored

    trained = restored(run, chosen.checkpoint, given(chosen, DECODING))
    metrics = evaluate(trained, chosen.split)
    echo(*metric_lines(metrics, chosen.split, trained.data.baselines(chosen.split)))
    return {"metrics": metrics}


def _other_test(run: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Print the metrics of a run on another test split; returns the record of them."""
    from attention_lab.training.evaluation import evaluate
    from attention_lab.training.other_test import with_other_test

    other = with_other_test(run, chosen.checkpoint, given(chosen, DECODING), chosen.overrides)
    if other.message:
        warn(other.message)
    metrics = evaluate(other.run, "test", other.rows)
    # The baselines are computed on all examples, so they are left out if some were.
    data = other.run.data
    trivial, shortcuts = (
        ({}, {})
        if other.number_left_out
        else (data.trivial_baseline("test"), data.shortcut_baselines("test"))
    )
    baselines = {"trivial baseline": trivial, **shortcuts} if trivial else {}
    echo(*metric_lines(metrics, "test", baselines))
    return {
        "overrides": chosen.overrides,
        "data_files": other.data_files,
        "examples": other.number_of_examples,
        "left_out": other.number_left_out,
        "metrics": metrics,
        "trivial_baseline": trivial,
        "shortcut_baselines": shortcuts,
    }


def _save(file: Path, record: Mapping[str, Any]) -> None:
    """Save an evaluation, and print where it is."""
    from attention_lab.tracking.evaluations import write_evaluation

    try:
        write_evaluation(file, record)
    except OSError as error:  # the directory may belong to another user
        echo(f"attention-lab: {file} cannot be written: {error.strerror}", error=True)
    else:
        echo(f"saved to {file}")


def _run_or_override(text: str) -> Path | str:
    """A RUN argument as a path; an override as the text itself."""
    if _OVERRIDE.fullmatch(text) and not Path(text).is_dir():
        return text
    return run_path(text)


def _parser() -> Parser:
    usage = "attention-lab evaluate RUN… [data.test=FILE …] [options]"
    parser = Parser("evaluate", __doc__, usage)
    what = "runs or sweeps, as directories or W&B artifacts, and overrides of the test split"
    parser.add_argument("run", type=_run_or_override, nargs="+", metavar="RUN", help=what)
    add_checkpoint(parser)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument(
        "--ablate-heads",
        action="store_true",
        help="evaluate with each attention head switched off, one at a time",
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="evaluate all runs together; nothing is saved"
    )
    add_decoding(parser.add_argument_group("sequence to sequence; default: as in the config"))
    return parser
