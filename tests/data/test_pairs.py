"""The user's pairs of texts: reading, splits, metrics, and messages about bad files."""

import copy
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.data.core.hashing import stable_fraction
from attention_lab.data.core.sequence_metrics import MODES
from attention_lab.data.core.vocabulary import BOS, EOS, PAD, UNK
from attention_lab.data.files.pairs import Pairs

#: Tiny files share lines and lack tokens; what is said of that has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*(do not occur|split too)")

SPLITS = ("train", "validation", "test")
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
#: "1 2 3" and so on in words; every third has the digits backwards as a second target.
LINES = [
    (str(n), spelled)
    for n in range(100, 500)
    for spelled in (
        " ".join(ONES[int(digit)] for digit in str(n)),
        *([" ".join(ONES[int(digit)] for digit in str(n)[::-1])] if n % 3 == 0 else []),
    )
]


def written(directory: Path, lines: list[tuple[str, str]], name: str = "own.tsv") -> str:
    path = directory / name
    path.write_text("".join(f"{source}\t{target}\n" for source, target in lines))
    return str(path)


def loaded(train: str, **options: Any) -> Pairs:
    data = Pairs(train, **options)
    data.setup()
    return data


def rows(data: Pairs, split: str) -> list[tuple[str, str]]:
    """The texts of each row."""
    batch = data.split(split)
    return [
        (data.source_vocabulary.decode(source), data.target_vocabulary.decode(target))
        for source, target in zip(batch.source.tolist(), batch.target.tolist(), strict=True)
    ]


def accepted(data: Pairs, split: str) -> list[list[str]]:
    return [[data.target_vocabulary.decode(ids) for ids in row] for row in data.references(split)]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    """One file, characters to words."""
    path = written(tmp_path_factory.mktemp("pairs"), LINES)
    return loaded(path, target_tokens="whitespace")


# Splits


def test_sources_are_split_by_their_hash(numbers: Pairs) -> None:
    bounds = {"train": (0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1)}
    assert sum(len(rows(numbers, split)) for split in SPLITS) > 390
    for split, (low, high) in bounds.items():
        mine = [line for line in LINES if low <= stable_fraction(line[0]) < high]
        if split != "train":
            mine = [line for n, line in enumerate(mine) if line[0] not in dict(mine[:n])]
        assert rows(numbers, split) == mine
        assert accepted(numbers, split) == [
            list(dict.fromkeys(target for source, target in LINES if source == given))
            for given, _ in mine
        ]


def test_rows_are_encoded_as_documented(numbers: Pairs) -> None:
    for split in SPLITS:
        batch = numbers.split(split)
        assert batch.index.tolist() == list(range(len(batch.source)))
        assert (batch.target[:, 0] == BOS).all()
        assert ((batch.target == EOS).sum(1) == 1).all()
        assert (batch.target.gather(1, batch.lengths()[:, 1:] - 1) == EOS).all()
    assert numbers.longest() == [3, 5]
    assert numbers.model_arguments() == {
        "source_vocab_size": 4 + 10,
        "target_vocab_size": 4 + 10,
    }


def test_each_split_may_have_a_file(tmp_path: Path) -> None:
    train, other, third = (
        written(tmp_path, lines, name)
        for lines, name in ((LINES[:300], "a"), (LINES[300:320], "b"), (LINES[320:350], "c"))
    )
    data = loaded(train, validation=other, test=third, target_tokens="whitespace")
    assert rows(data, "train") == LINES[:300]
    assert dict(rows(data, "test")).items() <= set(LINES[320:350])
    assert [source for source, _ in rows(data, "validation")] == list(dict(LINES[300:320]))
    data = loaded(train, test=third, target_tokens="whitespace")
    assert set(rows(data, "train")) < set(LINES[:300])
    assert {source for source, _ in rows(data, "validation")} == {
        source for source, _ in LINES[:300] if stable_fraction(source) >= 0.95
    }
    assert {source for source, _ in rows(data, "test")} == {source for source, _ in LINES[320:350]}


