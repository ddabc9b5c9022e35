"""Caveats of a comparison: reasons why its numbers may mislead, one line each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attention_lab.reports.groups import Group, quote_label
from attention_lab.reports.runs import RecordedRun, section
from attention_lab.tracking.code_version import RESULT_PACKAGES, major_version, short_revision

#: Data settings that belong to the training budget, not to the task.
_TRAINING_SETTINGS = ("data.batch_size",)
#: Data settings that only select metrics; another caveat covers different metrics.
_METRIC_SETTINGS = ("data.metrics", "data.monitor")
#: The most values, or names, that a caveat lists.
_MAX_LISTED = 3

#: Results that the report takes from the first run, and their names in the report.
_TAKEN_FROM_FIRST = {
    "monitor": "monitored metric",
    "mode": "direction of that metric",
    "trivial_baseline": "trivial baseline",
    "shortcut_baselines": "shortcut baselines",
    "threshold": "threshold",
}

#: Whether a setting matters, by its dotted key.
KeyFilter = Callable[[str], bool]


def same_data(groups: Sequence[Group]) -> bool:
    """Whether all finished runs have the same data."""
    return not _differing_leaves(groups, _is_of_data)


def run_caveats(groups: Sequence[Group], swept: Sequence[str]) -> list[str]:
    """The differences between finished runs that may invalidate a comparison."""
    runs = [run for group in groups for run in group.finished]
    results = [run.result or {} for run in runs]
    lines = []
    if edited := [run.name for run in runs if run.is_edited]:
        lines.append(
            f"config.yaml was edited after the run: {_some(edited)}. The results are from the "
            "config before the edit."
        )
    if wrong := [run.name for run in runs if section(run.result, "attention_mismatches")]:
        lines.append(
            f"The attention maps may be wrong: {_some(wrong)}. Weights times values are not the "
            "output that training computed."
        )
    if found := _differing_leaves(groups, _is_of_data):
        lines.append(
            f"The runs differ in their data ({found}): their metrics may not be comparable."
        )
    if found := _differing_leaves(groups, _is_of_budget):
        lines.append(f"The runs differ in their training budget ({found}).")
    if found := _differing_leaves(groups, lambda key: _is_unexplained(key, swept)):
        lines.append(f"The runs differ in settings that were not swept ({found}).")
    tested = [dict.fromkeys(section(result, "test"), True) for result in results]
    if names := _differing(tested):
        lines.append(f"Not all runs have the same test metrics ({_some(names)}).")
    if keys := _differing(results, *_TAKEN_FROM_FIRST):
        shown = ", ".join(_TAKEN_FROM_FIRST[key] for key in keys)
        lines.append(f"The runs differ in their {shown}; the report shows those of the first run.")
    lines += code_caveats(runs)
    if keys := _differing([run.record for run in runs], "host", "versions"):
        what = "speeds" if keys == ["host"] else "results and speeds"
        lines.append(f"The runs differ in {', '.join(keys)}: their {what} may not be comparable.")
    if _differing(results, "compiled"):
        lines.append("Only some of the runs were compiled: their speeds may not be comparable.")
    if len({frozenset(_seeds(group)) for group in groups}) > 1:
        lines.append("The groups did not finish the same seeds; only shared seeds are paired.")
    return lines


def _seeds(group: Group) -> set[int | None]:
    """The seeds of a group's finished and pruned runs."""
    return {run.seed for run in group.runs if run.status in ("finished", "pruned")}


def code_caveats(runs: Sequence[RecordedRun]) -> list[str]:
    """The runs whose git revision, or major version of a package, differs from most runs."""
    lines = []
    for name in ("git revision", *RESULT_PACKAGES):
        found: dict[str, list[str]] = {}
        for run in runs:
            if known := _version(run, name):
                found.setdefault(known, []).append(run.name)
        if len(found) > 1:
            most = max(found, key=lambda known: len(found[known]))
            others = "; ".join(
                f"{known} in {_some(names)}" for known, names in found.items() if known != most
            )
            lines.append(
                f"The runs used different code, so they may not be comparable: {name} {most} in "
                f"most runs, {others}."
            )
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def git_revision(run: RecordedRun) -> str | None:
    """The shortened commit of a run's code, followed by "-dirty-…" if there were changes."""
    return short_revision(str(run.record.get("git_revision") or "")) or None


