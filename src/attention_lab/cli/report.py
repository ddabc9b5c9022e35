"""`attention-lab report`: compare the runs of sweeps."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attention_lab.cli import fail
from attention_lab.cli.parser import Parser, directory_path, existing_directory
from attention_lab.printing import counted, echo, rich_console

if TYPE_CHECKING:
    from attention_lab.reports.comparison import Comparison
    from attention_lab.reports.runs import RecordedRun

#: Longer names of directories, in characters, are shortened; file systems allow 255 bytes.
_LONGEST_NAME = 60


def run(arguments: Sequence[str]) -> int:
    """Print the comparison and write report.html and report.csv."""
    chosen = _parser().parse_args(arguments)
    if chosen.watch:
        from attention_lab.sweeps.watch import watch

        try:
            watch(chosen.sweep)
        except (OSError, ValueError) as error:
            return fail(str(error), 1)
    options = (chosen.metric, chosen.wandb, chosen.evaluation)
    return report(chosen.sweep, chosen.baseline, chosen.output, *options)


def _parser() -> Parser:
    parser = Parser("report", __doc__)
    add = parser.add_argument
    add(
        "sweep",
        type=existing_directory,
        nargs="+",
        metavar="SWEEP",
        help="a sweep's or a run's directory",
    )
    add("--baseline", help="the group to compare with: attention=additive")
    evaluation = (
        "compare the results of `evaluate --num-beams N`, or of `evaluate … data.test=FILE`, by "
        "the same name: num_beams=5, data.test=other.tsv"
    )
    add("--evaluation", metavar="NAME", help=evaluation)
    add("--metric", help="the test metric to compare by: test/wer")
    output = (
        "output directory; default: the sweep, for several sweeps FIRST+SECOND beside the first; "
        "with --evaluation, a subdirectory of that name"
    )
    add("--output", type=directory_path, metavar="DIR", help=output)
    online = "also log the report to W&B, to your entity or WANDB_ENTITY"
    add("--wandb", action="store_true", help=online)
    watching = "show the progress of the jobs, and report when they have ended"
    add("--watch", action="store_true", help=watching)
    return parser


def report(
    sweeps: Sequence[Path],
    baseline: str | None = None,
    output: Path | None = None,
    metric: str | None = None,
    wandb: bool = False,
    evaluation: str | None = None,
) -> int:
    """Compare the runs of sweeps; returns 1 if files cannot be used, 2 for wrong arguments.

    The arguments are the options of the command; ``sweeps`` are directories of sweeps or runs.
    """
    from attention_lab.reports.comparison import compare
    from attention_lab.reports.report import write_report
    from attention_lab.reports.runs import NotARun, read_runs

    try:
        runs = _without_debug_runs(read_runs(sweeps))
        if evaluation:
            from attention_lab.reports.evaluations import with_evaluation

            runs = with_evaluation(runs, evaluation)
        comparison = compare(runs, baseline, metric, evaluation)
        output = output or _output_directory(sweeps, evaluation)
    except (NotARun, OSError) as error:
        return fail(str(error), 1)
    except ValueError as error:
        return fail(str(error), 2)
    try:
        page = write_report(comparison, output)
    except OSError as error:
        reason = "not a directory" if isinstance(error, FileExistsError) else error.strerror
        return fail(f"{output} cannot be written: {reason}; use --output DIR", 1)
    _print(comparison, page)
    return _log_to_wandb(comparison, page.parent) if wandb else 0


def _print(comparison: "Comparison", page: Path) -> None:
    """Print the table, and the paths of the page and of a viewer for each group."""
    from attention_lab.reports.terminal_table import terminal_table

    console = rich_console()
    console.print(terminal_table(comparison, console.width))
    echo(f"report          {page}")
    for group in comparison.groups:
        viewers = [run.directory / "attention" / "attention.html" for run in group.finished]
        for viewer in filter(Path.exists, viewers[:1]):
            echo(f"attention maps  {viewer}")


def _without_debug_runs(runs: Sequence["RecordedRun"]) -> list["RecordedRun"]:
    """The runs that trained and were tested on all batches; prints how many others there are.

    Raises:
        ValueError: if there are only others.
    """
    debug = [run for run in runs if run.debug_settings]
    if debug:
        example = f"{debug[0].name} has {debug[0].debug_settings[0]}"
        if len(debug) == len(runs):
            raise ValueError(f"only debug runs, which leave out batches: {example}")
        echo(f"{counted(len(debug), 'debug run')} left out: {example}")
    return [run for run in runs if not run.debug_settings]


def _log_to_wandb(comparison: "Comparison", directory: Path) -> int:
    """Log a report to W&B; returns the exit code."""
    from attention_lab.reports.wandb_report import log_report

    try:
        place = log_report(comparison, directory)
    except Exception as error:  # from a server or the network; the report is on disk
        return fail(f"cannot log the report to W&B: {error}", 1)
    if place is None:
        return 1
    echo(f"W&B             {place}")
    return 0


def _output_directory(sweeps: Sequence[Path], evaluation: str | None) -> Path:
    """The default output directory: the sweep or, for several, one named after them.

    An evaluation has a subdirectory, so that it does not replace the report of the runs' own test
    metrics.

    Raises:
        ValueError: if it is a symbolic link.
    """
    if evaluation:
        from attention_lab.tracking.evaluations import file_name

        place = _output_directory(sweeps, None) / file_name(evaluation)
        if place.is_symlink():
            raise ValueError(f"{place} is a symbolic link; choose another directory with --output")
        return place
    different = list(dict.fromkeys(path.resolve() for path in sweeps))
    if len(different) == 1:
        return sweeps[0]
    name = "+".join(path.name for path in different)
    if len(name) > _LONGEST_NAME:
        key = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        name = f"{different[0].name[:_LONGEST_NAME]}+{len(different) - 1}-{key}"
    return different[0].parent / name
