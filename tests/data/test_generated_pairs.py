"""Reverse, copy and sort: targets by definition, and what all generated pairs share."""

from collections import Counter
from hashlib import blake2b
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.sequence_metrics import SequenceMetrics
from attention_lab.data.core.splits import SPLITS
from attention_lab.data.core.vocabulary import BOS, EOS, PAD
from attention_lab.data.synthetic.copying import Copy
from attention_lab.data.synthetic.generated_pairs import SymbolPairs
from attention_lab.data.synthetic.reversal import Reverse
from attention_lab.data.synthetic.sorting import Sort

SMALL: dict[str, Any] = {"examples": 400, "evaluation_examples": 100}
RIGHT = {
    Reverse: lambda symbols: symbols[::-1],
    Copy: lambda symbols: symbols,
    Sort: sorted,
}


def loaded(task: type[SymbolPairs], **options: Any) -> SymbolPairs:
    data = task(**{**SMALL, **options})
    data.setup()
    return data


def read(data: SymbolPairs, split: str) -> list[list[int]]:
    """The symbols of each source."""
    rows = data.split(split).source.tolist()
    return [[int(token) for token in data.source_vocabulary.ids_to_tokens(row)] for row in rows]


def written(data: SymbolPairs, split: str) -> list[list[int]]:
    """The symbols of each target."""
    rows = data.split(split).target.tolist()
    return [[int(token) for token in data.target_vocabulary.ids_to_tokens(row)] for row in rows]


def as_numbers(batch: SequencePairs) -> list[list[list[int]]]:
    return [column.tolist() for column in batch]


@pytest.mark.parametrize("task", RIGHT)
@pytest.mark.parametrize("split", SPLITS)
def test_targets_are_right(task: type[SymbolPairs], split: str) -> None:
    data = loaded(task)
    assert written(data, split) == [list(RIGHT[task](symbols)) for symbols in read(data, split)]


@pytest.mark.parametrize("task", RIGHT)
def test_each_target_symbol_is_aligned_with_the_source_symbol_it_copies(
    task: type[SymbolPairs],
) -> None:
    data = loaded(task, symbols=5)
    batch = data.probe(9)
    links = data.alignments(batch)
    assert links.shape == (9, batch.source.shape[1], batch.source.shape[1])
    for source, target, aligned in zip(batch.source, batch.target[:, 1:], links, strict=True):
        length = int((source != PAD).sum())
        assert (aligned.sum(1) == (source != PAD)).all()  # one link for each symbol
        assert (aligned.sum(0) == (source != PAD)).all()
        assert torch.equal(source[aligned.int().argmax(1)][:length], target[:length])


def test_alignments_of_a_reversed_sequence() -> None:
    data = loaded(Reverse)
    batch = data.probe(3)
    for row, links in enumerate(data.alignments(batch)):
        length = int((batch.source[row] != PAD).sum())
        assert torch.equal(links[:length, :length], torch.eye(length).flip(0).bool())


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_encoded_as_documented(split: str) -> None:
    data = loaded(Sort, symbols=200)
    for source, target, index in zip(*as_numbers(data.split(split)), strict=True):
        symbols = [id for id in source if id != PAD]
        spelled = data.source_vocabulary.ids_to_tokens(symbols)
        assert source == [*symbols, *[PAD] * (len(source) - len(symbols))]
        assert target[: len(symbols) + 2] == [
            BOS,
            *data.target_vocabulary.tokens_to_ids(sorted(spelled, key=int)),
            EOS,
        ]
        assert set(target[len(symbols) + 2 :]) <= {PAD}
        assert data.references(split)[index] == [tuple(target[1 : len(symbols) + 1])]
    assert data.split(split).index.tolist() == list(range(len(data.references(split))))


def test_splits_share_no_source() -> None:
    data = loaded(Copy, symbols=3, lengths=(1, 8), test_lengths=(1, 9))
    sources = [set(map(tuple, read(data, split))) for split in SPLITS]
    assert len(set.union(*sources)) == sum(map(len, sources))


def test_symbols_and_lengths_are_uniform() -> None:
    symbols = read(loaded(Copy, examples=10_000), "train")
    assert set(map(len, symbols)) == set(range(1, 26))
    # The shortest ones are few, and not every one of them belongs to training.
    assert chisquare([Counter(map(len, symbols))[n] for n in range(3, 26)]).pvalue > 1e-4
    counts = Counter(symbol for row in symbols if len(row) > 2 for symbol in row)
    assert set(counts) == set(range(50))
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_examples_of_a_seed_are_pinned() -> None:
    one, other = loaded(Reverse, seed=1), loaded(Reverse, seed=2)
    for split in SPLITS:
        assert as_numbers(one.split(split)) == as_numbers(other.split(split))
    digest = blake2b(str([read(one, split)[:20] for split in SPLITS]).encode(), digest_size=8)
    assert digest.hexdigest() == FROZEN


FROZEN = "134bd4907a79a768"


