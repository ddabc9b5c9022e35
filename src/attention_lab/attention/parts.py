"""Create and check the parts of an attention layer."""

from collections.abc import Callable, Iterator
from typing import Any

from attention_lab.spelling import closest, listed


def make_part(name: str, factory: Callable[..., Any], kind: type, *sizes: int) -> Any:
    """Create a part of an attention layer by ``factory(*sizes)``, such as its score.

    Raises:
        ValueError: if the factory is a name or an instance, or returns anything but a ``kind``.
    """
    is_other_class = isinstance(factory, type) and not issubclass(factory, kind)
    if is_other_class or isinstance(factory, kind) or not callable(factory):
        raise ValueError(
            f"{name}={_shown(factory)}: must be a {kind.__name__} class or a callable that returns "
            f"one{_suggestion(name, factory, kind, '')}"
        )
    part = factory(*sizes)
    if not isinstance(part, kind):
        raise ValueError(f"{name} must return a {kind.__name__}, but returned {_shown(part)}")
    return part


def check_part(name: str, part: object, kind: type) -> None:
    """Raise ValueError unless ``part`` is an instance of ``kind``."""
    if not isinstance(part, kind):
        suggestion = _suggestion(name, part, kind, "()")
        raise ValueError(f"{name}={_shown(part)}: must be a {kind.__name__}{suggestion}")


def _shown(x: object) -> str:
    if isinstance(x, type):
        return x.__name__
    return repr(x) if isinstance(x, str | int | float | None) else f"{type(x).__name__}(…)"


def _suggestion(name: str, given: object, kind: type, call: str) -> str:
    """The end of a message: the class that was probably meant, or a list of all classes."""
    known = {_plain(known.__name__): known.__name__ for known in _subclasses(kind)}
    if isinstance(given, str):
        meant = closest(_plain(given), known)
    else:
        meant = _plain((given if isinstance(given, type) else type(given)).__name__)
    return f"; use {name}={known[meant]}{call}" if meant in known else listed(known.values())


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _subclasses(kind: type) -> Iterator[type]:
    subclass: type
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
