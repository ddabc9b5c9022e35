"""Provenance of a report's numbers: commands, code, hosts and times."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from attention_lab.printing import counted
from attention_lab.reports.caveats import git_revision
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.runs import RecordedRun, section, settings


def summary(comparison: Comparison) -> str:
    """The numbers of runs, groups and seeds, and of runs without a result."""
    runs, missing = len(comparison.runs), len(comparison.unfinished)
    seeds = len({run.seed for run in comparison.runs} - {None})
    missing_line = f"; {missing} without a result" if missing else ""
    return (
        f"{counted(runs, 'run')} in {counted(len(comparison.groups), 'group')}, "
        f"{counted(seeds, 'seed')}{missing_line}."
    )


def provenance(comparison: Comparison) -> dict[str, str]:
    """Facts on the origin of the numbers, by name."""
    records = [run.record for run in comparison.runs]
    times = sorted(_time(r[key]) for r in records for key in ("started", "finished") if r.get(key))
    versions = [f"{name} {v}" for r in records for name, v in section(r, "versions").items()]
    commands = [run.sweep.get("command") or run.record.get("command") for run in comparison.runs]
    facts = {
        "Command": "; ".join(dict.fromkeys(map(str, filter(None, commands)))),
        "Swept": ", ".join(comparison.swept),
        "In all runs": ", ".join(shared_overrides(comparison)),
        "Seeds": _distinct(sorted(run.seed for run in comparison.runs if run.seed is not None)),
        "Ran": " – ".join(dict.fromkeys(times[:1] + times[-1:])),
        "Hosts": _distinct(record.get("host") for record in records),
        "Git revision": _distinct(map(git_revision, comparison.runs)),
        "Versions": _distinct(versions),
        "Report written": _time(datetime.now(UTC).isoformat()),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _time(iso: object) -> str:
    """A recorded time to the minute: "2026-01-31 13:45 +00:00"."""
    return re.sub(r"T(\d\d:\d\d):[\d.]+", r" \1 ", str(iso)).strip()


def code_of(run: RecordedRun) -> str:
    """The git revision and the PyTorch version of a run; "" if unknown."""
    torch = section(run.record, "versions").get("torch")
    return ", ".join(filter(None, [git_revision(run), torch and f"torch {torch}"]))


def shared_overrides(comparison: Comparison) -> list[str]:
    """The overrides that all runs share, such as "data=g2p"."""
    each = [settings(run).items() for group in comparison.groups for run in group.runs]
    shared = set.intersection(*map(set, each)) if each else set()
    return [f"{key}={value}" for key, value in (each[0] if each else ()) if (key, value) in shared]


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))