@pytest.mark.parametrize(
    "arguments", [{"symbols": 51}, {"lengths": [1, 24]}, {"lengths": [2, 25]}, {"draw_seed": 1}]
)
def test_every_argument_changes_the_data(arguments: dict[str, Any]) -> None:
    changed, usual = loaded(Copy, **arguments), loaded(Copy)
    assert read(changed, "train") != read(usual, "train")
    assert read(changed, "validation") != read(usual, "validation")


def test_test_lengths_change_the_test_split_only() -> None:
    data = loaded(Copy, lengths=[4, 6], test_lengths=[9, 12])
    for split, lengths in (("train", {4, 5, 6}), ("test", {9, 10, 11, 12})):
        assert set(map(len, read(data, split))) == lengths
    assert set(map(len, read(data, "validation"))) == {4, 5, 6}
    assert data.longest() == [12, 14]


@pytest.mark.parametrize("task", RIGHT)
def test_the_trivial_baseline_depends_on_the_length_only(task: type[SymbolPairs]) -> None:
    data = loaded(task, symbols=5, lengths=(1, 4), test_lengths=(1, 6))
    seen: dict[int, list[list[int]]] = {}
    for symbols in written(data, "train"):
        seen.setdefault(len(symbols), []).append(symbols)
    guesses = []
    for symbols in read(data, "test"):
        known = seen[min(len(symbols), 4)]
        columns = [Counter(column) for column in zip(*known, strict=True)]
        guesses.append([min(column, key=lambda s: (-column[s], s)) for column in columns])
    accuracy = SequenceMetrics(["sequence_accuracy", "token_error_rate"])
    accuracy.update(
        [data.target_vocabulary.tokens_to_ids(map(str, guess)) for guess in guesses],
        data.references("test"),
    )
    expected = {name: float(rate) for name, rate in accuracy.compute().items()}
    assert data.trivial_baseline("test") == expected


def edits(one: list[int], other: list[int]) -> int:
    """Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@pytest.mark.parametrize("task", RIGHT)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_shortcut_baselines_are_copies(task: type[SymbolPairs], split: str) -> None:
    data = loaded(task, symbols=4, lengths=(1, 4), test_lengths=(1, 6))
    name, most = ("trained positions", 4) if task is Copy else ("copy", 6)
    right = written(data, split)
    guesses = [symbols[:most] for symbols in read(data, split)]
    wrong = [edits(*each) for each in zip(guesses, right, strict=True)]
    ((found, metrics),) = data.shortcut_baselines(split).items()
    assert found == name
    assert metrics["sequence_accuracy"] == pytest.approx(wrong.count(0) / len(wrong))
    assert metrics["token_error_rate"] == pytest.approx(sum(wrong) / sum(map(len, right)))
    assert wrong.count(0) < len(wrong) or (task is Copy and split == "validation")


def test_trained_and_longer_lengths_are_in_different_slices() -> None:
    data = loaded(Reverse)
    slices = data.slices("test")
    assert slices.names[-2:] == ["length=21-25", "length=26-30"]
    batch = data.split("test")
    for symbols, slice_ in zip(read(data, "test"), slices.index_of(batch).tolist(), strict=True):
        assert slice_ == (len(symbols) - 1) // 5
    assert data.slices("validation").names[-1] == "length=25"


def test_labels_are_the_symbols() -> None:
    data = loaded(Reverse)
    for names in data.position_labels(data.probe(3)):
        assert names["target"] == [*names["source"][::-1], "</s>"]


def test_model_arguments_have_the_sizes() -> None:
    assert loaded(Copy, symbols=7).model_arguments() == {
        "source_vocab_size": 11,
        "target_vocab_size": 11,
    }


def test_metrics_are_of_whole_sequences() -> None:
    data = loaded(Copy)
    metric = data.metric()
    metric.update([list(known[0]) for known in data.references("test")], data.references("test"))
    assert {name: float(rate) for name, rate in metric.compute().items()} == {
        "sequence_accuracy": 1.0,
        "token_error_rate": 0.0,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": 1}, "symbols must be at least 2, got 1"),
        ({"lengths": [0, 5]}, r"lengths must be two numbers of at least 1, .*; got \[0, 5\]"),
        ({"lengths": [5]}, "lengths must be"),
        ({"test_lengths": [6, 5]}, "test_lengths must be"),
        ({"examples": 0}, "examples must be at least 1"),
    ],
)
def test_invalid_options_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Reverse(**{**SMALL, **options})


def test_unknown_splits_are_refused() -> None:
    data = loaded(Copy)
    for method in (data.references, data.slices, data.trivial_baseline):
        with pytest.raises(ValueError, match="one of train, validation, test, got 'val'"):
            method("val")


def test_batches_are_trimmed_to_their_longest_row() -> None:
    data = loaded(Copy)
    batch = data.split("test").select(torch.tensor([0, 1]))
    assert batch.source.shape[1] == max(map(len, read(data, "test")[:2]))
