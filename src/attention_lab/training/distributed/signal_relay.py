"""Relaying signals to the ranks that this process has started."""

import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any, Self

from attention_lab.training.preemption import SIGNALS, block_signals, not_ignored, unblock_signals

#: Signals that are relayed. A terminal's Ctrl-C reaches only the process that started the ranks.
RELAYED = (signal.SIGINT, *SIGNALS)


class SignalRelay:
    """A context manager that relays the signals of this process to other processes."""

    def __init__(self) -> None:
        #: The signals received so far.
        self.received: list[int] = []
        self._processes: Sequence[BaseProcess] = ()
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.signal(number, self._receive) for number in not_ignored(RELAYED)
            }
            block_signals()  # the fork server inherits this; otherwise the signals would end it
        return self

    def __exit__(self, *_: object) -> None:
        unblock_signals()
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def open(self, processes: Sequence[BaseProcess]) -> None:
        """Relay signals to these processes from now on, and those that were received before."""
        earlier = list(self.received)
        self._processes = processes
        for number in earlier:
            self._relay(number)
        unblock_signals()

    def _receive(self, number: int, _: object) -> None:
        self.received.append(number)
        self._relay(number)

    def _relay(self, number: int) -> None:
        for process in self._processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)
