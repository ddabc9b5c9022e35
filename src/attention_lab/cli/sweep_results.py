"""Print the results at the end of `attention-lab train -m`: report, uploads, unfinished runs."""

from pathlib import Path

from attention_lab.cli import fail
from attention_lab.printing import counted, echo


def report_sweep(sweep: Path) -> int:
    """Report on a sweep; returns the exit code, which is 1 if a run failed or was interrupted."""
    from attention_lab.cli.report import report
    from attention_lab.reports.runs import read_runs

    if queued := queued_jobs(sweep):
        echo(*queued.split("\n"))
        return 0
    runs = read_runs([sweep])
    if all(run.debug_settings for run in runs):
        echo(f"no report: debug runs ({', '.join(runs[0].debug_settings)})")
    elif code := report([sweep]):
        return code
    if (best := sweep / "optimization_results.yaml").exists():
        echo(f"search          {best}: best by validation; test metrics were not used to select")
    if (not_uploaded := _not_uploaded(sweep)) is not None:
        echo(f"W&B             {not_uploaded}")
    unfinished = [run.name for run in runs if run.status not in ("finished", "pruned")]
    return fail(f"{counted(len(unfinished), 'run')} did not finish", 1) if unfinished else 0


def queued_jobs(sweep: Path) -> str | None:
    """How to follow and cancel the runs of a sweep in SLURM's queue; None if there are none."""
    from attention_lab.sweeps.slurm_queue import NoQueue, in_queue
    from attention_lab.tracking.run_directory import SUBMISSION

    files = [path for depth in ("*", "*/*") for path in sweep.glob(f"{depth}/{SUBMISSION}")]
    try:
        jobs = in_queue([path.parent for path in files]).values()
    except NoQueue as error:
        return f"SLURM does not answer ({error}); jobs of this sweep in its queue will run"
    arrays = dict.fromkeys(job.partition("_")[0] for job in jobs)
    if not jobs:
        return None
    return (
        f"{len(jobs)} jobs in the SLURM queue; they do not need this shell\n"
        f"to watch them    attention-lab report {sweep} --watch\n"
        f"to cancel them   scancel {' '.join(arrays)}"
    )


def _not_uploaded(sweep: Path) -> str | None:
    """How to upload runs that were logged offline although the user is logged in; None if none."""
    from attention_lab.cli.sync import not_uploaded

    runs = len({part.parent for part in not_uploaded(sweep)})
    if not runs:
        return None

    from attention_lab.tracking.wandb_logger import is_logged_in, server, upload_later

    logged = f"{counted(runs, 'run')} logged offline"
    return f"{logged}. {upload_later(sweep)}" if is_logged_in(server()) else None
