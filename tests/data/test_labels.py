"""The user's labelled texts: reading, splits, and messages about bad files."""

import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.data.core.hashing import stable_fraction
from attention_lab.data.core.vocabulary import UNK
from attention_lab.data.files.labels import Labels

SPLITS = ("train", "validation", "test")
FILMS = [("a fine film", "good"), ("no film at all", "bad"), ("fine", "good")]
MANY = [(f"text {number}", "even" if number % 2 == 0 else "odd") for number in range(300)]

Rows = Sequence[tuple[str, str]]


def own(directory: Path, **files: Rows) -> dict[str, str]:
    """The files with some lines, as arguments."""
    paths = {name: directory / f"{name}.tsv" for name in files}
    for name, rows in files.items():
        paths[name].write_text("".join(f"{text}\t{label}\n" for text, label in rows), "utf-8")
    return {name: str(path) for name, path in paths.items()}


def loaded(**arguments: Any) -> Labels:
    data = Labels(**arguments)
    data.setup()
    return data


def rows(data: Labels, split: str) -> list[tuple[str, str]]:
    """The texts and labels of a split, decoded."""
    return [
        (data.text_vocabulary.decode(ids), data.classes[label])
        for ids, label in zip(*map(torch.Tensor.tolist, data.split(split)), strict=True)
    ]


@pytest.mark.parametrize(("tokens", "longest"), [("characters", 14), ("whitespace", 4)])
def test_lines_are_read_in_order(tmp_path: Path, tokens: str, longest: int) -> None:
    files = own(tmp_path, train=FILMS, validation=[("all fine", "good")], test=[("no", "bad")])
    data = loaded(**files, tokens=tokens)
    assert rows(data, "train") == FILMS
    assert rows(data, "validation") == [("all fine", "good")]
    assert rows(data, "test") == [("no", "bad")]
    distinct = set(" ".join(text for text, _ in FILMS))
    size = len(distinct) if tokens == "characters" else 6
    assert data.model_arguments() == {
        "vocab_size": 4 + size,
        "num_classes": 2,
        "max_length": longest,
    }
    last = data.position_labels(data.split("test"))
    assert last == [{"input": ["n", "o"] if tokens == "characters" else ["no"]}]


def test_splits_without_a_file_are_chosen_by_a_hash_of_the_text(tmp_path: Path) -> None:
    data = loaded(**own(tmp_path, train=[*MANY, *MANY[:20]]))
    for split, first, last in (("train", 0, 0.9), ("validation", 0.9, 0.95), ("test", 0.95, 1)):
        expected = [row for row in [*MANY, *MANY[:20]] if first <= stable_fraction(row[0]) < last]
        assert rows(data, split) == expected


@pytest.mark.parametrize(("given", "dealt"), [("test", "validation"), ("validation", "test")])
def test_one_file_may_be_missing(tmp_path: Path, given: str, dealt: str) -> None:
    data = loaded(**own(tmp_path, train=MANY, **{given: [("text 2x", "odd")]}))
    assert rows(data, given) == [("text 2x", "odd")]
    for split in ("train", dealt):
        expected = [row for row in MANY if (stable_fraction(row[0]) < 0.95) == (split == "train")]
        assert rows(data, split) == expected


def test_the_trivial_baseline_is_the_majority_of_training(tmp_path: Path) -> None:
    files = own(tmp_path, train=FILMS, validation=[("film", "bad")], test=FILMS)
    with pytest.warns(UserWarning, match="3 of the 3 test texts are in the training split too"):
        data = loaded(**files)
    assert data.trivial_baseline("validation") == {"accuracy": 0.0}
    assert data.trivial_baseline("test") == {"accuracy": pytest.approx(2 / 3)}


def test_the_shortcut_baseline_is_naive_bayes(tmp_path: Path) -> None:
    train = [("a b b", "x"), ("b c a a", "x"), ("c c b d", "y"), ("d a", "y"), ("c", "x")]
    other = [("a", "x"), ("c b", "y"), ("d d", "y"), ("b a c d", "x"), ("d", "x"), ("a a", "y")]
    data = loaded(**own(tmp_path, train=train, validation=other, test=other), tokens="whitespace")
    counts = {label: Counter(" ".join(t for t, o in train if o == label).split()) for label in "xy"}

    def score(text: str, label: str) -> float:
        total = sum(counts[label].values()) + len(data.text_vocabulary) - 1  # PAD is no token
        prior = sum(known == label for _, known in train) / len(train)
        likelihoods = [(counts[label][token] + 1) / total for token in text.split()]
        return math.log(prior) + sum(map(math.log, likelihoods))

    right = [max("xy", key=lambda known: score(text, known)) == label for text, label in other]
    assert 0 < sum(right) < len(right)
    expected = {"tokens without order": {"accuracy": sum(right) / len(right)}}
    assert data.shortcut_baselines("test") == expected


