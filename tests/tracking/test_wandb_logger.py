"""Starting W&B: options, variables, logins, and servers that fail."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

import pytest
import wandb

from attention_lab.tracking.wandb_logger import VARIABLES, WandbOptions, is_logged_in
from tests.conftest import Compose
from tests.runs import train
from tests.tracking.servers import closed, refusing, silent
from tests.tracking.wandb_files import forget_login, when_written

DEFAULT_HOST = str(urlparse(wandb.Settings().base_url).netloc)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of wandb.init, which starts nothing; the user is not logged in."""
    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> Any:
        calls.append(options)
        return SimpleNamespace(define_metric=lambda *_, **__: None)

    forget_login(monkeypatch, tmp_path)
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(
        "attention_lab.tracking.wandb_logger.WandbRunLogger", lambda *_: SimpleNamespace()
    )
    return calls


#: Of a run of a sweep.
NAMED = {"name": "seed 1", "group": "sweep", "job_type": "train"}


def mode(started: list[dict[str, Any]], option: Any = "auto") -> str:
    """The mode of a run: "online", "offline" or "disabled"."""
    before = dict(os.environ)
    logger = WandbOptions(mode=option).logger(Path("outputs/sweep/run"), {"seed": 1}, **NAMED)
    assert os.environ.get("WANDB_MODE") == before.get("WANDB_MODE")
    assert (logger is None) == (not started)
    return started.pop()["mode"] if started else "disabled"


def test_a_wandb_run_is_started_with_what_identifies_it(started: list[dict[str, Any]]) -> None:
    options = WandbOptions(mode="offline", entity="my-team", tags=["try"], notes="a note")
    options.logger(Path("outputs/sweep/run"), {"seed": 1}, **NAMED, run_id="0a1b2c3d")
    assert [{k: v for k, v in call.items() if k != "settings"} for call in started] == [
        {
            "project": "attention-lab",
            "entity": "my-team",
            **NAMED,
            "tags": ["try"],
            "notes": "a note",
            "dir": Path("outputs/sweep/run"),
            "config": {"seed": 1},
            "mode": "offline",
            "id": "0a1b2c3d",
            "resume": "allow",
        }
    ]


@pytest.mark.parametrize("option", ["project", "name", "group", "job_type"])
def test_a_variable_of_wandb_counts_unless_the_option_is_set(
    option: str, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLES[option], "from-the-shell")
    for options, expected in (
        (WandbOptions(), "from-the-shell"),
        (WandbOptions(**{option: "asked"}), "asked"),  # type: ignore[arg-type]
    ):
        options.check()
        options.logger(Path("run"), {}, **NAMED)
        assert started.pop()[option] == expected


