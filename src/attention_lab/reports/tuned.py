"""What was tuned on validation before the runs: over which grid, and what was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_lab.reports.groups import Group
from attention_lab.reports.records import by_key, number, section, settings


@dataclass(frozen=True)
class Choice:
    """What was chosen for one group."""

    label: str
    #: As it is written in an override; None where no value gave a result.
    value: str | None
    #: The mean validation metric of each value of the grid; None where a run of it gave none.
    scores: Mapping[str, float | None]

    @property
    def is_tie(self) -> bool:
        """Whether all values that gave a result did equally well."""
        known = {score for score in self.scores.values() if score is not None}
        return len(self.scores) > 1 and len(known) == 1

    @property
    def is_at_edge(self) -> bool:
        """Whether a value beyond the grid may have done better, which only numbers have."""
        if self.is_tie:
            return False
        numbers = [number for value in self.scores if (number := _number(value)) is not None]
        return len(numbers) > 1 and _number(self.value) in (min(numbers), max(numbers))


@dataclass(frozen=True)
class Tuning:
    """The tuning of one sweep, as its ``sweep.json`` records it."""

    key: str
    grid: list[str]
    seeds: list[int]
    #: Those of them that are reported as well.
    reported: list[int]
    choices: list[Choice]

    def __str__(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        each = ", ".join(f"{one.value or 'none'} for {one.label}" for one in self.choices)
        doubt = f" Of these seeds, {_and(self.reported)} reported as well." if self.reported else ""
        return (
            f"{self.key} was tuned for each group on validation, over {', '.join(self.grid)} with "
            f"{'seed' if len(self.seeds) == 1 else 'seeds'} {seeds}: {each}.{doubt}"
        )


def tunings(groups: Sequence[Group]) -> list[Tuning]:
    """The tuning of every sweep that the groups' runs are of; what cannot be read is left out."""
    records: list[Mapping[str, Any]] = []
    for group in groups:
        for run in group.runs:
            record = section(run.sweep, "tuning")
            if record and record not in records:
                records.append(record)
    return [tuning for record in records if (tuning := _tuning(record, groups)).choices]


def edges(tuning: Tuning) -> list[str]:
    """A line for each group whose value is the last of the grid on its side, or no better."""
    return [
        f"{choice.label}: the best {tuning.key}, {choice.value}, is at the edge of the grid; "
        "a wider one may do better."
        for choice in tuning.choices
        if choice.is_at_edge
    ] + [
        f"{choice.label}: no {tuning.key} of the grid did better than another; {choice.value} is "
        "the first that gave a result."
        for choice in tuning.choices
        if choice.is_tie
    ]


def same_optimizer(groups: Sequence[Group]) -> str | None:
    """Whether groups that were not tuned had the same optimizer; None if that is unknown."""
    runs = [run for group in groups for run in group.finished]
    if len(groups) < 2 or not all(section(run.config, "optimizer") for run in runs) or not runs:
        return None
    keys = dict.fromkeys(k for run in runs for k in run.leaves if k.startswith("optimizer."))
    if differing := [k for k in keys if len({run.leaves.get(k) for run in runs}) > 1]:
        names = ", ".join(key.removeprefix("optimizer.") for key in differing)
        return f"The runs differ in their optimizer ({names})."
    return "Every run had the same optimizer: its learning rate was not tuned for each group."


def _tuning(record: Mapping[str, Any], groups: Sequence[Group]) -> Tuning:
    key = str(record.get("key"))
    choices = [
        Choice(
            label=_label(_list(choice, "overrides"), key, groups),
            value=None if (value := choice.get("value")) is None else str(value),
            scores={str(value): number(section(choice, "scores"), value) for value in scores},
        )
        for choice in _list(record, "choices")
        if isinstance(choice, Mapping) and (scores := section(choice, "scores"))
    ]
    seeds = [seed for seed in _list(record, "seeds") if isinstance(seed, int)]
    reported = {run.seed for group in groups for run in group.runs}
    both = [seed for seed in seeds if seed in reported]
    return Tuning(key, list(map(str, _list(record, "grid"))), seeds, both, choices)


def _and(seeds: Sequence[int]) -> str:
    return f"{', '.join(map(str, seeds))} {'is' if len(seeds) == 1 else 'are'}"


def _list(mapping: Mapping[str, Any], key: str) -> list[Any]:
    value = mapping.get(key)
    return value if isinstance(value, list) else []


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _label(overrides: Sequence[Any], key: str, groups: Sequence[Group]) -> str:
    """The label of the group with these overrides; the overrides if it has no runs."""
    asked = by_key(map(str, overrides))
    asked.pop(key, None)
    for group in groups:
        if asked.items() <= settings(group.runs[0]).items():
            return group.label
    return ", ".join(map(str, overrides)) or "all runs"
