"""`attention-lab report`: compare the runs of sweeps."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from attention_lab.cli import fail


def run(arguments: Sequence[str]) -> int:
    """Print the comparison and write report.html and report.csv."""
    parser = argparse.ArgumentParser("attention-lab report", description=__doc__)
    parser.add_argument("sweep", type=Path, nargs="+", help="a sweep's or a run's directory")
    parser.add_argument("--baseline", help="the group to compare with: attention=additive")
    parser.add_argument("--output", type=Path, help="where to write; default: the first sweep")
    chosen = parser.parse_args(arguments)
    return report(chosen.sweep, chosen.baseline, chosen.output)


def report(sweeps: Sequence[Path], baseline: str | None = None, output: Path | None = None) -> int:
    """Report on sweeps; the exit code is 1 if it is not possible, 2 for an unknown baseline."""
    from rich.console import Console

    from attention_lab.sweeps.comparison import compare
    from attention_lab.sweeps.records import NotARun, read_runs
    from attention_lab.sweeps.report import write_report
    from attention_lab.sweeps.terminal import terminal_table

    try:
        comparison = compare(read_runs(sweeps), baseline)
        page = write_report(comparison, output or sweeps[0])
    except (NotARun, OSError) as error:
        return fail(str(error), 1)
    except ValueError as error:
        return fail(str(error), 2)
    console = Console()
    console.print(terminal_table(comparison, console.width))
    console.print(f"report          {page}", highlight=False, soft_wrap=True)
    for group in comparison.groups:
        viewers = [run.directory / "attention" / "attention.html" for run in group.finished]
        for viewer in filter(Path.exists, viewers[:1]):
            console.print(f"attention maps  {viewer}", highlight=False, soft_wrap=True)
    return 0
