"""What was tuned on validation before the runs: over which grid, and what was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_lab.reports.groups import Group, quoted
from attention_lab.reports.runs import Run, by_key, number, section, settings


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
        each = ", ".join(f"{one.value or 'none'} for {quoted(one.label)}" for one in self.choices)
        doubt = f" Of these seeds, {_and(self.reported)} reported as well." if self.reported else ""
        return (
            f"{self.key} was tuned for each group on validation, over {', '.join(self.grid)} with "
            f"{'seed' if len(self.seeds) == 1 else 'seeds'} {seeds}: {each}.{doubt}"
        )


def tunings(groups: Sequence[Group]) -> list[Tuning]:
    """The tuning of every sweep that the groups' runs are of; what cannot be read is left out."""
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


def not_tuned(groups: Sequence[Group]) -> str | None:
    """Which groups have runs of sweeps that tuned nothing, where those of others did."""
    plain = [quoted(group.label) for group in groups if any(map(_is_plain, group.finished))]
    return (
        f"Nothing was tuned for the runs of another sweep: {', '.join(plain)}." if plain else None
    )


def _is_plain(run: Run) -> bool:
    return not section(run.sweep, "tuning")


def _records(group: Group) -> list[Mapping[str, Any]]:
    """The different records of tuning of a group's runs."""
    found: list[Mapping[str, Any]] = []
    for run in group.runs:
        record = section(run.sweep, "tuning")
        if record and record not in found:
            found.append(record)
    return found


def edges(tuning: Tuning) -> list[str]:
    """A line for each group whose value is the last of the grid on its side, or no better."""
    return [
        f"{quoted(choice.label)}: the best {tuning.key}, {choice.value}, is at the edge of the "
        "grid; a wider one may do better."
        for choice in tuning.choices
        if choice.is_at_edge
    ] + [
        f"{quoted(choice.label)}: no {tuning.key} of the grid did better than another; "
        f"{choice.value} is the first that gave a result."
        for choice in tuning.choices
        if choice.is_tie
    ]


def same_optimizer(groups: Sequence[Group]) -> str | None:
    """Whether groups that were not tuned had the same optimizer; None if that is unknown.

    Runs that gave no result count as well: of several learning rates, one alone may have worked.
    """
    finished = [run for group in groups for run in group.finished]
    is_known = finished and all(section(run.config, "optimizer") for run in finished)
    if len(groups) < 2 or not is_known:
        return None
    # A run that never began has no config, but the overrides that it was asked for.
    asked = [settings(run) | run.leaves for group in groups for run in group.runs]
    keys = dict.fromkeys(key for one in asked for key in one if key.split(".")[0] == "optimizer")
    if differing := [k for k in keys if len({one[k] for one in asked if k in one}) > 1]:
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
