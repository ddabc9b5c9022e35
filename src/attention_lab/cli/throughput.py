"""The tokens per second from which `attention-lab train … --dry-run` estimates the time."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from attention_lab.config.overrides import EXTEND, FROM, TOKENS_PER_SECOND, without_flag


class Throughput(NamedTuple):
    """Tokens per second of a run, all its processes together, and where the number comes from."""

    tokens_per_second: float
    source: str


def throughput_of(arguments: Sequence[str]) -> tuple[Throughput | None, list[str]]:
    """The throughput that --tokens-per-second gives, or the run of --from or --extend.

    Returns:
        The throughput, and the arguments without the number.

    Raises:
        ValueError: if the number is invalid.
    """
    given, rest = without_flag(TOKENS_PER_SECOND, arguments)
    if given is not None:
        try:
            tokens_per_second = float(given)
        except ValueError:
            tokens_per_second = math.nan
        if not 0 < tokens_per_second < math.inf:
            raise ValueError(f"{TOKENS_PER_SECOND}: must be a number above 0, got {given!r}")
        return Throughput(tokens_per_second, ""), rest
    run = without_flag(FROM, rest)[0] or without_flag(EXTEND, rest)[0]
    if not run:
        return None, rest

    from attention_lab.tracking.record_files import read_result

    try:
        measured = read_result(Path(run))["tokens_per_second"]
    except (OSError, ValueError, KeyError):  # it has not finished
        return None, rest
    if not 0 < measured < math.inf:  # a record may hold any number
        return None, rest
    return Throughput(measured, f" as {run}"), rest
