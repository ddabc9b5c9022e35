"""Suggestions for misspelt names, in error messages."""

import difflib
from collections.abc import Iterable

#: The largest number of names that a message lists.
MAX_LISTED = 10


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to an unknown one, or None if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message for an unknown name: the most similar known name, or a list."""
    known = list(known)
    close = closest(name, known)
    return listed(known) if close is None else f"; did you mean {close}?"


def nearest_flag(arguments: str, known: Iterable[str], command: str) -> str:
    """The end of an error message for unknown flags: the flag most similar to the first, or help.

    Args:
        arguments: the unknown flags as typed, separated by spaces; "" for another error.
        known: the flags of the command.
        command: the command, such as "attention-lab train".
    """
    flag = arguments.partition(" ")[0].partition("=")[0]
    close = closest(flag, known) if flag else None
    return f"; see `{command} --help`" if close is None else f"; did you mean {close}?"


def listed(known: Iterable[str]) -> str:
    """The end of an error message that lists the first :data:`MAX_LISTED` known names."""
    known = list(known)
    more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    return f"; available: {', '.join(known[:MAX_LISTED])}{more}" if known else ""
