"""Records from strangers are refused in one line, in bounded time and memory."""

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.lock import Lock, Locked, is_locked
from attention_lab.tracking.record_files import read_json, read_record
from attention_lab.tracking.run_directory import (
    RunExists,
    RunRecord,
    read_config,
    record_failure,
    write_config,
)
from attention_lab.tracking.untrusted_files import (
    LIMITS,
    UnreadableRecord,
    is_png,
    last_lines,
    read_bytes,
)
from tests.runs import Stopped, unchecked

STATUS = {"schema_version": 1, "status": "failed", "seed": 0, "overrides": []}


def refusal(path: Path, read: Callable[[Path], object] = read_record) -> str:
    """The one line in which a file is refused."""
    with pytest.raises(UnreadableRecord) as error:
        read(path)
    line = str(error.value)
    assert line.startswith(f"{path} ")
    assert "\n" not in line
    assert len(line) < 500 + len(str(path))
    return line


@pytest.mark.parametrize("name", ["status.json", "config.yaml", "metrics.csv", "picture.png"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "link", "loop", "linked fifo"])
def test_only_regular_files_of_the_directory_are_read(kind: str, name: str, tmp_path: Path) -> None:
    secret, run = tmp_path / "secret", tmp_path / "run"
    secret.write_text(json.dumps(STATUS))
    run.mkdir()
    path = run / name
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "linked fifo":
        os.mkfifo(run / "fifo")
        path.symlink_to("fifo")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "link": secret, "loop": name}[kind])
    line = refusal(path, read_bytes)
    if kind in ("link", "device"):
        assert "leads out of" in line
    if "fifo" in kind:
        assert "not a regular file" in line


def test_a_link_through_a_parent_directory_leads_out_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "maps.json").write_text("[]")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "attention").symlink_to(tmp_path / "elsewhere")
    path = tmp_path / "run" / "attention" / "maps.json"
    assert "leads out of" in refusal(path, lambda path: read_json(path, tmp_path / "run"))


def test_links_inside_a_directory_and_to_it_are_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "first.json").write_text("[1]")
    (tmp_path / "run" / "second.json").symlink_to("first.json")
    (tmp_path / "latest").symlink_to("run")
    assert read_json(tmp_path / "latest" / "second.json") == [1]


@pytest.mark.parametrize("name", LIMITS)
def test_a_file_that_is_too_large_is_not_read(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(1_000_000_000)  # takes no room on the disk
    tracemalloc.start()
    assert "at most" in refusal(tmp_path / name, read_bytes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}]\n"
    for before, name in zip("abcdefghijklmnopqrst", "bcdefghijklmnopqrstu", strict=True)
)
MERGED = BOMB.replace("[x, x]", "{x: 1}").replace("[", "{<<: [").replace("]", "]}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BOMB, "contains an alias"),
        (MERGED, "contains an alias"),
        ("a: &a [*a]", "contains an alias"),
        ("a: " + "[" * 200_000, "nested more than"),
        ("- " * 100_000, "nested more than"),
        ("a: " + "{a: " * 100 + "1" + "}" * 100, "nested more than"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("a: !!binary aGk=", "contains a bytes"),
        ("a: 2026-01-31", "contains a date"),
        ("a: !!set {x, y}", "contains a set"),
        (f"a: {'9' * 100}", "more than 64 bits"),
        (f"a: {'9' * 9000}", "not valid YAML"),
        ("a: {", "not valid YAML"),
        ("a: b\n---\na: c", "not valid YAML"),
        ("- a", "holds no mapping"),
        ("", "holds no mapping"),
        ("a: 1", "has no schema_version"),
        ("schema_version: 2", "has schema_version 2, and this release reads 1; use the release"),
        ("schema_version: '1'", "has schema_version '1'"),
        ("schema_version: true", "has schema_version True"),
        ("schema_version: 1.0", "has schema_version 1.0"),
        ("schema_version: 0", "has schema_version 0"),
    ],
)
def test_yaml_that_is_not_plain_data_of_this_release_is_refused(
    content: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(content)
    assert reason in refusal(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 300_000, "nested more than"),
        ('{"a":' * 300_000, "nested more than"),
        ("[" * 100 + "]" * 100, "nested more than"),
        ("[]", "holds no mapping"),
        ('{"a"', "not valid JSON"),
        ("\x80", "not valid JSON"),
        (json.dumps({"seed": 10**400}), "more than 64 bits"),
        ('{"seed": %s}' % ("9" * 9000), "not valid JSON"),
        (json.dumps({"error": "\ud800"}), "lone surrogate"),
        (json.dumps({"status": "failed"}), "has no schema_version"),
        (json.dumps(STATUS | {"schema_version": 2}), "has schema_version 2"),
        (json.dumps(STATUS | {"schema_version": "x" * 10_000}), "has schema_version 'xxxx"),
        (json.dumps(STATUS | {"status": "great"}), "wrong value for status"),
        (json.dumps(STATUS | {"seed": "1"}), "wrong value for seed"),
        (json.dumps(STATUS | {"seed": float("nan")}), "wrong value for seed"),
        (json.dumps(STATUS | {"overrides": "a=1"}), "wrong value for overrides"),
        (json.dumps(STATUS | {"overrides": [["a"]]}), "wrong value for overrides.0"),
        (json.dumps(STATUS | {"error": {}}), "wrong value for error"),
        (json.dumps(STATUS | {"progress": {"step": 1}}), "wrong value for progress.steps"),
        (
            json.dumps(STATUS | {"progress": {"step": 1, "steps": 2, "metrics": {"a": "b"}}}),
            "wrong value for progress.metrics.a",
        ),
    ],
)
def test_json_that_is_not_plain_data_of_this_release_is_refused(
    content: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "status.json"
    path.write_text(content, encoding="latin-1" if content == "\x80" else "utf-8")
    assert reason in refusal(path)


@pytest.mark.parametrize("name", ["..", ".", "", "/etc", "../other", "a/b", "a\0b", 3])
def test_a_sweep_lists_only_directories_beside_its_record(name: object, tmp_path: Path) -> None:
    record = {"schema_version": 1, "jobs": [{"directory": name, "overrides": []}]}
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    refusal(tmp_path / "sweep.json")


def test_png_images_are_recognized_by_their_signature(tmp_path: Path) -> None:
    path, other = tmp_path / "map.png", tmp_path / "run" / "map.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n rest")
    assert is_png(path)
    other.parent.mkdir()
    other.symlink_to(path)
    assert not is_png(other)
    path.write_bytes(b"ssh-rsa AAAA")
    assert not is_png(path)
    path.unlink()
    os.mkfifo(path)
    assert not is_png(path)


