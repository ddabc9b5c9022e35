"""W&B's settings, server and key are checked before a command creates a file."""

import json
import os
from pathlib import Path

import pytest

from attention_lab.sweeps.jobs import check_wandb
from attention_lab.tracking import wandb_logger
from tests.cli.conftest import Command, after_checking, fresh
from tests.conftest import Compose
from tests.runs import unchecked
from tests.tracking.servers import silent
from tests.tracking.wandb_files import forget_login

#: Composed and checked at once.
TINY = ("logger=wandb", "trainer=cpu", "data=reverse", "data.examples=160", "model.d_model=16")


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")])
@pytest.mark.parametrize(
    ("mode", "option", "said"),
    [
        ("ofline", "auto", "WANDB_MODE=ofline: no such mode of W&B; did you mean offline?"),
        ("online", "auto", "WANDB_MODE=online: not logged in to "),
        (None, "online", "logger.wandb.mode=online: not logged in to "),
    ],
)
def test_invalid_logger_options_start_no_run(
    sweep: tuple[str, ...],
    mode: str | None,
    option: str,
    said: str,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget_login(monkeypatch, tmp_path)
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    for verb in (("train",), ("train", "--dry-run")):
        answer = command(*verb, *sweep, *TINY, f"logger.wandb.mode={option}")
        assert (answer.code, after_checking(answer.out)) == (2, "")
        assert answer.err.startswith(f"attention-lab: {said}")
        assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_checks_the_server_once(
    compose: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The jobs inherit the answer and log offline from the start."""
    forget_login(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wandb_logger, "CHECK_TIMEOUT", 1)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")  # what the check sets is undone
    jobs = [unchecked(compose(*TINY, f"seed={seed}"), tmp_path) for seed in (0, 1)]
    with silent() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        check_wandb(jobs, tmp_path / "sweep")
        check_wandb(jobs, tmp_path / "sweep")
    assert capsys.readouterr().err == (
        f"attention-lab: W&B: {url} did not answer within 1 s; logging offline. "
        "Upload later: attention-lab sync sweep\n"
    )
    assert os.environ["WANDB_MODE"] == "offline"


def test_jobs_of_a_sweep_log_offline_where_the_server_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_login(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    arguments = ("train", "-m", *TINY, "trainer.max_steps=1", "seed=0,1", "hydra.sweep.dir=sweep")
    with silent() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        answer = fresh("-m", "attention_lab", *arguments, cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert [line for line in answer.err.splitlines() if "W&B" in line] == [
        "attention-lab: W&B: WANDB_API_KEY invalid: API key must have 40+ characters, has 3; "
        "logging offline. Upload later: attention-lab sync sweep"
    ]
    later = "W&B             2 runs logged offline. Upload later: attention-lab sync sweep"
    assert later in answer.out.splitlines()
    runs = [path.parent for path in (tmp_path / "sweep").glob("*/status.json")]
    assert len(runs) == 2
    for run in runs:
        assert json.loads((run / "status.json").read_text())["status"] == "finished"
        assert len(list(run.glob("wandb/offline-run-*"))) == 1
        assert "attention-lab: W&B" not in (run / "log.txt").read_text()
