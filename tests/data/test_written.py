"""Phoneme and word error rates against examples counted by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import edit_distance

from attention_lab.data.written import PronunciationErrors, token_errors

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


def test_rates_are_sums_over_words_by_sums_over_words() -> None:
    errors = PronunciationErrors()
    errors.update([[4, 5], [4]], [[(4, 5)], [(5, 6, 7), (5, 6)]])  # 0 of 2, 2 of 2
    errors.update([[4, 5, 6, 7]], [[(4, 5, 6)]])  # 1 of 3
    assert float(errors.compute()["per"]) == pytest.approx(3 / 7)
    assert float(errors.compute()["wer"]) == pytest.approx(2 / 3)


def test_states_sum_over_processes() -> None:
    one, other = PronunciationErrors(), PronunciationErrors()
    one.update([[4, 5]], [[(4, 5)]])
    other.update([[4], [4]], [[(5, 6)], [(5,)]])
    one.merge_state(other)
    assert float(one.compute()["per"]) == pytest.approx(3 / 5)
    assert float(one.compute()["wer"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("references", [[], [()], [(4, 5), ()]])
def test_words_need_references(references: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="references of at least one token"):
        token_errors([4], references)


def test_each_word_needs_its_own_references() -> None:
    with pytest.raises(ValueError, match="zip"):
        PronunciationErrors().update([[4], [5]], [[(4,)]])
