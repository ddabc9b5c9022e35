"""`attention-lab report`: compare the runs of sweeps."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from attention_lab.cli import fail
from attention_lab.cli.parser import Parser
from attention_lab.printing import echo, rich_console

#: Characters of a directory's name that stay readable; file systems allow 255 bytes.
_LONGEST_NAME = 60


def run(arguments: Sequence[str]) -> int:
    """Print the comparison and write report.html and report.csv."""
    parser = Parser("report", __doc__)
    parser.add_argument(
        "sweep", type=Path, nargs="+", metavar="SWEEP", help="a sweep's or a run's directory"
    )
    parser.add_argument("--baseline", help="the group to compare with: attention=additive")
    parser.add_argument(
        "--evaluation",
        metavar="beam=N",
        help="compare what `evaluate --beam N` kept of each run: beam=5",
    )
    parser.add_argument("--metric", help="the test metric to compare by: test/wer")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where to write; default: the sweep, or a directory FIRST+SECOND beside the first; in "
        "it, with --evaluation, a directory of that name",
    )
    parser.add_argument(
        "--wandb",
        action="store_true",
        help="log the report to W&B, too, for your entity or WANDB_ENTITY",
    )
    parser.add_argument(
        "--watch", action="store_true", help="show how the jobs go on, and report when they ended"
    )
    chosen = parser.parse_args(arguments)
    if chosen.watch:
        from attention_lab.sweeps.watch import watch

        try:
            watch(chosen.sweep)
        except (OSError, ValueError) as error:
            return fail(str(error), 1)
    options = (chosen.metric, chosen.wandb, chosen.evaluation)
    return report(chosen.sweep, chosen.baseline, chosen.output, *options)


def report(
    sweeps: Sequence[Path],
    baseline: str | None = None,
    output: Path | None = None,
    metric: str | None = None,
    wandb: bool = False,
    evaluation: str | None = None,
) -> int:
    """Report on sweeps; the exit code is 1 if it is not possible, 2 for what is not there.

    Args:
        sweeps: directories of sweeps or runs.
        baseline: the group to compare with, by label or overrides.
        output: where to write; None means the sweep, or of several a directory of their names, and
            of an evaluation a directory in it, so that the report of the runs' own tests stays.
        metric: the test metric to compare by; None means the monitored one.
        wandb: whether to log the report to W&B as well.
        evaluation: which results of `evaluate` to compare, as "beam=5"; None means the runs' own.
    """
    # Where it cannot keep a cache of its fonts, matters to Matplotlib alone.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)

    from attention_lab.reports.comparison import compare
    from attention_lab.reports.report import write_report
    from attention_lab.reports.runs import NotARun, read_runs
    from attention_lab.reports.terminal_table import terminal_table

    try:
        runs = read_runs(sweeps)
        if evaluation:
            from attention_lab.reports.evaluations import with_evaluation

            runs = with_evaluation(runs, evaluation)
        comparison = compare(runs, baseline, metric, evaluation)
        page = write_report(comparison, output or _place(sweeps, evaluation))
    except (NotARun, OSError) as error:
        return fail(str(error), 1)
    except ValueError as error:
        return fail(str(error), 2)
    console = rich_console()
    console.print(terminal_table(comparison, console.width))
    echo(f"report          {page}")
    for group in comparison.groups:
        viewers = [run.directory / "attention" / "attention.html" for run in group.finished]
        for viewer in filter(Path.exists, viewers[:1]):
            echo(f"attention maps  {viewer}")
    if wandb:
        from attention_lab.reports.wandb_report import log_report

        try:
            place = log_report(comparison, page.parent)
        except Exception as error:  # of a server or a network; the report itself is on disk
            return fail(f"W&B did not take the report: {error}", 1)
        if place is None:
            return 1
        echo(f"W&B             {place}")
    return 0


def _place(sweeps: Sequence[Path], evaluation: str | None) -> Path:
    """Where the report goes: into the sweep, or of several beside the first, under all names.

    The reports of the single sweeps and of the runs' own tests stay as they are.

    Raises:
        ValueError: if a link in the sweep would lead the report elsewhere.
    """
    if evaluation:
        place = _place(sweeps, None) / evaluation
        if place.is_symlink():
            raise ValueError(f"{place} is a symbolic link; name another place with --output")
        return place
    different = list(dict.fromkeys(path.resolve() for path in sweeps))
    if len(different) == 1:
        return sweeps[0]
    name = "+".join(path.name for path in different)
    if len(name) > _LONGEST_NAME:
        key = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        name = f"{different[0].name[:_LONGEST_NAME]}+{len(different) - 1}-{key}"
    return different[0].parent / name