def test_the_client_reads_its_other_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_login(monkeypatch, tmp_path)
    for name, value in {
        "WANDB_ENTITY": "my-team",
        "WANDB_TAGS": "one,two",
        "WANDB_NOTES": "a note",
        "WANDB_DIR": str(tmp_path / "elsewhere"),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "elsewhere").mkdir()
    wandb.teardown()  # which has read the variables already
    logger = WandbOptions().logger(tmp_path / "run", {}, **NAMED)
    assert logger is not None
    logger.close(exit_code=0)
    wandb.teardown()
    run = when_written(tmp_path / "elsewhere").run
    assert (run.entity, list(run.tags), run.notes) == ("my-team", ["one", "two"], "a note")
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_in_its_wandb_run(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for mode in ("online", "offline"):
        options = WandbOptions(mode=mode)  # type: ignore[arg-type]
        options.logger(Path("run"), {}, **NAMED, run_id="0a1b2c3d")
        assert (started[-1]["id"], started[-1]["resume"]) == ("0a1b2c3d", "allow")


@pytest.mark.parametrize(
    ("option", "expected"),
    [("auto", "offline"), ("online", "offline"), ("offline", "offline"), ("disabled", "disabled")],
)
def test_wandb_option_without_a_login(
    option: str, expected: str, started: list[dict[str, Any]]
) -> None:
    assert mode(started, option) == expected


@pytest.mark.parametrize(
    ("option", "expected"),
    [("auto", "online"), ("online", "online"), ("offline", "offline"), ("disabled", "disabled")],
)
def test_wandb_option_with_a_key_in_the_environment(
    option: str, expected: str, started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert mode(started, option) == expected


@pytest.mark.parametrize("option", ["auto", "online", "offline", "disabled"])
@pytest.mark.parametrize(
    ("variable", "expected"),
    [("online", "online"), ("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")],
)
def test_wandb_mode_overrides_the_wandb_option(
    variable: str,
    option: str,
    expected: str,
    started: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert mode(started, option) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (f"machine {DEFAULT_HOST} login user password secret", "online"),
        ("machine example.org login user password secret", "offline"),
        ("machinery", "offline"),  # no such word
        ("", "offline"),
        pytest.param(
            f"machine {DEFAULT_HOST} login user",
            "offline",
        ),
    ],
)
@pytest.mark.parametrize("where", ["home", "variable"])
def test_a_key_in_netrc_is_a_login(
    lines: str,
    expected: str,
    where: str,
    started: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / (".netrc" if where == "home" else "elsewhere")
    file.write_text(f"{lines}\n")
    file.chmod(0o600)
    if where == "variable":
        monkeypatch.setenv("NETRC", str(file))
    assert mode(started) == expected


@pytest.mark.parametrize(
    ("machine", "server"),
    [
        (DEFAULT_HOST, None),
        ("wandb.example.org", "https://wandb.example.org"),
        pytest.param(
            "localhost:8080",
            "http://localhost:8080",
        ),
    ],
)
def test_the_file_of_wandb_login_is_a_login(
    machine: str,
    server: str | None,
    started: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / ".netrc").write_text(f"machine {machine}\n  login user\n  password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    if server:
        monkeypatch.setenv("WANDB_BASE_URL", server)
    assert mode(started) == "online"


def test_errors_are_not_reported_to_wandb(
    started: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mode(started)
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")  # who wants it, gets it
    mode(started)
    assert os.environ["WANDB_ERROR_REPORTING"] == "true"


@pytest.mark.parametrize(
    ("server", "key", "said"),
    [
        (silent, "0" * 40, "did not answer within 1 s"),
        (closed, "0" * 40, "did not answer within 1 s (connection refused)"),
        (refusing, "0" * 40, "user is not logged in"),
        (closed, "abc", "WANDB_API_KEY invalid: API key must have 40+ characters, has 3"),
    ],
)
def test_a_server_that_accepts_no_runs_gives_one_line(
    server: Callable[[], AbstractContextManager[str]],
    key: str,
    said: str,
    tiny_digits: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run is logged offline with the same id."""
    forget_login(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    with server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        wandb.teardown()  # which has read the variables already
        train(tiny_digits("logger=wandb"), tmp_path / "run", [])
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "finished"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attention-lab: W&B: ")
    assert said in line
    assert line.endswith("; logging offline. Upload later: attention-lab sync run")
    kept = when_written(tmp_path / "run")
    assert (kept.run.run_id, kept.exit_code) == (status["wandb_id"], 0)
    assert len(kept.curve("train/loss")) == 8
    assert not list((tmp_path / "run" / "wandb").glob("run-*"))


def test_a_killed_wandb_service_gives_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything logged before and after that is on disk."""
    forget_login(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(WandbOptions, "chosen_mode", lambda _: ("online", "as if it were"))
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **o: init(**{**o, "mode": "offline"}))
    logger = WandbOptions().logger(tmp_path, {}, **NAMED, run_id="0a1b2c3d")
    assert logger is not None
    logger.log_metrics({"loss": 2.0}, step=0)
    asked = ["pgrep", "-P", str(os.getpid()), "wandb-core"]
    for process in subprocess.run(asked, capture_output=True, check=True).stdout.split():
        os.kill(int(process), signal.SIGKILL)
    first = {path.name for path in tmp_path.glob("wandb/offline-run-*")}
    deadline, step, said = time.monotonic() + 20, 0, ""
    while not said:  # until W&B notices
        assert time.monotonic() < deadline
        step += 1
        logger.log_metrics({"loss": 1.0}, step=step)
        said = capsys.readouterr().err
    logger.log_metrics({"loss": 0.0}, step=step + 1)
    logger.close(exit_code=0)
    assert said.startswith("attention-lab: W&B: ")
    assert said.count("\n") == 1
    assert "; logging offline. Upload later: attention-lab sync " in said
    for name in first:
        (tmp_path / "wandb" / name).rename(tmp_path / name)
    # The row during which it was noticed is not lost.
    assert when_written(tmp_path).curve("loss") == [(step, 1.0), (step + 1, 0.0)]


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WANDB_MODE", "ofline", "WANDB_MODE=ofline: no such mode of W&B; did you mean offline?"),
        ("WANDB_MODE", "", "WANDB_MODE=: no such mode of W&B; available: online, "),
        ("WANDB_MODE", "online", "WANDB_MODE=online: not logged in to https://"),
        ("WANDB_BASE_URL", "nonsense", "WANDB_BASE_URL=nonsense: Input should be a valid URL"),
        ("WANDB_INIT_TIMEOUT", "soon", "WANDB_INIT_TIMEOUT=soon: Input should be a valid number"),
        ("WANDB_TAGS", f"a,{'x' * 65}", f"WANDB_TAGS={'x' * 65}: has more than 64 characters"),
        ("WANDB_API_KEY", " secret", "WANDB_API_KEY: API key cannot start or end with whitespace"),
    ],
)
def test_a_variable_that_wandb_refuses_is_named(
    variable: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_login(monkeypatch, tmp_path)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        WandbOptions().check()
    assert "secret" not in str(raised.value)


def test_logger_options_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_login(monkeypatch, tmp_path)
    WandbOptions().check()
    WandbOptions(mode="offline").check()
    for options, said in (
        (WandbOptions(mode="online"), "logger.wandb.mode=online: not logged in to "),
        (WandbOptions(project="a/b"), "logger.wandb.project=a/b: Invalid project name"),
        (WandbOptions(name="x" * 129), f"logger.wandb.name={'x' * 129}: has more than 128 char"),
        (WandbOptions(tags=["x" * 65]), f"logger.wandb.tags={'x' * 65}: has more than 64 char"),
    ):
        with pytest.raises(ValueError, match=said):
            options.check()
    monkeypatch.setenv("WANDB_BASE_URL", "nonsense")
    WandbOptions(mode="disabled").check()  # the variable is not used then


def test_a_key_under_the_other_name_of_the_default_server_is_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_login(monkeypatch, tmp_path)
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password secret\n")
    netrc.chmod(0o600)
    assert is_logged_in("https://api.forge.coreweave.com")
    assert not is_logged_in("https://wandb.example.org")
