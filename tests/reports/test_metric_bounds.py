"""The bounds of metrics, as runs record them and as names tell."""

import math

import pytest

from attention_lab.data.written import PronunciationErrors, SequenceAccuracy, SequenceMetrics
from attention_lab.reports.metric_bounds import bounds_of
from attention_lab.reports.statistics import UNBOUNDED, Bounds


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", (0, 1)),
        ("token_accuracy", (0, 1)),
        ("accuracy/length=1-9", (0, 1)),
        ("per", (0, math.inf)),
        ("token_error_rate", (0, math.inf)),
        ("loss", (0, math.inf)),
        ("perplexity", (1, math.inf)),
        ("bleu", (0, 1)),
        ("reward", UNBOUNDED),
    ],
)
def test_bounds_by_name(metric: str, expected: Bounds) -> None:
    assert bounds_of(metric, None) == expected
    assert bounds_of(metric, {"bounds": {"other": [5, 6]}}) == expected


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ([0.0, 1.0], (0, 1)),
        ([-2, None], (-2, math.inf)),
        ([None, 3], (-math.inf, 3)),
        ([None, None], UNBOUNDED),
        # What cannot be a pair of bounds is passed over.
        ([1, 0], (0, math.inf)),
        ([0.0], (0, math.inf)),
        ("0 to 1", (0, math.inf)),
    ],
)
def test_recorded_bounds_come_first(recorded: object, expected: Bounds) -> None:
    assert bounds_of("wer", {"bounds": {"wer": recorded}}) == expected


@pytest.mark.parametrize("metric", [PronunciationErrors, SequenceAccuracy, SequenceMetrics])
def test_bounds_are_those_that_values_reach(metric: type[SequenceAccuracy]) -> None:
    """Writing nothing, the right answer, or far too much."""
    assert all(low == 0 and high in (1, None) for low, high in metric.bounds.values())


def test_an_error_rate_has_no_upper_bound_where_too_much_may_be_written() -> None:
    for metric in (PronunciationErrors(), SequenceAccuracy()):
        metric.update([[7, 8, 9, 9, 9]], [[(5,)]])
        for name, value in metric.compute().items():
            low, high = metric.bounds[name]
            assert low <= value <= (math.inf if high is None else high)
            assert (high is None) == (value > 1)