def _version(run: RecordedRun, name: str) -> str | None:
    """The git revision of a run's code, or the major version of a package."""
    if name == "git revision":
        return git_revision(run)
    known = section(run.record, "versions").get(name)
    return major_version(known) if known else None


def group_caveats(group: Group, metric: str) -> list[str]:
    """The caveats of one group."""
    finished, scores, counts = group.finished, group.scores(metric), group.counts
    lines = []
    if finished and (others := len(group.runs) - counts["finished"]):
        waiting = f" ({counts['waiting']} not started)" if counts["waiting"] else ""
        lines.append(
            f"{others} of {len(group.runs)} runs have no result{waiting}; the means exclude them."
        )
    if len(finished) < counts["finished"]:
        lines.append("a seed finished more than once; its last run counts.")
    if len(scores) < len(finished):
        lines.append(f"{len(finished) - len(scores)} finished runs have no test {metric}.")
    tests = [section(run.result, "test") for run in finished]
    if len(scores) > 1 and all(test == tests[0] for test in tests):
        lines.append("all seeds have identical test metrics; check that the seed reaches the run.")
    return [f"{quote_label(group.label)}: {line}" for line in lines]


def _is_of_data(key: str) -> bool:
    return key.startswith("data.") and key not in (*_TRAINING_SETTINGS, *_METRIC_SETTINGS)


def _is_of_budget(key: str) -> bool:
    return key.startswith("trainer.") or key in _TRAINING_SETTINGS


def _is_unexplained(key: str, swept: Iterable[str]) -> bool:
    """Whether no other caveat covers a setting, and no swept override determines it."""
    if key.startswith(("data.", "trainer.", "optimizer.", "scheduler.", "parameter_groups.")):
        return False  # other caveats cover these
    return not any(_explains(asked, key) for asked in swept)


def _explains(asked: str, key: str) -> bool:
    """Whether an override, of a value or of a config group, determines a setting."""
    group, _, package = asked.partition("@")
    path = package or group.replace("/", ".")
    if path == "experiment":
        return True
    if path.split(".")[0] == "attention":
        path = "model" if key.startswith("model.") else "attention"  # a model holds copies of it
    return key == path or key.startswith(f"{path}.")


def _differing_leaves(groups: Sequence[Group], matters: KeyFilter) -> str:
    """The settings that matter and differ between finished runs, with the groups of each value."""
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
        _described(key, values)
        for key, values in holders.items()
        # If classes differ, all their settings do: the class is enough.
        if key.endswith("._target_") or not key.startswith(tuple(others))
    )


def _described(key: str, values: Mapping[str | None, Sequence[str]]) -> str:
    """A setting with its values and their groups: "limit: 9 for a, 10 for b"."""
    if len(values) > _MAX_LISTED:
        return f"{key}: {len(values)} values"
    return f"{key}: " + ", ".join(
        f"{'unset' if value is None else value} for {_labels(labels)}"
        for value, labels in values.items()
    )


def _labels(labels: Sequence[str]) -> str:
    distinct = list(map(quote_label, dict.fromkeys(labels)))
    return " and ".join(distinct) if len(distinct) < 3 else f"{len(distinct)} groups"


def _differing(mappings: Sequence[Mapping[str, Any]], *keys: str) -> list[str]:
    """The keys, among ``keys`` or by default all, whose values differ between the mappings."""
    keys = keys or tuple(dict.fromkeys(key for mapping in mappings for key in mapping))
    return [k for k in keys if any(m.get(k) != mappings[0].get(k) for m in mappings)]
