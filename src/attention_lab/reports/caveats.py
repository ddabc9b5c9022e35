"""What speaks against taking a comparison at face value, in lines for its reader."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attention_lab.reports.groups import Group, quote_label
from attention_lab.reports.runs import Run, section
from attention_lab.tracking.code_version import major_version

#: Settings of the data that are of training, not of the question that is asked.
_OF_TRAINING = ("data.batch_size",)
#: Data settings that only choose metrics; results with different metrics are named anyway.
_OF_MEASUREMENT = ("data.metrics", "data.monitor")
#: Distinct values and names of metrics up to which a difference is spelt out.
_MOST_SPELT = 3

#: Config values that the report takes from the first run, and their names in the report.
_SHOWN_OF_FIRST = {
    "monitor": "monitored metric",
    "mode": "direction of it",
    "trivial_baseline": "trivial baseline",
    "shortcut_baselines": "shortcut baselines",
    "threshold": "threshold",
}

Leaf = Callable[[str], bool]


def same_data(groups: Sequence[Group]) -> bool:
    """Whether all finished runs have the same data."""
    return not _differing_leaves(groups, _is_of_data)


def run_caveats(groups: Sequence[Group], swept: Sequence[str]) -> list[str]:
    """What finished runs do not have in common although a comparison rests on it."""
    runs = [run for group in groups for run in group.finished]
    results = [run.result or {} for run in runs]
    lines = []
    if edited := [run.name for run in runs if run.is_edited]:
        lines.append(
            f"config.yaml was edited after the run: {_some(edited)}. The results are of the config "
            "before."
        )
    if found := _differing_leaves(groups, _is_of_data):
        lines.append(
            f"The runs differ in their data ({found}): they may answer different questions."
        )
    if found := _differing_leaves(groups, _is_of_budget):
        lines.append(f"The runs differ in their budget ({found}): they were not trained alike.")
    if found := _differing_leaves(groups, lambda key: _is_unasked(key, swept)):
        lines.append(f"The runs differ in more than was swept ({found}).")
    tested = [dict.fromkeys(section(result, "test"), True) for result in results]
    if names := _differing(tested):
        lines.append(f"Not every run reports the same test metrics ({_some(names)}).")
    if keys := _differing(results, *_SHOWN_OF_FIRST):
        shown = ", ".join(_SHOWN_OF_FIRST[key] for key in keys)
        lines.append(f"The runs differ in their {shown}; those of the first run are shown.")
    lines += code_caveats(runs)
    if keys := _differing([run.record for run in runs], "host", "versions"):
        what = "speeds" if keys == ["host"] else "results and speeds"
        lines.append(f"The runs differ in {', '.join(keys)}: their {what} may not compare.")
    if len({frozenset(run.seed for run in group.finished) for group in groups}) > 1:
        lines.append("The groups have not finished the same seeds; only shared seeds are paired.")
    return lines


def code_caveats(runs: Sequence[Run]) -> list[str]:
    """Which runs are of another git revision, or another major version of a package, than most."""
    lines = []
    for name, version in _CODE.items():
        found: dict[str, list[str]] = {}
        for run in runs:
            if known := version(run):
                found.setdefault(known, []).append(run.name)
        if len(found) > 1:
            most = max(found, key=lambda known: len(found[known]))
            others = "; ".join(
                f"{known} made {_some(names)}" for known, names in found.items() if known != most
            )
            lines.append(
                f"The runs are of different code, so they may not compare: {name} {most} made "
                f"most of them, {others}."
            )
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_SPELT} more" if len(names) > _MOST_SPELT else ""
    return ", ".join(names[:_MOST_SPELT]) + more


def git_revision(run: Run) -> str | None:
    """The commit of a run's code, shortened, with the mark of changes that were not committed."""
    commit, dash, changes = str(run.record.get("git_revision") or "").partition("-")
    return commit[:10] + dash + changes or None


def _major(package: str) -> Callable[[Run], str | None]:
    def version(run: Run) -> str | None:
        known = section(run.record, "versions").get(package)
        return major_version(known) if known else None

    return version


