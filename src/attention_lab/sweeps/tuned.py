"""What was tuned on validation before the runs: over which grid, and what was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_lab.sweeps.groups import Group
from attention_lab.sweeps.records import number, section, settings


@dataclass(frozen=True)
class Choice:
    """The value that was chosen for one group."""

    label: str
    value: float
    #: The mean validation metric of each value of the grid; None where no run gave one.
    scores: Mapping[float, float | None]

    @property
    def is_at_edge(self) -> bool:
        """Whether a value beyond the grid may have done better."""
        return len(self.scores) > 1 and self.value in (min(self.scores), max(self.scores))


@dataclass(frozen=True)
class Tuning:
    """The tuning of one sweep, as its ``sweep.json`` records it."""

    key: str
    grid: list[float]
    seeds: list[int]
    choices: list[Choice]

    def __str__(self) -> str:
        values = ", ".join(f"{value:g}" for value in self.grid)
        seeds = ", ".join(map(str, self.seeds))
        each = ", ".join(f"{choice.value:g} for {choice.label}" for choice in self.choices)
        return (
            f"{self.key} was tuned for each group on validation, over {values} with "
            f"{'seed' if len(self.seeds) == 1 else 'seeds'} {seeds}: {each}."
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
    """A line for each group whose value is the last of the grid on its side."""
    return [
        f"{choice.label}: the best {tuning.key}, {choice.value:g}, is at the edge of the grid; "
        "a wider one may do better."
        for choice in tuning.choices
        if choice.is_at_edge
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
    grid = [value for entry in _list(record, "grid") if (value := _number(entry)) is not None]
    choices = [
        Choice(_label(_list(choice, "overrides"), key, groups), value, _scores(choice))
        for choice in _list(record, "choices")
        if isinstance(choice, Mapping) and (value := number(choice, "value")) is not None
    ]
    return Tuning(key, grid, [s for s in _list(record, "seeds") if isinstance(s, int)], choices)


def _list(mapping: Mapping[str, Any], key: str) -> list[Any]:
    value = mapping.get(key)
    return value if isinstance(value, list) else []


def _scores(choice: Mapping[str, Any]) -> dict[float, float | None]:
    scores = section(choice, "scores")
    return {
        value: number(scores, entry) for entry in scores if (value := _number(entry)) is not None
    }


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _label(overrides: Sequence[Any], key: str, groups: Sequence[Group]) -> str:
    """The label of the group with these overrides; the overrides if it has no runs."""
    asked = dict(str(override).lstrip("+~").partition("=")[::2] for override in overrides)
    asked.pop(key, None)
    for group in groups:
        if asked.items() <= settings(group.runs[0]).items():
            return group.label
    return ", ".join(map(str, overrides)) or "all runs"
