"""A logger that never ends a run: if logging fails, it is replaced or dropped."""

import contextlib
import functools
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from attention_lab.printing import echo

#: The most characters of an error message that are shown.
MAX_MESSAGE = 300


class SafeLogger(Logger):
    """Forwards to a Lightning logger, and catches its exceptions.

    After an exception, one line is printed on stderr and the next logger takes over. After the last
    logger has failed, nothing more is logged.

    Args:
        service: the name of the service in messages.
        starts: functions that start a logger, by mode and in order: "online", "offline".
        patience: seconds that a logger may take to finish; None means any time.
    """

    def __init__(
        self, service: str, starts: Mapping[str, Callable[[], Logger]], patience: float | None
    ) -> None:
        super().__init__()
        self.service = service
        self.patience = patience
        self._starts = dict(starts)
        #: The current logger; None if all have failed.
        self.logger: Logger | None = None
        self._replace()

    def attempt(self, action: Callable[[Logger], object], within: float | None = None) -> None:
        """Call the current logger, if there is one; if the call fails, the next logger takes over.

        Args:
            action: a function of the logger; its exceptions end the logger, not the run.
            within: seconds until a timeout; None means any time.
        """
        if self.logger is None:
            return
        try:
            do_within(within, functools.partial(action, self.logger))
        except Exception as error:
            self._replace(error)
            if self.logger is not None:
                with contextlib.suppress(Exception):  # repeat the call, so that no data is lost
                    do_within(within, functools.partial(action, self.logger))

    def close(self, exit_code: int) -> None:
        """Finish the logger at the end of the run.

        Args:
            exit_code: 0 if the run finished.
        """
        logger, self.logger = self.logger, None
        if logger is None:
            return
        try:
            do_within(self.patience, lambda: self.finish(logger, exit_code))
        except Exception as error:
            _warn(self.service, error_line(error), self.remedy())

    def finish(self, logger: Logger, exit_code: int) -> None:
        """Finish a logger, which Lightning has finalized already; raises if that fails."""

    def remedy(self) -> str:
        """How to upload the logged data later; "" if that is not possible."""
        return ""

    def _replace(self, error: Exception | None = None) -> None:
        """Switch to the next logger that starts, and print the reason in one line."""
        self.logger, mode = None, ""
        while self._starts and self.logger is None:
            mode = next(iter(self._starts))
            try:
                self.logger = self._starts.pop(mode)()
            except Exception as failed:
                error = error or failed
        if error is not None:
            then = f"logging {mode}" if self.logger else "nothing more is logged"
            _warn(self.service, f"{error_line(error)}; {then}", self.remedy())

    @property
    def name(self) -> str | None:
        return self.logger.name if self.logger else ""

    @property
    def version(self) -> int | str | None:
        return self.logger.version if self.logger else ""

    @property
    def experiment(self) -> Any:
        """The service's own object, or a dummy if all loggers have failed."""
        logger: Any = self.logger or DummyLogger()  # Logger declares no experiment
        return logger.experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.attempt(lambda logger: logger.log_metrics(dict(metrics), step))

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        self.attempt(lambda logger: logger.log_hyperparams(params, *args, **kwargs))

    def save(self) -> None:
        self.attempt(lambda logger: logger.save())

    def finalize(self, status: str) -> None:
        self.attempt(lambda logger: logger.finalize(status), self.patience)


def _warn(service: str, problem: str, remedy: str) -> None:
    echo(f"attention-lab: {service}: {problem}. {remedy}".rstrip(), error=True)


def error_line(error: Exception) -> str:
    """The first line of an error's message."""
    shown = str(error).strip().partition("\n")[0][:MAX_MESSAGE].rstrip(".")
    return shown if " " in shown else f"{type(error).__name__} {shown}".rstrip()


def do_within(seconds: float | None, action: Callable[[], object]) -> None:
    """Run ``action`` in a thread, and wait for it for a limited time.

    Args:
        seconds: the limit; None means no limit and no thread.
        action: the function to call.

    Raises:
        TimeoutError: if it takes longer.
        Exception: whatever it raises.
    """
    if seconds is None:
        action()
        return
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"did not finish within {seconds:g} s")
    if errors:
        raise errors[0]
