"""The options of a launcher, ``hydra.launcher.…``, checked against a dataclass."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from attention_lab.config.components import ConfigError, check_value
from attention_lab.spelling import nearest

Options = TypeVar("Options")


def launcher_options(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """The options as an object of their class.

    Raises:
        ConfigError: if an option is unknown.
    """
    known = get_type_hints(kind)
    for name in given:
        if name not in known:
            raise ConfigError(f"hydra.launcher.{name}: unknown option{nearest(name, known)}")
    return kind(**given)


def check_types(options: Any) -> None:
    """Raise ConfigError for a value that does not have the type of its field."""
    known = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        check_value(f"hydra.launcher.{field.name}", getattr(options, field.name), known[field.name])
