"""The memory of this machine, and sizes that do not fit into it."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

GIB = 1 << 30
#: Bytes of memory that no machine has.
NO_MACHINE = 1 << 46
_HUGE = f"more than {NO_MACHINE // GIB:,} GiB of memory"
_CGROUPS = Path("/sys/fs/cgroup")


class TooLarge(ValueError):
    """Something needs more memory than this machine has; ``needed`` is in bytes."""

    def __init__(self, message: str, needed: float) -> None:
        super().__init__(message)
        self.needed = needed


def check_fits(what: str, needed: float, available: int | None = None) -> None:
    """Raise TooLarge if something needs more memory than there is.

    Args:
        what: its size and what needs the memory, for the message.
        needed: bytes.
        available: bytes; None means the memory of this machine.
    """
    available = machine_memory() if available is None else available
    if needed > available:
        size = f"{needed / GIB:,.0f} GiB of memory" if needed < NO_MACHINE else _HUGE
        here = f"this machine has {available / GIB:,.1f} GiB"
        raise TooLarge(f"{what} {size}, and {here}; choose a smaller size", needed)


def machine_memory() -> int:
    """Bytes of memory that this process may use: those of the machine, or of a limit below."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = [] if soft == resource.RLIM_INFINITY else [soft]
    return min([total, *_cgroup_limits(), *limits])


def _cgroup_limits() -> Iterator[int]:
    """The limits of the control groups (version 2) that this process is in, as in a SLURM job."""
    try:
        line = Path("/proc/self/cgroup").read_text().strip().rpartition("0::/")[2]
    except OSError:  # not Linux
        return
    group = _CGROUPS / line
    for each in (group, *group.parents):
        if each.is_relative_to(_CGROUPS):
            try:
                yield int((each / "memory.max").read_text())
            except (OSError, ValueError):  # the root has none, and "max" is no limit
                continue
