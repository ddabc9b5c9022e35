"""Standard streams that are closed, or that cannot encode every character."""

import io
import os
import sys


def prepare_streams() -> None:
    """Let standard streams take any text, and replace closed ones by the null device.

    Otherwise the next file that is opened would get the number of a closed stream, and child
    processes would print into that file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  # open until the process ends
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            stream = open(number, "w", encoding="utf-8")  # noqa: SIM115  # as above
            setattr(sys, name, stream)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
