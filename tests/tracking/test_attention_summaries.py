"""Summaries of attention: each on a small map, with the number worked out by hand."""

import csv
from math import log, sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_lab.tracking.attention_summaries import (
    SUMMARIES,
    alignment_error_rate,
    append_rows,
    diagonal,
    entropy,
    first_token,
    head_similarity,
    induction,
    keep_rows,
    largest_logit,
    layer_means,
    mean_distance,
    monotonicity,
    normalized,
    previous_token,
    summarize,
)
from attention_lab.tracking.recorded_attention import RecordedLayer

#: Three causal rows, and a fourth of padding, with a padded column.
CAUSAL = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.3, 0.5, 0], [0, 0, 0, 0]])
NAN = float("nan")


def heads(*maps: Tensor | list[list[float]]) -> Tensor:
    """Maps (L, S) of several heads as the weights of one example."""
    return torch.stack([torch.as_tensor(each, dtype=torch.float32) for each in maps]).unsqueeze(0)


def test_entropy_of_uniform_and_certain_rows() -> None:
    rows = [[0.25] * 4, [1.0, 0, 0, 0], [0.0] * 4]
    assert_close(entropy(heads(rows)), torch.tensor([log(4) / 2]))


def test_first_token_is_the_mean_of_the_first_column() -> None:
    assert_close(first_token(heads(CAUSAL)), torch.tensor([(1 + 0.5 + 0.2) / 3]))


def test_mean_distance_weighs_distances() -> None:
    # Rows: 0; 0.5 · 1; 0.2 · 2 + 0.3 · 1.
    assert_close(mean_distance(heads(CAUSAL)), torch.tensor([(0 + 0.5 + 0.7) / 3]))


def test_distance_counts_keys_after_the_query_too() -> None:
    assert_close(mean_distance(heads([[0.0, 0, 1], [0, 0, 1]])), torch.tensor([1.5]))


def test_diagonal() -> None:
    assert_close(diagonal(heads(CAUSAL)), torch.tensor([(1 + 0.5 + 0.5) / 3]))


def test_previous_token_starts_at_the_second_row() -> None:
    assert_close(previous_token(heads(CAUSAL)), torch.tensor([(0.5 + 0.3) / 2]))


