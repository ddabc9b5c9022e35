"""The jobs of a grid sweep: the combinations of swept values, zipped keys and parameter grids."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from math import prod
from typing import Any

from hydra.core.override_parser.types import Override
from pydantic import PositiveInt

from attention_lab.config.components import ConfigError
from attention_lab.config.hydra_section import MOST_VALUES
from attention_lab.sweeps.plugin_options import check_types
from attention_lab.sweeps.sweep_options import listed, spelt

Parse = Callable[[list[str]], list[Override]]


@dataclass(frozen=True)
class GridOptions:
    """The options of ``hydra/sweeper=grid``; ``conf/hydra/sweeper/grid.yaml`` explains them.

    Raises:
        ConfigError: if a value is invalid.
    """

    max_batch_size: PositiveInt | None = None
    params: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_types(self, "hydra.sweeper")


#: The values of a key, each as an override.
Values = dict[str, list[str]]


def expand(
    overrides: Sequence[Override], section: Mapping[str, Any], parse: Parse
) -> list[list[str]]:
    """The overrides of each job.

    Args:
        overrides: those of the command; of several with the same key, the last counts.
        section: the section ``sweep``, with ``zip`` and ``param_grid``.
        parse: parses overrides.

    Raises:
        ConfigError: if keys cannot be zipped or are set twice, or there are too many jobs.
    """
    values = _values(overrides)
    grids = [_values(parse(grid)) for grid in _param_grid(section.get("param_grid"))]
    names = {key.lstrip("+~") for key in values}
    for key in chain.from_iterable(grids):
        if key.lstrip("+~") in names:
            raise ConfigError(
                f"{key}: sweep.param_grid sets it, too; leave it out, or add sweep.param_grid=null"
            )
    axes = _axes(values, _zips(section.get("zip"), values))
    if grids:
        axes.insert(0, [job for grid in grids for job in _combinations(_axes(grid, []))])
    return _combinations(axes)


def _values(overrides: Sequence[Override]) -> Values:
    found: Values = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            found[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            found[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(
                f"{override.input_line}: only a search draws from intervals; "
                "add hydra/sweeper=search"
            )
    return found


def _axes(values: Values, zips: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """The axes of the grid: one for each key, and one for the keys of each zip together."""
    axes = []
    for key in values:
        zipped = next((keys for keys in zips if key in keys), [key])
        if key == zipped[0]:
            axes.append([list(pair) for pair in zip(*(values[k] for k in zipped), strict=True)])
    return axes


def _combinations(axes: Sequence[Sequence[list[str]]]) -> list[list[str]]:
    number = prod(map(len, axes))
    if number > MOST_VALUES:
        raise ConfigError(f"the sweep has {number:,} jobs; at most {MOST_VALUES:,}")
    return [list(chain.from_iterable(parts)) for parts in product(*axes)]


def _param_grid(value: Any) -> list[list[str]]:
    """The overrides of each grid of ``sweep.param_grid``.

    Raises:
        ConfigError: if the value is not a list of dicts.
    """
    grids = listed(value)
    for grid in grids:
        if not isinstance(grid, Mapping):
            raise ConfigError(f"sweep.param_grid: must be a list of dicts, got {grid!r}")
    return [[f"{key}={_text(key, values)}" for key, values in grid.items()] for grid in grids]


def _text(key: str, values: Any) -> str:
    """The values of a key as in an override; text is in the grammar of overrides already."""
    if not (alternatives := listed("null" if values is None else values)):
        raise ConfigError(f"sweep.param_grid: {key} has no values")
    return ",".join(spelt(value, "sweep.param_grid") for value in alternatives)


def _zips(value: Any, values: Values) -> list[list[str]]:
    """The zips of ``sweep.zip``, a list of keys or of lists of keys, with keys as in overrides.

    Raises:
        ConfigError: if the keys of a zip cannot be swept together.
    """
    given = listed(value)
    zips = given if any(isinstance(each, list) for each in given) else [given] if given else []
    swept = {key.lstrip("+"): key for key, each in values.items() if len(each) > 1}
    found: list[list[str]] = []
    for keys in zips:
        names = list(map(str, listed(keys)))
        for name in names:
            _check_zipped(name, swept)
            if [*chain.from_iterable(found), *map(swept.get, names)].count(swept[name]) > 1:
                raise ConfigError(f"sweep.zip: {name} is in it twice")
        if len(names) < 2:
            raise ConfigError(f"sweep.zip: needs at least two keys, got {names}")
        found.append([swept[name] for name in names])
        numbers = {name: len(values[swept[name]]) for name in names}
        if len(set(numbers.values())) > 1:
            each = ", ".join(f"{name} has {number}" for name, number in numbers.items())
            raise ConfigError(f"sweep.zip: keys must have the same number of values; {each}")
    return found


def _check_zipped(name: str, swept: Collection[str]) -> None:
    if name == "seed":
        raise ConfigError("sweep.zip: seed is not allowed, as every group has the same seeds")
    if name not in swept:
        known = ", ".join(swept) or "no keys"
        raise ConfigError(f"sweep.zip: {name} is not swept; swept are {known}")
