"""Format counts, bytes and times as text."""

import math

#: Factors of counts and bytes, and their prefixes.
SIZES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
#: Seconds in a unit of time, and its name.
TIMES = ((3600, "h"), (60, "min"))


def format_quantity(value: float | None, unit: str = "") -> str:
    """A count to three digits: "1.23 M", "950"; "never" for inf."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "never"
    for size, prefix in SIZES:
        if value >= size:
            return f"{value / size:#.3g}".rstrip(".") + f" {prefix}{unit}"
    return f"{value:g} {unit}".strip()


def format_duration(seconds: float | None) -> str:
    """A time in seconds, minutes or hours: "45 s", "3.4 min", "1.2 h"."""
    if seconds is None:
        return "–"
    for size, unit in TIMES:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
