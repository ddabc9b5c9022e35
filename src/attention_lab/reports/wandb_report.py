"""The report in Weights & Biases, as a W&B run in the group of the sweep."""

import re
from pathlib import Path
from typing import Any

from attention_lab.reports.comparison import Comparison
from attention_lab.reports.csv_table import CSV_COLUMNS, csv_rows
from attention_lab.reports.formatting import failure_reason, format_status
from attention_lab.reports.headline import headline
from attention_lab.reports.runs import RecordedRun, section
from attention_lab.tracking.run_name import LONGEST_NAME
from attention_lab.tracking.wandb_logger import WandbOptions

RUN_COLUMNS = ("run", "group", "seed", "status", "reason")


def log_report(comparison: Comparison, directory: Path) -> str | None:
    """Log the tables of a report, and its files as an artifact, to a new W&B run.

    The W&B run is in the project and the group of the sweep's runs, and belongs to the user's own
    entity: WANDB_ENTITY, or W&B's default. Nothing is uploaded unless the user is logged in.

    Args:
        comparison: the comparison.
        directory: the directory of ``report.html`` and ``report.csv``.

    Returns:
        The address of the W&B run, or "is off"; None if W&B failed, after a message.
    """
    options = report_options(comparison)
    config = {"headline": headline(comparison), "swept": comparison.swept}
    logger = options.logger(
        directory,
        config,
        name=f"report of {directory.resolve().name}"[:LONGEST_NAME],
        group=_group(comparison, directory),
        job_type="report",
    )
    if logger is None:
        return "is off"
    if logger.logger is None:
        return None
    import wandb  # only where it is used: it takes most of a second to import

    run: Any = logger.experiment
    run.log({"report/numbers": _numbers(comparison), "report/runs": _runs(comparison)})
    name = re.sub(r"[^\w.-]+", "_", f"report-{directory.resolve().name}", flags=re.ASCII)
    artifact = wandb.Artifact(name[:LONGEST_NAME], type="report")
    for file in ("report.html", "report.csv"):
        artifact.add_file(str(directory / file))
    run.log_artifact(artifact)
    place = str(run.url or run.dir)
    logger.close(exit_code=0)
    return place


def report_options(comparison: Comparison) -> WandbOptions:
    """The logger options of the compared runs, without the entity, which may be another user's."""
    config = comparison.runs[0].config if comparison.runs else None
    known = section(section(config, "logger"), "wandb")
    named = {"project": known["project"]} if known.get("project") else {}
    # Runs with mode=offline keep their report offline; runs without W&B do not prevent it.
    return WandbOptions(mode="offline" if known.get("mode") == "offline" else "auto", **named)


def wandb_group(run: RecordedRun) -> str:
    """The W&B group of a run: as in its config, else the name of its sweep."""
    chosen = section(section(run.config, "logger"), "wandb").get("group")
    return str(chosen or run.directory.resolve().parent.name)


def _group(comparison: Comparison, directory: Path) -> str:
    """The W&B group of the first run."""
    return wandb_group(comparison.runs[0]) if comparison.runs else directory.resolve().name


def _numbers(comparison: Comparison) -> Any:
    import wandb

    # A column holds one type: an unknown value is None, not "" as in report.csv.
    rows = [
        [None if row.get(name) == "" else row.get(name) for name in CSV_COLUMNS]
        for row in csv_rows(comparison)
    ]
    return wandb.Table(columns=list(CSV_COLUMNS), data=rows)


def _runs(comparison: Comparison) -> Any:
    import wandb

    rows = [
        [run.name, label, run.seed, format_status(run), "" if run.result else failure_reason(run)]
        for label, run in comparison.placed
    ]
    return wandb.Table(columns=list(RUN_COLUMNS), data=rows)
