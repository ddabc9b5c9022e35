"""Hints for misspelt names."""

import difflib
from collections.abc import Iterable

#: How many names a message lists at most.
LISTED = 10


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that this one is likely to mean, or None if it is like none of them."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the known one most like it, or a list."""
    known = list(known)
    close = closest(name, known)
    return listed(known) if close is None else f"; did you mean {close}?"


def listed(known: Iterable[str]) -> str:
    """The end of an error message that says what there is, in so far as it fits."""
    known = list(known)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"; there is {', '.join(known[:LISTED])}{more}" if known else ""
