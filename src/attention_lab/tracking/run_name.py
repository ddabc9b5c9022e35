"""A readable name for a run: the values that differ in its sweep."""

import re
from collections import Counter
from collections.abc import Sequence

from attention_lab.config.overrides import key_of

#: The most characters of a run's name in W&B.
LONGEST_NAME = 128
_NUMBER = re.compile(r"[-+]?[\d.][\d.eE+-]*|true|false|null|")
_LONG_FLOAT = re.compile(r"[-+]?\d+\.\d{5,}(e[-+]?\d+)?")


def run_name(overrides: Sequence[str]) -> str:
    """Overrides in words: the names of options, and the last parts of other keys with their values.

    >>> run_name(["attention=additive", "attention.num_heads=8", "seed=0"])
    'additive · num_heads 8 · seed 0'
    >>> run_name(["attention/score=additive", "model.dropout=0.1", "attention.dropout=0.2"])
    'score additive · model dropout 0.1 · attention dropout 0.2'

    Args:
        overrides: as on the command line; if several have the same key, the last one is used.
    """
    values = {key_of(override): override.partition("=")[2] for override in overrides}
    ends = Counter(map(_end, values))
    name = " · ".join(
        _term(key, value, is_unique=ends[_end(key)] == 1) for key, value in values.items()
    )
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _end(key: str) -> str:
    return re.split(r"[./@]", key)[-1]


def _term(key: str, value: str, is_unique: bool) -> str:
    """One override in words.

    Args:
        key: its key.
        value: its value.
        is_unique: whether no other key has the same last part.
    """
    if re.fullmatch(r"\w+", key) and not _NUMBER.fullmatch(value):
        return value  # the option of a group
    if _LONG_FLOAT.fullmatch(value):
        value = f"{float(value):.4g}"  # as a search draws them
    words = _end(key) if is_unique else re.sub(r"[./@]", " ", key)
    return f"{words} {value}"
