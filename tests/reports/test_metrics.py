"""The bounds of metrics, from records of runs and from names."""

import math

import pytest

from attention_lab.data.core.metric_info import UNBOUNDED, Bounds
from attention_lab.data.core.sequence_metrics import (
    MODES,
    TEXT_METRICS,
    SequenceMetrics,
)
from attention_lab.data.core.vocabulary import Words
from attention_lab.reports.metrics import bounds_of

WORDS = Words(["a", "b"])


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
        # Invalid bounds are ignored.
        ([1, 0], (0, math.inf)),
        ([0.0], (0, math.inf)),
        ("0 to 1", (0, math.inf)),
    ],
)
def test_recorded_bounds_come_first(recorded: object, expected: Bounds) -> None:
    assert bounds_of("wer", {"bounds": {"wer": recorded}}) == expected


@pytest.mark.parametrize("predicted", ["", "a", "b", "b b b b b b"])
def test_values_are_within_their_bounds(predicted: str) -> None:
    """The prediction is empty, right, wrong or far too long."""
    metric = SequenceMetrics(list(MODES), WORDS)
    metric.update([WORDS.encode(predicted)], [[tuple(WORDS.encode("a"))]])
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values.keys() == metric.bounds.keys()
    for name, value in values.items():
        low, high = metric.bounds[name]
        assert low <= value <= (math.inf if high is None else high), name
        is_right = value == (0 if MODES[name] == "min" else 1)
        assert is_right == (predicted == "a") or name in TEXT_METRICS, name
        if len(predicted) > 1:  # more edits than the reference is long
            assert (value > 1) == (high is None), name
