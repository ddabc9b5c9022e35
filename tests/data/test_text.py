"""A text of one's own: how it is cut, what is kept of it and predicted, how little it takes."""

import math
import tracemalloc
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attention_lab.data import corpus as corpus_module
from attention_lab.data.batches import IGNORE, LabelledPositions
from attention_lab.data.corpus import Piece, cache_directory, cut, texts, whole_files
from attention_lab.data.text import Text, Windows
from attention_lab.data.vocabulary import PAD, UNK, BytePairs

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(never occur|text as well|is for bpe|in the training text)"
)

SPLITS = ("train", "validation", "test")
#: Two kinds of words, characters of one to four bytes, and gaps of every kind.
POEM = "so much depends\n\nupon  a red wheel barrow, glazed with rain 雨\tüber 🐔 chickens\r\n" * 40


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(directory: Path, text: str, name: str = "own.txt") -> str:
    path = directory / name
    path.write_bytes(text.encode())
    return str(path)


def loaded(path: Any, **options: Any) -> Text:
    data = Text(path, **{"length": 8, "batch_size": 4} | options)
    data.setup()
    return data


def read(data: Text, split: str) -> str:
    """The text of a split, from its first input and all its labels."""
    windows = data.split(split)
    batch = windows.select(torch.arange(len(windows.lengths())))
    labels = batch.labels[batch.labels != IGNORE].tolist()
    return data.text_vocabulary.write([int(batch.inputs[0, 0]), *labels])


# Windows


@pytest.mark.parametrize("tokens", [2, 7, 8, 9, 10, 16, 17, 18])
def test_windows_follow_each_other_and_predict_each_token_once(tokens: int) -> None:
    ids = [int(id) for id in np.random.default_rng(0).integers(50, size=tokens)]
    windows = Windows(np.array(ids, dtype=np.uint8), lowest=3, length=8)
    expected = [
        (
            [id + 3 for id in ids[start : min(start + 8, tokens - 1)]],
            [id + 3 for id in ids[start + 1 : start + 9]],
        )
        for start in range(0, tokens - 1, 8)
    ]
    assert windows.lengths().tolist() == [[len(inputs)] for inputs, _ in expected]
    for rows in ([0], [len(expected) - 1], list(range(len(expected)))[::-1]):
        batch = windows.select(torch.tensor(rows))
        width = max(len(expected[row][0]) for row in rows)
        assert batch.length.tolist() == [len(expected[row][0]) for row in rows]
        for row, given, asked in zip(
            rows, batch.inputs.tolist(), batch.labels.tolist(), strict=True
        ):
            inputs, labels = expected[row]
            assert given == inputs + [PAD] * (width - len(inputs))
            assert asked == labels + [IGNORE] * (width - len(labels))
        assert {tensor.dtype for tensor in batch} == {torch.int64}


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    path = written(tmp_path, "to be or")
    data = Text(path, path, path, length=4)
    data.setup()
    batch = data.split("train").select(torch.tensor([0, 1]))
    assert data.labels(batch) == [{"input": list("to b")}, {"input": list("e o")}]
    predicted = [data.text_vocabulary.write(row) for row in batch.labels[:, :3].tolist()]
    assert predicted == ["o b", " or"]


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
def test_an_epoch_has_every_window_once(tokens: str, tmp_path: Path) -> None:
    data = loaded(written(tmp_path, POEM), tokens=tokens, vocabulary=300)
    batches = list(data.train_dataloader())
    assert all(isinstance(batch, LabelledPositions) for batch in batches)
    everything = data.split("train").select(torch.arange(len(data.split("train").lengths())))
    seen = sorted(tuple(row) for batch in batches for row in batch.labels.tolist())
    # The last window may be shorter, and its batch padded less than all windows are.
    assert len(seen) == len(everything.labels)
    assert Counter(id for row in seen for id in row if id != IGNORE) == Counter(
        everything.labels[everything.labels != IGNORE].tolist()
    )
    assert data.model_arguments() == {"vocabulary": len(data.text_vocabulary), "length": 8}
    assert data.longest() == [8]


