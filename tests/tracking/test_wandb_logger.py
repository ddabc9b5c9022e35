"""One W&B run for each training run; nothing is uploaded unless the user is logged in."""

import csv
import html
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlparse

import pytest
import wandb

from attention_lab.tracking.hyperparameters import hyperparameters
from attention_lab.tracking.wandb_history import records
from attention_lab.tracking.wandb_logger import VARIABLES, WandbOptions, is_logged_in
from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.runs import train
from tests.tracking.servers import closed, refusing, silent

DEFAULT_HOST = str(urlparse(wandb.Settings().base_url).netloc)


def forget_login(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Makes this process one of a user without W&B settings."""
    for name in list(os.environ):
        if name.startswith("WANDB_") and name != "WANDB_SERVICE":
            patch.delenv(name)
    patch.setenv("HOME", str(home))
    patch.delenv("NETRC", raising=False)


class Stored(NamedTuple):
    """The content of an offline W&B run, as `wandb sync` would upload it."""

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int

    def curve(self, name: str) -> list[tuple[int, Any]]:
        """The steps and values of one metric."""
        return [(row["trainer/global_step"], row[name]) for row in self.history if name in row]


def nested(items: Any) -> dict[str, Any]:
    """The values of history items, each of which names its place in nested mappings."""
    values: dict[str, Any] = {}
    for item in items:
        *branch, last = list(item.nested_key) or [item.key]
        inside = values
        for key in branch:
            inside = inside.setdefault(key, {})
        inside[last] = json.loads(item.value_json)
    return values


def stored(directory: Path) -> Stored:
    """The one W&B run in a run's directory."""
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    return content(file)


def content(file: Path) -> Stored:
    """The W&B run in a .wandb file."""
    run, config, history, summary, exit_codes = None, {}, [], {}, []
    for record in records(file):
        if record.HasField("run"):
            run = record.run
            config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif record.HasField("config"):
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif record.HasField("history"):
            history.append(nested(record.history.item))
        elif record.HasField("summary"):
            summary |= nested(record.summary.update)
        elif record.HasField("exit"):
            exit_codes.append(record.exit.exit_code)
    (exit_code,) = exit_codes
    return Stored(run, config, history, summary, exit_code)


def when_written(place: Path, read: Callable[[Path], Stored] = stored) -> Stored:
    """The content of a W&B run, after its service has finished writing."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return read(place)
        except ValueError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="module")
def sweep(tiny_digits: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that finish and one that crashes, in one process and without a W&B login."""
    sweep = tmp_path_factory.mktemp("outputs") / "my-sweep"

    def crash(*_: object) -> NoReturn:
        raise RuntimeError("crashed")

    with pytest.MonkeyPatch.context() as patch:
        forget_login(patch, sweep.parent)
        for seed in (1, 2):
            overrides = ["logger=wandb", f"seed={seed}"]
            train(tiny_digits(*overrides), sweep / f"seed={seed}", overrides)
        patch.setattr(AttentionTask, "validation_step", crash)
        with pytest.raises(RuntimeError, match="crashed"):
            train(tiny_digits("logger=wandb"), sweep / "crashed", [])
        assert "WANDB_MODE" not in os.environ
    return sweep


def test_a_wandb_run_has_name_group_and_config(sweep: Path, tiny_digits: Compose) -> None:
    run = stored(sweep / "seed=1")
    assert (run.run.project, run.run.entity) == ("attention-lab", "")
    assert (run.run.display_name, run.run.run_group) == ("seed 1", "my-sweep")
    assert run.run.job_type == "train"
    config = {key: value for key, value in run.config.items() if key != "_wandb"}
    assert config == hyperparameters(tiny_digits("logger=wandb", "seed=1"))
    assert not any(isinstance(value, dict) or "." in key for key, value in config.items())


def test_curves_are_those_of_metrics_csv(sweep: Path) -> None:
    run, result = stored(sweep / "seed=1"), json.loads((sweep / "seed=1/result.json").read_text())
    lines = (sweep / "seed=1" / "metrics.csv").read_text().splitlines()
    columns, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
    scalars = [name for name in columns if name.startswith("attention/") or name.count("/") < 2]
    for name in set(scalars) - {"step", "epoch"}:
        column = columns.index(name)
        written = [float(row[column]) for row in rows if row[column]]
        assert [value for _, value in run.curve(name)] == pytest.approx(written), name
    assert [step for step, _ in run.curve("train/loss")] == list(range(8))
    assert len(run.curve("validation/accuracy")) == 2
    ((_, accuracy),) = run.curve("test/accuracy")
    assert accuracy == pytest.approx(result["test"]["accuracy"])


def test_slices_are_in_one_table_for_each_split(sweep: Path) -> None:
    """W&B makes a panel for each metric."""
    run, result = stored(sweep / "seed=1"), json.loads((sweep / "seed=1/result.json").read_text())
    for split, number in (("validation", 2), ("test", 1)):
        tables = run.curve(f"{split}/slices")
        assert len(tables) == number
        header, *rows = table(sweep / "seed=1", tables[-1][1])
        assert header == ["metric", "slice", "value"]
        last = result["last" if split == "validation" else "test"]
        slices = {name: value for name, value in last.items() if "/" in name}
        found = {f"{metric}/{part}": float(value) for metric, part, value in rows}
        assert found == pytest.approx(slices)
    names = {name for row in run.history for name in row if not name.startswith("attention/")}
    assert not [name for name in names if name.count("/") > 1]


def test_the_summary_has_the_results_with_flat_keys(sweep: Path) -> None:
    run, result = stored(sweep / "seed=1"), json.loads((sweep / "seed=1/result.json").read_text())
    summary = run.summary
    for name, value in result["validation"].items():
        assert summary[f"best/{name}"] == pytest.approx(value)
    for name, value in result["test"].items():
        assert summary[f"test/{name}"] == pytest.approx(value)
    assert summary["trivial_baseline/accuracy"] == result["trivial_baseline"]["accuracy"]
    for name in ("parameters", "steps", "best_step", "monitor", "area_under_curve"):
        assert summary[name] == result[name]
    assert summary["cost/tokens_per_second"] == result["tokens_per_second"]
    assert summary["cost/seconds/training"] == result["seconds"]["training"]


def test_the_summary_has_the_best_validation_while_a_run_trains(sweep: Path) -> None:
    (file,) = (sweep / "seed=1").glob("wandb/offline-run-*/*.wandb")
    kinds = [
        "best" if any(item.key == "best_step" for item in record.summary.update) else "test"
        for record in records(file)
        if any(item.key == "best_step" for item in record.summary.update)
        or any(item.nested_key[:] == ["test/accuracy"] for item in record.history.item)
    ]
    assert kinds == ["best", "best", "test", "best"]


def test_the_summary_has_no_last_value_of_a_reported_metric(sweep: Path) -> None:
    """It could be taken for the best."""
    summary = stored(sweep / "seed=1").summary
    kept = {name for name in summary if name.startswith("validation/")}
    assert "validation/slices" in kept
    assert kept <= {"validation/slices", "validation/predictions"}
    assert "cost/training_seconds" not in summary


def test_attention_maps_are_images_at_every_validation(sweep: Path) -> None:
    run = stored(sweep / "seed=1")
    (files,) = (sweep / "seed=1").glob("wandb/offline-run-*/files")
    logged: dict[int, set[bytes]] = {4: set(), 8: set()}
    for number in (1, 2, 3):
        images = run.curve(f"attention/self_attention/{number}")
        assert [step for step, _ in images] == [4, 8]
        for step, image in images:
            assert image["_type"] == "image-file"
            assert image["caption"] == f"example {number}, step {step}"
            logged[step].add((files / image["path"]).read_bytes())
    for step, images in logged.items():
        ours = (sweep / "seed=1" / "attention" / f"step-{step:06d}").glob("*.png")
        assert images == {path.read_bytes() for path in ours}
        assert len(images) == 3


def table(directory: Path, logged: Mapping[str, str]) -> list[list[str]]:
    """The rows of a logged table, and its header."""
    assert logged["_type"] == "html-file"
    (file,) = directory.glob(f"wandb/offline-run-*/files/{logged['path']}")
    rows = re.findall(r"<tr>(.*?)</tr>", file.read_text(encoding="utf-8"), re.DOTALL)
    cells = (re.findall(r"<t[hd] [^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [list(map(html.unescape, row)) for row in cells]


def test_predictions_are_a_table_at_every_validation(sweep: Path) -> None:
    run = stored(sweep / "seed=1")
    with (sweep / "seed=1" / "predictions.csv").open(newline="") as file:
        there = list(csv.DictReader(file))
    tables = run.curve("validation/predictions")
    assert [step for step, _ in tables] == [4, 8]
    for step, logged in tables:
        header, *rows = table(sweep / "seed=1", logged)
        assert header == ["example", "input", "reference", "prediction", "correct"]
        assert rows == [list(row.values())[1:] for row in there if row["step"] == str(step)]


def test_the_viewer_is_logged_at_the_end_of_training(sweep: Path) -> None:
    run = stored(sweep / "seed=1")
    (files,) = (sweep / "seed=1").glob("wandb/offline-run-*/files")
    ((step, page),) = run.curve("attention/viewer")
    assert (step, page["_type"]) == (8, "html-file")
    assert (files / page["path"]).read_bytes() == (
        sweep / "seed=1" / "attention" / "attention.html"
    ).read_bytes()


def test_two_runs_of_one_process_are_two_wandb_runs(sweep: Path) -> None:
    first, second = stored(sweep / "seed=1"), stored(sweep / "seed=2")
    assert first.run.run_id != second.run.run_id
    assert (first.config["seed"], second.config["seed"]) == (1, 2)
    assert first.curve("train/loss") != second.curve("train/loss")
    assert len(first.curve("train/loss")) == len(second.curve("train/loss")) == 8


def test_the_exit_code_of_a_wandb_run_is_that_of_the_run(sweep: Path) -> None:
    assert stored(sweep / "seed=1").exit_code == 0
    assert stored(sweep / "crashed").exit_code == 1
    assert len(stored(sweep / "crashed").curve("train/loss")) == 4


def test_no_wandb_files_without_wandb(digits_run: Any) -> None:
    assert not (digits_run.directory / "wandb").exists()


def test_a_run_that_resumes_is_the_same_wandb_run(
    sweep: Path, tiny_digits: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, each process has its own directory, named by the second."""
    forget_login(monkeypatch, sweep.parent)
    directory = sweep / "crashed"
    before = stored(directory)
    time.sleep(1)
    train(tiny_digits("logger=wandb"), directory, [])
    first, second = sorted(directory.glob("wandb/offline-run-*/*.wandb"))
    assert first.name == second.name == f"run-{before.run.run_id}.wandb"
    assert json.loads((directory / "status.json").read_text())["wandb_id"] == before.run.run_id
    found = {record.run.run_id for record in records(second) if record.HasField("run")}
    assert found == {before.run.run_id}
    parts = [before, when_written(second, content)]
    names = {name for part in parts for row in part.history for name in row if "/" in name}
    for name in names - {"trainer/global_step"}:
        steps = [step for part in parts for step, _ in part.curve(name)]
        assert steps == sorted(set(steps)), name
    losses = [point for part in parts for point in part.curve("train/loss")]
    whole = stored(sweep / "seed=1").curve("train/loss")
    assert [step for step, _ in losses] == [step for step, _ in whole]
    assert len(parts[0].curve("train/loss")) == 4


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
