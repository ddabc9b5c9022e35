"""A W&B artifact in place of a run's directory: downloaded, checked, and refused in one line."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb

from attention_lab.cli import evaluate, predict, view
from attention_lab.tracking import artifact_download, wandb_logger
from attention_lab.tracking.artifact_download import artifact_reference
from tests.conftest import FinishedRun

REFERENCE = "me/words/model-1a2b3c4d:best"


class Entry:
    """A file of an artifact; `download` copies it, as W&B's does."""

    def __init__(self, file: Path, name: str, ref: str | None = None) -> None:
        self.file, self.name, self.ref = file, name, ref

    def download(self, root: str, skip_cache: bool) -> str:
        assert skip_cache  # a second copy in W&B's own cache would be waste
        (Path(root) / self.name).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(self.file, Path(root) / self.name))


class Artifact:
    """An artifact with the files of a directory."""

    version = "v3"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.refs: dict[str, str] = {}
        self.error: Exception | None = None

    def get_entry(self, name: str) -> Entry:
        if self.error is not None:
            raise self.error
        if not (self.directory / name).exists():
            raise KeyError(name)
        return Entry(self.directory / name, name, self.refs.get(name))


Upload = Callable[[Path], Artifact]


@pytest.fixture(autouse=True)
def _login(monkeypatch: pytest.MonkeyPatch, own_cache: None) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch) -> Upload:
    """Makes a directory the one artifact of W&B."""

    def put(directory: Path) -> Artifact:
        artifact = Artifact(directory)

        def find(reference: str) -> Artifact:
            if reference != REFERENCE:
                raise wandb.errors.CommError(f"artifact '{reference}' not found\nin the project")
            return artifact

        monkeypatch.setattr(wandb, "Api", lambda timeout: SimpleNamespace(artifact=find))
        monkeypatch.setattr(wandb_logger, "server_problem", lambda _: None)
        return artifact

    return put


@pytest.fixture
def uploaded(upload: Upload, words_run: FinishedRun) -> Artifact:
    """A finished run as the one artifact of W&B."""
    return upload(words_run.directory)


@pytest.mark.usefixtures("uploaded")
@pytest.mark.parametrize("argument", [REFERENCE, f"wandb:{REFERENCE}"])
def test_evaluate_takes_an_artifact(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.run([argument, "--split", "validation"]) == 0
    folder = tmp_path / "cache/attention-lab/wandb/127.0.0.1_9/me/words/model-1a2b3c4d/v3"
    assert f"saved to {folder}" in capsys.readouterr().out
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith("evaluations")} == {
        "config.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }


@pytest.mark.usefixtures("uploaded")
def test_predict_and_view_take_an_artifact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = SimpleNamespace(isatty=lambda: False, buffer=[b"zoo\n"])
    monkeypatch.setattr("sys.stdin", lines)
    assert predict.run([REFERENCE]) == 0
    assert view.run([REFERENCE, "zoo"]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1])
    assert page.name == "zoo.html"
    assert "/v3/attention/view/" in str(page)


def refusal(reference: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which an artifact is refused."""
    assert predict.run([reference]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said.removeprefix("attention-lab: ").rstrip("\n")


def test_an_artifact_without_login_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refusal(REFERENCE, capsys) == (
        f"{REFERENCE} is a W&B artifact, and you are not logged in to http://127.0.0.1:9; run "
        "`wandb login`, or name a run's directory"
    )


@pytest.mark.parametrize("reference", ["wandb:model", "wandb:a/../c:best", "wandb:a/b/c:d:e"])
def test_a_malformed_reference_is_refused(
    reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(reference, capsys).endswith(": use wandb:ENTITY/PROJECT/NAME:ALIAS")


@pytest.mark.usefixtures("uploaded")
def test_an_unknown_artifact_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal("me/words/other:v1", capsys) == (
        "me/words/other:v1: http://127.0.0.1:9: artifact 'me/words/other:v1' not found"
    )


def test_a_server_that_does_not_answer_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = "http://127.0.0.1:9 did not answer within 5 s"
    monkeypatch.setattr(wandb_logger, "server_problem", lambda _: problem)
    assert refusal(REFERENCE, capsys) == f"{REFERENCE}: {problem}"


@pytest.mark.usefixtures("uploaded")
def test_a_server_that_stops_answering_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(artifact_download, "TIMEOUT", 0.05)
    monkeypatch.setattr(wandb, "Api", lambda timeout: time.sleep(1))
    said = refusal(REFERENCE, capsys)
    assert said == f"{REFERENCE}: http://127.0.0.1:9 did not answer within 0.05 s"


def test_an_artifact_that_is_no_run_is_refused(
    upload: Upload, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(tmp_path / "empty")
    assert refusal(REFERENCE, capsys) == f"{REFERENCE} is not a run: it has no config.yaml"


def test_a_server_that_fails_during_the_download_is_refused(
    uploaded: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded.error = wandb.errors.CommError("connection lost\nretry")
    assert refusal(REFERENCE, capsys) == f"{REFERENCE}: config.yaml: connection lost"


def test_a_file_elsewhere_is_refused(
    uploaded: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded.refs["checkpoints/best.ckpt"] = "file:///etc/passwd"
    said = refusal(REFERENCE, capsys)
    assert said.endswith("its checkpoints/best.ckpt is a reference to another place; not loaded")


def test_a_version_cannot_lead_out_of_the_cache(
    uploaded: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded.version = "../../v3"
    assert refusal(REFERENCE, capsys) == f"{REFERENCE} has the version '../../v3'; not loaded"


def test_a_checkpoint_with_python_objects_is_refused(
    upload: Upload, words_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(words_run.directory, tmp_path / "run")
    torch.save({"state_dict": Path("x")}, tmp_path / "run" / "checkpoints" / "best.ckpt")
    upload(tmp_path / "run")
    assert "best.ckpt" in refusal(REFERENCE, capsys)


def test_a_directory_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert artifact_reference("a/b/c:d") == "a/b/c:d"
    (tmp_path / "a" / "b" / "c:d").mkdir(parents=True)
    assert artifact_reference("a/b/c:d") is None
    assert artifact_reference("wandb:a/b/c:d") == "a/b/c:d"


@pytest.mark.parametrize("path", ["run", "outputs/words/seed=1", "/tmp/a/b:c", "a/b/c/d:e"])
def test_paths_are_no_references(path: str) -> None:
    assert artifact_reference(path) is None