def test_slices_are_by_length_in_tokens(tmp_path: Path) -> None:
    train = [(" ".join("a" * n), "xy"[n % 2]) for n in (1, 2, 2, 3, 3, 3, 4, 5, 8, 30)]
    other = [(" ".join("a" * n), "x") for n in (1, 2, 3, 4, 7, 31, 99)]
    files = own(tmp_path, train=train, validation=other, test=other)
    with pytest.warns(UserWarning, match="split too"):
        data = loaded(**files, tokens="whitespace")
    slices = data.slices("test")
    assert slices.names == ["length=1-2", "length=3", "length=4-5", "length=6+"]
    assert slices.index_of(data.split("test")).tolist() == [0, 0, 1, 2, 3, 3, 3]


def test_unknown_tokens_and_shared_texts_are_each_one_warning(tmp_path: Path) -> None:
    files = own(
        tmp_path,
        train=FILMS,
        validation=[("a good film", "good")],
        test=[("fine", "good"), ("no film", "bad")],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = loaded(**files, tokens="whitespace")
        data.setup()
    assert [str(warning.message) for warning in caught] == [
        "1 of the 2 test texts are in the training split too: scores on them may be inflated by "
        "leakage",
        f"{files['validation']}: 1 of the 3 tokens of validation do not occur in training and "
        "become <unk>; data.tokens=bytes avoids that",
    ]
    assert data.split("validation").inputs[0, 1] == UNK


def test_texts_that_splits_share_are_counted(tmp_path: Path) -> None:
    files = own(tmp_path, train=MANY)
    with pytest.warns(UserWarning, match="split too") as caught:
        data = loaded(**files, validation=files["train"], test="")
    held_out = sum(stable_fraction(text) >= 0.95 for text, _ in MANY)
    assert len(rows(data, "test")) == held_out > 0
    assert [str(warning.message).partition(":")[0] for warning in caught] == [
        f"{300 - held_out} of the 300 validation texts are in the training split too",
        f"{held_out} of the {held_out} test texts are in the validation split too",
    ]


@pytest.mark.parametrize(("tokens", "expected"), [("whitespace", 1), ("characters", 0)])
def test_repeated_white_space_between_words_does_not_matter(
    tmp_path: Path, tokens: str, expected: int
) -> None:
    files = own(tmp_path, train=FILMS, validation=[("a  fine film", "bad")], test=[("no", "bad")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded(**files, tokens=tokens)
    assert sum("1 of the 1 validation texts" in str(each.message) for each in caught) == expected
    gaps = [
        (f"text{gap}{n}", "odd" if n % 2 else "even") for n in range(300) for gap in (" ", "  ")
    ]
    data = loaded(**own(tmp_path, train=gaps), tokens=tokens)
    together = [len(set(rows(data, split))) * 2 == len(rows(data, split)) for split in SPLITS]
    # Words that training lacks look alike when written out again.
    assert together[0] == (tokens == "whitespace")
    assert all(len(rows(data, split)) % 2 == 0 for split in SPLITS) or tokens == "characters"


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_unknown_label_is_named_with_its_line(tmp_path: Path, split: str) -> None:
    files = own(tmp_path, train=FILMS, validation=[("all", "bad")], test=[("no", "bad")])
    files |= own(tmp_path, **{split: [("all", "bad"), ("well", "so-so")]})
    message = f"{files[split]}, line 2: no training text has the label 'so-so'"
    with pytest.raises(ValueError, match=re.escape(message)):
        loaded(**files)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_too_rare_to_split_is_named_with_its_line(tmp_path: Path, split: str) -> None:
    low, high = {"validation": (0.9, 0.95), "test": (0.95, 1)}[split]
    row = next(row for row, (text, _) in enumerate(MANY) if low <= stable_fraction(text) < high)
    rare = [*MANY[:row], (MANY[row][0], "rare"), *MANY[row + 1 :]]
    with pytest.raises(
        ValueError, match=rf"line {row + 1}: the label 'rare' is too rare"
    ) as caught:
        loaded(**own(tmp_path, train=rare))
    assert str(caught.value).endswith(
        f"this text is in {split}, and no training text has its label; add such lines, or use "
        f"data.{split}=FILE"
    )


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"train\.tsv: too few different texts \(3\) to assign any to \w+; add"
    ):
        loaded(**own(tmp_path, train=FILMS))
    with pytest.raises(ValueError, match=r"train\.tsv: every training line has the label 'a'"):
        loaded(**own(tmp_path, train=[("b", "a")], validation=[("b", "a")], test=[("b", "a")]))
    (tmp_path / "test.tsv").write_text("no tab\n")
    files = own(tmp_path, train=FILMS, validation=FILMS)
    with pytest.raises(ValueError, match=r"test\.tsv, line 1: expected text TAB label"):
        loaded(**files, test=str(tmp_path / "test.tsv"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {},
            "data.train is not set; .* a UTF-8 file of lines text TAB label",
        ),
        ({"train": ""}, "data.train is not set; use data.train=FILE"),
        ({"train": "x", "vocab_size": 0}, "vocab_size must be at least 1"),
        ({"train": "x", "batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Labels(**arguments)