def test_a_config_is_written_without_aliases(tmp_path: Path) -> None:
    shared = {"betas": [0.9, 0.95]}
    write_config(tmp_path, {"a": shared, "b": shared})
    assert read_config(tmp_path) == {"a": shared, "b": shared}


def test_the_end_of_a_log_of_any_size_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        file.truncate(1_000_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe last\xff line\n\n")
    assert last_lines(log)[-1] == "the last\N{REPLACEMENT CHARACTER} line"
    log.unlink()
    assert last_lines(log) == []
    os.mkfifo(log)
    assert last_lines(log) == []


# Taking a received directory for a run's own


def test_a_lock_is_never_a_link_or_a_fifo(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("text")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(precious)
    with pytest.raises(Locked, match=r"\.lock is not a regular file"):
        Lock(run)
    assert is_locked(run) is False
    assert precious.read_text() == "text"
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")
    with pytest.raises(Locked, match=r"\.lock is not a regular file"):
        Lock(run)
    assert is_locked(run) is False


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("name", ["log.txt", "attention", "checkpoints/last.ckpt"])
def test_nothing_is_written_through_links_of_a_received_run(
    name: str, has_begun: bool, tmp_path: Path
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    if has_begun:
        RunRecord(unchecked({"seed": 0}, run)).close()
    elsewhere.mkdir()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(elsewhere)
    with pytest.raises(RunExists, match=rf"{name} is a symbolic link that leads out of .*; copy"):
        RunRecord(unchecked({"seed": 0}, run))


def test_links_inside_a_run_and_of_wandb_do_not_matter(tmp_path: Path) -> None:
    run = tmp_path / "run"
    RunRecord(unchecked({"seed": 0}, run)).close()
    (run / "wandb").mkdir()
    (run / "wandb" / "latest-run").symlink_to("/tmp")
    (run / "notes").symlink_to("status.json")
    RunRecord(unchecked({"seed": 0}, run)).close()


def test_files_have_a_schema_version_and_records_that_were_read_have_none(tmp_path: Path) -> None:
    RunRecord(unchecked({"seed": 0}, tmp_path)).finish({"test": {"per": 0.5}})
    for name in ("config.yaml", "status.json", "result.json"):
        assert "schema_version" in (tmp_path / name).read_text()
        assert "schema_version" not in read_record(tmp_path / name)


@pytest.mark.parametrize("is_dead", [True, False])
def test_any_error_can_be_recorded(is_dead: bool, tmp_path: Path) -> None:
    record, error = (
        RunRecord(unchecked({"seed": 0}, tmp_path)),
        "cannot open \udc80.txt" + "漢" * 10**7,
    )
    if is_dead:
        record.close()
        record_failure(unchecked({"seed": 0}, tmp_path), error)
    else:
        record.end(Stopped("failed", error))
    assert read_record(tmp_path / "status.json")["error"].startswith("cannot open ?.txt漢")


def test_nothing_is_written_through_a_link_in_place_of_a_partial_file(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("text")
    (tmp_path / f".a.json.{os.getpid()}.partial").symlink_to(precious)
    write_atomically(tmp_path / "a.json", "new")
    assert precious.read_text() == "text"
    assert (tmp_path / "a.json").read_text() == "new"


def test_the_docs_say_how_much_is_read() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    for name, limit in LIMITS.items():
        size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
        assert f"| `{name}` | {size} |" in docs or name in (".lock", "slurm.json")
