"""The cache of the token ids of the user's text."""

from pathlib import Path
from typing import Any

import pytest

from attention_lab.data.files import corpus as corpus_module
from attention_lab.data.files.cache import cache_directory
from attention_lab.data.files.corpus import read_texts
from tests.data.poem import MARKS, POEM, SPLITS, loaded, read, written

pytestmark = MARKS


def made_of(path: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> bool:
    """Whether loading a text reads the file."""
    readings = []

    def spy(pieces: Any) -> Any:
        readings.append(pieces)
        return read_texts(pieces)

    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "read_texts", spy)
        loaded(path, **options)
    return bool(readings)


def test_token_ids_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, POEM)
    assert cache_directory() == tmp_path / "cache" / "attention-lab"
    assert made_of(path, monkeypatch)
    assert not made_of(path, monkeypatch)
    assert not made_of(path, monkeypatch, length=16, seed=3)
    assert made_of(path, monkeypatch, tokens="bpe", vocab_size=270)
    assert made_of(path, monkeypatch, tokens="bpe", vocab_size=280)
    assert not made_of(path, monkeypatch, tokens="bpe", vocab_size=280)
    assert made_of(path, monkeypatch, test=path)
    assert len(list(cache_directory().iterdir())) == 4  # and nothing half made


def test_a_changed_text_is_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loaded(written(tmp_path, POEM))
    path = written(tmp_path, POEM.replace("red", "big"))
    assert made_of(path, monkeypatch)
    assert "big" in read(loaded(path), "test")
    assert read(before, "test") == read(loaded(written(tmp_path, POEM, "as_it_was.txt")), "test")


@pytest.mark.parametrize("harm", ["truncated", "removed", "garbled"])
def test_a_damaged_cache_is_replaced(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, POEM)
    expected = read(loaded(path), "test")
    (directory,) = cache_directory().iterdir()
    if harm == "truncated":
        (directory / "test.ids").write_bytes(b"123")
    elif harm == "removed":
        (directory / "test.ids").unlink()
    else:
        (directory / "about.json").write_text("{")
    assert made_of(path, monkeypatch)
    assert read(loaded(path), "test") == expected


def test_two_processes_may_fill_the_same_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = written(tmp_path, POEM), corpus_module._write
    others = []

    def write_while_another_does(*arguments: Any) -> Any:
        monkeypatch.setattr(corpus_module, "_write", write)
        others.append(loaded(path))
        return write(*arguments)

    monkeypatch.setattr(corpus_module, "_write", write_while_another_does)
    assert read(loaded(path), "test") == read(others[0], "test")
    assert len(list(cache_directory().iterdir())) == 1


def test_a_text_that_changes_while_it_is_read_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = written(tmp_path, POEM), corpus_module._write

    def write_and_change(*arguments: Any) -> Any:
        counts = write(*arguments)
        written(tmp_path, POEM + "!")
        return counts

    monkeypatch.setattr(corpus_module, "_write", write_and_change)
    with pytest.raises(ValueError, match="changed while it was read"):
        loaded(path)
    assert not list(cache_directory().iterdir())


def test_a_text_that_is_too_short_is_not_cached(tmp_path: Path) -> None:
    path = written(tmp_path, POEM)
    with pytest.raises(ValueError, match="a window needs 1001"):
        loaded(path, length=1000)
    assert not list(cache_directory().iterdir())
    loaded(path)
    with pytest.raises(ValueError, match="a window needs 1001"):
        loaded(path, length=1000)


def test_tokens_and_pairs_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, POEM)
    known = [
        (loaded(path).trivial_baseline(split), loaded(path).shortcut_baselines(split))
        for split in SPLITS
    ]
    again = loaded(path)
    with monkeypatch.context() as patch:
        patch.setattr(again, "_blocks", lambda split: pytest.fail("it is counted again"))
        assert [
            (again.trivial_baseline(split), again.shortcut_baselines(split)) for split in SPLITS
        ] == known
    (directory,) = cache_directory().iterdir()
    tables = list(directory.glob("*.npy"))
    assert len(tables) == 6
    for table in tables:
        table.write_bytes(b"")
    assert [
        (again.trivial_baseline(split), again.shortcut_baselines(split)) for split in SPLITS
    ] == known
    assert all(table.stat().st_size for table in tables)


def test_without_a_writable_cache_tokens_are_counted_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = loaded(written(tmp_path, POEM))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(corpus_module, "replacing", refuse)
    assert data.trivial_baseline("test") == data.trivial_baseline("test")
    (directory,) = cache_directory().iterdir()
    assert not list(directory.glob("*.npy"))


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, POEM)
    monkeypatch.setenv("XDG_CACHE_HOME", path)
    with pytest.raises(ValueError, match=r"own\.txt/attention-lab: .*; set XDG_CACHE_HOME"):
        loaded(path)


def test_the_cache_has_a_directory_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "~")
    assert cache_directory() == Path("~/.cache/attention-lab")