@pytest.mark.parametrize("tokens", ["characters", "whitespace", "bytes", "bpe"])
def test_source_and_target_may_have_different_tokens(tokens: str, tmp_path: Path) -> None:
    path = written(tmp_path, LINES)
    data = loaded(path, source_tokens=tokens, vocab_size=270)
    other = loaded(path, target_tokens=tokens, vocab_size=270)
    for one, column in ((data, 0), (other, 1)):
        texts = {line[column] for line in rows(one, "train")}
        assert texts == {line[column] for line in LINES if stable_fraction(line[0]) < 0.9}
    kinds = {"characters": 16, "whitespace": 10, "bytes": 256, "bpe": 266}
    letters = len({letter for word in ONES for letter in word} | {" "})
    assert data.model_arguments()["target_vocab_size"] == 4 + letters
    expected = letters if tokens == "characters" else kinds[tokens]
    assert other.model_arguments()["target_vocab_size"] == 4 + expected


# Baselines


def test_the_trivial_baseline_is_the_most_frequent_target(tmp_path: Path) -> None:
    train = written(tmp_path, [("a", "x y"), ("b", "x"), ("c", "x y"), ("d", "z")], "train")
    test = written(tmp_path, [("e", "x y"), ("f", "x"), ("f", "x y"), ("g", "z z z")], "test")
    data = loaded(train, validation=train, test=test, target_tokens="whitespace")
    trivial = data.trivial_baseline("test")
    assert trivial["sequence_error_rate"] == pytest.approx(1 / 3)
    assert trivial["token_error_rate"] == pytest.approx(3 / (2 + 2 + 3))
    assert data.monitor in trivial


def test_the_shortcut_baseline_is_a_copy(tmp_path: Path) -> None:
    train = written(tmp_path, [("ab", "ab"), ("ba", "ba"), ("b", "a")], "train")
    test = written(tmp_path, [("abab", "abab"), ("bb", "ba"), ("b!", "b?")], "test")
    with pytest.warns(UserWarning, match="do not occur"):
        data = loaded(train, validation=train, test=test)
    copy = data.shortcut_baselines("test")["copy"]
    assert copy["sequence_error_rate"] == pytest.approx(2 / 3)  # "!" is not "?"
    assert copy["token_error_rate"] == pytest.approx(2 / 8)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_slices_are_by_length_of_the_source(split: str, tmp_path: Path) -> None:
    lines = [("a" * (1 + n % 5), f"{n}") for n in range(40)]
    path = written(tmp_path, lines)
    data = loaded(path, **{split: path, "test" if split == "validation" else "validation": path})
    slices = data.slices(split)
    assert slices.names == [f"length={n}" for n in range(1, 6)]
    batch = data.split(split)
    assert slices.index_of(batch).tolist() == [int((row != PAD).sum()) - 1 for row in batch.source]


def test_labels_are_source_and_target_tokens(numbers: Pairs) -> None:
    batch = numbers.split("train").select(torch.tensor([0]))
    (source, target), *_ = rows(numbers, "train")
    assert numbers.position_labels(batch) == [
        {"source": list(source), "target": [*target.split(), "</s>"]}
    ]


SYMBOLS = ["token_error_rate", "sequence_error_rate"]
TEXTS = ["token_error_rate", "bleu", "chrf"]


