"""Iterate over a nested config by dotted paths."""

from collections.abc import Iterator, Mapping
from typing import Any


def walk(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the config and every value in it, with its path; a mapping precedes its content.

    >>> [path for path, _ in walk({"model": {"dropout": 0.1}}, "config")]
    ['config', 'config.model', 'config.model.dropout']
    """
    yield path, config
    for key, value in config.items() if isinstance(config, Mapping) else ():
        yield from walk(value, f"{path}.{key}" if path else str(key))


def flatten(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a config with their paths; lists and empty mappings are leaves.

    >>> dict(flatten({"model": {"dropout": 0.1}, "seeds": [0, 1]}))
    {'model.dropout': 0.1, 'seeds': [0, 1]}
    """
    return ((path, it) for path, it in walk(config) if not (isinstance(it, Mapping) and it))
