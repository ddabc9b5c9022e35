"""The user's text: windows, tokens, memory, and messages about bad files."""

import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attention_lab.data.core.batches import IGNORE, LabelledPositions
from attention_lab.data.core.vocabulary import PAD, UNK, BytePairs
from attention_lab.data.files import corpus as corpus_module
from attention_lab.data.files.corpus import Piece, read_texts
from attention_lab.data.files.text import Text, Windows
from tests.data.poem import MARKS, POEM, SPLITS, loaded, read, written

pytestmark = MARKS


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
        assert {tensor.dtype for tensor in batch[:3]} == {torch.int64}


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    path = written(tmp_path, "to be or")
    data = Text(path, path, path, length=4)
    data.setup()
    batch = data.split("train").select(torch.tensor([0, 1]))
    assert data.position_labels(batch) == [{"input": list("to b")}, {"input": list("e o")}]
    predicted = [data.text_vocabulary.decode(row) for row in batch.labels[:, :3].tolist()]
    assert predicted == ["o b", " or"]


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
def test_an_epoch_has_every_window_once(tokens: str, tmp_path: Path) -> None:
    data = loaded(written(tmp_path, POEM), tokens=tokens, vocab_size=300)
    batches = list(data.train_dataloader())
    assert all(isinstance(batch, LabelledPositions) for batch in batches)
    everything = data.split("train").select(torch.arange(len(data.split("train").lengths())))
    seen = sorted(tuple(row) for batch in batches for row in batch.labels.tolist())
    # The last window may be shorter, and its batch padded less than all windows are.
    assert len(seen) == len(everything.labels)
    assert Counter(id for row in seen for id in row if id != IGNORE) == Counter(
        everything.labels[everything.labels != IGNORE].tolist()
    )
    assert data.model_arguments() == {"vocab_size": len(data.text_vocabulary), "max_length": 8}
    assert data.longest() == [8]


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
def test_a_byte_order_mark_is_dropped(tokens: str, tmp_path: Path) -> None:
    marked = loaded(written(tmp_path, "\ufeff" + POEM), tokens=tokens, vocab_size=270)
    plain = loaded(written(tmp_path, POEM, "plain"), tokens=tokens, vocab_size=270)
    assert "".join(read(marked, split) for split in SPLITS) == POEM
    assert marked.text_vocabulary.state_dict() == plain.text_vocabulary.state_dict()


def test_the_vocabulary_is_that_of_training(tmp_path: Path) -> None:
    path = written(tmp_path, "ab " * 200)
    other = written(tmp_path, "abxabyab" * 3, "other.txt")
    with pytest.warns(
        UserWarning, match=r"other\.txt: 6 of the 24 tokens of test do not occur in training"
    ):
        data = loaded(path, test=other)
    assert data.model_arguments()["vocab_size"] == 4 + 3
    first = data.split("test").select(torch.tensor([0])).inputs[0].tolist()
    assert first == [5, 6, UNK, 5, 6, UNK, 5, 6]
    merges = loaded(path, test=other, tokens="bpe", vocab_size=300).text_vocabulary
    assert not any("x" in merges.token(id) for id in range(260, len(merges)))


@pytest.mark.parametrize("block", [5, 33, 100])
def test_byte_pairs_of_blocks_are_those_of_the_whole(
    block: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pairs = BytePairs.trained([POEM], 400)
    path = Path(written(tmp_path, POEM))
    monkeypatch.setattr(corpus_module, "BLOCK", 4 * block)
    blocks = list(read_texts([Piece(path, 0, path.stat().st_size, path)]))
    assert max(map(len, blocks)) < 5 * block + 20
    ids = [id for text in blocks for id in pairs.encode(text)]
    # A word that is longer than a block is cut; the longest here has 8 letters.
    assert ids == pairs.encode(POEM)


@pytest.mark.parametrize("tokens", ["characters", "bytes"])
def test_a_text_is_not_loaded_into_memory(tokens: str, tmp_path: Path) -> None:
    path = written(tmp_path, POEM * 1500)
    size = Path(path).stat().st_size
    assert size > 4e6
    tracemalloc.start()
    try:
        data = loaded(path, tokens=tokens, length=256, batch_size=64)
        data.trivial_baseline("test")
        for batch in data.evaluation_dataloader("validation"):
            assert len(batch.inputs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * size


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, r"own\.txt: is empty"),
        (b"too short", {}, r"own\.txt: the train text has 8 tokens, but a window needs 9"),
        (
            b"ab" * 100,
            {"length": 128},
            r"own\.txt: the validation text has 10 tokens, .* needs 129",
        ),
        (b"ab\n" * 99 + b"\xff" + b"ab" * 99, {}, r"own\.txt, line 100: byte 298 .*0xff.* UTF-8"),
        (b"ab\n" * 99 + "雨".encode()[:2], {}, r"own\.txt, line 100: byte 298 .*0xe9.* UTF-8"),
        (
            b"ab\n" * 99 + b"ab\xe9" + b"xyz" * 99,
            {},
            r"own\.txt, line 100: byte 300 .*0xe9.* UTF-8",
        ),
        (b"ab" * 99, {"tokens": "bpe", "vocab_size": 9}, "vocab_size must be at least 260"),
        (b"\xef\xbb\xbf", {}, r"own\.txt: is empty"),
        (b"ab" * 99, {"length": 0}, "length must be at least 1, got 0"),
        (b"ab" * 99, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (b"ab" * 99, {"test": "/no/such"}, r"^/no/such: no such file or directory; a text file"),
        (b"ab" * 99, {"test": "/"}, r"^/: is a directory without files \.csv, \.jsonl"),
    ],
)
@pytest.mark.parametrize("block", [10, 2**16])
def test_an_unreadable_text_is_an_error_of_one_line(
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