#: What may change results from one run to the next: how it is called, and a run's own.
_CODE: Mapping[str, Callable[[Run], str | None]] = {
    "git revision": git_revision,
    **{package: _major(package) for package in ("attention-lab", "torch", "lightning")},
}


def group_caveats(group: Group, metric: str) -> list[str]:
    """What speaks against taking the numbers of one group at face value."""
    finished, scores, counts = group.finished, group.scores(metric), group.counts
    lines = []
    if finished and (others := len(group.runs) - counts["finished"]):
        waiting = f" ({counts['waiting']} not started)" if counts["waiting"] else ""
        lines.append(
            f"{others} of {len(group.runs)} runs gave no result{waiting}; the means leave them out."
        )
    if len(finished) < counts["finished"]:
        lines.append("a seed has finished more than once; its last run counts.")
    if len(scores) < len(finished):
        lines.append(f"{len(finished) - len(scores)} finished runs have no {metric} on test.")
    tests = [section(run.result, "test") for run in finished]
    if len(scores) > 1 and all(test == tests[0] for test in tests):
        lines.append("all seeds have the very same test metrics; do they reach the run?")
    return [f"{quote_label(group.label)}: {line}" for line in lines]


def _is_of_data(key: str) -> bool:
    return key.startswith("data.") and key not in (*_OF_TRAINING, *_OF_MEASUREMENT)


def _is_of_budget(key: str) -> bool:
    return key.startswith("trainer.") or key in _OF_TRAINING


def _is_unasked(key: str, swept: Iterable[str]) -> bool:
    """Whether a setting has a part of its own in the comparison, and nothing swept explains it."""
    if key.startswith(("data.", "trainer.", "optimizer.")):
        return False  # those have lines of their own
    return not any(_explains(asked, key) for asked in swept)


def _explains(asked: str, key: str) -> bool:
    """Whether an override, of a value or of a config group, brings a setting about."""
    group, _, package = asked.partition("@")
    path = package or group.replace("/", ".")
    if path == "experiment":
        return True
    if path.split(".")[0] == "attention":
        path = "model" if key.startswith("model.") else "attention"  # a model holds copies of it
    return key == path or key.startswith(f"{path}.")


def _differing_leaves(groups: Sequence[Group], matters: Leaf) -> str:
    """The settings that matter and are not the same in all finished runs, and who has which."""
    runs = [(group.label, run) for group in groups for run in group.finished if run.config]
    keys = dict.fromkeys(key for _, run in runs for key in run.leaves if matters(key))
    holders: dict[str, dict[str | None, list[str]]] = {}
    for key in keys:
        values: dict[str | None, list[str]] = {}
        for label, run in runs:
            values.setdefault(run.leaves.get(key), []).append(label)
        if len(values) > 1:
            holders[key] = values
    others = [key.removesuffix("_target_") for key in holders if key.endswith("._target_")]
    return "; ".join(
        _spelt(key, values)
        for key, values in holders.items()
        # Of another class all settings differ: it is enough to name the class.
        if key.endswith("._target_") or not key.startswith(tuple(others))
    )


def _spelt(key: str, values: Mapping[str | None, Sequence[str]]) -> str:
    """A setting with its values and the groups that have them, as "limit: 9 for a, 10 for b"."""
    if len(values) > _MOST_SPELT:
        return f"{key}: {len(values)} values"
    return f"{key}: " + ", ".join(
        f"{'unset' if value is None else value} for {_labels(labels)}"
        for value, labels in values.items()
    )


def _labels(labels: Sequence[str]) -> str:
    distinct = list(map(quote_label, dict.fromkeys(labels)))
    return " and ".join(distinct) if len(distinct) < 3 else f"{len(distinct)} groups"


def _differing(mappings: Sequence[Mapping[str, Any]], *keys: str) -> list[str]:
    """Those of the ``keys``, by default of all, whose values are not the same everywhere."""
    keys = keys or tuple(dict.fromkeys(key for mapping in mappings for key in mapping))
    return [k for k in keys if any(m.get(k) != mappings[0].get(k) for m in mappings)]
