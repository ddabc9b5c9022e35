"""A run that its search asks to stop ends as pruned, which is neither a result nor a failure."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers.logger import DummyLogger

from attention_lab.tracking.prune_request import PRUNE, request_pruning
from attention_lab.training import preemption
from attention_lab.training import run as run_module
from attention_lab.training.preemption import Pruned
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.runs import launch, train
from tests.training.conftest import SignalIn, read_status, train_until_preempted
from tests.training.ranks.conftest import TWO


@pytest.fixture
def asked_in_third_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to stop arrives in the third step."""
    monkeypatch.setattr(preemption, "REQUEST_INTERVAL", 0.0)
    step = AttentionTask.training_step

    def training_step(self: AttentionTask, *batch: Any) -> Any:
        if self.global_step == 2:
            request_pruning(tmp_path, "hopeless")
        return step(self, *batch)

    monkeypatch.setattr(AttentionTask, "training_step", training_step)


@pytest.mark.usefixtures("asked_in_third_step")
def test_a_run_stops_after_the_step_in_which_it_is_asked_to(
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    codes = []

    class Closing(DummyLogger):
        def close(self, exit_code: int) -> None:
            codes.append(exit_code)

    monkeypatch.setattr(run_module, "start_loggers", lambda *_: {"closing": Closing()})
    with pytest.raises(Pruned) as stopped:
        train(tiny_digits(), tmp_path)
    assert stopped.value.code == 0
    status = read_status(tmp_path)
    assert (status["status"], status["error"]) == ("pruned", "hopeless")
    assert codes == [0]  # not a crash
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / PRUNE).exists()
    assert capsys.readouterr().err.endswith("pruned: hopeless\n")


def test_a_signal_comes_before_a_request(
    tiny_digits: Compose, tmp_path: Path, signal_in: SignalIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preempted run is saved; when it resumes, it is pruned before its next step."""
    monkeypatch.setattr(preemption, "REQUEST_INTERVAL", 0.0)
    stops = preemption._all_gather_not_none

    def ask(value: Any) -> Any:
        if isinstance(value, int):  # a signal
            request_pruning(tmp_path, "hopeless")
        return stops(value)

    monkeypatch.setattr(preemption, "_all_gather_not_none", ask)
    signal_in(AttentionTask, "training_step", lambda self: self.global_step == 2)
    assert train_until_preempted(tiny_digits(), tmp_path).startswith("SIGUSR1: saved at step 3")
    with pytest.raises(Pruned):
        train(tiny_digits(), tmp_path)
    assert read_status(tmp_path)["progress"]["step"] == 3


def test_all_ranks_stop(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_lab.training.distributed.launch.cores", lambda: 2)
    request_pruning(tmp_path, "hopeless")
    with pytest.raises(Pruned, match="hopeless"):
        launch(tiny_digits(*TWO), tmp_path)
    assert read_status(tmp_path)["status"] == "pruned"
