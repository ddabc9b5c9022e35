"""Runs continue if their loggers fail."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger

from attention_lab.tracking.safe_logger import SafeLogger, do_within
from attention_lab.training import run
from tests.conftest import Compose
from tests.runs import train


class Faulty(DummyLogger):
    """A Lightning logger; one of its methods raises from the n-th call on."""

    def __init__(self, method: str, after: int, error: Exception) -> None:
        super().__init__()
        self.method, self.after, self.error = method, after, error
        self.steps: list[int | None] = []

    def _called(self, method: str) -> None:
        if method == self.method:
            self.after -= 1
            if self.after < 0:
                raise self.error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # type: ignore[override]
        self._called("log_metrics")
        self.steps.append(step)

    def save(self) -> None:
        self._called("save")

    def finalize(self, status: str) -> None:
        self._called("finalize")


def use(monkeypatch: pytest.MonkeyPatch, logger: SafeLogger) -> None:
    """Let runs log to this logger."""
    monkeypatch.setattr(run, "start_loggers", lambda *_: {"tracker": logger})


@pytest.mark.parametrize(
    ("method", "after"),
    [("log_metrics", 0), ("log_metrics", 5), ("save", 3), ("finalize", 0)],
)
def test_an_error_of_a_logger_is_printed_as_one_line(
    method: str,
    after: int,
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faulty = Faulty(method, after, OSError("the \x1b[31mtracking server\nis gone"))
    use(monkeypatch, SafeLogger("Tracker", {"online": lambda: faulty}, None))
    train(tiny_digits(), tmp_path / "run", [])
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "finished"
    assert capsys.readouterr().err == (
        "attention-lab: Tracker: the \\x1b[31mtracking server; nothing more is logged.\n"
    )
    assert (after == 0) == (faulty.steps == []) or method == "finalize"


def test_the_next_logger_takes_over_at_once(
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = Faulty("log_metrics", 3, ConnectionResetError("Connection lost"))
    second = Faulty("", 0, ValueError())
    use(
        monkeypatch,
        SafeLogger("Tracker", {"online": lambda: first, "offline": lambda: second}, None),
    )
    train(tiny_digits(), tmp_path / "run", [])
    assert capsys.readouterr().err == (
        "attention-lab: Tracker: Connection lost; logging offline.\n"
    )
    assert (len(first.steps), second.steps[-1]) == (3, 8)


def test_an_error_of_logging_images_is_printed_as_one_line(
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def log_metrics(_: object, metrics: dict[str, Any], step: int) -> None:
        if any(isinstance(value, wandb.Image) for value in metrics.values()):
            raise RuntimeError("no room for pictures")

    logger = WandbLogger.__new__(WandbLogger)
    monkeypatch.setattr(WandbLogger, "experiment", SimpleNamespace(summary={}))
    monkeypatch.setattr(WandbLogger, "log_metrics", log_metrics)
    for method in ("save", "finalize"):
        monkeypatch.setattr(WandbLogger, method, lambda *_, **__: None)
    use(monkeypatch, SafeLogger("W&B", {"online": lambda: logger}, None))
    train(tiny_digits(), tmp_path / "run", [])
    assert capsys.readouterr().err == (
        "attention-lab: W&B: no room for pictures; nothing more is logged.\n"
    )


@pytest.mark.parametrize("ending", ["finalize", "finish"])
def test_a_logger_that_never_finishes_is_abandoned(
    ending: str,
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forever = threading.Event()
    if ending == "finalize":
        monkeypatch.setattr(DummyLogger, "finalize", lambda *_: forever.wait(60), raising=False)
    else:
        monkeypatch.setattr(SafeLogger, "finish", lambda *_: forever.wait(60))
    use(monkeypatch, SafeLogger("Tracker", {"online": DummyLogger}, 0.1))
    try:
        train(tiny_digits(), tmp_path / "run", [])
    finally:
        forever.set()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "finished"
    then = "; nothing more is logged" if ending == "finalize" else ""
    assert capsys.readouterr().err == (
        f"attention-lab: Tracker: did not finish within 0.1 s{then}.\n"
    )


def test_do_within_raises_the_errors_of_the_action() -> None:
    done: list[int] = []
    do_within(10.0, lambda: done.append(1))
    do_within(None, lambda: done.append(2))
    assert done == [1, 2]
    for seconds in (10.0, None):
        with pytest.raises(ZeroDivisionError):
            do_within(seconds, lambda: 1 // 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda logger: logger.log_hyperparams({"lr": 1}),
        lambda logger: logger.save(),
    ],
)
def test_every_method_of_a_logger_may_raise(
    call: Callable[[Logger], None], capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(DummyLogger):
        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("broken")

        save = log_hyperparams

    logger = SafeLogger("Tracker", {"online": Broken}, None)
    call(logger)
    call(logger)  # quiet by now
    assert capsys.readouterr().err.count("\n") == 1
    logger.experiment.anything(1)  # does nothing
    assert (logger.name, logger.version) == ("", "")