@pytest.mark.parametrize(
    ("source_tokens", "target_tokens", "options", "metrics", "monitor"),
    [
        ("characters", "characters", {}, SYMBOLS, "token_error_rate"),
        ("characters", "whitespace", {}, SYMBOLS, "token_error_rate"),  # letters to phonemes
        ("whitespace", "whitespace", {}, TEXTS, "token_error_rate"),
        ("bytes", "bytes", {}, TEXTS, "token_error_rate"),
        ("characters", "whitespace", {"metrics": ["per", "wer"]}, ["per", "wer"], "per"),
        ("characters", "whitespace", {"metrics": ["per", "wer"], "monitor": "wer"}, None, "wer"),
        ("whitespace", "whitespace", {"monitor": "bleu"}, TEXTS, "bleu"),
        ("whitespace", "whitespace", {"metrics": ["chrf"]}, ["chrf"], "chrf"),
        ("characters", "characters", {"monitor": "sequence_accuracy"}, None, "sequence_accuracy"),
    ],
)
def test_metrics_suit_the_tokens_and_can_be_chosen(
    source_tokens: Any,
    target_tokens: Any,
    options: dict[str, Any],
    metrics: list[str] | None,
    monitor: str,
    tmp_path: Path,
) -> None:
    path = written(tmp_path, LINES)
    data = loaded(path, source_tokens=source_tokens, target_tokens=target_tokens, **options)
    trivial = data.trivial_baseline("test")
    assert (data.monitor, data.mode) == (monitor, MODES[monitor])
    assert monitor in trivial
    if metrics is not None:
        assert list(trivial) == metrics


def test_the_word_error_rate_is_that_of_whole_words(tmp_path: Path) -> None:
    train = written(tmp_path, [("cat", "K AE T"), ("at", "AE T")], "train")
    test = written(tmp_path, [("act", "AE K T"), ("tat", "T AE T"), ("a", "AE")], "test")
    options = {"target_tokens": "whitespace", "metrics": ["per", "wer"]}
    data = loaded(train, validation=train, test=test, **options)
    said = [data.target_vocabulary.encode(text) for text in ("AE T", "T AE T", "AE")]
    assert [source for source, _ in rows(data, "test")] == ["act", "tat", "a"]
    assert data.scores(said, "test") == pytest.approx({"per": 1 / 7, "wer": 1 / 3})


# What is not as it should be


def said(capture: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in capture]


def test_tokens_that_are_not_in_training_are_counted(tmp_path: Path) -> None:
    train = written(tmp_path, [("ab", "x y"), ("ba", "y x")], "train")
    test = written(tmp_path, [("abc", "x z"), ("cc", "y")], "test")
    with pytest.warns(UserWarning, match="do not occur") as caught:
        data = loaded(train, validation=test, test=train, target_tokens="whitespace")
    assert [line for line in said(list(caught)) if "do not occur" in line] == [
        f"{test}: 3 of the 5 source tokens of validation do not occur in training and become "
        "<unk>; data.source_tokens=bytes avoids that",
        f"{test}: 1 of the 3 target tokens of validation do not occur in training and become "
        "<unk>; data.target_tokens=bytes avoids that",
    ]
    assert Counter(data.split("validation").source.flatten().tolist())[UNK] == 3


def test_sources_that_splits_share_are_counted(tmp_path: Path) -> None:
    train = written(tmp_path, [("ab", "x"), ("ba", "y"), ("ab", "y")], "train")
    test = written(tmp_path, [("ab", "x"), ("ab", "y"), ("a", "x"), ("ba", "x")], "test")
    other = written(tmp_path, [("aa", "x"), ("ba", "x")], "validation")
    with pytest.warns(UserWarning, match="split too") as caught:
        loaded(train, validation=other, test=test)
    assert [line.partition(":")[0] for line in said(list(caught))] == [
        "1 of the 2 validation sources are in the training split too",
        "2 of the 3 test sources are in the training split too",
        "1 of the 3 test sources are in the validation split too",
    ]


def test_repeated_white_space_between_words_of_a_source_does_not_matter(tmp_path: Path) -> None:
    lines = [(f"a{n}{gap}b", f"x {n}") for n in range(200) for gap in (" ", "  ", " \u2003")]
    data = loaded(written(tmp_path, lines), source_tokens="whitespace")
    of = [{source for source, _ in rows(data, split)} for split in SPLITS]
    dealt = [{f"a{n} b" for n in range(200)} & sources for sources in of]
    # Words that training lacks cannot be read back, so what is held out is counted by rows.
    held_out = [len(data.split(split).source) for split in SPLITS[1:]]
    assert len(dealt[0]) + sum(held_out) == 200
    assert len(data.split("train").source) == 3 * len(dealt[0])