def test_induction_is_the_weight_after_an_earlier_occurrence() -> None:
    """Tokens a b a b: row 2 (a) should attend to position 1 (after a), row 3 (b) to position 2."""
    perfect = [[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    partly = [[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 0.5, 0.5, 0], [0.25, 0.25, 0.25, 0.25]]
    tokens = torch.tensor([[7, 8, 7, 8]])
    assert_close(induction(heads(perfect, partly), tokens), torch.tensor([1, (0.5 + 0.25) / 2]))


def test_induction_adds_all_earlier_occurrences() -> None:
    """Tokens a a a: row 1 attends to itself, after the first a; row 2 to two positions."""
    map = [[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]
    assert_close(induction(heads(map), torch.tensor([[1, 1, 1]])), torch.tensor([(0.5 + 0.8) / 2]))


def test_without_repeated_tokens_there_is_no_induction() -> None:
    assert induction(heads(CAUSAL), torch.tensor([[1, 2, 3, 4]])).isnan().all()


def test_similarity_is_the_cosine_with_other_heads() -> None:
    """Heads 0 and 1 are the same; row by row, head 2 has cosines 1 and 1/√2 with them."""
    same, other = [[1.0, 0], [1, 0], [0, 0]], [[1.0, 0], [0.5, 0.5], [0, 0]]
    with_third = (1 + sqrt(0.5)) / 2
    expected = torch.tensor([(1 + with_third) / 2, (1 + with_third) / 2, with_third])
    assert_close(head_similarity(heads(same, same, other)), expected)
    assert head_similarity(heads(same)).isnan().all()


def test_largest_logit_is_of_a_visible_key() -> None:
    logits = heads([[1.0, 9.0], [2.0, 3.0]], [[5.0, -7.0], [9.0, 9.0]])
    visible = heads([[1, 0], [1, 1]], [[1, 1], [0, 0]]).bool()
    assert_close(largest_logit(logits, visible), torch.tensor([3.0, 5.0]))
    assert largest_logit(logits, torch.zeros_like(visible)).isnan().all()


def test_monotonicity_is_the_share_of_steps_that_do_not_move_back() -> None:
    """Largest keys 0, 2, 2, 1: two of three steps; the fifth row is padding."""
    map = [[0.9, 0.1, 0], [0, 0.1, 0.9], [0, 0.1, 0.9], [0.2, 0.7, 0.1], [0, 0, 0]]
    assert_close(monotonicity(heads(map)), torch.tensor([2 / 3]))


def test_alignment_error_rate_against_gold_links() -> None:
    """A = {(0, 0), (1, 2)}, G = {(0, 0), (0, 1), (1, 1)}. The last rows have no link."""
    map = [[0.9, 0.1, 0], [0, 0.1, 0.9], [0.3, 0.3, 0.4], [1, 0, 0]]
    gold = torch.tensor([[[1, 1, 0], [0, 1, 0], [0, 0, 0]]]).bool()
    assert_close(alignment_error_rate(heads(map), gold), torch.tensor([1 - 2 / 5]))


def test_weights_that_are_no_distribution_are_normalized() -> None:
    weights = heads([[3.0, -1.0], [0.5, 0.25], [0, 0]])
    assert_close(normalized(weights), heads([[0.75, 0.25], [2 / 3, 1 / 3], [0, 0]]))


def test_all_rows_of_all_examples_count_the_same() -> None:
    long, short = CAUSAL[:3, :3], torch.zeros(3, 3)
    short[0, 0] = 1
    assert_close(first_token(torch.stack([long, short]).unsqueeze(1)), torch.tensor([2.7 / 4]))


# By layer

LABELS = [{"source": ["a", "b", "a"], "target": ["a", "</s>"]}, {"source": ["b"], "target": ["a"]}]
CROSS = {"entropy", "first_token", "head_similarity", "largest_logit", "monotonicity"}
SELF = CROSS - {"monotonicity"} | {"mean_distance", "diagonal", "previous_token", "induction"}


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (("source", "source"), (3, 3), SELF),
        (("target", "target"), (2, 2), SELF),
        (("both", "both"), (5, 5), SELF),
        (("target", "source"), (2, 3), CROSS | {"alignment_error_rate"}),
    ],
)
def test_summaries_depend_on_the_axes(
    axes: tuple[str, str], shape: tuple[int, int], expected: set[str]
) -> None:
    weights = torch.rand(2, 4, *shape).softmax(-1)
    gold = torch.ones(2, 1, 3).bool()
    found = summarize(RecordedLayer(axes, weights, weights), LABELS, gold)
    assert set(found) == expected <= set(SUMMARIES)
    assert {values.shape for values in found.values()} == {(4,)}


def test_padding_does_not_count() -> None:
    """Whatever the weights of padding are."""
    weights = torch.rand(2, 2, 2, 3).softmax(-1)
    weights[1, :, :, 1:] = 0  # the second source has one token, the second target, too
    changed = weights.clone()
    changed[1, :, 1], changed[1, :, 0, 1:] = 0.5, 9.0
    one, other = (
        summarize(RecordedLayer(("target", "source"), each), LABELS) for each in (weights, changed)
    )
    assert_close(one, other)


def test_tokens_of_a_joint_layer_are_those_of_both_sequences() -> None:
    """Tokens a b a <s> a: the rows of the second and the third a count."""
    weights = torch.eye(5).roll(-1, 0).expand(1, 1, 5, 5).clone()
    weights[0, 0, 2] = torch.tensor([0, 1.0, 0, 0, 0])
    labels = [{"source": ["a", "b", "a"], "target": ["a", "</s>"]}]
    found = summarize(RecordedLayer(("both", "both"), weights), labels)
    assert_close(found["induction"], torch.tensor([0.5]))  # row 4 attends to position 0


def test_layer_means_leave_out_what_does_not_apply() -> None:
    summaries = {"entropy": torch.tensor([1.0, 2.0, NAN]), "induction": torch.tensor([NAN] * 3)}
    assert layer_means(summaries) == {"entropy": 1.5}


# The file


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_for_each_step_layer_and_head(tmp_path: Path) -> None:
    path = tmp_path / "summaries.csv"
    for step in (2, 4, 6):
        append_rows(path, step, {"a,b": {"entropy": [step / 7, NAN]}})
    assert list(rows(path)[0]) == ["step", "layer", "head", *SUMMARIES]
    found = [tuple(row.values())[:4] for row in rows(path)]
    assert found[:3] == [
        ("2", "a,b", "0", "0.285714"),
        ("2", "a,b", "1", ""),
        ("4", "a,b", "0", "0.571429"),
    ]
    keep_rows(path, [2, 6])
    assert [row["step"] for row in rows(path)] == ["2", "2", "6", "6"]
    keep_rows(tmp_path / "missing.csv", [2])
    assert not (tmp_path / "missing.csv").exists()
