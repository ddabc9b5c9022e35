"""`attention-lab sync` uploads offline W&B runs to a local server."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb as client

from attention_lab.cli import sync
from attention_lab.tracking.lock import Lock
from attention_lab.tracking.wandb_logger import WandbOptions
from tests.cli.conftest import Command
from tests.tracking.test_wandb_logger import NAMED
from tests.tracking.wandb_files import forget_login


class Wandb(ThreadingHTTPServer):
    """The part of W&B's server that receives a run's history."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        #: The rows of each run's history, by its id.
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.requests = 0
        #: What it answers, and a run that it refuses once.
        self.status = 200
        self.refused: str | None = None

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that leave early."""


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of W&B's client when it uploads a run."""

    server: Wandb

    def do_POST(self) -> None:
        self.server.requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer: dict[str, Any] = {}
        status = self.server.status
        if b"upsertBucket" in body and (self.server.refused or "none").encode() in body:
            self.server.refused, status = None, 401
        elif self.path == "/graphql":
            answer = {"data": self._data(**json.loads(body))}
        elif self.path.endswith("/file_stream") and status == 200:
            self._take(self.path.split("/")[-2], json.loads(body).get("files") or {})
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _take(self, run: str, files: dict[str, Any]) -> None:
        rows = self.server.histories.setdefault(run, [])
        if history := files.get("wandb-history.jsonl"):
            rows[history["offset"] :] = map(json.loads, history["content"])

    def _data(self, query: str, variables: dict[str, Any], **_: Any) -> dict[str, Any]:
        project = {"id": "p", "name": "attention-lab", "entity": {"id": "e", "name": "tests"}}
        name = variables.get("name")
        if "RunResumeStatus" in query:
            rows = self.server.histories.get(str(name))
            counts = {"logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(rows or ())}
            tails = {
                "eventsTail": "[]",
                "historyTail": json.dumps([json.dumps(r) for r in rows or ()]),
            }
            settings = {
                "summaryMetrics": "{}",
                "config": "{}",
                "wandbConfig": '{"t": 1}',
                "tags": [],
            }
            bucket = {"id": "x", "name": name, "displayName": "a", **counts, **tails, **settings}
            return {"model": {**project, "bucket": None if rows is None else bucket}}
        if "upsertBucket" in query:
            bucket = {"id": "x", "name": name, "displayName": "a", "config": "{}"}
            bucket |= {"description": None, "sweepName": None, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": f, "uploadUrl": self.server.url} for f in variables["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        return {}


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wandb]:
    """A server that the user is logged in to."""
    forget_login(monkeypatch, tmp_path)
    with Wandb() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        client.teardown()  # which may have read the variables already
        yield server
        client.teardown()
        server.shutdown()


def keep(directory: Path, identifier: str, losses: list[float], first: int = 0) -> None:
    """Log a part of a run offline."""
    directory.mkdir(parents=True, exist_ok=True)
    logger = WandbOptions(mode="offline").logger(directory, {"seed": 0}, **NAMED, run_id=identifier)
    assert logger is not None
    for step, loss in enumerate(losses, start=first):
        logger.log_metrics({"train/loss": loss}, step=step)
    logger.close(exit_code=0)


def curve(rows: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """The steps and values of the loss."""
    return [(row["trainer/global_step"], row["train/loss"]) for row in rows if "train/loss" in row]


def test_complete_parts_of_runs_are_uploaded_once_and_in_order(
    command: Command, tmp_path: Path, wandb: Wandb
) -> None:
    sweep = tmp_path / "outputs" / "sweep"
    keep(sweep / "a", "aaaaaaaa", [3.0, 2.0])
    keep(sweep / "b", "bbbbbbbb", [5.0])
    time.sleep(1)  # a part's directory has the second in its name
    keep(sweep / "a", "aaaaaaaa", [1.0], first=2)
    lock = Lock(sweep / "b")
    answer = command("sync")
    assert answer.code == 0, answer.err
    assert f"uploaded 2 parts of 1 run to {wandb.url}\n" in answer.out
    assert "1 part not uploaded yet: still running\n" in answer.out
    assert curve(wandb.histories["aaaaaaaa"]) == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert "bbbbbbbb" not in wandb.histories
    lock.release()
    assert "uploaded 1 part of 1 run" in command("sync", "outputs").out
    assert curve(wandb.histories["bbbbbbbb"]) == [(0, 5.0)]
    before = wandb.requests
    assert command("sync", "outputs/sweep").out == "nothing to upload\n"
    assert wandb.requests == before


def test_watching_ends_with_the_last_run(
    command: Command, tmp_path: Path, wandb: Wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "INTERVAL", 0.1)
    directory = tmp_path / "sweep" / "a"
    keep(directory, "aaaaaaaa", [3.0])
    lock = Lock(directory)
    threading.Timer(1.0, lock.release).start()
    answer = command("sync", "sweep", "--watch")
    assert answer.code == 0, answer.err
    assert curve(wandb.histories["aaaaaaaa"]) == [(0, 3.0)]


def test_nothing_is_uploaded_without_a_login(
    command: Command, tmp_path: Path, wandb: Wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path / "outputs" / "a", "aaaaaaaa", [3.0])
    monkeypatch.delenv("WANDB_API_KEY")
    answer = command("sync")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "not logged in" in answer.err
    assert "wandb login" in answer.err
    assert wandb.requests == 0
    assert command("sync", "nowhere").code == 2


@pytest.mark.parametrize("kind", ["file", "part", "run"])
def test_links_out_of_a_run_are_not_uploaded(
    kind: str, command: Command, tmp_path: Path, wandb: Wandb
) -> None:
    mine, received = tmp_path / "mine", tmp_path / "received"
    keep(mine / "a", "aaaaaaaa", [3.0])
    keep(received / "b", "bbbbbbbb", [5.0])
    (part,) = mine.glob("a/wandb/offline-run-*")
    if kind == "file":
        (into,) = received.glob("b/wandb/offline-run-*/files")
        (into / "media.png").symlink_to(next(part.glob("*.wandb")))
    elif kind == "part":
        (received / "b" / "wandb" / part.name).symlink_to(part)
    else:
        (received / "a").symlink_to(mine / "a")
    answer = command("sync", "received")
    assert "aaaaaaaa" not in wandb.histories
    if kind == "file":
        assert answer.code == 1
        assert "media.png is a symbolic link out of its run" in answer.err
        assert wandb.histories == {}
    else:
        assert "uploaded 1 part of 1 run" in answer.out


def test_a_refused_part_is_reported_and_uploaded_again(
    command: Command, tmp_path: Path, wandb: Wandb
) -> None:
    keep(tmp_path / "outputs" / "a", "aaaaaaaa", [3.0])
    wandb.status = 401
    answer = command("sync")
    assert answer.code == 1
    assert "1 part not uploaded: " in answer.err
    assert "401" in answer.err
    wandb.status = 200
    assert command("sync").code == 0
    assert curve(wandb.histories["aaaaaaaa"]) == [(0, 3.0)]


def test_no_part_is_uploaded_before_an_earlier_one(
    command: Command, tmp_path: Path, wandb: Wandb
) -> None:
    keep(tmp_path / "outputs" / "a", "aaaaaaaa", [3.0, 2.0])
    keep(tmp_path / "outputs" / "b", "bbbbbbbb", [5.0])
    time.sleep(1)  # a part's directory has the second in its name
    keep(tmp_path / "outputs" / "a", "aaaaaaaa", [1.0], first=2)
    wandb.refused = "aaaaaaaa"
    answer = command("sync")
    assert answer.code == 1
    assert "uploaded 1 part of 1 run" in answer.out
    assert "2 parts not uploaded: wandb: ERROR" in answer.err
    assert "aaaaaaaa" not in wandb.histories
    assert command("sync").code == 0
    assert curve(wandb.histories["aaaaaaaa"]) == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert curve(wandb.histories["bbbbbbbb"]) == [(0, 5.0)]


def test_runs_in_several_directories_are_uploaded_once(
    command: Command, tmp_path: Path, wandb: Wandb
) -> None:
    for name in ("a", "b", "c"):
        keep(tmp_path / "outputs" / name, name * 8, [3.0])
    answer = command("sync", "outputs/a", "outputs/b", str(tmp_path / "outputs" / "b"))
    assert answer == (0, f"uploaded 2 parts of 2 runs to {wandb.url}\n", "")
    assert set(wandb.histories) == {"aaaaaaaa", "bbbbbbbb"}
    assert command("sync", "outputs/c", "nowhere").code == 2


def test_ctrl_c_ends_watching_in_one_line(
    command: Command, tmp_path: Path, wandb: Wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sync.time, "sleep", interrupt)
    keep(tmp_path / "outputs" / "a", "aaaaaaaa", [3.0])
    lock = Lock(tmp_path / "outputs" / "a")
    answer = command("sync", "--watch")
    lock.release()
    assert answer == (
        1,
        "1 part not uploaded yet: still running\n",
        "attention-lab: interrupted\n",
    )


def test_without_wandb_sync_prints_one_line(
    command: Command, tmp_path: Path, wandb: Wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outputs").mkdir()
    monkeypatch.setattr(sync, "find_spec", lambda _: None)
    message = "attention-lab: nothing uploaded: wandb is not installed; run `pip install wandb`"
    assert command("sync") == (2, "", f"{message}\n")


@pytest.mark.parametrize(
    ("status", "said"), [(500, "did not receive all data in time"), (401, "refused data")]
)
def test_a_run_cut_off_online_is_uploaded(
    status: int,
    said: str,
    command: Command,
    tmp_path: Path,
    wandb: Wandb,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    directory = tmp_path / "outputs" / "a"
    directory.mkdir(parents=True)
    logger = WandbOptions().logger(directory, {"seed": 0}, **NAMED, run_id="aaaaaaaa")
    assert logger is not None
    for step, loss in enumerate([3.0, 2.0]):
        logger.log_metrics({"train/loss": loss}, step=step)
    wandb.status = status
    logger.close(exit_code=0)
    assert capsys.readouterr().err == (
        f"attention-lab: W&B: {wandb.url} {said}. Upload later: attention-lab sync outputs/a\n"
    )
    wandb.status = 200
    assert "uploaded 1 part of 1 run" in command("sync").out
    assert curve(wandb.histories["aaaaaaaa"]) == [(0, 3.0), (1, 2.0)]
    assert command("sync").out == "nothing to upload\n"


def test_complete_uploads_are_not_repeated(
    command: Command, tmp_path: Path, wandb: Wandb, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "outputs" / "a"
    directory.mkdir(parents=True)
    logger = WandbOptions().logger(directory, {"seed": 0}, **NAMED, run_id="aaaaaaaa")
    assert logger is not None
    logger.log_metrics({"train/loss": 3.0}, step=0)
    logger.close(exit_code=0)
    assert capsys.readouterr().err == ""
    assert curve(wandb.histories["aaaaaaaa"]) == [(0, 3.0)]
    assert list(directory.glob("wandb/run-*"))
    assert command("sync").out == "nothing to upload\n"


def test_parts_are_in_order_whether_online_or_not(tmp_path: Path) -> None:
    names = ("run-20260101_000000-a", "offline-run-20260101_000001-a", "run-20260101_000002-a")
    for name in names:
        (tmp_path / "a" / "wandb" / name).mkdir(parents=True)
    (tmp_path / "a" / "wandb" / "latest-run").symlink_to(names[-1])
    assert [part.name for part in sync.not_uploaded(tmp_path)] == list(names)