# Splits


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
@pytest.mark.parametrize("block", [7, 64, 2**16])
def test_one_text_is_cut_by_position(
    tokens: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "BLOCK", block)
    data = loaded(written(tmp_path, POEM), tokens=tokens, vocabulary=280)
    parts = [read(data, split) for split in SPLITS]
    assert "".join(parts) == POEM
    size = len(POEM.encode())
    assert [len(part.encode()) / size for part in parts] == pytest.approx(
        [0.9, 0.05, 0.05], abs=0.002
    )
    for split, part in zip(SPLITS, parts, strict=True):
        ids = len(data.text_vocabulary.read(part))
        assert data.characters_per_token(split) == pytest.approx(len(part) / ids, rel=0.01)


def test_characters_are_never_cut(tmp_path: Path) -> None:
    text = "a雨🐔ü" * 5  # 50 bytes
    pieces = whole_files([written(tmp_path, text)])
    for place in range(51):
        parts = cut(pieces, [place / 50, 1 - place / 50])
        first, second = ("".join(texts(part)) for part in parts)
        assert first + second == text
        assert 0 <= len(first.encode()) - place <= 3


def test_several_files_are_one_text(tmp_path: Path) -> None:
    third = len(POEM) // 3
    paths = [
        written(tmp_path, POEM[i * third :][: third + 3 * (i == 2)], f"{i}.txt") for i in range(3)
    ]
    data, whole = loaded(paths), loaded(written(tmp_path, POEM))
    assert [read(data, split) for split in SPLITS] == [read(whole, split) for split in SPLITS]


def test_splits_may_have_files_of_their_own(tmp_path: Path) -> None:
    train, other, third = (
        written(tmp_path, text, name)
        for text, name in ((POEM, "a"), (POEM[:99], "b"), (POEM[99:198], "c"))
    )
    data = loaded(train, validation=other, test=[third])
    assert [read(data, split) for split in SPLITS] == [POEM, POEM[:99], POEM[99:198]]
    data = loaded(train, test=third)
    assert read(data, "train") + read(data, "validation") == POEM
    assert len(read(data, "validation")) == pytest.approx(0.05 * len(POEM), rel=0.05)
    assert read(data, "test") == POEM[99:198]


