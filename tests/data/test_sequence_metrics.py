"""Phoneme and word error rates against examples counted by hand."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import edit_distance

from attention_lab.data.core.sequence_metrics import (
    MODES,
    SequenceMetrics,
    token_errors,
)
from attention_lab.data.core.vocabulary import Words

IDS = st.lists(st.integers(4, 7), max_size=8)


@pytest.mark.parametrize(
    ("predicted", "references", "errors"),
    [
        ([4, 5, 6], [(4, 5, 6)], (0, 3)),
        ([4, 5, 6], [(4, 6)], (1, 2)),  # one too many
        ([4, 6], [(4, 5, 6)], (1, 3)),  # one too few
        ([4, 5, 6], [(4, 7, 6)], (1, 3)),  # another one
        ([5, 4], [(4, 5)], (2, 2)),  # a swap is two edits
        ([], [(4, 5, 6)], (3, 3)),
        ([4, 5, 6], [(7, 7, 7, 7), (4, 5, 7)], (1, 3)),  # the closest reference, not the first
        ([4, 5, 6], [(4, 5), (4, 5, 6, 7)], (1, 4)),  # the longest of equally close ones
        ([4, 5, 6], [(4, 5, 6, 7), (4, 5)], (1, 4)),
    ],
)
def test_errors_of_a_word(
    predicted: list[int], references: list[tuple[int, ...]], errors: tuple[int, int]
) -> None:
    assert token_errors(predicted, references) == errors


@given(IDS, IDS.filter(bool))
def test_edits_are_the_edit_distance(predicted: list[int], reference: list[int]) -> None:
    one, other = ("".join(map(str, ids)) for ids in (predicted, reference))
    edits, _ = token_errors(predicted, [tuple(reference)])
    assert edits == edit_distance(one, other, reduction="sum")


def test_edits_are_exact_for_very_different_lengths() -> None:
    assert token_errors([9, 9, 9], [(*[4] * 100, 9, 9, 9)]) == (100, 103)


def test_rates_are_quotients_of_sums_over_words() -> None:
    errors = SequenceMetrics(["per", "wer"])
    errors.update([[4, 5], [4]], [[(4, 5)], [(5, 6, 7), (5, 6)]])  # 0 of 2, 2 of 2
    errors.update([[4, 5, 6, 7]], [[(4, 5, 6)]])  # 1 of 3
    assert float(errors.compute()["per"]) == pytest.approx(3 / 7)
    assert float(errors.compute()["wer"]) == pytest.approx(2 / 3)


def test_states_sum_over_processes() -> None:
    one, other = SequenceMetrics(["per", "wer"]), SequenceMetrics(["per", "wer"])
    one.update([[4, 5]], [[(4, 5)]])
    other.update([[4], [4]], [[(5, 6)], [(5,)]])
    one.merge_state(other)
    assert float(one.compute()["per"]) == pytest.approx(3 / 5)
    assert float(one.compute()["wer"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("references", [[], [()], [(4, 5), ()]])
def test_references_must_not_be_empty(references: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="references of at least one token"):
        token_errors([4], references)


def test_the_numbers_of_predictions_and_references_must_be_equal() -> None:
    with pytest.raises(ValueError, match="zip"):
        SequenceMetrics(["per", "wer"]).update([[4], [5]], [[(4,)]])


# Text

WORDS = Words(["the", "cat", "sat", "on", "a", "mat", "bat"])
WRITTEN = ["the cat sat on a mat", "a bat", "", "the the the cat on the mat"]
WANTED = [
    ["the cat sat on the mat", "the bat sat on a mat"],
    ["a cat"],
    ["the mat"],
    ["the cat sat", "the cat on the mat sat on the bat"],
]


def grams(symbols: str | list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(symbols[i : i + order]) for i in range(len(symbols) - order + 1))


def bleu() -> float:
    """Papineni et al. 2002, §2: clipped precisions and the brevity penalty."""
    logs = []
    for order in range(1, 5):
        clipped = total = 0
        for text, accepted in zip(WRITTEN, WANTED, strict=True):
            mine = grams(text.split(), order)
            most: Counter[tuple[str, ...]] = Counter()
            for reference in accepted:
                most |= grams(reference.split(), order)
            clipped += sum(min(n, most[gram]) for gram, n in mine.items())
            total += sum(mine.values())
        logs.append(math.log(clipped / total))
    length = sum(len(text.split()) for text in WRITTEN)
    closest = sum(
        min((abs(len(r.split()) - len(text.split())), len(r.split())) for r in accepted)[1]
        for text, accepted in zip(WRITTEN, WANTED, strict=True)
    )
    return min(1, math.exp(1 - closest / length)) * math.exp(sum(logs) / 4)


def chrf_of(pairs: list[tuple[str, str]]) -> float:
    """Popović 2015, equation 1, with β = 2 and n-grams of up to 6 characters."""
    precisions, recalls = [], []
    for order in range(1, 7):
        same = mine = theirs = 0
        for one, other in pairs:
            a, b = grams(one.replace(" ", ""), order), grams(other.replace(" ", ""), order)
            same += sum(min(n, b[gram]) for gram, n in a.items())
            mine, theirs = mine + sum(a.values()), theirs + sum(b.values())
        if theirs:
            precisions.append(same / mine if mine else 0)
            recalls.append(same / theirs)
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 5 * p * r / (4 * p + r) if p else 0


def measured(written: list[str], wanted: list[list[str]]) -> dict[str, float]:
    metric = SequenceMetrics(list(MODES), WORDS)
    for text, accepted in zip(written, wanted, strict=True):  # as in batches of one
        metric.update([WORDS.encode(text)], [[tuple(WORDS.encode(other)) for other in accepted]])
    values = {name: float(value) for name, value in metric.compute().items()}
    metric.reset()
    metric.update([[4]], [[(4,)]])
    assert float(metric.compute()["chrf"]) == 1  # nothing is left of what was before
    assert float(metric.compute()["bleu"]) == 0  # no four words in a row
    return values


def test_bleu_and_chrf_are_as_in_the_papers() -> None:
    closest = [
        (text, max(accepted, key=lambda other, text=text: chrf_of([(text, other)])))
        for text, accepted in zip(WRITTEN, WANTED, strict=True)
    ]
    values = measured(WRITTEN, WANTED)
    assert values["bleu"] == pytest.approx(bleu())
    assert values["chrf"] == pytest.approx(chrf_of(closest))
    assert 0.2 < values["bleu"] < values["chrf"] < 0.8
    assert values["sequence_accuracy"] == 0
    assert values["wer"] == values["sequence_error_rate"] == 1
    assert 0 < values["per"] == values["token_error_rate"] < 1


def test_bleu_and_chrf_of_right_and_wrong_text_are_1_and_0() -> None:
    assert measured(WRITTEN[:1], [WRITTEN[:1]]) == {
        "sequence_accuracy": 1,
        **dict.fromkeys(("token_error_rate", "sequence_error_rate", "per", "wer"), 0),
        "bleu": pytest.approx(1),
        "chrf": pytest.approx(1),
    }
    values = measured(["", "on"], [["the mat"], ["a bat"]])
    assert (values["bleu"], values["chrf"]) == (0, 0)


def test_an_empty_prediction_never_improves_chrf() -> None:
    assert measured(["the cat sat on", ""], [["the cat sat on"], ["a mat"]])["chrf"] < 0.9
