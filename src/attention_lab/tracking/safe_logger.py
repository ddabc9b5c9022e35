"""Loggers that never cost a run: one that fails is replaced or left out, and training continues."""

import contextlib
import functools
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from attention_lab.printing import echo

#: Longest message of a service that is shown.
LONGEST = 300


class SafeLogger(Logger):
    """Forwards to a Lightning logger, and keeps what that raises from the run.

    The first exception is printed in one line on stderr. The next logger in order takes over; after
    the last one nothing is logged any more.

    Args:
        service: what the loggers log to, as messages call it.
        starts: functions that start a logger, by how it logs, in order: "online", "offline".
        patience: seconds that a logger has to finish in; None means any time.
    """

    def __init__(
        self, service: str, starts: Mapping[str, Callable[[], Logger]], patience: float | None
    ) -> None:
        super().__init__()
        self.service = service
        self.patience = patience
        self._starts = dict(starts)
        #: The logger that is forwarded to; None if there is none any more.
        self.logger: Logger | None = None
        self._replace()

    def attempt(self, action: Callable[[Logger], object], within: float | None = None) -> None:
        """Call the logger, if there is one; a failure replaces it by the next.

        Args:
            action: called with the logger; if it raises, this logger ends, not the run.
            within: seconds after which it counts as failed; None means any time.
        """
        if self.logger is None:
            return
        try:
            do_within(within, functools.partial(action, self.logger))
        except Exception as error:
            self._replace(error)
            if self.logger is not None:
                with contextlib.suppress(Exception):  # nothing that was to be logged is lost
                    do_within(within, functools.partial(action, self.logger))

    def close(self, exit_code: int) -> None:
        """Finish the logger at the end of the run.

        Args:
            exit_code: 0 if the run has finished.
        """
        logger, self.logger = self.logger, None
        if logger is None:
            return
        try:
            do_within(self.patience, lambda: self.finish(logger, exit_code))
        except Exception as error:
            self._say(in_words(error))

    def finish(self, logger: Logger, exit_code: int) -> None:
        """Finish a logger; raises if that fails. Lightning has finalized it already."""

    def remedy(self) -> str:
        """How to upload later what was logged; "" if that is not possible."""
        return ""

    def _replace(self, error: Exception | None = None) -> None:
        """Let the next logger that starts take over; say in one line what made that necessary."""
        self.logger, how = None, ""
        while self._starts and self.logger is None:
            how = next(iter(self._starts))
            try:
                self.logger = self._starts.pop(how)()
            except Exception as failed:
                error = error or failed
        if error is not None:
            then = f"logging {how}" if self.logger else "nothing more is logged there"
            self._say(f"{in_words(error)}; {then}")

    def _say(self, what: str) -> None:
        words = f"{self.service}: {what}. {self.remedy()}"
        echo(f"attention-lab: {words.rstrip()}", error=True)

    @property
    def name(self) -> str | None:
        return self.logger.name if self.logger else ""

    @property
    def version(self) -> int | str | None:
        return self.logger.version if self.logger else ""

    @property
    def experiment(self) -> Any:
        """The service's own object; one that does nothing if there is no logger any more."""
        return self.logger.experiment if self.logger else DummyLogger().experiment  # type: ignore[attr-defined]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.attempt(lambda logger: logger.log_metrics(dict(metrics), step))

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        self.attempt(lambda logger: logger.log_hyperparams(params, *args, **kwargs))

    def log_graph(self, model: nn.Module, input_array: Tensor | None = None) -> None:
        self.attempt(lambda logger: logger.log_graph(model, input_array))

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        self.attempt(lambda logger: logger.after_save_checkpoint(checkpoint_callback))

    def save(self) -> None:
        self.attempt(lambda logger: logger.save())

    def finalize(self, status: str) -> None:
        self.attempt(lambda logger: logger.finalize(status), self.patience)


def in_words(error: Exception) -> str:
    """The first line of an error's message."""
    shown = str(error).strip().partition("\n")[0][:LONGEST].rstrip(".")
    return shown if " " in shown else f"{type(error).__name__} {shown}".rstrip()


def do_within(seconds: float | None, action: Callable[[], object]) -> None:
    """Run ``action`` in a thread, and stop waiting for it after some time.

    Args:
        seconds: to wait; None means any time, and no thread.
        action: what to do.

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