def test_a_file_that_two_splits_are_given_is_warned_of(tmp_path: Path) -> None:
    train, other, same, longer = (
        written(tmp_path, text, name)
        for name, text in (("a", POEM), ("b", POEM[:99]), ("c", POEM[:99]), ("d", POEM[:98] + "?"))
    )
    for options, expected in (
        ({"validation": train}, [f"{train}: this validation text is a training text as well"]),
        (
            {"validation": [other, longer], "test": [longer, same]},
            [f"{path}: this test text is a validation text as well" for path in (longer, same)],
        ),
        ({"validation": other, "test": longer}, []),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded([train], **options)
        said = [str(warning.message).rpartition(":")[0] for warning in caught]
        assert [line for line in said if "as well" in line] == expected


def test_passages_that_splits_share_are_counted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    letters = ["".join(random.choice(list("abcdefgh"), 2000)) for _ in range(3)]
    train = written(tmp_path, letters[0] + letters[1])
    copied = written(tmp_path, letters[2] + letters[1][:400], "copied.txt")
    quoted = written(tmp_path, letters[2] + letters[1][:60], "quoted.txt")
    for options, expected in (
        (
            {"validation": copied, "test": quoted},
            [
                f"{copied}: 351 of 2351 passages of 50 tokens of the validation text stand in the "
                "training text, too: how they are predicted says little of new ones"
            ],
        ),
        ({"test": quoted}, []),
    ):
        for _ in range(2):  # also where the ids are in the cache
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                loaded([train], **options)
            assert [str(warning.message) for warning in caught] == expected


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
def test_a_byte_order_mark_is_no_token(tokens: str, tmp_path: Path) -> None:
    marked = loaded(written(tmp_path, "\ufeff" + POEM), tokens=tokens, vocabulary=270)
    plain = loaded(written(tmp_path, POEM, "plain"), tokens=tokens, vocabulary=270)
    assert "".join(read(marked, split) for split in SPLITS) == POEM
    assert marked.text_vocabulary.state() == plain.text_vocabulary.state()


def test_the_vocabulary_is_that_of_training(tmp_path: Path) -> None:
    path = written(tmp_path, "ab " * 200)
    other = written(tmp_path, "abxabyab" * 3, "other.txt")
    with pytest.warns(
        UserWarning, match=r"other\.txt: 6 of the 24 tokens of test never occur in training"
    ):
        data = loaded(path, test=other)
    assert data.model_arguments()["vocabulary"] == 4 + 3
    first = data.split("test").select(torch.tensor([0])).inputs[0].tolist()
    assert first == [5, 6, UNK, 5, 6, UNK, 5, 6]
    merges = loaded(path, test=other, tokens="bpe", vocabulary=300).text_vocabulary
    assert not any("x" in merges.token(id) for id in range(260, len(merges)))


@pytest.mark.parametrize("block", [5, 33, 100])
def test_byte_pairs_of_blocks_are_those_of_the_whole(
    block: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pairs = BytePairs.trained([POEM], 400)
    path = Path(written(tmp_path, POEM))
    monkeypatch.setattr(corpus_module, "BLOCK", 4 * block)
    blocks = list(texts([Piece(path, 0, path.stat().st_size)]))
    assert max(map(len, blocks)) < 5 * block + 20
    ids = [id for text in blocks for id in pairs.read(text)]
    # A word that is longer than a block is cut; the longest here has 8 letters.
    assert ids == pairs.read(POEM)


# Size


@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_a_text_is_never_in_memory(tokens: str, tmp_path: Path) -> None:
    path = written(tmp_path, POEM * 1500)
    size = Path(path).stat().st_size
    assert size > 4e6
    tracemalloc.start()
    try:
        data = loaded(path, tokens=tokens, length=256, batch_size=64)
        data.floor("test")
        for batch in data.evaluation_dataloader("validation"):
            assert len(batch.inputs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * size


# The cache


def made_of(path: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> bool:
    """Whether loading a text reads it."""
    readings = []

    def spy(pieces: Any) -> Any:
        readings.append(pieces)
        return texts(pieces)

    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "texts", spy)
        loaded(path, **options)
    return bool(readings)


def test_ids_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, POEM)
    assert cache_directory() == tmp_path / "cache" / "attention-lab"
    assert made_of(path, monkeypatch)
    assert not made_of(path, monkeypatch)
    assert not made_of(path, monkeypatch, length=16, seed=3)
    assert made_of(path, monkeypatch, tokens="bpe", vocabulary=270)
    assert made_of(path, monkeypatch, tokens="bpe", vocabulary=280)
    assert not made_of(path, monkeypatch, tokens="bpe", vocabulary=280)
    assert made_of(path, monkeypatch, test=path)
    assert len(list(cache_directory().iterdir())) == 4  # and nothing half made


def test_a_text_that_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loaded(written(tmp_path, POEM))
    path = written(tmp_path, POEM.replace("red", "big"))
    assert made_of(path, monkeypatch)
    assert "big" in read(loaded(path), "test")
    assert read(before, "test") == read(loaded(written(tmp_path, POEM, "as_it_was.txt")), "test")


@pytest.mark.parametrize("harm", ["truncated", "removed", "garbled"])
def test_a_damaged_cache_is_made_again(
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


def test_of_two_that_make_the_same_ids_both_go_on(
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


def test_a_text_that_changes_while_it_is_read_is_not_kept(
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


def test_a_text_that_is_too_short_is_not_kept(tmp_path: Path) -> None:
    path = written(tmp_path, POEM)
    with pytest.raises(ValueError, match="one window takes 1001"):
        loaded(path, length=1000)
    assert not list(cache_directory().iterdir())
    loaded(path)
    with pytest.raises(ValueError, match="one window takes 1001"):
        loaded(path, length=1000)


def test_tokens_and_pairs_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, POEM)
    known = [(loaded(path).floor(split), loaded(path).shortcuts(split)) for split in SPLITS]
    again = loaded(path)
    with monkeypatch.context() as patch:
        patch.setattr(again, "_blocks", lambda split: pytest.fail("it is counted again"))
        assert [(again.floor(split), again.shortcuts(split)) for split in SPLITS] == known
    (directory,) = cache_directory().iterdir()
    tables = list(directory.glob("*.npy"))
    assert len(tables) == 6
    for table in tables:
        table.write_bytes(b"")
    assert [(again.floor(split), again.shortcuts(split)) for split in SPLITS] == known
    assert all(table.stat().st_size for table in tables)


def test_what_cannot_be_kept_is_counted_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = loaded(written(tmp_path, POEM))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(corpus_module.tempfile, "NamedTemporaryFile", refuse)
    assert data.floor("test") == data.floor("test")
    (directory,) = cache_directory().iterdir()
    assert not list(directory.glob("*.npy"))


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, POEM)
    monkeypatch.setenv("XDG_CACHE_HOME", path)
    with pytest.raises(ValueError, match=r"own\.txt/attention-lab: .*; XDG_CACHE_HOME=DIRECTORY"):
        loaded(path)


# Floor and shortcut


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_floor_and_the_shortcut_count_in_training(
    tokens: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_lab.data.text._BLOCK", 100)
    other = written(tmp_path, "a wheel! 雨 depends" * 3, "other.txt")
    text = "glazed quick wizards vex jam\n" + POEM  # with pairs that come once
    data = loaded(written(tmp_path, text), test=other, tokens=tokens, vocabulary=270)
    vocabulary = data.text_vocabulary
    train, asked = (vocabulary.read(read(data, name)) for name in ("train", split))
    if data.split("train").lengths().sum() + 1 != len(train):  # <unk> is written as "<unk>"
        pytest.fail("the text of a split is not what was read")
    if tokens == "characters" and split == "test":
        asked = vocabulary.read(Path(other).read_text())
    size = len(vocabulary)
    single = Counter(train[1:])
    chance = {id: (single[id] + 1) / (len(train) - 1 + size) for id in range(size)}
    usual = max(range(size), key=lambda id: (single[id], -id))
    after = Counter(pairwise(train))
    seen = Counter(train[:-1])
    kinds = Counter(a for a, _ in after)

    def chance_after(a: int, b: int) -> float:
        different = max(kinds[a], 1)
        return (after[a, b] + different * chance[b]) / (seen[a] + different)

    characters = len(vocabulary.write(asked)) if tokens != "characters" else len(asked)
    for found, losses, right in (
        (
            data.floor(split),
            [-math.log(chance[b]) for b in asked[1:]],
            [b == usual for b in asked[1:]],
        ),
        (
            data.shortcuts(split)["bigram"],
            [-math.log(chance_after(a, b)) for a, b in pairwise(asked)],
            [
                b == max(range(size), key=lambda other: (chance_after(a, other), -other))
                for a, b in pairwise(asked)
            ],
        ),
    ):
        loss = sum(losses) / len(losses)
        assert found["loss"] == pytest.approx(loss)
        assert found["perplexity"] == pytest.approx(math.exp(loss))
        assert found["accuracy"] == pytest.approx(sum(right) / len(right))
        bits = loss / math.log(2) * len(asked) / characters
        assert found["bits_per_character"] == pytest.approx(bits)
    assert data.shortcuts(split)["bigram"]["loss"] < data.floor(split)["loss"]


def test_pairs_of_a_large_vocabulary_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_lab.data.text._MOST_IN_PAIRS", 259)
    assert loaded(written(tmp_path, POEM), tokens="bytes").shortcuts("test") == {}


# What cannot work


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, r"own\.txt: is empty"),
        (b"too short", {}, r"own\.txt: the train text has 8 tokens, and one window takes 9"),
        (
            b"ab" * 100,
            {"length": 128},
            r"own\.txt: the validation text has 10 tokens, .* takes 129",
        ),
        (b"ab\n" * 99 + b"\xff" + b"ab" * 99, {}, r"own\.txt, line 100: byte 298 .*0xff.* UTF-8"),
        (b"ab\n" * 99 + "雨".encode()[:2], {}, r"own\.txt, line 100: byte 298 .*0xe9.* UTF-8"),
        (
            b"ab\n" * 99 + b"ab\xe9" + b"xyz" * 99,
            {},
            r"own\.txt, line 100: byte 300 .*0xe9.* UTF-8",
        ),
        (b"ab" * 99, {"tokens": "bpe", "vocabulary": 9}, "vocabulary must be at least 260"),
        (b"\xef\xbb\xbf", {}, r"own\.txt: is empty"),
        (b"ab" * 99, {"length": 0}, "length must be at least 1, got 0"),
        (b"ab" * 99, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (b"ab" * 99, {"test": "/no/such"}, r"^/no/such: no such file or directory; a text file"),
        (b"ab" * 99, {"test": "/"}, r"^/: is a directory; a text file is needed"),
    ],
)
@pytest.mark.parametrize("block", [10, 2**16])
def test_what_cannot_be_read_is_said_in_one_line(
    content: bytes,
    options: dict[str, Any],
    message: str,
    block: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus_module, "BLOCK", block)
    (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        loaded(str(tmp_path / "own.txt"), **options)
    assert "\n" not in str(caught.value)


def test_a_path_must_be_given() -> None:
    with pytest.raises(ValueError, match=r"data\.path=FILE"):
        Text()
