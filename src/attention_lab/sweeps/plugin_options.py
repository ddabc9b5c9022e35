"""The options of a launcher or sweeper, checked against a dataclass."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from attention_lab.config.components import ConfigError, check_value
from attention_lab.spelling import nearest

Options = TypeVar("Options")


def plugin_options(
    kind: type[Options], given: Mapping[str, Any], section: str = "hydra.launcher"
) -> Options:
    """The options as an object of their class.

    Args:
        kind: the class, a dataclass.
        given: the options.
        section: where they are in a config: "hydra.launcher" or "hydra.sweeper".

    Raises:
        ConfigError: if an option is unknown.
    """
    known = get_type_hints(kind)
    for name in given:
        if name not in known:
            raise ConfigError(f"{section}.{name}: unknown option{nearest(name, known)}")
    return kind(**given)


def check_types(options: Any, section: str = "hydra.launcher") -> None:
    """Raise ConfigError for a value that does not have the type of its field."""
    known = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        check_value(f"{section}.{field.name}", getattr(options, field.name), known[field.name])
