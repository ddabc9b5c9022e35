"""The options of the config's section ``sweep``: retries, the failure limit, and tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_lab.config.components import ConfigError
from attention_lab.config.overrides import override_value
from attention_lab.spelling import nearest

KEYS = ("zip", "param_grid", "retry", "max_failures", "keep", "tune", "grid", "seeds")
RETRIED = ("failed", "diverged")
KEEP = ("all", "best", "none")
#: The default grid of learning rates.
DEFAULT_GRID = ("0.0001", "0.0003", "0.001", "0.003")
DEFAULT_SEEDS = (1000,)


@dataclass(frozen=True)
class SweepOptions:
    """The options ``sweep.…``."""

    #: The states of runs that are run again: "failed", "diverged".
    retry: tuple[str, ...]
    #: The key to tune for each group on validation, such as "optimizer.lr"; None: no tuning.
    tune: str | None
    #: The values to choose from, as in overrides.
    grid: tuple[str, ...]
    #: The seeds of the tuning.
    seeds: tuple[int, ...]
    #: The number of failed or diverged jobs at which the sweep stops; None: it runs all jobs.
    max_failures: int | None = None
    #: Whose checkpoints stay: "all", "best" or "none".
    keep: str = "all"

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "SweepOptions":
        """The options from a config's section.

        Raises:
            ConfigError: if a value is invalid.
        """
        for name in section:
            if name not in KEYS:
                raise ConfigError(f"sweep.{name}: there is no such key{nearest(str(name), KEYS)}")
        section = dict.fromkeys(KEYS) | dict(section)
        retry = listed(section["retry"])
        for name in retry:
            if name not in RETRIED:
                raise ConfigError(
                    f"sweep.retry={name}: only failed or diverged runs can be run again"
                    f"{nearest(str(name), RETRIED)}"
                )
        tune, seeds = section["tune"], listed(section["seeds"])
        grid = tuple(map(spelt, listed(section["grid"])))
        if tune is None and (seeds or grid):
            raise ConfigError(
                f"sweep.{'grid' if grid else 'seeds'}: needs sweep.tune, the key to tune"
            )
        if tune is not None:
            grid, seeds = grid or DEFAULT_GRID, seeds or DEFAULT_SEEDS
            tune = "optimizer.lr" if tune == "lr" else str(tune)
            if len(set(grid)) < 2:
                raise ConfigError(f"sweep.grid: needs at least two values, got {list(grid)}")
            if not all(type(seed) is int and seed >= 0 for seed in seeds):
                raise ConfigError(f"sweep.seeds: must be whole numbers, got {list(seeds)}")
        limit = section.get("max_failures")
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ConfigError(f"sweep.max_failures: must be a whole number from 1, got {limit!r}")
        keep = section["keep"] or "all"
        if keep not in KEEP:
            raise ConfigError(f"sweep.keep={keep}: must be all, best or none{nearest(keep, KEEP)}")
        return cls(retry, tune, grid, seeds, limit, keep)


def spelt(value: Any, key: str = "sweep.grid") -> str:
    """A value in the list at ``key``, as in an override.

    Raises:
        ConfigError: if it is a list or a dict.
    """
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        raise ConfigError(f"{key}: must be a list of plain values, got {value!r}")
    return override_value(value)


def listed(value: Any) -> tuple[Any, ...]:
    """A list as a tuple, a single value as a tuple of one, null as the empty tuple."""
    if value is None:
        return ()
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(value) if is_list else (value,)
