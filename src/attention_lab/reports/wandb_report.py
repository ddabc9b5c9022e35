"""The report in Weights & Biases, as a run in the group of its sweep."""

import re
from pathlib import Path
from typing import Any

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.csv_table import CSV_COLUMNS, csv_rows
from attention_lab.reports.formatting import failure_reason, format_status
from attention_lab.reports.headline import headline
from attention_lab.reports.runs import section
from attention_lab.tracking.wandb_logger import LoggerOptions

RUN_COLUMNS = ("run", "group", "seed", "status", "reason")


def log_report(comparison: Comparison, directory: Path) -> str | None:
    """Log the tables of a report, and its files as an artifact, to a W&B run of their own.

    The run is in the group of the sweep and in the project of its runs, of the user's own entity:
    that of WANDB_ENTITY, or W&B's default. Whether it goes to a server is decided as for those: not
    unless the user is logged in.

    Args:
        comparison: what is reported.
        directory: where ``report.html`` and ``report.csv`` lie.

    Returns:
        Where the W&B run is, or that W&B is off; None if W&B failed, which has been printed.
    """
    options = _options(comparison)
    config = {"answer": headline(comparison), "swept": comparison.swept}
    logger = options.logger(directory, _group(comparison, directory), config)
    if logger is None:
        return "is off"
    if logger.logger is None:
        return None
    import wandb  # only where it is used: it takes most of a second to import

    run: Any = logger.experiment
    run.name = f"report of {directory.resolve().name}"
    run.log({"report/numbers": _numbers(comparison), "report/runs": _runs(comparison)})
    name = re.sub(r"[^\w.-]+", "_", directory.resolve().name)
    artifact = wandb.Artifact(f"report-{name}", type="report")
    for file in ("report.html", "report.csv"):
        artifact.add_file(str(directory / file))
    run.log_artifact(artifact)
    place = str(run.url or run.dir)
    logger.close(exit_code=0)
    return place


def _options(comparison: Comparison) -> LoggerOptions:
    """Where the compared runs went, but for the entity: whoever made them chose it."""
    known = section(comparison.runs[0].config, "logger") if comparison.runs else {}
    named = {"project": known["project"]} if known.get("project") else {}
    # Of runs that were to stay here no report goes away; of runs without W&B it is asked for now.
    return LoggerOptions(wandb="offline" if known.get("wandb") == "offline" else "auto", **named)


def _group(comparison: Comparison, directory: Path) -> str:
    """The group of the runs: their sweep's name."""
    names = [run.directory.parent.name for run in comparison.runs]
    return names[0] if names else directory.resolve().name


def _numbers(comparison: Comparison) -> Any:
    import wandb

    # A column holds one type: what is not known is None, not the empty text of report.csv.
    rows = [
        [None if row.get(name) == "" else row.get(name) for name in CSV_COLUMNS]
        for row in csv_rows(comparison)
    ]
    return wandb.Table(columns=list(CSV_COLUMNS), data=rows)


def _runs(comparison: Comparison) -> Any:
    import wandb

    placed = [(group.label, run) for group in comparison.groups for run in group.runs]
    rows = [
        [run.name, label, run.seed, format_status(run), "" if run.result else failure_reason(run)]
        for label, run in [*placed, *(("", run) for run in comparison.unplaced)]
    ]
    return wandb.Table(columns=list(RUN_COLUMNS), data=rows)