def test_text_metrics_compare_with_the_text_of_the_file(tmp_path: Path) -> None:
    train = written(tmp_path, [("a", "the cat sat on"), ("b", "a mat")], "train")
    test = written(tmp_path, [("c", "the dog sat on"), ("c", "the cow sat on")], "test")
    chosen = ["token_error_rate", "chrf"]
    data = loaded(train, validation=train, test=test, target_tokens="whitespace", metrics=chosen)
    ((dog, cow),) = copy.deepcopy(data.references("test"))
    assert dog == cow == (*data.target_vocabulary.encode("the")[:1], UNK, *dog[2:])
    metric = data.metric()
    metric.update([list(dog)], [[dog, cow]])
    metrics = metric.compute()
    assert float(metrics["token_error_rate"]) == 0
    # "the<unk>saton" and "thedogsaton" are as alike as by hand: 3 letters before, 5 after.
    grams = [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, 7)
             for text in ("the<unk>saton", "thedogsaton")]  # fmt: skip
    same = [(one & other).total() for one, other in zip(grams[::2], grams[1::2], strict=True)]
    precision = sum(n / one.total() for n, one in zip(same, grams[::2], strict=True)) / 6
    recall = sum(n / other.total() for n, other in zip(same, grams[1::2], strict=True)) / 6
    assert float(metrics["chrf"]) == pytest.approx(
        5 * precision * recall / (4 * precision + recall)
    )


def test_valid_files_give_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded(written(tmp_path, LINES))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"own\.tsv: is empty"),
        (
            b"a\tx\n",
            r"own\.tsv: too few different sources \(1\) to assign .*; add lines, or use data\.",
        ),
        (b"a\tx\nb x\n", r"own\.tsv, line 2: expected source TAB target, got 0 tabs"),
        (b"a\tx\nb\ty\tz\n", r"own\.tsv, line 2: expected source TAB target, got 2 tabs"),
        (b"a\tx\n\xff\ty\n", r"own\.tsv, line 2: byte 1 \(0xff\) is not UTF-8"),
        (b"a\tx\nb\t \n", r"own\.tsv, line 2: the target is empty"),
        (b"\tx\n", r"own\.tsv, line 1: the source is empty"),
    ],
)
@pytest.mark.parametrize("split", SPLITS)
def test_an_unreadable_file_is_an_error_of_one_line(
    content: bytes, message: str, split: str, tmp_path: Path
) -> None:
    bad = tmp_path / "own.tsv"
    bad.write_bytes(content)
    options: dict[str, Any] = {"train": written(tmp_path, LINES, "good"), split: str(bad)}
    if "different sources" in message and split != "train":
        assert len(rows(loaded(**options), split)) == 1  # one line is enough to look at
        return
    with pytest.raises(ValueError, match=message) as caught:
        loaded(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train": ""},
            r"data\.train is not set; use data\.train=FILE, a UTF-8 file of lines source TAB",
        ),
        ({"train": "/"}, "^/: is a directory"),
        ({"train": "/no/such"}, "^/no/such: no such file or directory"),
        ({"monitor": "bleu"}, "monitor=bleu needs text of words; .*token_error_rate"),
        ({"metrics": ["wer", "chrf"]}, "metrics=chrf needs text of words; .*token_error_rate"),
        ({"metrics": ["wer", "loss"]}, "metrics must be one of token_error_rate, .*got 'loss'"),
        ({"metrics": ["per"], "monitor": "wer"}, r"monitor=wer must be one of metrics=\['per'\]"),
        ({"metrics": []}, r"metrics=\[\] has no metric; metrics=null chooses"),
        ({"monitor": "loss"}, "monitor must be one of token_error_rate, .*got 'loss'"),
        ({"source_tokens": "bpe", "vocab_size": 100}, "vocab_size must be at least 260"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"source_tokens": "sounds"}, "tokens must be characters, whitespace, bytes or bpe"),
    ],
)
def test_invalid_options_are_an_error_of_one_line(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        loaded(**{"train": written(tmp_path, LINES)} | options)
    assert "\n" not in str(caught.value)
