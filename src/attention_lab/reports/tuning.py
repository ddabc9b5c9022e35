"""Hyperparameters that were tuned on validation before the runs: the grid and the best values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_lab.reports.groups import Group, quote_label
from attention_lab.reports.runs import by_key, number, section, settings


@dataclass(frozen=True)
class TunedValue:
    """The tuned value of one group."""

    label: str
    #: As in an override; None if no value gave a result.
    value: str | None
    #: The mean validation metric of each value of the grid; None if a run with it gave no result.
    scores: Mapping[str, float | None]

    @property
    def is_tie(self) -> bool:
        """Whether all values with a result have the same score."""
        known = {score for score in self.scores.values() if score is not None}
        return len(self.scores) > 1 and len(known) == 1

    @property
    def is_at_edge(self) -> bool:
        """Whether the value is the smallest or the largest number of the grid."""
        if self.is_tie:
            return False
        numbers = [number for value in self.scores if (number := _number(value)) is not None]
        return len(numbers) > 1 and _number(self.value) in (min(numbers), max(numbers))


@dataclass(frozen=True)
class Tuning:
    """The tuning of one sweep, from its ``sweep.json``."""

    key: str
    grid: list[str]
    seeds: list[int]
    #: The tuning seeds that the reported runs use as well.
    reported: list[int]
    choices: list[TunedValue]

    def __str__(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        each = ", ".join(
            f"{one.value or 'none'} for {quote_label(one.label)}" for one in self.choices
        )
        reused = (
            f" Of these seeds, {_and(self.reported)} reported as well." if self.reported else ""
        )
        return (
            f"{self.key} was tuned for each group on validation, over {', '.join(self.grid)} with "
            f"{'seed' if len(self.seeds) == 1 else 'seeds'} {seeds}: {each}.{reused}"
        )


def read_tunings(groups: Sequence[Group]) -> list[Tuning]:
    """The tuning of every sweep that the groups' runs belong to; unreadable ones are left out."""
    tuned: list[tuple[Mapping[str, Any], list[Group]]] = []
    for group in groups:
        for record in _records(group):
            owners = next((owners for known, owners in tuned if known == record), None)
            if owners is None:
                tuned.append((record, [group]))
            else:
                owners.append(group)
    found = [_tuning(record, owners) for record, owners in tuned]
    return [tuning for tuning in found if tuning.choices]


def untuned_note(groups: Sequence[Group]) -> str | None:
    """The groups with runs from sweeps without tuning, when other sweeps have tuning."""
    plain = [
        quote_label(group.label)
        for group in groups
        if not all(section(run.sweep, "tuning") for run in group.finished)
    ]
    return (
        f"Nothing was tuned for the runs of another sweep: {', '.join(plain)}." if plain else None
    )


def _records(group: Group) -> list[Mapping[str, Any]]:
    """The distinct tuning records of a group's runs."""
    found: list[Mapping[str, Any]] = []
    for run in group.runs:
        record = section(run.sweep, "tuning")
        if record and record not in found:
            found.append(record)
    return found


def tuning_caveats(tuning: Tuning) -> list[str]:
    """A line for each group whose value is at an edge of the grid, or tied with all others."""
    return [
        f"{quote_label(choice.label)}: the best {tuning.key}, {choice.value}, is at the edge of "
        "the grid; a wider grid may do better."
        for choice in tuning.choices
        if choice.is_at_edge
    ] + [
        f"{quote_label(choice.label)}: all values of {tuning.key} in the grid have the same score; "
        f"{choice.value} is the first with a result."
        for choice in tuning.choices
        if choice.is_tie
    ]


#: The sections of a config that define the steps of the optimizer.
_OPTIMIZER = ("optimizer", "scheduler", "parameter_groups")


def optimizer_note(groups: Sequence[Group]) -> str | None:
    """Whether groups that were not tuned had the same optimizer and schedule; None if unknown.

    Runs without a result count as well: several learning rates may have been tried, and only one
    may have worked.
    """
    finished = [run for group in groups for run in group.finished]
    is_known = finished and all(section(run.config, "optimizer") for run in finished)
    if len(groups) < 2 or not is_known:
        return None
    # A run that has not started has no config, only overrides.
    asked = [settings(run) | run.leaves for group in groups for run in group.runs]
    keys = dict.fromkeys(key for one in asked for key in one if key.split(".")[0] in _OPTIMIZER)
    if differing := [k for k in keys if len({one[k] for one in asked if k in one}) > 1]:
        names = ", ".join(
            key.removesuffix("._target_").removeprefix("optimizer.") for key in differing
        )
        return f"The runs differ in their optimizer ({names})."
    return "Every run had the same optimizer: its learning rate was not tuned for each group."


def _tuning(record: Mapping[str, Any], groups: Sequence[Group]) -> Tuning:
    key = record["key"]
    choices = [
        TunedValue(
            label=_label(choice["overrides"], key, groups),
            value=None if (value := choice["value"]) is None else str(value),
            scores={str(value): number(choice["scores"], value) for value in choice["scores"]},
        )
        for choice in record["choices"]
        if choice["scores"]
    ]
    reported = {run.seed for group in groups for run in group.runs}
    both = [seed for seed in record["seeds"] if seed in reported]
    return Tuning(key, list(map(str, record["grid"])), record["seeds"], both, choices)


def _and(seeds: Sequence[int]) -> str:
    return f"{', '.join(map(str, seeds))} {'is' if len(seeds) == 1 else 'are'}"


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _label(overrides: Sequence[str], key: str, groups: Sequence[Group]) -> str:
    """The label of the group with these overrides; the overrides themselves if there is none."""
    asked = by_key(overrides)
    asked.pop(key, None)
    for group in groups:
        if asked.items() <= settings(group.runs[0]).items():
            return group.label
    return ", ".join(overrides) or "all runs"
