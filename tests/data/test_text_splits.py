"""The splits of the user's text, and warnings about shared passages."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from attention_lab.data.files import corpus as corpus_module
from attention_lab.data.files.corpus import file_pieces, read_texts, split_pieces
from tests.data.poem import MARKS, POEM, SPLITS, loaded, read, written

pytestmark = MARKS


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
@pytest.mark.parametrize("block", [7, 64, 2**16])
def test_one_text_is_split_by_position(
    tokens: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "BLOCK", block)
    data = loaded(written(tmp_path, POEM), tokens=tokens, vocab_size=280)
    parts = [read(data, split) for split in SPLITS]
    assert "".join(parts) == POEM
    size = len(POEM.encode())
    assert [len(part.encode()) / size for part in parts] == pytest.approx(
        [0.9, 0.05, 0.05], abs=0.002
    )
    for split, part in zip(SPLITS, parts, strict=True):
        ids = len(data.text_vocabulary.encode(part))
        assert data.characters_per_token(split) == pytest.approx(len(part) / ids, rel=0.01)


def test_splits_begin_at_character_boundaries(tmp_path: Path) -> None:
    text = "a雨🐔ü" * 5  # 50 bytes
    pieces = file_pieces([written(tmp_path, text)])
    for place in range(51):
        parts = split_pieces(pieces, [place / 50, 1 - place / 50])
        first, second = ("".join(read_texts(part)) for part in parts)
        assert first + second == text
        assert 0 <= len(first.encode()) - place <= 3


def test_several_files_are_concatenated(tmp_path: Path) -> None:
    third = len(POEM) // 3
    paths = [
        written(tmp_path, POEM[i * third :][: third + 3 * (i == 2)], f"{i}.txt") for i in range(3)
    ]
    data, whole = loaded(paths), loaded(written(tmp_path, POEM))
    assert [read(data, split) for split in SPLITS] == [read(whole, split) for split in SPLITS]


def test_each_split_may_have_a_file(tmp_path: Path) -> None:
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


def test_a_file_in_two_splits_gives_a_warning(tmp_path: Path) -> None:
    train, other, same, longer = (
        written(tmp_path, text, name)
        for name, text in (("a", POEM), ("b", POEM[:99]), ("c", POEM[:99]), ("d", POEM[:98] + "?"))
    )
    for options, expected in (
        ({"validation": train}, [f"{train}: this validation text is also a training text"]),
        (
            {"validation": [other, longer], "test": [longer, same]},
            [f"{path}: this test text is also a validation text" for path in (longer, same)],
        ),
        ({"validation": other, "test": longer}, []),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded([train], **options)
        said = [str(warning.message).rpartition(":")[0] for warning in caught]
        assert [line for line in said if "is also a" in line] == expected


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
                f"{copied}: 351 of 2351 passages of 50 tokens of the validation text are also in "
                "the training text: scores may be inflated by leakage"
            ],
        ),
        ({"test": quoted}, []),
    ):
        for _ in range(2):  # also where the ids are in the cache
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                loaded([train], **options)
            assert [str(warning.message) for warning in caught] == expected
