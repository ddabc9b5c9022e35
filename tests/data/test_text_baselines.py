"""The baselines of the user's text: counts of the training text."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.data.poem import MARKS, POEM, SPLITS, loaded, read, written

pytestmark = MARKS


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_trivial_and_the_shortcut_baseline_count_in_training(
    tokens: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_lab.data.files.text._BLOCK", 100)
    other = written(tmp_path, "a wheel! 雨 depends" * 3, "other.txt")
    text = "glazed quick wizards vex jam\n" + POEM  # with pairs that come once
    data = loaded(written(tmp_path, text), test=other, tokens=tokens, vocab_size=270)
    vocabulary = data.text_vocabulary
    train, asked = (vocabulary.encode(read(data, name)) for name in ("train", split))
    if data.split("train").lengths().sum() + 1 != len(train):  # <unk> is written as "<unk>"
        pytest.fail("the text of a split is not what was read")
    if tokens == "characters" and split == "test":
        asked = vocabulary.encode(Path(other).read_text())
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

    characters = len(vocabulary.decode(asked)) if tokens != "characters" else len(asked)
    for found, losses, right in (
        (
            data.trivial_baseline(split),
            [-math.log(chance[b]) for b in asked[1:]],
            [b == usual for b in asked[1:]],
        ),
        (
            data.shortcut_baselines(split)["bigram"],
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
    assert data.shortcut_baselines(split)["bigram"]["loss"] < data.trivial_baseline(split)["loss"]


def test_pairs_of_a_large_vocabulary_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attention_lab.data.files.text._MAX_BIGRAM_VOCABULARY", 259)
    assert loaded(written(tmp_path, POEM), tokens="bytes").shortcut_baselines("test") == {}
